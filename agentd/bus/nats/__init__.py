"""The connection to NATS: nats-py's client, subscriptions, replies and credentials."""
