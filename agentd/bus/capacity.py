"""How full NATS is: the account, and the streams that have their own limit.

At the account's limit NATS rejects every event, and also messages of the inputs, although their bytes are reserved:
nats-server 2.15 counts used bytes, not reserved ones [seen].  So action is needed before: from FULL on no new request
is started, and the monitor raises an alert.  An account without a limit does not show the size of the server's disk or
its max_file_store; `max_storage` under [bus] gives that size, and without it only the rejection shows that it is full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import NotProvisioned
from agentd.wire import subjects

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

FULL: Final = 0.70
"""Share of a limit from which on no request is started and an alert is raised: running workflows need room to end."""
EASED: Final = 0.65
"""Share below which requests are started again; the gap prevents starting and stopping at every event."""
STREAMS: Final = (
    subjects.REQUESTS,
    subjects.INPUT,
    subjects.WORKFLOWS,
    subjects.EFFECTS,
    subjects.AUDIT,
    subjects.DEAD,
    f"KV_{subjects.RESULTS}",
)
"""Streams that use storage; the use of the first three changes with the amount of work."""
MIB: Final = 1 << 20


@dataclass(frozen=True)
class StorageUse:
    """A limit and its used part, in bytes."""

    what: str
    used: int
    limit: int

    @property
    def share(self) -> float:
        """Return the used share: 0 to 1, or more."""
        return self.used / self.limit

    @property
    def text(self) -> str:
        """Return the limit and its use as a text for people."""
        return f"{self.what} is {self.share:.0%} full ({self.used / MIB:.1f} of {self.limit / MIB:.0f} MiB)"


async def account_limits(bus: Bus) -> list[StorageUse]:
    """Return the limits of this connection's account; an empty list if none is known."""
    info = await bus.api("INFO")
    found = [
        StorageUse(f"the NATS account's tier {name}", tier["storage"], tier["limits"]["max_storage"])
        for name, tier in (info.get("tiers") or {}).items()
        if tier["limits"]["max_storage"] > 0
    ]
    if not found and info["limits"]["max_storage"] > 0:
        found = [StorageUse("the NATS account", info["storage"], info["limits"]["max_storage"])]
    if bus.settings.max_storage is not None:
        found.append(StorageUse("JetStream's storage (bus.max_storage)", info["storage"], bus.settings.max_storage))
    return found


async def stream_size(bus: Bus, name: str) -> tuple[int, StorageUse | None]:
    """Return the size of a stream in bytes, and its limit if it has one."""
    try:
        info: dict[str, Any] = await bus.api(f"STREAM.INFO.{name}")
    except NotProvisioned:
        return 0, None
    used, limit = int(info["state"]["bytes"]), int(info["config"].get("max_bytes", -1))
    return used, StorageUse(name, used, limit) if limit > 0 else None


async def event_limits(bus: Bus) -> list[StorageUse]:
    """Return the limits that would stop running workflows."""
    _, inputs = await stream_size(bus, subjects.INPUT)
    return [*await account_limits(bus), *([inputs] if inputs is not None else [])]


async def all_limits(bus: Bus) -> tuple[list[StorageUse], dict[str, int]]:
    """Return every limit, and the size of each stream in bytes."""
    uses, sizes = await account_limits(bus), dict[str, int]()
    for name in STREAMS:
        sizes[name], use = await stream_size(bus, name)
        if use is not None:
            uses.append(use)
    return uses, sizes


def advice(use: StorageUse, sizes: dict[str, int]) -> str:
    """Return what uses the storage, and what to do."""
    if use.what == subjects.REQUESTS:
        return "requests wait: is an orchestrator at work, and does it take requests? see its /readyz"
    if use.what == subjects.INPUT:
        return "completions and signals wait: is an orchestrator at work? see its /readyz"
    if use.what == subjects.DEAD:
        return "its oldest letters will go: see `agentd dead-letters`"
    largest = sorted(((size, name) for name, size in sizes.items() if size), reverse=True)[:3]
    taken = ", ".join(f"{name} {size / MIB:.1f} MiB" for size, name in largest)
    text = f"most is in {taken}; " if taken else ""
    if any(name == subjects.AUDIT for _, name in largest):
        text += "AI_AUDIT is kept for ever unless you set its max_age (archive it first); "
    return (
        f"{text}when it is full every event is refused and all work stops until there is room: "
        "raise max_file of the account, or lower [orchestrator] retention_days"
    )
