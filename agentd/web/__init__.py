"""Status page, dashboard, API and live events of a daemon, over a `View` of what it knows."""

from agentd.web.app import build
from agentd.web.server import WebServer

__all__ = ["WebServer", "build"]
