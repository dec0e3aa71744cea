"""The delivery of notifications: a queue that survives restarts, and the formats of the receivers."""
