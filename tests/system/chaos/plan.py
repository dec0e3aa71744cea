"""What a chaos run does: requests and faults, drawn from a seed.  Pure: the same seed gives the same run.

What cannot be drawn is how processes interleave; the same seed gives the same faults at the same times.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

from agentd.wire.subjects import ACK_WAIT

DONE: Final = ("completed", "completed_with_warnings")
UNDONE: Final = ("compensated",)

DAEMONS: Final = (
    "orchestrator",
    "orchestrator2",
    "orchestrator3",
    "specialist",
    "specialist2",
    "mcp-bridge",
    "mcp-bridge2",
)
POINTS: Final = {
    "orchestrator": ("before-commit", "after-commit", "in-outbox", "before-input-ack"),
    "specialist": ("before-claim", "after-claim", "after-done", "before-ack"),
    "mcp-bridge": ("before-claim", "after-claim", "after-post", "after-upid", "after-done", "before-ack"),
}
WRITES: Final = r"/(clone|config|start|stop|resize|qemu|qemu/\d+)$"

FAULTS: Final = {"kill": 8, "stop": 1, "nats": 2, "leader": 2, "partition": 2, "cut": 3, "lost": 3, "delay": 2}
"""Kinds of fault and how often each is drawn.

kill       kill -9 of a daemon, started again after a pause
stop       SIGSTOP of a daemon for longer than ack_wait: a zombie wakes
nats       kill -9 of a nats-server, started again after a pause
leader     the same, of the one that leads JetStream, or the stream of workflows
partition  one nats-server cannot reach the others, its clients still reach it
cut        the answer to a write is lost after Proxmox has done it
lost       a write is lost before Proxmox sees it
delay      a write reaches Proxmox late
"""
SERVERS: Final = ("nats", "leader", "partition")
ONE_SERVER: Final = frozenset(FAULTS) - {"leader", "partition"}
KINDS: Final = {"clone": 4, "new": 3, "health": 3, "graph": 4, "fail": 3, "approve": 2, "reject": 1, "never": 1}
"""Kinds of workflow and how often each is drawn; `cancel`led and `poison`ed ones are drawn besides."""


@dataclass(frozen=True)
class Request:
    """A workflow that is asked for, `at` seconds after the beginning, and how it may end.

    twice    the request is sent a second time
    signal   what a second principal says to its approval, or `cancel`
    after    seconds until then
    """

    at: float
    id: str
    kind: str
    parameters: dict[str, Any]
    endings: tuple[str, ...] = DONE
    twice: bool = False
    signal: str = ""
    after: float = 0.0
    timeout: float | None = None


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong at `at` for `seconds`; `target` says with what, where that is drawn."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


def requests(seed: int, seconds: float, pace: float, *, poison: bool = True) -> list[Request]:
    """Return the requests of a run of `seconds`, one every `pace` seconds on average."""
    chance = random.Random(f"requests {seed}")  # noqa: S311 - so that a run can be repeated
    made: list[Request] = []
    order = list(KINDS)
    chance.shuffle(order)  # each kind once, then as it comes
    at = 0.0
    while at < seconds:
        number = len(made)
        kind = order[number] if number < len(order) else _weighted(chance, KINDS)
        made.append(_request(chance, at, f"{kind}-{number}", kind))
        at += chance.uniform(0.2, 2 * pace - 0.2)
    if poison:
        made.append(Request(1.0, "poison-0", "vm_deployment", {"name": "poison-0", **_SMALL}, ("failed",)))
    return sorted(made, key=lambda item: item.at)


_SMALL: Final[dict[str, Any]] = {"memory": 64, "disk": 1}


def _request(chance: random.Random, at: float, name: str, kind: str) -> Request:
    twice = chance.random() < 0.1
    if kind in {"clone", "new"}:
        requested = _SMALL if kind == "new" else {"template": 9000, "memory": 128, "disk": 4}
        cancelled = chance.random() < 0.15
        return Request(
            at,
            name,
            "vm_deployment",
            {"name": name, **requested},
            (*DONE, "cancelled") if cancelled else DONE,
            twice,
            "cancel" if cancelled else "",
            chance.uniform(0.0, 3.0),
        )
    if kind == "health":
        return Request(at, name, "health_check", {}, DONE, twice)
    parameters = {"name": name, "looks": chance.choice((1, 4, 12)), "fail": kind == "fail"}
    parameters["approval"] = kind in {"approve", "reject", "never"}
    endings = {"graph": DONE, "approve": DONE}.get(kind, UNDONE)
    signal = {"approve": "approve", "reject": "reject", "never": "cancel"}.get(kind, "")
    if kind == "never":
        endings = ("cancelled", "compensated")
    return Request(at, name, "chaos_graph", parameters, endings, twice, signal, chance.uniform(0.0, 10.0))


def faults(seed: int, seconds: float, gap: float, kinds: frozenset[str], servers: int) -> list[Fault]:
    """Return the faults of a run of `seconds`, one every `gap` seconds on average; each of `kinds` at least once."""
    chance = random.Random(f"faults {seed}")  # noqa: S311
    order = sorted(kinds)
    chance.shuffle(order)
    weights = {kind: FAULTS[kind] for kind in order}
    made: list[Fault] = []
    at = chance.uniform(0.0, gap)
    free = 0.0  # from when no nats-server is away: one at a time, or there is nothing that could go on
    while at < seconds or order:
        away = {} if free <= at else dict.fromkeys(SERVERS, 0)
        kind = order.pop() if order else _weighted(chance, weights | away)
        fault = _fault(chance, min(at, seconds), kind, servers)
        if kind in SERVERS:
            fault = _later(fault, free)
            free = fault.at + fault.seconds + 5.0
        if kind == "stop":
            fault = _later(fault, -(fault.seconds - seconds)) if fault.at + fault.seconds > seconds else fault
        made.append(fault)
        at += chance.uniform(0.2, 2 * gap - 0.2)
    return sorted(made, key=lambda item: item.at)


def _later(fault: Fault, at: float) -> Fault:
    """Return the fault at another time: for one that would outlast the run earlier, else not before `at`."""
    moved = max(0.0, at) if fault.kind == "stop" else max(fault.at, at)
    return Fault(moved, fault.kind, fault.target, fault.seconds, fault.details)


def _fault(chance: random.Random, at: float, kind: str, servers: int) -> Fault:
    match kind:
        case "kill":
            return Fault(at, kind, chance.choice(DAEMONS), chance.uniform(0.0, 4.0))
        case "stop":
            return Fault(at, kind, chance.choice(DAEMONS), ACK_WAIT + chance.uniform(1.0, 6.0))
        case "nats":
            return Fault(at, kind, str(chance.randrange(servers)), chance.uniform(0.2, 5.0))
        case "leader":
            return Fault(at, kind, chance.choice(("meta", "AI_WORKFLOWS", "AI_INPUT")), chance.uniform(0.2, 5.0))
        case "partition":
            return Fault(at, kind, str(chance.randrange(servers)), chance.uniform(4.0, 15.0))
        case "cut":
            effect: dict[str, Any] = {"cut_after": True}
        case "lost":
            effect = {"lost_before": True}
        case _:
            effect = {"delay": round(chance.uniform(1.0, 12.0), 1)}
    return Fault(at, kind, chance.choice(("POST", "POST", "PUT", "*")), 0.0, {"effect": effect, "path": WRITES})


def crashes(name: str, rate: float, poison: str) -> str:
    """Return AGENTD_TEST_CRASH for the daemon `name`: each point of its role by chance, what is poisoned always."""
    role = name.rstrip("0123456789")
    armed = [f"{point}:{rate}" for point in POINTS[role]] if rate else []
    if poison and role == "mcp-bridge":
        armed.append(f"after-claim@{poison}:1")
    return ",".join(armed)


def _weighted(chance: random.Random, weights: dict[str, int]) -> str:
    return chance.choices(list(weights), list(weights.values()))[0]
