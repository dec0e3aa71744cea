"""The dashboard: pages about the network, rendered by the server, and the forms that act."""
