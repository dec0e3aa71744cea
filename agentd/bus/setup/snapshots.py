"""Backup and restore of streams, by the snapshots of JetStream.

A snapshot holds the messages of a stream with their sequences and times, and its consumers with what they have
delivered; its content has the format of nats-server.  The leader of the stream makes it while the stream is in use, so
each snapshot is consistent, and several of them are of different moments.  Streams are saved in the order of
`provision.streams`: the workflows before the effect records, so that a restored workflow finds each record that
belongs to it.  What expires within the hour is not saved: leases, heartbeats and metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.bus.nats.client import status_of
from agentd.bus.setup import provision
from agentd.errors import BusError, BusUnavailable, NotProvisioned, UsageError
from agentd.wire import subjects

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Delivery

STREAMS: Final = tuple(
    config["name"] for config in provision.streams(1) if config["name"] not in {subjects.METRICS, f"KV_{subjects.LIVE}"}
)
CHUNK: Final = 128 << 10
"""Bytes of one message of a snapshot."""
SILENCE: Final = 60.0
"""Seconds within which the server has to send or accept the next message of a snapshot."""
END: Final = "204"
"""Status of the message after the last one of a complete snapshot."""


class Head(msgspec.Struct):
    """What the server needs to restore a stream: its configuration and its state."""

    config: dict[str, Any]
    state: dict[str, Any]


async def save(bus: Bus, stream: str, directory: Path) -> int:
    """Write a snapshot of a stream to the files STREAM.json and STREAM.snapshot.

    Return the number of its messages.
    """
    arrived: asyncio.Queue[Delivery] = asyncio.Queue()
    inbox = await bus.pull("snapshot", arrived.put)
    try:
        answer = await bus.api(
            f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": inbox.inbox, "chunk_size": CHUNK}, wait=SILENCE
        )
        with (directory / f"{stream}.snapshot").open("wb") as file:
            while True:
                async with asyncio.timeout(SILENCE):
                    chunk = await arrived.get()
                if not chunk.data:
                    break
                await asyncio.to_thread(file.write, chunk.data)
                bus.send(chunk.reply)
    except TimeoutError as error:
        raise BusUnavailable(f"the snapshot of {stream} has stopped: is its leader running?") from error
    finally:
        await inbox.cut()
    if status_of(chunk) not in {"", END}:
        raise BusError(f"the snapshot of {stream} is not complete: NATS ended it with status {status_of(chunk)}")
    head = Head(answer["config"], answer["state"])
    await asyncio.to_thread((directory / f"{stream}.json").write_bytes, msgspec.json.encode(head))
    return int(head.state["messages"])


async def in_use(bus: Bus) -> str:
    """Return a stream that has messages; "" if there is none."""
    for stream in STREAMS:
        try:
            if (await bus.api(f"STREAM.INFO.{stream}"))["state"]["messages"]:
                return str(stream)
        except NotProvisioned:
            continue
    return ""


async def restore(bus: Bus, stream: str, directory: Path) -> int:
    """Replace a stream by its snapshot; return the number of its messages.

    It has as many replicas as this cluster gives it.  Raises UsageError if its files cannot be read.
    """
    try:
        data = await asyncio.to_thread((directory / f"{stream}.json").read_bytes)
        head = msgspec.json.decode(data, type=Head)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{directory} is no complete backup: {stream}.json: {error}") from error
    wanted = next(config for config in provision.streams(bus.settings.replicas) if config["name"] == stream)
    head.config["num_replicas"] = wanted["num_replicas"]
    with contextlib.suppress(NotProvisioned):
        await bus.api(f"STREAM.DELETE.{stream}", wait=SILENCE)
    body = {"config": head.config, "state": head.state}
    to = str((await bus.api(f"STREAM.RESTORE.{stream}", body, wait=SILENCE))["deliver_subject"])
    with (directory / f"{stream}.snapshot").open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            _accepted(stream, (await bus.ask(to, chunk, wait=SILENCE)).data)
    _accepted(stream, (await bus.ask(to, b"", wait=SILENCE)).data)
    return int(head.state["messages"])


def _accepted(stream: str, answer: bytes) -> None:
    """Raise BusError if the server rejects a message of a snapshot, or all of it."""
    error = msgspec.json.decode(answer).get("error") if answer else None
    if error:
        raise BusError(f"{stream} cannot be restored: {error.get('description')}")
