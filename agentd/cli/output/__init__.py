"""What the command line prints: tables and blocks for people."""
