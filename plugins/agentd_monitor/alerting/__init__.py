"""The state of alerts: when one is raised and cleared, and who is notified of it.  Pure."""
