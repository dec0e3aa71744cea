"""Kill a process between any two writes: the workflow completes, and the world was changed once.

Each point of `agentd.crash` is reached by a real daemon in a process of its own, which dies there by SIGKILL and is
started again, as systemd would. What happened is counted by the simulator, which knows nothing of agentd.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

import pytest

from agentd import client, subjects
from agentd.audit import verify
from agentd.crash import POINTS
from agentd.messages import AuditRecord, EffectRecord, WorkflowRequest
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentd.bus import Bus
    from harness import Daemon, Net

ORCHESTRATORS = {"before-commit", "after-commit", "in-outbox", "before-input-ack"}
ROLES = ("orchestrator", "specialist", "mcp-bridge")
TEMPLATE: dict[str, object] = {"template": 9000, "memory": 2048}
EMPTY: dict[str, object] = {"memory": 1024, "disk": 4}


class Cast:
    """The daemons of a test; whoever dies is started again."""

    def __init__(self, net: Net, names: tuple[str, ...] = ROLES) -> None:
        """Make the daemons, none started yet."""
        self.daemons: dict[str, Daemon] = {}
        for name in names:
            self.daemons[name] = net.daemon(name, (name.rstrip("0123456789"),))
        net.config_file()
        self.environment: dict[str, dict[str, str]] = {}
        self.deaths: list[tuple[str, int]] = []
        self.last = ""
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start all of them at once, and wait until they are ready."""
        for name, daemon in self.daemons.items():
            daemon.start(**self.environment.get(name, {}))
        try:
            for daemon in self.daemons.values():
                await asyncio.to_thread(daemon.ready)
        except BaseException:
            await self._end()
            raise
        self._watch = asyncio.create_task(self._start_again())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all of them; each must go with code 0, or by the signal if it was only just being started again."""
        await self._end()
        codes = {name: daemon.exit_code for name, daemon in self.daemons.items()}
        assert {name: code for name, code in codes.items() if code != 0} in ({}, {self.last: -15})

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(each.stop) for each in self.daemons.values()))

    async def _start_again(self) -> None:
        while True:
            for name, daemon in self.daemons.items():
                if daemon.exit_code is not None:
                    self.deaths.append((name, daemon.exit_code))
                    self.last = name
                    daemon.start(**self.environment.get(name, {}))
            await asyncio.sleep(0.05)


@pytest.fixture
async def bus(net: Net) -> AsyncIterator[Bus]:
    """Return a provisioned connection; Proxmox tasks take long enough for a kill to land inside."""
    assert net.pve is not None
    net.pve.durations(qmclone=0.7, qmcreate=0.7, qmstart=0.3)
    async with net.client() as connection:
        yield connection


async def _deploy(bus: Bus, name: str, wish: dict[str, object], wait: float = 60) -> dict[str, object]:
    await client.submit(bus, "tester", WorkflowRequest("vm_deployment", name, {"name": name, **wish}))
    answer = await client.follow(bus, name, lambda _state: None, wait=wait)
    assert answer.status.startswith("completed"), answer  # an empty VM is made with a warning: it has nothing to boot
    vm: dict[str, object] = answer.result["tasks"]["configure_vm"]["result"]
    return vm


async def _settled(bus: Bus, net: Net, names: list[str]) -> None:
    """Assert what must be true once everything is quiet: one VM each, one answer each, unbroken audit, no rest."""
    assert net.pve is not None

    async def quiet() -> bool:
        for stream, durable in (
            (subjects.REQUESTS, subjects.ORCH_REQUESTS),
            (subjects.INPUT, subjects.ORCH_INPUT),
            (subjects.WORKFLOWS, "mcp-proxmox"),
            (subjects.WORKFLOWS, "specialist"),
        ):
            info = await bus.api(f"CONSUMER.INFO.{stream}.{durable}")
            if info["num_pending"] or info["num_ack_pending"]:
                return False
        return True

    await eventually(quiet, "no pending messages", 45)
    guests = [each for each in net.pve.world()["guests"] if each["name"] in names]
    answers = await bus.every(subjects.WORKFLOWS, subjects.response("*"))
    records = [each.decode(EffectRecord) for each in await bus.last_many(subjects.EFFECTS, "ai.effects.>")]
    audit = await bus.every(subjects.AUDIT, subjects.audit("*"))
    chains: dict[str, list[AuditRecord]] = {}
    for each in audit:
        chains.setdefault(each.subject, []).append(each.decode(AuditRecord))

    assert sorted(each["name"] for each in guests) == sorted(names)
    assert {each["status"] for each in guests} == {"running"}
    assert len(net.pve.creates()) == len(names)
    assert len([each for each in net.pve.tasks("qmstart") if each["exitstatus"] == "OK"]) == len(names)
    assert sorted(each.subject for each in answers) == sorted(subjects.response(name) for name in names)
    assert {each.phase for each in records} == {"done"}
    assert {agent: verify(chain) for agent, chain in chains.items()} == dict.fromkeys(chains)


def _cases() -> list[tuple[str, str, dict[str, object]]]:
    cases: list[tuple[str, str, dict[str, object]]] = []
    for point in POINTS:
        if point in ORCHESTRATORS:
            cases.append((point, "orchestrator", TEMPLATE))
            continue
        cases.append((point, "mcp-bridge", TEMPLATE))
        if point in {"after-claim", "after-post"}:
            cases.append((point, "mcp-bridge", EMPTY))
        if point in {"after-claim", "after-done", "before-ack"}:
            cases.append((point, "specialist", TEMPLATE))
    return cases


@pytest.mark.parametrize(
    ("point", "victim", "wish"),
    _cases(),
    ids=lambda each: each if isinstance(each, str) else "clone" if "template" in each else "new",
)
async def test_a_process_dies_between_two_writes(
    net: Net, bus: Bus, tmp_path: Path, point: str, victim: str, wish: dict[str, object]
) -> None:
    """Whoever dies wherever, the VM is made once, configured once, started once, and the requester told once."""
    reached = tmp_path / "crash"
    reached.mkdir()
    cast = Cast(net)
    cast.environment[victim] = {"AGENTD_TEST_CRASH": point, "AGENTD_TEST_CRASH_DIR": str(reached)}
    begun = time.monotonic()
    async with cast:
        await _deploy(bus, "once", wish)
        took = time.monotonic() - begun
        await _settled(bus, net, ["once"])

    assert (reached / point).exists()
    assert cast.deaths == [(victim, -9)]
    assert took < 30, "a dead and restarted process stalls its work for seconds, not for ack_wait"
