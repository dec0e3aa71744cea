"""What a daemon costs before it does anything: its start, its memory, its idle CPU; each instance alone."""

from __future__ import annotations

import contextlib
import socket
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from bench.systems import cpu_seconds, pss
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
INSTANCES = {each: (each,) for each in ALL_ROLES} | {
    "all": ALL_ROLES,
    "all without the bridge": tuple(each for each in ALL_ROLES if each != "mcp-bridge"),
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
async def test_footprint(name: str, tmp_path: Path, figures: Figures) -> None:
    """Goals 6 and 7: start to READY, memory and idle CPU of an instance."""
    with FakePve(directory=tmp_path / "pve") as pve, NatsServer(tmp_path) as server:
        net = Net(tmp_path, server.url, pve)
        net.settings["log"]["level"] = "info"
        async with net.client():  # makes the streams
            pass
        systemd = Systemd(tmp_path / "notify")
        took = []
        for number in range(STARTS):
            begun = time.perf_counter()
            with _daemon(net, name, INSTANCES[name], NOTIFY_SOCKET=systemd.path) as daemon:
                systemd.ready()
                took.append(time.perf_counter() - begun)
                if number == STARTS - 1:
                    assert daemon.process is not None
                    time.sleep(SETTLE)  # noqa: ASYNC251 - nothing else runs in this loop
                    memory, idle = _idle(daemon.process.pid)

    figures.add(f"{name}: start to READY", median(took), "s", at_most=READY_GOALS.get(name, 0.6))
    figures.add(f"{name}: PSS", memory, "MiB", at_most=PSS_GOALS.get(name, 38.0))
    figures.add(f"{name}: idle CPU", idle, "% of a core", at_most=0.2 * len(INSTANCES[name]))


def _idle(pid: int) -> tuple[float, float]:
    """Return memory in MiB, and CPU over IDLE seconds in percent of a core."""
    before = cpu_seconds(pid)
    time.sleep(IDLE)
    return pss(pid), 100 * (cpu_seconds(pid) - before) / IDLE
