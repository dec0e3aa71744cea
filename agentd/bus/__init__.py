"""The connection to NATS and everything that is stored in JetStream."""
