"""Checks of the cluster: a snapshot of the readings becomes findings.  Pure."""
