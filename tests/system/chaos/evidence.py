"""Read what happened: streams and consumers of NATS, the simulator's log of requests, Proxmox's own tasks and guests.

Nothing of agentd is imported here and in checker.py: the checker must not share its mistakes.  The names of
streams and subjects are those that a client sees on the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import nats
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Json = dict[str, Any]

QUEUES = ("AI_REQUESTS", "AI_INPUT")
"""Streams in which nothing may be left: work queues."""
DURABLE = ("AI_REQUESTS", "AI_INPUT", "AI_WORKFLOWS")
"""Streams whose durable consumers must have nothing left."""


PATIENCE = 30.0
"""Seconds for which NATS may be without a leader."""


@dataclass(frozen=True)
class Line:
    """A stored message: when the server stored it, and what it says."""

    subject: str
    seq: int
    time: float
    data: Json


@dataclass(frozen=True)
class Reported:
    """A completion as it was published, and when it was written."""

    workflow: str
    task: str
    attempt: int
    agent: str
    status: str
    written: float


@dataclass
class Evidence:
    """All that is judged; `wanted` is the list of requests, `blind` says when the recorder did not hear."""

    wanted: list[Json]
    events: dict[str, Json] = field(default_factory=dict)
    answers: dict[str, list[Json]] = field(default_factory=dict)
    records: dict[str, Json] = field(default_factory=dict)
    audit: dict[str, list[Line]] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    requests: list[Json] = field(default_factory=list)
    tasks: list[Json] = field(default_factory=list)
    guests: list[Json] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    blind: bool = True


async def connect(urls: list[str]) -> Client:
    """Connect, for as long as it takes; a cut connection comes back by itself."""

    async def quiet(_: Exception) -> None:
        """Say nothing: faults are wanted here."""

    return await nats.connect(
        urls,
        name="chaos",
        connect_timeout=2,
        reconnect_time_wait=0.25,
        max_reconnect_attempts=-1,
        allow_reconnect=True,
        ping_interval=5,
        max_outstanding_pings=2,
        error_cb=quiet,
    )


class Recorder:
    """Receives every completion as it is published; `blind` once it may have missed one."""

    def __init__(self, client: Client) -> None:
        """Keep the connection."""
        self._client = client
        self.reported: list[Reported] = []
        self.blind = False

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        await self._client.subscribe("ai.tasks.complete.>", cb=self._on_completion)
        await self._client.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Find out whether the connection was cut meanwhile."""
        self.blind = self._client.stats["reconnects"] > 0

    async def _on_completion(self, msg: Msg) -> None:
        reply = json.loads(msg.data)
        workflow, _, task = reply["task_id"].rpartition(".")
        self.reported.append(
            Reported(
                workflow,
                task,
                int(reply.get("attempt", 0)),
                reply.get("agent_id", ""),
                reply["status"],
                seconds(reply["timestamp"]),
            )
        )


def seconds(text: str) -> float:
    """Return an RFC 3339 time as seconds since 1970, exactly enough for comparisons."""
    return datetime.fromisoformat(text).timestamp()


async def read(client: Client, control: str, wanted: list[Json], recorder: Recorder | None = None) -> Evidence:
    """Read everything; while NATS chooses its leaders, again."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await _read(client, control, wanted, recorder)
        except (NatsError, TimeoutError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(1.0)


async def _read(client: Client, control: str, wanted: list[Json], recorder: Recorder | None) -> Evidence:
    found = Evidence(wanted)
    for line in await lines(client, "AI_WORKFLOWS", "ai.workflows.event.*", last=True):
        found.events[line.subject.rpartition(".")[2]] = line.data
    for line in await lines(client, "AI_WORKFLOWS", "ai.workflows.response.*"):
        found.answers.setdefault(line.subject.rpartition(".")[2], []).append(line.data)
    for line in await lines(client, "AI_EFFECTS", "ai.effects.>"):
        found.records[line.subject.split(".", 3)[3]] = line.data
    for line in await lines(client, "AI_AUDIT", "ai.audit.*"):
        found.audit.setdefault(line.subject.rpartition(".")[2], []).append(line)
    found.pending = await pending(client)
    found.requests = await ask(control, "/log")
    inventory = await ask(control, "/inventory")
    found.tasks, found.guests = inventory["tasks"], inventory["guests"]
    if recorder is not None:
        found.reported, found.blind = recorder.reported, recorder.blind or client.stats["reconnects"] > 0
    return found


async def lines(client: Client, stream: str, subject: str, *, last: bool = False) -> list[Line]:
    """Return what is stored under `subject`, in order; with `last` the last message of each subject."""
    js = client.jetstream(timeout=10)
    config = ConsumerConfig(
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.LAST_PER_SUBJECT if last else DeliverPolicy.ALL,
        inactive_threshold=30,
        mem_storage=True,
    )
    info = await js.add_consumer(stream, config)
    left = info.num_pending or 0
    found: list[Line] = []
    pull = await js.pull_subscribe_bind(info.name, stream=stream)
    while left > 0:
        for msg in await pull.fetch(min(left, 500), timeout=10):
            meta = msg.metadata
            stored = meta.timestamp.timestamp()
            found.append(Line(msg.subject, meta.sequence.stream, stored, json.loads(msg.data)))
            left -= 1
    await pull.unsubscribe()
    await js.delete_consumer(stream, info.name)
    return found


async def event(client: Client, workflow: str) -> Json | None:
    """Return the last event of a workflow; None if there is none, or NATS does not answer."""
    with contextlib.suppress(NatsError, TimeoutError):
        found = await client.jetstream(timeout=3).get_last_msg("AI_WORKFLOWS", f"ai.workflows.event.{workflow}")
        reply: Json = json.loads(found.data or b"{}")
        return reply
    return None


async def pending(client: Client) -> list[str]:
    """Return what is still to be done, a line each; timers that will ring are no work."""
    js = client.jetstream(timeout=5)
    found = []
    for name in QUEUES:
        left = (await js.stream_info(name)).state.messages
        if left:
            found.append(f"{left} messages lie in {name}")
    for stream in DURABLE:
        for info in await js.consumers_info(stream):
            if info.config.durable_name is None:
                continue
            if info.num_pending or info.num_ack_pending:
                text = f"{info.num_pending} to be delivered, {info.num_ack_pending} not acknowledged"
                found.append(f"{stream}/{info.name}: {text}, {info.num_redelivered} of them delivered again")
    return found


async def open_workflows(client: Client, wanted: list[str], terminal: frozenset[str]) -> list[str]:
    """Return those of `wanted` that have no terminal event yet."""
    found = await lines(client, "AI_WORKFLOWS", "ai.workflows.event.*", last=True)
    over = {item.subject.rpartition(".")[2] for item in found if item.data["status"] in terminal}
    return [item for item in wanted if item not in over]


async def settle(client: Client, wanted: list[str], terminal: frozenset[str], bound: float) -> tuple[float, list[str]]:
    """Wait until every workflow is over and nothing is pending; return the seconds, and what was left at the bound."""
    begun = time.monotonic()
    left = ["nothing was read"]
    while time.monotonic() - begun < bound:
        try:
            left = await open_workflows(client, wanted, terminal) or await pending(client)
        except (NatsError, TimeoutError) as error:
            left = [f"NATS: {error!r}"]
        if not left:
            break
        await asyncio.sleep(0.5)
    return time.monotonic() - begun, left


async def ask(control: str, path: str) -> Any:
    """Read from the simulator's control port."""

    def get() -> Any:
        with urllib.request.urlopen(control + path, timeout=30) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    return await asyncio.to_thread(get)
