"""Status page, dashboard, API and live events of a daemon, drawn from a `View`."""

from agentd.web.app import build
from agentd.web.serving.server import WebServer

__all__ = ["WebServer", "build"]
