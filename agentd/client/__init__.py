"""The client of the network, for command line, web interface and MCP bridge."""
