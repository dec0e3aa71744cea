"""The command `agentd`."""
