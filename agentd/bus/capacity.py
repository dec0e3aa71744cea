"""How full NATS is: the account, and the streams that have a limit of their own.

At the limit every event is refused, and those inputs too whose bytes are reserved: nats-server 2.15 counts what is
used, not what is reserved [seen].  So somebody has to act before: from FULL on no new request is begun, and the monitor
says so.  An account without a limit does not show how large the server's disk or its max_file_store is; then
`max_storage` under [bus] says it, and without that only the refusal itself tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import NotProvisioned
from agentd.wire import subjects

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

FULL: Final = 0.70
"""Share of a limit from which on no request is begun and an alert is raised: what runs needs room to end."""
EASED: Final = 0.65
"""Share below which work goes on; the gap keeps it from beginning and stopping at every event."""
STREAMS: Final = (
    subjects.REQUESTS,
    subjects.INPUT,
    subjects.WORKFLOWS,
    subjects.EFFECTS,
    subjects.AUDIT,
    subjects.DEAD,
    f"KV_{subjects.RESULTS}",
)
"""What takes storage, the first three as work comes and goes."""
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Room:
    """A limit and what is used of it, in bytes."""

    what: str
    used: int
    limit: int

    @property
    def share(self) -> float:
        """Return how much of it is used, 0 to 1 and more."""
        return self.used / self.limit

    @property
    def text(self) -> str:
        """Say it to people."""
        return f"{self.what} is {self.share:.0%} full ({self.used / MIB:.1f} of {self.limit / MIB:.0f} MiB)"


async def account(bus: Bus) -> list[Room]:
    """Return the limits of the account that this connection is in; none where nothing is known."""
    info = await bus.api("INFO")
    found = [
        Room(f"the NATS account's tier {name}", each["storage"], each["limits"]["max_storage"])
        for name, each in (info.get("tiers") or {}).items()
        if each["limits"]["max_storage"] > 0
    ]
    if not found and info["limits"]["max_storage"] > 0:
        found = [Room("the NATS account", info["storage"], info["limits"]["max_storage"])]
    if bus.settings.max_storage is not None:
        found.append(Room("JetStream's storage (bus.max_storage)", info["storage"], bus.settings.max_storage))
    return found


async def stream(bus: Bus, name: str) -> tuple[int, Room | None]:
    """Return the bytes of a stream, and its limit if it has one."""
    try:
        info: dict[str, Any] = await bus.api(f"STREAM.INFO.{name}")
    except NotProvisioned:
        return 0, None
    used, limit = int(info["state"]["bytes"]), int(info["config"].get("max_bytes", -1))
    return used, Room(name, used, limit) if limit > 0 else None


async def for_events(bus: Bus) -> list[Room]:
    """Return the limits at which running workflows would stand still."""
    _, inputs = await stream(bus, subjects.INPUT)
    return [*await account(bus), *([inputs] if inputs is not None else [])]


async def everything(bus: Bus) -> tuple[list[Room], dict[str, int]]:
    """Return every limit, and the bytes of each stream."""
    rooms, sizes = await account(bus), dict[str, int]()
    for name in STREAMS:
        sizes[name], room = await stream(bus, name)
        if room is not None:
            rooms.append(room)
    return rooms, sizes


def advice(room: Room, sizes: dict[str, int]) -> str:
    """Say what takes the room, and what can be done."""
    if room.what == subjects.REQUESTS:
        return "requests wait: is an orchestrator at work, and does it take requests? see its /readyz"
    if room.what == subjects.INPUT:
        return "completions and signals wait: is an orchestrator at work? see its /readyz"
    if room.what == subjects.DEAD:
        return "its oldest letters will go: look at `agentd dead`"
    largest = sorted(((size, name) for name, size in sizes.items() if size), reverse=True)[:3]
    taken = ", ".join(f"{name} {size / MIB:.1f} MiB" for size, name in largest)
    text = f"most is in {taken}; " if taken else ""
    if any(name == subjects.AUDIT for _, name in largest):
        text += "AI_AUDIT is kept for ever unless you set its max_age (archive it first); "
    return (
        f"{text}when it is full every event is refused and all work stands still until there is room: "
        "let the account have more (max_file), or lower [orchestrator] keep"
    )
