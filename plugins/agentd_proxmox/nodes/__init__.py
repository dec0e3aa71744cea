"""Nodes: services, logs, power, certificates, disks and interfaces."""
