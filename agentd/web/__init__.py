"""Status page, dashboard, API and live events of a daemon, drawn from a `View`."""
