"""JetStream: storing messages, reading streams, key-value buckets.

Messages can be stored by compare-and-set, and streams read completely.  nats-py's own JetStream calls are not used:
each awaits its own Future under its own `wait_for`, which halves the throughput, and two of their properties lose data
(each reproduced against 2.16):

- a time-out does not mean that the message was not stored    → every stored message is idempotent for its reader:
  it expects a sequence, or has a message id
- a key that expired is reported as a value of None           → markers and tombstones are read as "no value"
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentd.bus.api_answers import ApiError, NoMessage, PendingStore, api_error
from agentd.bus.nats.client import status_of
from agentd.bus.nats.connection import Connection
from agentd.bus.nats.subscriptions import as_bytes
from agentd.bus.stored import Newest, Stored, from_direct_get, parse_headers
from agentd.errors import BusError, BusUnavailable, Denied, InvalidMessage, NotProvisioned, StaleWrite
from agentd.wire import codec, subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from agentd.bus.nats.subscriptions import Delivery as Msg
    from agentd.config.settings import Bus as BusSettings
    from agentd.telemetry.logs import Logger

M = TypeVar("M")

PAGE: Final = 256
"""Messages per page."""
AT_ONCE: Final = 64
"""Subjects whose last messages are requested at once."""
PAGE_BYTES: Final = 8 << 20
"""Bytes per page, after its first message."""
EXPECT: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
SCHEDULE: Final = "Nats-Schedule"
SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
ROLLUP: Final = "Nats-Rollup"
DELETE: Final = {"KV-Operation": "DEL", ROLLUP: "sub"}
"""Headers of the marker that deletes a key."""
_REPLACE: Final = {ROLLUP: "sub"}


class Bus(Connection):
    """One connection to NATS, with JetStream and key-value buckets."""

    def __init__(self, settings: BusSettings, agent: str, log: Logger) -> None:
        """Prepare a client with these settings; `connect` opens the connection."""
        super().__init__(settings, agent, log)
        self._singly = set(subjects.SINGLY)

    # -- JetStream ----------------------------------------------------------------------------------------------

    async def store(
        self,
        subject: str,
        message: object,
        *,
        expect: int | None = None,
        ttl: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store a message in the stream that captures `subject`; return its sequence.

        expect   the sequence of the last message on this subject, 0 for none; raises StaleWrite if it differs
        ttl      seconds after which the server may delete the message; the stream must allow it

        After BusUnavailable the message may still have been stored.
        """
        return await self.storing(subject, message, expect=expect, ttl=ttl, headers=headers)

    def storing(
        self,
        subject: str,
        message: object,
        *,
        expect: int | None = None,
        ttl: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> PendingStore:
        """Send a message as `store` does, without waiting.

        So many messages can be stored at once without a task for each.
        """
        head = dict(headers or {})
        if expect is not None:
            head[EXPECT] = str(expect)
        if ttl is not None:
            head[TTL] = f"{max(1, round(ttl))}s"
        return PendingStore(self.ask(subject, as_bytes(message), headers=head or None), subject)

    async def api(self, name: str, body: dict[str, Any] | None = None, *, wait: float | None = None) -> dict[str, Any]:
        """Call the JetStream API `$JS.API.<name>`.

        Raises NotProvisioned, BusError, BusUnavailable.
        """
        answer = await self.ask(f"$JS.API.{name}", msgspec.json.encode(body) if body else b"", wait=wait)
        if status_of(answer) == "503":
            raise BusUnavailable("JetStream does not answer: is it enabled on the server?")
        result: dict[str, Any] = msgspec.json.decode(answer.data)
        if "error" in result:
            raise api_error(msgspec.convert(result["error"], ApiError), name)
        return result

    async def durables(self, stream: str) -> set[str]:
        """Return the names of all consumers of a stream."""
        found: set[str] = set()
        total = 1
        while len(found) < total:
            page = await self.api(f"CONSUMER.NAMES.{stream}", {"offset": len(found)})
            total = int(page["total"])
            if not page.get("consumers"):
                break
            found.update(page["consumers"])
        return found

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message on `subject`; None if there is none.

        It is read from the stream's leader.
        """
        return await self._get(stream, {"last_by_subj": subject})

    async def message(self, stream: str, seq: int) -> Stored | None:
        """Return the message with this sequence; None if it is gone.

        It is read from the stream's leader.
        """
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, which: dict[str, Any]) -> Stored | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", which)
        except NoMessage:
            return None
        found = answer["message"]
        return Stored(
            subject=found["subject"],
            seq=found["seq"],
            data=base64.b64decode(found.get("data", "")),
            time=codec.convert(found["time"], datetime),
            headers=parse_headers(base64.b64decode(found.get("hdrs", ""))),
        )

    async def measure_clock(self, stream: str) -> float:
        """Return how many seconds the server's clock is ahead of ours.

        The estimate is also stored for `server_time`.
        """
        before = time.time()
        answer = await self.api(f"STREAM.INFO.{stream}")
        after = time.time()
        server = codec.convert(answer["ts"], datetime).timestamp()
        self.clock_offset = server - (before + after) / 2
        return self.clock_offset

    def read(self, stored: Stored, kind: type[M]) -> M | None:
        """Return a stored message as `kind`; record an unreadable one and return None."""
        try:
            return stored.decode(kind)
        except InvalidMessage as error:
            self.unreadable.note_stored(stored, str(error))
            return None

    async def newest(
        self, stream: str, subject: str, kind: type[M], mine: Callable[[M], bool] | None = None
    ) -> Newest[M]:
        """Return the newest message on `subject` that can be read as `kind`.

        Later messages, which cannot be read, are recorded and skipped.

        An unreadable message was not written by agentd: the server writes its acknowledgements to any subject that a
        publisher names.  With `mine`, a message that it rejects counts as unreadable: it belongs to another subject.
        """
        last = await self.last(stream, subject)
        return Newest() if last is None else await self._newest(stream, last, kind, mine)

    async def newest_many(self, stream: str, subject_filter: str, kind: type[M]) -> dict[str, Newest[M]]:
        """Return the result of `newest` for every matching subject.

        The order is that of their last sequences.
        """
        lasts = await self.last_many(stream, subject_filter)
        return {last.subject: await self._newest(stream, last, kind) for last in lasts}

    async def _newest(
        self, stream: str, last: Stored, kind: type[M], mine: Callable[[M], bool] | None = None
    ) -> Newest[M]:
        found, doubt = self.unreadable.decoded(last, kind, mine)
        if found is not None:
            return found
        for stored in reversed(await self.every(stream, last.subject)):
            if stored.seq >= last.seq:
                continue
            found, why = self.unreadable.decoded(stored, kind, mine)
            if found is not None:
                return replace(found, seq=last.seq, doubt=doubt)
            doubt = doubt or why
        return Newest(last.seq, doubt=doubt)

    def readable(self, stored: Iterable[Stored], kind: type[M]) -> list[M]:
        """Return the messages of `stored` that can be read as `kind`; record the others."""
        found = (self.read(entry, kind) for entry in stored)
        return [message for message in found if message is not None]

    async def last_many(self, stream: str, subject_filter: str) -> list[Stored]:
        """Return the last message of every matching subject, ordered by sequence."""
        found = [stored async for stored in self.lasts(stream, subject_filter)]
        return sorted(found, key=lambda stored: stored.seq)

    async def lasts(self, stream: str, subject_filter: str) -> AsyncIterator[Stored]:
        """Yield the last message of every matching subject, in no order.

        They are read page by page.
        """
        names = await self.subjects_of(stream, subject_filter)
        for start in range(0, len(names), AT_ONCE):
            page = (self.last(stream, name) for name in names[start : start + AT_ONCE])
            for stored in await asyncio.gather(*page, return_exceptions=True):  # an error leaves no call running
                if isinstance(stored, BaseException):
                    raise stored
                if stored is not None:
                    yield stored

    async def every(self, stream: str, subject_filter: str) -> list[Stored]:
        """Return every message with a matching subject, the oldest first."""
        return [stored async for stored in self.walk(stream, subject_filter)]

    async def walk(self, stream: str, subject_filter: str, *, since: int = 1) -> AsyncIterator[Stored]:
        """Yield every message with a matching subject, the oldest first.

        Only messages that are stored now; they are read page by page.

        since  the sequence in the stream to start at
        """
        seq, left = since, -1
        while left and stream not in self._singly:
            request = {"seq": seq, "next_by_subj": subject_filter, "batch": PAGE, "max_bytes": PAGE_BYTES}
            try:
                page, pending = await self._direct(stream, request)
            except Denied:  # NATS allows direct gets to agents only
                self._singly.add(stream)
                break
            if left < 0:
                left = len(page) + pending
            for stored in page[:left]:
                yield stored
            left = max(0, left - len(page)) if page else 0
            seq = page[-1].seq + 1 if page else seq
        if stream in self._singly:
            async for stored in self._iter_singly(stream, subject_filter, seq):
                yield stored

    async def _iter_singly(self, stream: str, subject_filter: str, since: int) -> AsyncIterator[Stored]:
        """Yield the same as `walk`, read message by message.

        This is for streams without direct gets, and for users that NATS allows none.
        """
        last = await self.last(stream, subject_filter)
        seq = since
        while last is not None and seq <= last.seq:
            stored = await self._get(stream, {"seq": seq, "next_by_subj": subject_filter})
            if stored is None or stored.seq > last.seq:
                return
            yield stored
            seq = stored.seq + 1

    async def subjects_of(self, stream: str, subject_filter: str) -> list[str]:
        """Return the matching subjects of a stream that hold a message."""
        found: list[str] = []
        total = 1
        while len(found) < total:
            page = await self.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject_filter, "offset": len(found)})
            total = int(page.get("total") or 0)
            names = page["state"].get("subjects") or {}
            if not names:
                break
            found += names
        return found

    async def _direct(self, stream: str, request: dict[str, Any]) -> tuple[list[Stored], int]:
        """Request messages by direct get, which needs no consumer.

        Returns them and the number of remaining ones.
        """
        subject = f"$JS.API.DIRECT.GET.{stream}"
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        found: list[Stored] = []
        pull = await self.pull("get", arrived.put)
        token, denied = self._pending.add(subject, self.settings.timeout + 60)
        try:
            self.send(subject, msgspec.json.encode(request), pull.inbox)
            while True:
                message = await self._next(stream, arrived, denied)
                status = "" if "Nats-Sequence" in (message.headers or {}) else status_of(message)
                if status in {"204", "404"}:
                    return found, int((message.headers or {}).get("Nats-Num-Pending", 0))
                if status == "503":
                    raise NotProvisioned(f"{stream} does not answer: run `agentd provision`")
                if status:
                    raise BusError(f"{stream}: status {status} {(message.headers or {}).get('Description', '')}")
                found.append(from_direct_get(message))
        finally:
            denied.cancel()
            self._pending.drop(token)
            await pull.cut()

    async def _next(self, stream: str, arrived: asyncio.Queue[Msg], denied: asyncio.Future[Msg]) -> Msg:
        """Return the next message of an answer; raises Denied, BusUnavailable."""
        coming = asyncio.ensure_future(arrived.get())
        try:
            await asyncio.wait([coming, denied], timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            if denied.done():
                return denied.result()
        finally:
            coming.cancel()
        raise BusUnavailable(f"NATS stopped delivering {stream} ({self.problem or 'connected'})")

    # -- key-value buckets ----------------------------------------------------------------------------------------

    async def kv_get(self, bucket: str, key: str) -> Stored | None:
        """Return the value of `key`; None if there is none.

        The key was never written, was deleted, or has expired.
        """
        found = await self.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        return None if found is None or found.gone else found

    async def kv_read(self, bucket: str, key: str, kind: type[M], mine: Callable[[M], bool] | None = None) -> Newest[M]:
        """Return the newest value of `key` that can be read as `kind`, as `newest` does."""
        return await self.newest(f"KV_{bucket}", f"$KV.{bucket}.{key}", kind, mine)

    async def kv_values(self, bucket: str, kind: type[M], prefix: str = "") -> dict[str, Newest[M]]:
        """Return the result of `kv_read` for every key.

        Keys without a value are left out, unless they have a message that cannot be read.

        With `prefix` only the keys that begin with it are returned, without the prefix.
        """
        start = f"$KV.{bucket}.{prefix}"
        found = await self.newest_many(f"KV_{bucket}", f"{start}>", kind)
        return {
            subject.removeprefix(start): newest
            for subject, newest in found.items()
            if newest.value is not None or newest.doubt
        }

    async def kv_put(
        self, bucket: str, key: str, message: object, *, ttl: float | None = None, expect: int | None = None
    ) -> int:
        """Write a value.

        With `expect` (0 for a new key) it is a compare-and-set, which raises StaleWrite.

        The value replaces all earlier messages of the key, by a roll-up; answers that others make the server write
        replace nothing.
        """
        subject = f"$KV.{bucket}.{key}"
        try:
            return await self.store(subject, message, ttl=ttl, expect=expect, headers=_REPLACE)
        except StaleWrite:
            if expect != 0:
                raise
        newest = await self.kv_read(bucket, key, msgspec.Raw)
        if newest.value is not None or newest.doubt:
            error = f"{bucket}/{key} exists already"
            raise StaleWrite(error)
        return await self.store(subject, message, ttl=ttl, expect=newest.seq, headers=_REPLACE)

    async def kv_delete(self, bucket: str, key: str, *, expect: int | None = None, ttl: float | None = None) -> None:
        """Delete a key, with `expect` by compare-and-set; a missing key is no error.

        ttl  seconds after which the marker of the deletion expires, too; the bucket must allow it
        """
        await self.store(f"$KV.{bucket}.{key}", b"", headers=DELETE, expect=expect, ttl=ttl)
