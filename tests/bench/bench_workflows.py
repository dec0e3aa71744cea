"""Workflows a second, their time and their CPU, beside the floor in the same run.

Each round runs every system on a fresh nats-server of the same configuration, in turning order; a figure is the
median over the rounds, a ratio the median of the rounds' ratios' parts.  BENCH_ROUNDS and
BENCH_SECONDS change how many rounds, and how long each measurement.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import pytest

from bench.systems import REQUEST, Agentd, Floor, Load
from harness import NatsServer
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.conftest import Figures

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
WIDE = 50
ALWAYS = "sync_interval: always"
SHARES = {"orchestrator": ("orchestrator",), "bench": ("bench",)}
SHORT = {**REQUEST, "deadline": 1.0}
"""Deadlines that pass while the next workflows run: what timers cost shows."""


@dataclass
class Rounds:
    """The measurements of one system: alone, and many at once."""

    one: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)

    def median(self, of: Callable[[Load], float], *, one: bool = False) -> float:
        """Return the median over the rounds."""
        return median(of(item) for item in (self.one if one else self.many))

    def cpu(self, process: str) -> float:
        """Return the CPU of one process, many at once."""
        return median(item.cpu[process] for item in self.many)


@pytest.fixture
def floor(facts: Path) -> Path:
    """Return the folder of the floor."""
    folder = facts / "perf" / "floor"
    if not (folder / "floor.py").is_file():
        pytest.skip("no floor among the facts")
    return folder


def _floor(floor: Path, server: NatsServer, variant: str, rounds: Rounds) -> None:
    with Floor(floor, server, variant).running() as system:
        rounds.one.append(system.load(1, SECONDS / 2))
        rounds.many.append(system.load(WIDE, SECONDS))


def _agentd(floor: Path, directory: Path, server: NatsServer, found: dict[str, Rounds], *, more: bool) -> None:
    with Agentd(directory, server, SHARES).running() as system:
        read = found.setdefault("agentd", Rounds())
        read.one.append(system.load(floor, 1, SECONDS / 2))
        read.many.append(system.load(floor, WIDE, SECONDS))
        if more:
            found.setdefault("operate", Rounds()).many.append(system.load(floor, WIDE, SECONDS, "bench_operate"))
            short = system.load(floor, WIDE, SECONDS * 2, requested=SHORT)
            found.setdefault("timers", Rounds()).many.append(short)


def _rounds(floor: Path, tmp_path: Path, variants: tuple[str, ...], jetstream: str, *, more: bool) -> dict[str, Rounds]:
    """Measure agentd and each variant of the floor, in turns."""
    found: dict[str, Rounds] = {}
    order = ["agentd", *variants]
    for number in range(ROUNDS):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            directory = tmp_path / f"{name}-{number}"
            with NatsServer(directory, jetstream=jetstream) as server:
                if name == "agentd":
                    _agentd(floor, directory, server, found, more=more)
                else:
                    _floor(floor, server, name, found.setdefault(name, Rounds()))
    return found


def _wfs(load: Load) -> float:
    return load.wfs


def _p50(load: Load) -> float:
    return load.p50


def _p99(load: Load) -> float:
    return load.p99


def _cpu(load: Load) -> float:
    return load.cpu_all


def test_three_reads(floor: Path, tmp_path: Path, figures: Figures) -> None:
    """Goals 1 to 3: a chain of three reads against the floor, with the server's default sync_interval."""
    found = _rounds(floor, tmp_path, ("log", "pipe"), "", more=True)
    ours, log, pipe = found["agentd"], found["log"], found["pipe"]

    throughput = ours.median(_wfs)
    figures.add("c=50 throughput", throughput, "wf/s", floor=log.median(_wfs), at_least=0.6)
    figures.add("c=50 throughput, to pipe/hyb", throughput, "wf/s", floor=pipe.median(_wfs))
    figures.add("c=50 p50", ours.median(_p50), "ms", floor=log.median(_p50))
    figures.add("c=50 p99", ours.median(_p99), "ms", floor=log.median(_p99))
    figures.add("c=50 CPU, all", ours.median(_cpu), "s/1000", floor=log.median(_cpu), at_most=1.7)
    figures.add("c=50 CPU, all, to pipe/hyb", ours.median(_cpu), "s/1000", floor=pipe.median(_cpu))
    for name, theirs in (("orchestrator", "orch"), ("bench", "agent"), ("server", "server")):
        figures.add(f"c=50 CPU, {name}", ours.cpu(name), "s/1000", floor=log.cpu(theirs))
    figures.add("c=50 CPU, orchestrator alone", ours.cpu("orchestrator"), "s/1000", at_most=0.2)
    figures.add("c=1 throughput", ours.median(_wfs, one=True), "wf/s", floor=log.median(_wfs, one=True))
    figures.add("c=1 p50", ours.median(_p50, one=True), "ms", floor=log.median(_p50, one=True), at_most=1.5)
    figures.add("c=1 p50, to pipe/hyb", ours.median(_p50, one=True), "ms", floor=pipe.median(_p50, one=True))
    figures.add("c=1 p99", ours.median(_p99, one=True), "ms", floor=log.median(_p99, one=True), at_most=2.0)
    operate, timers = found["operate"].median(_wfs), found["timers"].median(_wfs)
    figures.add("c=50 throughput, tier operate", operate, "wf/s", floor=log.median(_wfs), at_least=0.3)
    figures.add("c=50 throughput, all timers firing", timers, "wf/s", floor=log.median(_wfs))
    figures.add("c=50 CPU, all timers firing", found["timers"].median(_cpu), "s/1000", floor=log.median(_cpu))


