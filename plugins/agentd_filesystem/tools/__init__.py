"""The tools of the service `mcp-filesystem`; areas.py lists their classes."""
