"""Tools: how they are defined, called, and executed exactly once."""
