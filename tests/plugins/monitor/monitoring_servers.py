"""A real Alertmanager and a real Prometheus, from Debian's packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from harness import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROUTES = """
route: {receiver: none, group_wait: 0s}
receivers: [{name: none}]
"""


class Server:
    """A program with a port and a directory of its own."""

    program = ""

    def __init__(self, directory: Path) -> None:
        found = shutil.which(self.program)
        if found is None:
            pytest.skip(f"{self.program} is not installed")
        self.command, self.directory, self.port = found, directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.running: subprocess.Popen[bytes] | None = None

    def run(self, *options: str) -> None:
        """Start it."""
        log = (self.directory / f"{self.program}.log").open("ab")
        with log:
            self.running = subprocess.Popen([self.command, *options], stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill it."""
        if self.running is not None:
            self.running.kill()
            self.running.wait()

    def get(self, path: str) -> Any:
        """Return what its API responds; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - http
                return json.loads(answer.read())
        except OSError:
            return None


class Alertmanager(Server):
    """A real Alertmanager."""

    program = "prometheus-alertmanager"

    def start(self, storage: str) -> None:
        """Start it, with what an earlier one has stored in `storage`."""
        file = self.directory / "alertmanager.yml"
        file.write_text(ROUTES)
        self.run(
            f"--config.file={file}",
            f"--storage.path={self.directory / storage}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        )

    def alerts(self, name: str) -> list[dict[str, Any]] | None:
        """Return its active alerts of a name; None while it does not answer."""
        found = self.get("/api/v2/alerts?active=true")
        return found and [alert for alert in found if alert["labels"]["alertname"] == name]


class Prometheus(Server):
    """A real Prometheus, which scrapes one target every second."""

    program = "prometheus"

    def start(self, target: str, rules: Sequence[Path], alertmanager: Alertmanager) -> None:
        """Start it, with what an earlier one has stored."""
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(file) for file in rules],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager.port}"]}]}]},
            "scrape_configs": [{"job_name": "agentd", "static_configs": [{"targets": [target]}]}],
        }
        file = self.directory / "prometheus.yml"
        file.write_text(json.dumps(config))
        self.run(
            f"--config.file={file}",
            f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the rules by name, {} while it does not answer."""
        found = self.get("/api/v1/rules")
        return {rule["name"]: rule for group in found["data"]["groups"] for rule in group["rules"]} if found else {}
