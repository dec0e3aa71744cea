"""What the command line, the web interface and the MCP bridge ask of the network."""
