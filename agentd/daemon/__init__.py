"""One daemon: start, roles, announcement on the network, and shutdown."""
