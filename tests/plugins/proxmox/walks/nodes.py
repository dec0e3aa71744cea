"""One call of each tool for nodes themselves."""

from __future__ import annotations

from typing import Any

ONE: dict[str, Any] = {"node": "pve2"}
WALK: list[tuple[str, Any]] = [
    ("list_services", ONE),
    ("stop_service", {**ONE, "service": "cron"}),
    ("start_service", {**ONE, "service": "cron"}),
    ("restart_service", {**ONE, "service": "cron"}),
    ("restart_service", {**ONE, "service": "cron", "reload": True}),
    ("get_node_settings", ONE),
    ("set_dns", {**ONE, "dns": ["192.0.2.1"], "search": "example.org"}),
    ("set_timezone", {**ONE, "timezone": "Europe/Berlin"}),
    ("refresh_updates", ONE),
    ("list_updates", ONE),
    ("list_certificates", ONE),
    ("renew_certificate", ONE),
    ("get_node_log", ONE),
    ("stop_task", lambda results: {"upid": results["upid"]}),
    ("stop_node", {"node": "pve3", "command": "shutdown"}),
    ("wake_node", {"node": "pve3"}),
]
