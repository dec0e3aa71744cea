"""Firewall and software-defined networks."""