def test_three_reads_synced(floor: Path, tmp_path: Path, figures: Figures) -> None:
    """Goal 4: the same where every message is on the disk before it is acknowledged."""
    found = _rounds(floor, tmp_path, ("log", "pipe"), ALWAYS, more=False)
    ours, log, pipe = found["agentd"], found["log"], found["pipe"]

    throughput = ours.median(_wfs)
    figures.add("synced c=50 throughput", throughput, "wf/s", floor=log.median(_wfs), at_least=0.8)
    figures.add("synced c=50 throughput, to pipe/hyb", throughput, "wf/s", floor=pipe.median(_wfs))
    figures.add("synced c=50 CPU, all", ours.median(_cpu), "s/1000", floor=log.median(_cpu))
    figures.add("synced c=1 p50", ours.median(_p50, one=True), "ms", floor=log.median(_p50, one=True))


def test_vm_deployments(floor: Path, tmp_path: Path, figures: Figures) -> None:
    """What a VM costs when Proxmox takes no time: four roles, a simulated cluster without durations."""
    requested = {"template": 9000, "memory": 2048, "disk": 8, "tags": ["bench"]}
    shares = {item: (item,) for item in ("orchestrator", "specialist", "mcp-bridge")}
    found = Rounds()
    for number in range(ROUNDS):
        directory = tmp_path / str(number)
        with (
            FakePve(directory=directory / "pve") as pve,
            NatsServer(directory) as server,
            Agentd(directory, server, shares, pve).running() as system,
        ):
            found.one.append(system.load(floor, 1, SECONDS, "vm_deployment", requested))
            found.many.append(system.load(floor, 10, SECONDS, "vm_deployment", requested))

    figures.add("vm_deployment c=1", found.median(_wfs, one=True), "wf/s")
    figures.add("vm_deployment c=1 p50", found.median(_p50, one=True), "ms")
    figures.add("vm_deployment c=10", found.median(_wfs), "wf/s")
    figures.add("vm_deployment c=10 p50", found.median(_p50), "ms")
    for name in ("orchestrator", "specialist", "mcp-bridge", "server"):
        figures.add(f"vm_deployment c=10 CPU, {name}", found.cpu(name), "s/1000")


def test_two_orchestrators(floor: Path, tmp_path: Path, figures: Figures) -> None:
    """Two orchestrators share the work, and no workflow stops because one of them knew an older state."""
    shares = {**SHARES, "second": ("orchestrator",)}
    found = Rounds()
    with NatsServer(tmp_path) as server, Agentd(tmp_path, server, shares).running() as system:
        found.many.append(system.load(floor, WIDE, SECONDS))

    figures.add("c=50 throughput, two orchestrators", found.median(_wfs), "wf/s")
