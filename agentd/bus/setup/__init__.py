"""What NATS must have: streams, buckets, consumers and the users' permissions."""
