"""The workflows that agentd brings with it."""
