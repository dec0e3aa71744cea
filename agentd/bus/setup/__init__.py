"""What NATS must have: streams, buckets and consumers, and the permissions of every user."""
