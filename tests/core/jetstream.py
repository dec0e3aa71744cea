"""Connections, streams and consumers for tests of the core that need no Proxmox."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentd.bus.jetstream import Bus
from agentd.config import settings as config_settings
from agentd.errors import BusUnavailable
from agentd.telemetry import logs
from harness import START, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.delivery.job import Job
    from agentd.bus.stored import Stored

SECOND = 1_000_000_000


def settings(*servers: str, **login: Any) -> config_settings.Bus:
    """Return the section [bus] with these servers; an answer may take two seconds."""
    return config_settings.Bus(servers=servers, **{"timeout": 2.0} | login)


async def kv_list(bus: Bus, bucket: str) -> dict[str, Stored]:
    """Return every key of a bucket with its last message, readable or not."""
    found = await bus.last_many(f"KV_{bucket}", f"$KV.{bucket}.>")
    return {stored.subject.removeprefix(f"$KV.{bucket}."): stored for stored in found if not stored.gone}


@contextlib.asynccontextmanager
async def connected(
    *servers: str,
    agent: str = "tester",
    log: Any = None,
    **login: Any,
) -> AsyncIterator[Bus]:
    """Yield a connection; closing it afterwards must not take long."""
    bus = Bus(settings(*servers, **login), agent, log or logs.get_logger())
    await bus.connect(wait=START)
    try:
        yield bus
    finally:
        begun = time.monotonic()
        await bus.close()
        assert time.monotonic() - begun < 10, "the connection does not close"


async def make_stream(bus: Bus, name: str, *names: str, **config: Any) -> None:
    """Make a stream that captures `names`."""
    await bus.api(
        f"STREAM.CREATE.{name}",
        {"name": name, "subjects": list(names), "storage": "file", "allow_direct": True} | config,
    )


async def make_consumer(bus: Bus, stream: str, durable: str, *, ack_wait: float = 30.0, **config: Any) -> None:
    """Make a durable pull consumer as `agentd provision` makes them, but for its times."""
    body = {"durable_name": durable, "ack_policy": "explicit", "ack_wait": int(ack_wait * SECOND), "max_deliver": -1}
    await bus.api(f"CONSUMER.DURABLE.CREATE.{stream}.{durable}", {"stream_name": stream, "config": body | config})


async def consumer_info(bus: Bus, stream: str, durable: str) -> dict[str, Any]:
    """Return what the server knows of a consumer."""
    return await bus.api(f"CONSUMER.INFO.{stream}.{durable}")


async def all_acked(bus: Bus, stream: str, durable: str, what: str = "every message is acknowledged") -> None:
    """Wait until a consumer has nothing left, neither to deliver nor to be acknowledged."""

    async def nothing_left() -> bool:
        try:
            info = await consumer_info(bus, stream, durable)
        except BusUnavailable:
            return False
        return not info["num_pending"] and not info["num_ack_pending"]

    await eventually(nothing_left, what)


async def answers(bus: Bus, seconds: float = START) -> None:
    """Wait until NATS answers us."""

    async def asked() -> bool:
        try:
            await bus.api("INFO", wait=1.0)
        except BusUnavailable:
            return False
        return True

    await eventually(asked, "NATS answers", seconds)


@dataclass
class Lines:
    """A logger that records its events."""

    reported: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def debug(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.reported.append(("debug", event, values))

    def info(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.reported.append(("info", event, values))

    def warning(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.reported.append(("warning", event, values))

    def error(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.reported.append(("error", event, values))

    def exception(self, event: str, **values: object) -> None:
        """Keep a line."""
        self.reported.append(("exception", event, values))

    def events(self, *levels: str) -> list[str]:
        """Return the texts of these levels."""
        return [event for level, event, _ in self.reported if level in levels]


@dataclass
class Seen:
    """A handler that counts how many run at once and what came how often."""

    running: int = 0
    most: int = 0
    bodies: list[bytes] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    async def __call__(self, job: Job) -> None:
        """Take a job; subclasses do more."""
        self.jobs.append(job)
        self.bodies.append(job.data)

    def at_least(self, number: int) -> Callable[[], Awaitable[bool]]:
        """Return a function that checks whether so many came."""

        async def enough() -> bool:
            return len(self.bodies) >= number

        return enough
