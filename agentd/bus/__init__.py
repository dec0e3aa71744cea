"""The connection to NATS, and reading and writing JetStream."""
