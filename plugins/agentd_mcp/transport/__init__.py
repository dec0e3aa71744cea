"""The transports of MCP: streamable HTTP, and stdin and stdout."""
