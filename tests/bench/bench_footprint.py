"""What a daemon costs before it does anything: its start, its memory, its idle CPU; each instance alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from statistics import median
from typing import TYPE_CHECKING, Self

import pytest

from bench.systems import cpu_seconds, provisioned, pss
from harness import ALL_ROLES, START, NatsServer, Net
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.conftest import Figures
    from harness import Daemon

STARTS = 5
IDLE = 20.0
"""Seconds over which the CPU of an idle daemon is taken."""
SETTLE = 5.0
"""Seconds after READY in which a daemon may still be busy with its start."""
INSTANCES = {role: (role,) for role in ALL_ROLES} | {
    "all": ALL_ROLES,
    "all without the bridge": tuple(role for role in ALL_ROLES if role != "mcp-bridge"),
}
PSS_GOALS = {"mcp-bridge": 80.0, "all": None, "all without the bridge": 40.0}
READY_GOALS = {"mcp-bridge": 1.2, "all": None, "all without the bridge": None}


class Systemd:
    """A socket as systemd gives to a service."""

    def __init__(self, path: Path) -> None:
        """Listen at `path`."""
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(START)

    def __enter__(self) -> Self:
        """Listen until the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self.socket.close()

    def ready(self) -> None:
        """Wait for READY=1."""
        while b"READY=1" not in self.socket.recv(4096).splitlines():
            pass


@contextlib.contextmanager
def _daemon(net: Net, name: str, roles: tuple[str, ...], **environment: str) -> Iterator[Daemon]:
    daemon = net.daemon(name.replace(" ", "-"), roles, AGENTD_TEST_BLOCKBUSTER="", PYTHONPATH="", **environment)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.parametrize("name", INSTANCES)
def test_footprint(name: str, tmp_path: Path, figures: Figures) -> None:
    """Goals 6 and 7: start to READY, memory and idle CPU of an instance."""
    with (
        FakePve(directory=tmp_path / "pve") as pve,
        NatsServer(tmp_path) as server,
        Systemd(tmp_path / "notify") as systemd,
    ):
        net = Net(tmp_path, server.url, pve)
        net.settings["log"]["level"] = "info"
        asyncio.run(provisioned(net))
        took = [_start(net, name, systemd)[0] for _ in range(STARTS - 1)]
        last, memory, idle = _start(net, name, systemd, settle=SETTLE, measure=IDLE)

    figures.add(f"{name}: start to READY", median([*took, last]), "s", at_most=READY_GOALS.get(name, 0.6))
    figures.add(f"{name}: PSS", memory, "MiB", at_most=PSS_GOALS.get(name, 38.0))
    figures.add(f"{name}: idle CPU", idle, "% of a core", at_most=0.2 * len(INSTANCES[name]))


def _start(
    net: Net, name: str, systemd: Systemd, settle: float = 0.0, measure: float = 0.0
) -> tuple[float, float, float]:
    """Start an instance; return seconds to READY, then its MiB, and its CPU over `measure` seconds in percent."""
    begun = time.perf_counter()
    with _daemon(net, name, INSTANCES[name], NOTIFY_SOCKET=systemd.path) as daemon:
        systemd.ready()
        took = time.perf_counter() - begun
        assert daemon.process is not None
        pid = daemon.process.pid
        time.sleep(settle)
        before = cpu_seconds(pid)
        time.sleep(measure)
        return took, pss(pid), 100 * (cpu_seconds(pid) - before) / (measure or 1.0)
