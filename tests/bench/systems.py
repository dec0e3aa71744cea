"""The two systems that are measured: agentd as it is installed, and the floor; each in processes of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agentd.bus.setup.provision import provision
from harness import NatsServer, Net

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pve.client import FakePve

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
SLOTS = 256
"""Tasks of the bench's agent under way at once: the floor's batch."""
REQUEST = {
    "vmid": 101,
    "cores": 4,
    "memory": 8192,
    "template": "debian-12",
    "storage": "local-zfs",
    "bridge": "vmbr0",
}
"""The floor's parameters."""
WARM = 1.0
"""Seconds of load before a measurement."""

Pids: TypeAlias = dict[str, int]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss(pid: int) -> float:
    """Return the resident set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024


def pss(pid: int) -> float:
    """Return the proportional set size of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@dataclass
class Load:
    """What one closed loop measured; `cpu` is in milliseconds (seconds per 1,000) a workflow, by process."""

    wfs: float
    p50: float
    p99: float
    n: int
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def cpu_all(self) -> float:
        """Return the CPU time of a workflow in all processes, in milliseconds."""
        return sum(self.cpu.values())


def measured(command: list[str], pids: Pids, environment: dict[str, str]) -> Load:
    """Run a client that prints START and RESULT, and take the CPU time of `pids` between the two."""
    before: dict[str, float] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as client:
        assert client.stdout is not None
        for line in client.stdout:
            if line.startswith("START"):
                before = {name: cpu_seconds(pid) for name, pid in pids.items()}
            if line.startswith("RESULT"):
                after = {name: cpu_seconds(pid) for name, pid in pids.items()}
                found: dict[str, Any] = json.loads(line.partition(" ")[2])
                cpu = {name: (after[name] - before[name]) / found["n"] * 1e3 for name in pids}
                return Load(found["wfs"], found["p50"], found["p99"], found["n"], cpu)
    raise AssertionError(f"no result: {command}")


def server_pid(server: NatsServer) -> int:
    """Return the process id of the server."""
    assert server.process is not None
    return server.process.pid


# -- the floor -----------------------------------------------------------------------------------------------------


class Floor:
    """The floor on one server."""

    def __init__(self, folder: Path, server: NatsServer, variant: str) -> None:
        """Keep which floor runs where."""
        self._base = [sys.executable, str(folder / "floor.py")]
        self._more = ["--var", variant, "--lib", "hyb", "--port", str(server.port)]
        self.pids: Pids = {"server": server_pid(server)}

    @contextlib.contextmanager
    def running(self) -> Iterator[Floor]:
        """Run orchestrator and agent."""
        subprocess.run([*self._base, "setup", *self._more], check=True)
        with contextlib.ExitStack() as stack:
            for role in ("orch", "agent"):
                self.pids[role] = _started([*self._base, role, *self._more], stack)
            yield self

    def load(self, width: int, seconds: float) -> Load:
        """Run the floor's client."""
        more = ["--c", str(width), "--n", "100000000", "--warm", str(width * 100), "--secs", str(seconds)]
        return measured([*self._base, "client", *self._more, *more], self.pids, {})


def _started(command: list[str], stack: contextlib.ExitStack) -> int:
    """Start a process that ends with the stack, wait until it prints READY, return its id."""
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("READY"):
            return process.pid
    raise AssertionError(f"not ready: {command}")


# -- agentd --------------------------------------------------------------------------------------------------------


class Agentd:
    """Instances of agentd on one server, each a process; `shares` names the roles of each."""

    def __init__(
        self, directory: Path, server: NatsServer, shares: Mapping[str, tuple[str, ...]], pve: FakePve | None = None
    ) -> None:
        """Write the configuration and make what must exist in JetStream."""
        self.server = server
        self.net = Net(directory, server.url, pve)
        self.net.settings["log"]["level"] = "info"
        asyncio.run(provisioned(self.net))
        self.net.settings["bench"] = {"enabled": True}
        self.net.settings["orchestrator"] = {"requests_per_minute": 10_000_000}
        self.net.settings["instances"] = {
            name: {"roles": list(roles), "slots": SLOTS} for name, roles in shares.items()
        }
        self.pids: Pids = {"server": server_pid(server)}
        self._plugin = plugin(directory)

    @contextlib.contextmanager
    def running(self) -> Iterator[Agentd]:
        """Run every instance until it is ready."""
        with contextlib.ExitStack() as stack:
            for name in self.net.settings["instances"]:
                daemon = self.net.daemon(name, PYTHONPATH=self._plugin, AGENTD_TEST_BLOCKBUSTER="")
                stack.enter_context(daemon)
                assert daemon.process is not None
                self.pids[name] = daemon.process.pid
            yield self

    def load(
        self, floor: Path, width: int, seconds: float, kind: str = "bench_read", requested: dict[str, Any] = REQUEST
    ) -> Load:
        """Run the client of agentd."""
        command = [sys.executable, str(HERE / "load.py"), str(self.server.port), str(width), str(seconds), str(WARM)]
        return measured([*command, kind, json.dumps(requested)], self.pids, {"PYTHONPATH": str(floor)})


async def provisioned(net: Net) -> None:
    """Make what must exist in JetStream, the bench's queue too."""
    async with net.client() as bus:
        await provision(bus, ["bench"])


def plugin(directory: Path) -> str:
    """Install chain.py as the plugin `bench` for processes with the returned PYTHONPATH."""
    info = directory / "plugin" / "agentd_bench-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agentd-bench\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[agentd]\nbench = chain\n", encoding="utf-8")
    return f"{info.parent}{os.pathsep}{HERE}"
