"""Daemons in processes of their own that are started again when they die, and what must be so at the end."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.messages import WorkflowRequest
from agentd.wire.records import AuditRecord, EffectRecord
from core.chains import verify
from harness import START, eventually, until

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Daemon, Net

ROLES = ("orchestrator", "specialist", "mcp-bridge")
TEMPLATE: dict[str, object] = {"template": 9000, "memory": 2048}
EMPTY: dict[str, object] = {"memory": 1024, "disk": 4}
QUIET = 45.0
"""Seconds until nothing is pending: an acknowledgement that a dead server took with it is asked for after 30."""


class RestartingDaemons:
    """The daemons of a test; a killed process is started again, as systemd would."""

    def __init__(self, net: Net, names: tuple[str, ...] = ROLES) -> None:
        """Make the daemons, none started yet; `mcp-bridge2` plays the role of `mcp-bridge`."""
        self.daemons: dict[str, Daemon] = {name: net.daemon(name, (name.rstrip("0123456789"),)) for name in names}
        net.config_file()
        self.environment: dict[str, dict[str, str]] = {}
        self.restarts: list[tuple[str, int]] = []
        self.exited = asyncio.Event()
        self._reported: dict[str, int] = {}
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start all of them at once, and wait until they are ready."""
        try:
            for name in self.daemons:
                self._start(name)
            await self.ready()
        except BaseException:
            await self._end()
            raise
        self._watch = asyncio.create_task(self._start_again())
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        """Stop all of them; each must go with code 0."""
        if kind is None:
            await self.ready()  # a process that has only just begun to start dies of the signal
        await self._end()
        codes = {name: daemon.exit_code for name, daemon in self.daemons.items()}
        assert kind is not None or codes == dict.fromkeys(self.daemons, 0)

    def _start(self, name: str) -> None:
        daemon = self.daemons[name]
        self._reported[name] = self._ready_lines(daemon)
        daemon.start(**self.environment.get(name, {}))

    @staticmethod
    def _ready_lines(daemon: Daemon) -> int:
        return daemon.log.read_bytes().count(b'"event":"ready"') if daemon.log.exists() else 0

    async def ready(self) -> None:
        """Wait until all of them, started again or not, work."""
        for name, daemon in self.daemons.items():

            def works(name: str = name, daemon: Daemon = daemon) -> bool:
                return self._ready_lines(daemon) > self._reported[name]

            await asyncio.to_thread(until, works, f"{name} ready ({daemon.log})", START)

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(daemon.stop) for daemon in self.daemons.values()))

    async def _start_again(self) -> None:
        while True:
            for name, daemon in self.daemons.items():
                if daemon.exit_code is not None:
                    self.restarts.append((name, daemon.exit_code))
                    self.exited.set()
                    self._start(name)
            await asyncio.sleep(0.05)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the daemon `name`."""
        self.daemons[name].signal(number)

    def kill(self, *names: str) -> None:
        """End these, or all, with SIGKILL."""
        for name in names or self.daemons:
            self.daemons[name].signal(signal.SIGKILL)


def note(what: str, value: object) -> None:
    """Print a figure; pytest shows it with -rP, and of a test that fails."""
    sys.stdout.write(f"{what}: {value}\n")


async def deploy(bus: Bus, name: str, requested: dict[str, object] | None = None, wait: float = 90) -> float:
    """Deploy a VM; return the seconds that it took."""
    begun = time.monotonic()
    request = WorkflowRequest("vm_deployment", name, {"name": name, **(TEMPLATE if requested is None else requested)})
    await requests.submit(bus, "tester", request)
    answer = await queries.follow(bus, name, lambda _state: None, wait=wait)
    assert answer.status.startswith("completed"), answer  # an empty VM is made with a warning: it has nothing to boot
    return time.monotonic() - begun


async def asked(net: Net, path: str, count: int = 1) -> None:
    """Wait until Proxmox was asked `count` times for what ends in `path`."""
    assert net.pve is not None
    pve = net.pve

    async def logged() -> bool:
        return len(await asyncio.to_thread(pve.log, "POST", path)) >= count

    await eventually(logged, f"POST …{path}")


async def record(bus: Bus, key: str) -> EffectRecord:
    """Return the effect record of `key`, of the service mcp-proxmox."""
    found = await bus.last(subjects.EFFECTS, subjects.effect("mcp-proxmox", key))
    assert found is not None
    return found.decode(EffectRecord)


async def settled(bus: Bus, net: Net, *names: str) -> None:
    """Assert what must be so once everything is quiet: each VM made and started once, each request answered once.

    What was done is counted by the simulator, which knows nothing of agentd.
    """
    assert net.pve is not None
    await eventually(lambda: _quiet(bus), "no pending messages", QUIET)
    guests = [guest for guest in net.pve.inventory()["guests"] if guest["name"] in names]
    answers = await bus.every(subjects.WORKFLOWS, subjects.response("*"))
    records = [message.decode(EffectRecord) for message in await bus.last_many(subjects.EFFECTS, "ai.effects.>")]
    chains: dict[str, list[AuditRecord]] = {}
    for item in await bus.every(subjects.AUDIT, subjects.audit("*")):
        chains.setdefault(item.subject, []).append(item.decode(AuditRecord))

    assert sorted(guest["name"] for guest in guests) == sorted(names)
    assert {guest["status"] for guest in guests} == {"running"}
    assert len(net.pve.creates()) == len(names)
    assert _done(net.pve.tasks("qmstart")) == len(names)
    assert sorted(answer.subject for answer in answers) == sorted(subjects.response(name) for name in names)
    assert {item.phase for item in records} == {"done"}
    assert {agent: verify(chain) for agent, chain in chains.items()} == dict.fromkeys(chains)


def _done(tasks: list[dict[str, Any]]) -> int:
    return len([task for task in tasks if task["exitstatus"] == "OK"])


async def _quiet(bus: Bus) -> bool:
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
