"""The list of tools that a client gets, and the search in it."""
