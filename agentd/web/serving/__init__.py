"""The web server: its connections and their limits, checks of requests, and sessions."""
