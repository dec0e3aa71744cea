"""Migration, high availability and replication."""
