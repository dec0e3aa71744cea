"""The connection to NATS: client, subscriptions, replies and credentials."""
