"""Where guests are, where they should be, and in which order they get there; pure."""
