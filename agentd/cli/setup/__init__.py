"""Set-up of a machine or a demo: configuration, checks, permissions, servers."""
