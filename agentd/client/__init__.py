"""The client of the network, used by the command line, the web interface and the MCP bridge."""
