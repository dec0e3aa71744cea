"""One daemon: start, roles, presence on the network, and shutdown."""
