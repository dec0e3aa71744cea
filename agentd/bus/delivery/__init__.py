"""Handling of messages: consumers, their deliveries, and dead letters."""
