"""The processes of a chaos run: killed ones are restarted, and the chosen faults are injected."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agentd.crash_points import OVER
from harness import SCRIPTS, Net, until
from system.chaos import plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Daemon
    from pve.client import FakePve
    from system.chaos.cluster import Cluster
    from system.chaos.plan import Fault

    Crashes = Callable[[str, int], tuple[str, str]]

START: Final = 60.0


def with_plugin() -> str:
    """Return PYTHONPATH as it is, with the plugin of the chaos runs before it."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parent / "plugin"), os.environ.get("PYTHONPATH", "")]))


class Processes:
    """The daemons and servers of a run."""

    def __init__(
        self, folder: Path, nats: Cluster, pve: FakePve, crashes: Crashes, names: tuple[str, ...] = plan.DAEMONS
    ) -> None:
        """Write the configuration; nothing runs yet.

        crashes  says where the daemon of that name dies, the how manieth start it is: AGENTD_TEST_CRASH, and its seed
        """
        self.nats, self.pve = nats, pve
        self._crashes = crashes
        net = Net(folder, nats.urls[0], pve)
        net.settings["bus"] = {"servers": nats.urls, "replicas": len(nats.nodes)}
        net.settings["log"]["level"] = "info"
        net.settings["chaos"] = {"enabled": True}
        self.daemons: dict[str, Daemon] = {name: net.daemon(name, (name.rstrip("0123456789"),)) for name in names}
        self.config = net.config_file()
        self.points = folder / "points"
        self.points.mkdir()
        self.seen: Counter[str] = Counter()
        self._rules: dict[int, str] = {}
        self._starts: Counter[str] = Counter()
        self._pause: dict[str, float] = {}
        self._watch: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Make streams and consumers, then start every daemon and wait until it works."""
        await asyncio.to_thread(until, self._provision, "provisioned", START)
        for name in self.daemons:
            self._start(name)
        try:
            for daemon in self.daemons.values():
                await asyncio.to_thread(daemon.ready, START)
        except BaseException:
            await self.__aexit__()
            raise
        self._watch = asyncio.create_task(self._start_again())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop every daemon; one that does not go is a failure."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(daemon.stop) for daemon in self.daemons.values()))

    def _provision(self) -> bool:
        command = [str(SCRIPTS / "agentd"), "--config", str(self.config), "provision"]
        with (self.points.parent / "provision.log").open("ab") as log:
            return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0

    def _start(self, name: str) -> None:
        self._starts[name] += 1
        armed, seed = self._crashes(name, self._starts[name])
        self.daemons[name].start(
            AGENTD_TEST_CRASH=armed, AGENTD_TEST_CRASH_DIR=str(self.points), AGENTD_TEST_CRASH_SEED=seed
        )

    async def _start_again(self) -> None:
        waiting: set[str] = set()

        async def start(name: str) -> None:
            await asyncio.sleep(self._pause.pop(name, 0.2))
            self._start(name)
            waiting.discard(name)

        async with asyncio.TaskGroup() as group:
            while True:
                for name in self.daemons.keys() - waiting:
                    code = self.daemons[name].exit_code
                    if code is not None:
                        if code != -signal.SIGKILL:
                            sys.stdout.write(f"{name} ended by itself with code {code}\n")
                            self.seen[f"exit {code}"] += 1
                        waiting.add(name)
                        group.create_task(start(name))
                await asyncio.sleep(0.05)

    def count(self) -> Counter[str]:
        """Return how many faults of each kind there were."""
        found = Counter(self.seen)
        for path in self.points.iterdir():
            if path.name != OVER:
                found[f"crash {re.sub(r'[.][0-9]+$', '', path.name)}"] += 1
        return found

    # -- faults -------------------------------------------------------------------------------------------------------

    async def inject(self, faults: list[Fault]) -> None:
        """Let the faults happen, each at its time; return when all are over."""
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, begun + fault.at - asyncio.get_running_loop().time()))
                sys.stdout.write(
                    f"{fault.at:6.1f} s  {fault.kind} {fault.target} {fault.seconds:.1f} s {fault.details or ''}\n"
                )
                sys.stdout.flush()
                group.create_task(self._happen(fault))

    async def _happen(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                self._pause[fault.target] = fault.seconds
                self.daemons[fault.target].signal(signal.SIGKILL)
                self.seen["kill"] += 1
            case "stop":
                await self._stop(fault)
            case "nats" | "leader":
                await self._nats(fault)
            case "partition":
                self.seen["partition"] += 1
                await asyncio.to_thread(self.nats.part, int(fault.target))
                await asyncio.sleep(fault.seconds)
                await asyncio.to_thread(self.nats.heal)
            case _:
                method = None if fault.target == "*" else fault.target
                path, effect = fault.details["path"], fault.details["effect"]
                rule = await asyncio.to_thread(self.pve.rule, method or "POST", path, effect, 1)
                self._rules[rule["id"]] = fault.kind

    async def _stop(self, fault: Fault) -> None:
        """Let a process sleep for longer than its work is kept for it; it may die meanwhile."""
        process = self.daemons[fault.target].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        self.seen["stop"] += 1
        await asyncio.sleep(fault.seconds)
        process.send_signal(signal.SIGCONT)

    async def _nats(self, fault: Fault) -> None:
        if fault.kind == "leader":
            number = await asyncio.to_thread(self.nats.leader, fault.target)
        else:
            number = int(fault.target)
        node = self.nats.nodes[number]
        if not node.lives:
            return
        node.kill()
        self.seen[fault.kind] += 1
        await asyncio.sleep(fault.seconds)
        node.start()

    async def recover(self) -> None:
        """End all faults: from here on everything is to come right by itself."""
        (self.points / OVER).touch()
        await asyncio.to_thread(self._disarm)
        if self.nats.apart:
            await asyncio.to_thread(self.nats.heal)

    def _disarm(self) -> None:
        """Let no rule disturb a request any more; how often each did is kept."""
        for rule in self.pve.rules():
            self.seen[self._rules[rule["id"]]] += rule["applied"]
        self.pve.clear()
