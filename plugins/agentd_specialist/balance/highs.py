"""Let HiGHS improve a placement, in a process of its own with limits on time and memory.

It is the extra `solver` of agentd; without it, and whenever the process fails, ends late or takes too much memory, the
placement of the annealing stays as it is.  The limit on memory is kept by this process, which reads how much the other
one uses: the units of systemd forbid setrlimit.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agentd_specialist.balance.mip import Answer, Choice, Model

if TYPE_CHECKING:
    from agentd_specialist.balance.solver import Search

MIB: Final = 2**20
LATE: Final = 10.0
"""Seconds after its limit at which the process is killed: it builds the model first."""
WATCH: Final = 0.05
"""Seconds between two looks at the memory of the process."""
BESIDE: Final = 64 * MIB
"""Bytes that are left to this process where a control group limits both."""
LEAST: Final = 160 * MIB
"""With less memory the process is not started: HiGHS and numpy take that before they begin."""
COMMAND: Final = (sys.executable, "-P", "-m", "agentd_specialist.balance.mip")
KEPT: Final = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Highs:
    """HiGHS, with its limits: seconds of search, and bytes of memory."""

    seconds: float
    memory: int
    command: tuple[str, ...] = COMMAND

    def __call__(self, search: Search) -> tuple[list[int], str]:
        """Return a node for each unit of a search ([]: none was found), and a sentence."""
        limit = min(self.memory, _room())
        if limit < LEAST:
            return [], f"HiGHS was not used: {limit // MIB} MiB of memory are free for it, and it needs more"
        try:
            answer = self._run(model_of(search, self.seconds), limit)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            return [], f"HiGHS was not used: {error}"
        if len(answer.nodes) != len(search.free):
            return [], "HiGHS found no placement in time"
        place = list(search.place)
        for number, node in zip(search.free, answer.nodes, strict=True):
            place[number] = node
        return place, f"HiGHS: at most {answer.gap:.1f} % above the proven bound"

    def _run(self, model: Model, limit: int) -> Answer:
        """Return the answer of the process; raises OSError or ValueError if there is none."""
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        with tempfile.TemporaryFile() as sent, tempfile.TemporaryFile() as received:
            sent.write(msgspec.json.encode(model))
            sent.seek(0)
            process = subprocess.Popen(  # noqa: S603 - our own module
                self.command, stdin=sent, stdout=received, stderr=subprocess.DEVNULL, env=environment
            )
            try:
                _follow(process, limit, time.monotonic() + self.seconds + LATE)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                raise ValueError(f"its process ended with {process.returncode}")
            received.seek(0)
            return msgspec.json.decode(received.read(), type=Answer)


def installed() -> bool:
    """Return whether the extra `solver` is installed."""
    return importlib.util.find_spec("highspy") is not None


def model_of(search: Search, seconds: float) -> Model:
    """Return the model of a search: what may still move, beside what stays."""
    memory, cpu = list(search.memory), list(search.cpu)
    taken = [list(row) for row in search.taken]
    choices = []
    for number in search.free:
        unit, at = search.problem.units[number], search.place[number]
        memory[at] -= unit.memory
        cpu[at] -= unit.cpu
        for group in unit.groups:
            taken[group][at] -= 1
        nodes = sorted({*unit.allowed, unit.home, at})
        costs = [search.sent[number][node] + search.forbidden[number][node] for node in nodes]
        choices.append(Choice(unit.memory, unit.cpu, unit.groups, nodes, costs, nodes.index(at)))
    pairs = list(zip(search.goal, search.slack, strict=True))
    return Model(
        memory=memory,
        cpu=cpu,
        capacity=search.problem.capacity,
        cpus=search.problem.cpus,
        low=[goal - slack for goal, slack in pairs],
        high=[goal + slack for goal, slack in pairs],
        counted=search.problem.counted,
        taken=taken,
        choices=choices,
        seconds=seconds,
    )


def _follow(process: subprocess.Popen[bytes], limit: int, until: float) -> None:
    """Wait for the end of a process; raise ValueError if it exceeds a limit."""
    while process.poll() is None:
        if time.monotonic() > until:
            raise ValueError("it did not end in time")
        if (used := resident(process.pid)) > limit:
            raise ValueError(f"it used {used // MIB} MiB of memory, and may use {limit // MIB}")
        time.sleep(WATCH)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process uses; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _room() -> int:
    """Return the bytes that the control group of this process leaves to another one."""
    found = sys.maxsize
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition("::")[2].lstrip("/")
        for folder in (Path("/sys/fs/cgroup") / own, *(Path("/sys/fs/cgroup") / own).parents):
            limit = folder / "memory.max"
            if limit.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
                used = int((folder / "memory.current").read_text(encoding="ascii"))
                found = min(found, int(text) - used - BESIDE)
    except (OSError, ValueError):
        return found
    return found
