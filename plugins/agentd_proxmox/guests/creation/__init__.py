"""Create and clone VMs and containers."""
