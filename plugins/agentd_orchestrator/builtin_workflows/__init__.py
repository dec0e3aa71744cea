"""The built-in workflows of agentd."""
