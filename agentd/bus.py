"""The only file that speaks NATS: one connection, and what JetStream needs to be trusted.

Why not nats-py's own JetStream calls: each awaits its own Future under its own `wait_for`, which halves the
throughput, and several of its habits end a long-lived daemon (each reproduced against 2.16):

- a cancelled `flush()` or `rtt()` kills the read loop        → nothing here flushes; a PONG is watched instead
- a frozen server blocks `publish()` and reconnecting for ever → publishing is handed to one pump, callers wait
  for the answer with a time-out, and a watchdog aborts a transport that has had no PONG for eight seconds
- any `-ERR` closes the client for good                       → `closed` is set, the daemon exits, systemd restarts it
- a time-out does not mean that the message was not stored    → every stored message is idempotent for its reader:
  it expects a sequence, or carries a message id
- `publish_async` leaks its permits while disconnected        → one reply inbox of our own for all answers
- a key that expired is reported as a value of None           → markers and tombstones are read as "not there"
- values that changed while disconnected are never told       → `on_reconnect` lets whoever holds a view list again
- an exception in `error_cb` kills the read loop              → ours only notes it
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
import nats
import nats.errors
from nats import micro
from nats.aio.client import Client, RawCredentials

from agentd import messages
from agentd.errors import BusError, BusUnavailable, ConfigError, Denied, NoResponder, NotProvisioned, StaleWrite

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as NatsSubscription

    from agentd.logs import Logger
    from agentd.sections import Bus as BusSettings
    from agentd.sections import Login

M = TypeVar("M")
Delivery: TypeAlias = "Msg"
"""What a pull request brings: a message of a stream, or a status without data."""

EXPECT = "Nats-Expected-Last-Subject-Sequence"
MSG_ID = "Nats-Msg-Id"
TTL = "Nats-TTL"
SCHEDULE = "Nats-Schedule"
SCHEDULE_TARGET = "Nats-Schedule-Target"
ROLLUP = "Nats-Rollup"

PING_INTERVAL = 5
"""Seconds between PINGs."""
SILENCE = 8.0
"""Seconds without a PONG after which the transport is aborted."""
DRAIN = 2.0
"""Seconds that the server may take to confirm the end of a subscription or a connection."""
WORKERS = 256
"""Requests of other agents that are answered at the same time."""

_GONE = ("KV-Operation", "Nats-Marker-Reason")
_STALE, _IN_PROGRESS, _NO_MESSAGE, _NO_STREAM, _NO_CONSUMER = 10071, 10164, 10037, 10059, 10014
_FULL = {10002, 10023, 10047, 10077, 10122}


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _PubAck(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


_ack = msgspec.json.Decoder(_PubAck)


@dataclass(frozen=True)
class Stored:
    """A message as a stream keeps it; `time` is the server's."""

    subject: str
    seq: int
    data: bytes
    time: datetime
    headers: dict[str, str] = field(default_factory=dict)

    def decode(self, kind: type[M]) -> M:
        """Return the message as `kind`; raises InvalidMessage."""
        return messages.decode(self.data, kind)


@dataclass(frozen=True)
class Received:
    """A message that came over core NATS."""

    subject: str
    data: bytes
    reply: str
    bus: Bus

    def decode(self, kind: type[M]) -> M:
        """Return the message as `kind`; raises InvalidMessage."""
        return messages.decode(self.data, kind)

    async def respond(self, message: object) -> None:
        """Answer whoever asked; a message without a reply subject is not answered."""
        if self.reply:
            await self.bus.publish(self.reply, message)


Handler = Callable[[Received], Awaitable[None]]


class Subscription:
    """Something that was subscribed to; `stop` ends it."""

    def __init__(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Keep how to stop."""
        self._stop = stop

    async def stop(self) -> None:
        """Take no more messages."""
        await self._stop()


class Pull:
    """An inbox for what pull requests bring; `stop` ends it."""

    def __init__(self, inbox: str, sub: NatsSubscription) -> None:
        """Keep the subject and the subscription behind it."""
        self.inbox = inbox
        self._sub = sub

    async def stop(self) -> None:
        """Take no more; what the server had sent already still arrives, unless it does not answer."""
        drain: Callable[[], Awaitable[None]] = self._sub.drain
        ending = asyncio.ensure_future(_lenient(drain()))
        await asyncio.wait([ending], timeout=DRAIN)  # not wait_for: cancelling its flush() kills the read loop

    async def cut(self) -> None:
        """Take no more; what is under way is dropped."""
        await _unsubscribe(self._sub)


@dataclass(slots=True)
class _Waiting:
    future: asyncio.Future[Msg]
    until: float
    subject: str


class Storing:
    """A message on its way into a stream; awaiting it returns its sequence, or raises what `store` raises."""

    __slots__ = ("_answer", "_subject")

    def __init__(self, answer: asyncio.Future[Msg], subject: str) -> None:
        """Keep what will be answered."""
        self._answer = answer
        self._subject = subject

    def __await__(self) -> Generator[Any, None, int]:
        """Wait until the server says that it has the message."""
        answer = yield from self._answer
        if _status(answer):
            raise BusUnavailable(
                f"no stream takes {self._subject}: JetStream is starting, or `agentd provision` was not run"
            )
        ack = _ack.decode(answer.data)
        if ack.error is not None:
            raise _api_error(ack.error, self._subject)
        return ack.seq


class Bus:
    """One connection to NATS."""

    def __init__(self, settings: BusSettings, agent: str, log: Logger) -> None:
        """Keep the settings; `connect` does the work."""
        self.agent = agent
        self.settings = settings
        self.problem = "not connected"
        self.clock_offset = 0.0
        self.closed = asyncio.Event()
        self.on_reconnect: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.counters = {"reconnects": 0, "watchdog_aborts": 0, "timeouts": 0}
        self._log = log
        self._nc = Client()
        self._out: deque[tuple[str, bytes, str, dict[str, str] | None]] = deque()
        self._wake = asyncio.Event()
        self._waiting: dict[str, _Waiting] = {}
        self._token = 0
        self._inbox = ""
        self._sweeping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._slots = asyncio.Semaphore(WORKERS)
        self._loop: asyncio.AbstractEventLoop | None = None  # kept: asking for the running one costs a getpid()
        self._connecting = False
        self._closing = False

    @property
    def connected(self) -> bool:
        """Tell whether the connection is up now."""
        return bool(self._nc.is_connected)

    @property
    def server_version(self) -> str:
        """Return the version of the server that we are connected to."""
        return str(self._nc._server_info.get("version", "")) if self.connected else ""  # noqa: SLF001

    def server_time(self) -> datetime:
        """Return the NATS server's time as far as it is known."""
        return datetime.fromtimestamp(time.time() + self.clock_offset, UTC)

    # -- the connection ---------------------------------------------------------------------------------------

    async def connect(self, *, wait: float | None = None, login: Login | None = None) -> None:
        """Connect; keeps trying for `wait` seconds, for ever if None.

        Raises BusUnavailable after that time, Denied when the server refuses these credentials.
        """
        options = await asyncio.to_thread(_options, self.settings, login or self.settings, self.agent)
        prefix = str(options["inbox_prefix"])
        servers = ", ".join(self.settings.servers)
        self._loop = asyncio.get_running_loop()
        self._connecting = True
        try:
            async with asyncio.timeout(wait):
                await self._nc.connect(
                    list(self.settings.servers),
                    name=f"agentd {self.agent}",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,  # type: ignore[arg-type]  # nats-py says int and takes a float
                    connect_timeout=2,
                    ping_interval=PING_INTERVAL,
                    max_outstanding_pings=2,
                    pending_size=8 << 20,
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                    **options,
                )
        except TimeoutError as error:
            hint = "start it, or name it under [bus] servers"
            if "certificate" in self.problem.lower():
                hint = "see tls_ca_file and tls_cert_file under [bus]"
            message = f"no NATS at {servers} ({self.problem}): {hint}"
            raise BusUnavailable(message) from error
        except (nats.errors.Error, OSError) as error:
            message = f"NATS at {servers}: {error}"
            raise BusUnavailable(message) from error
        finally:
            self._connecting = False
            if not self.connected:
                self._start_anew()
        self.problem = ""
        self._inbox = f"{prefix}.{self._nc._nuid.next().decode()}"  # noqa: SLF001
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_reply, pending_msgs_limit=1 << 20)
        self._background = [asyncio.create_task(self._pump()), asyncio.create_task(self._watchdog())]

    def _start_anew(self) -> None:
        """Drop a client that did not connect: each `connect` would add the same servers to its list."""
        _abort(self._nc)
        self._nc = Client()

    async def close(self) -> None:
        """Hand what is still to be sent to the server, then disconnect."""
        for _ in range(100):
            if not self._out or not self.connected:
                break
            await asyncio.sleep(0.01)
        self._closing = True
        self._out.clear()
        tasks = [*self._background, *self._tasks]
        for task in tasks:
            task.cancel()
        closing = asyncio.ensure_future(_lenient(self._nc.close()))
        # Not wait_for, which waits for what it has cancelled: nats-py swallows that, and a frozen server blocks it.
        await asyncio.wait([closing, *tasks], timeout=DRAIN)
        if not closing.done():
            _abort(self._nc)
            await asyncio.wait([closing, *tasks], timeout=DRAIN)

    async def _pump(self) -> None:
        """Be the one caller of nats-py's publish: if it blocks, only the pump does."""
        while not self._closing:  # a cancel may be swallowed by the publish that it meets
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                subject, data, reply, headers = self._out.popleft()
                try:
                    await self._nc.publish(subject, data, reply, headers)
                except nats.errors.Error as error:
                    self._fail(reply, BusUnavailable(f"cannot publish {subject}: {_text(error)}"))
                except Exception as error:  # noqa: BLE001 - one bad message must not end the only publisher
                    self._log.exception("a message cannot be sent", subject=subject)
                    self._fail(reply, BusError(f"cannot publish {subject}: {_text(error)}"))

    async def _watchdog(self) -> None:
        """Abort a transport that has not answered a PING for SILENCE seconds."""
        pongs, heard = -1, time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(1)
            now = time.monotonic()
            seen = self._nc._pongs_received  # noqa: SLF001 - nats-py offers no other sign of life
            stopped_ourselves = now - before > 3  # noqa: PLR2004 - SIGSTOP or a blocked loop: no reason to blame NATS
            in_use = self.connected or _is_stuck(self._nc)
            if seen != pongs or not in_use or stopped_ourselves:
                pongs, heard = seen, now
            elif now - heard > SILENCE:
                self.counters["watchdog_aborts"] += 1
                self._log.warning("NATS is silent, aborting the connection", seconds=round(now - heard, 1))
                heard = now
                _abort(self._nc)

    async def _on_error(self, error: Exception) -> None:
        text = _text(error)
        if not self.connected:
            self.problem = text
            _abort(self._nc)  # nats-py leaves the socket of an attempt that failed to the garbage collector
        if self._connecting and _is_refusal(text):
            # nats-py would try for ever; it calls this from our own `connect`, so this ends it.
            message = f"NATS refuses these credentials ({text}): see nkey_file, creds_file, user under [bus]"
            raise Denied(message)
        if "permissions violation" in text.lower():
            self._deny(text)
            self._log.warning("NATS does not allow it", error=text)
        else:
            self._log.debug("NATS says", error=text)

    def _deny(self, text: str) -> None:
        """Fail what waits for the subject that the server just refused: it sends no other answer."""
        for token, waiting in list(self._waiting.items()):
            if f'"{waiting.subject.lower()}"' in text.lower():
                self._settle(token, error=Denied(f"NATS does not allow {self.agent} to publish {waiting.subject}"))

    async def _on_disconnect(self) -> None:
        if not self._nc.is_closed:
            self.problem = "connection to NATS lost"
            self._log.warning("connection to NATS lost")

    async def _on_closed(self) -> None:
        self.problem = "closed by NATS"
        self.closed.set()

    async def _on_reconnect(self) -> None:
        self.problem = ""
        self.counters["reconnects"] += 1
        self._log.info("connected to NATS again")
        for again in self.on_reconnect:
            self.spawn(again())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside everything else; an exception in it is logged, not lost."""

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, it is told
                self._log.exception("background work failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before it began: or Python complains

    # -- asking and answering -----------------------------------------------------------------------------------

    def send(self, subject: str, data: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Hand a message to the pump; no answer is expected."""
        self._out.append((subject, data, reply, headers))
        self._wake.set()

    async def publish(self, subject: str, message: object) -> None:
        """Publish over core NATS: whoever listens now gets it, nobody else."""
        self.send(subject, _bytes(message))

    async def ask(
        self, subject: str, data: bytes, *, wait: float | None = None, headers: dict[str, str] | None = None
    ) -> Msg:
        """Publish with a reply subject and return the first answer; raises BusUnavailable, Denied."""
        return await self._asked(subject, data, wait, headers)

    def _asked(
        self, subject: str, data: bytes, wait: float | None, headers: dict[str, str] | None
    ) -> asyncio.Future[Msg]:
        """Publish with a reply subject now; the future is given the first answer, or why there is none."""
        loop = self._loop or asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        if self._nc.is_closed:
            future.set_exception(BusUnavailable("the connection to NATS is closed"))
            return future
        self._token += 1
        token = str(self._token)
        self._waiting[token] = _Waiting(future, time.monotonic() + (wait or self.settings.timeout), subject)
        self.send(subject, data, f"{self._inbox}.{token}", headers)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(0.2, self._sweep)
        return future

    def _sweep(self) -> None:
        now = time.monotonic()
        for token, waiting in list(self._waiting.items()):
            if waiting.future.done():  # whoever asked was cancelled
                self._waiting.pop(token, None)
            elif waiting.until < now:
                self.counters["timeouts"] += 1
                message = f"NATS did not answer {waiting.subject} in time ({self.problem or 'connected'})"
                self._settle(token, error=BusUnavailable(message))
        self._sweeping = bool(self._waiting)
        if self._sweeping:
            asyncio.get_running_loop().call_later(0.2, self._sweep)

    def _settle(self, token: str, *, answer: Msg | None = None, error: Exception | None = None) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is None or waiting.future.done():
            return
        if error is not None:
            waiting.future.set_exception(error)
        elif answer is not None:
            waiting.future.set_result(answer)

    def _fail(self, reply: str, error: Exception) -> None:
        self._settle(reply.rpartition(".")[2], error=error)

    async def _on_reply(self, msg: Msg) -> None:
        self._settle(msg.subject.rpartition(".")[2], answer=msg)

    async def request(self, subject: str, message: object, kind: type[M], *, wait: float | None = None) -> M:
        """Ask whoever serves `subject`; raises NoResponder, BusUnavailable, InvalidMessage."""
        answer = await self.ask(subject, _bytes(message), wait=wait)
        if _status(answer) == "503":
            error = f"nobody answers {subject}: is the agent that offers it running?"
            raise NoResponder(error)
        return messages.decode(answer.data, kind)

    async def subscribe(self, subject: str, handler: Handler) -> Subscription:
        """Call `handler` for each message; one at a time would block the others, so each runs as a task."""
        sub = await self._nc.subscribe(subject, cb=self._spawning(handler))
        return Subscription(lambda: _unsubscribe(sub))

    def _spawning(self, handler: Handler) -> Callable[[Msg], Awaitable[None]]:
        async def guarded(received: Received) -> None:
            try:
                await handler(received)
            finally:
                self._slots.release()

        async def on_message(msg: Msg) -> None:
            await self._slots.acquire()
            self.spawn(guarded(Received(msg.subject, msg.data, msg.reply, self)))

        return on_message

    async def serve(self, name: str, *, version: str, description: str, endpoints: dict[str, Handler]) -> Subscription:
        """Offer `endpoints` (subject → handler) as a NATS micro service that `$SRV.INFO` describes."""
        service = await micro.add_service(self._nc, name=name, version=version, description=description)
        for subject, handler in endpoints.items():
            await service.add_endpoint(
                name=subject.rpartition(".")[2], subject=subject, handler=self._answering(handler)
            )

        async def stop() -> None:
            await service.stop()

        return Subscription(stop)

    def _answering(self, handler: Handler) -> Callable[[micro.request.Request], Awaitable[None]]:
        spawning = self._spawning(handler)

        async def on_request(request: micro.request.Request) -> None:
            await spawning(request._msg)  # noqa: SLF001 - the micro request hides its reply subject

        return on_request

    async def pull(self, inbox_name: str, on_message: Callable[[Delivery], Awaitable[None]]) -> Pull:
        """Subscribe to an inbox of our own for pulled messages."""
        self._token += 1
        inbox = f"{self._inbox}-{inbox_name}-{self._token}"
        sub = await self._nc.subscribe(inbox, cb=on_message, pending_msgs_limit=1 << 20, pending_bytes_limit=1 << 30)
        return Pull(inbox, sub)

    # -- JetStream ----------------------------------------------------------------------------------------------

    async def store(  # noqa: PLR0913 - each is one header of the protocol
        self,
        subject: str,
        message: object,
        *,
        expect: int | None = None,
        ttl: float | None = None,
        msg_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store a message in the stream that captures `subject`; return its sequence.

        expect   the sequence of the last message on this subject, 0 for none; raises StaleWrite if it is another
        ttl      seconds after which the message may go; a stream must allow it
        msg_id   makes a repetition within the stream's window the same message

        After BusUnavailable the message may have been stored all the same.
        """
        return await self.storing(subject, message, expect=expect, ttl=ttl, msg_id=msg_id, headers=headers)

    def storing(  # noqa: PLR0913 - as store
        self,
        subject: str,
        message: object,
        *,
        expect: int | None = None,
        ttl: float | None = None,
        msg_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Storing:
        """Send at once what `store` would store: many can be on their way without a task for each."""
        head = dict(headers or {})
        if expect is not None:
            head[EXPECT] = str(expect)
        if ttl is not None:
            head[TTL] = f"{max(1, round(ttl))}s"
        if msg_id is not None:
            head[MSG_ID] = msg_id
        return Storing(self._asked(subject, _bytes(message), None, head or None), subject)

    async def api(self, name: str, body: dict[str, Any] | None = None, *, wait: float | None = None) -> dict[str, Any]:
        """Call the JetStream API `$JS.API.<name>`; raises NotProvisioned, BusError, BusUnavailable."""
        answer = await self.ask(f"$JS.API.{name}", msgspec.json.encode(body) if body else b"", wait=wait)
        if _status(answer) == "503":
            message = "JetStream does not answer: is it enabled on the server?"
            raise BusUnavailable(message)
        result: dict[str, Any] = msgspec.json.decode(answer.data)
        if "error" in result:
            raise _api_error(msgspec.convert(result["error"], _ApiError), name)
        return result

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message on `subject`, as the leader knows it; None if there is none."""
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except _NoMessage:
            return None
        found = answer["message"]
        return Stored(
            subject=found["subject"],
            seq=found["seq"],
            data=base64.b64decode(found.get("data", "")),
            time=messages.convert(found["time"], datetime),
            headers=_parse_headers(base64.b64decode(found.get("hdrs", ""))),
        )

    async def measure_clock(self, stream: str) -> float:
        """Estimate how many seconds the server's clock is ahead of ours, keep and return it."""
        before = time.time()
        answer = await self.api(f"STREAM.INFO.{stream}")
        after = time.time()
        server = messages.convert(answer["ts"], datetime).timestamp()
        self.clock_offset = server - (before + after) / 2
        return self.clock_offset

    async def last_many(self, stream: str, subject_filter: str) -> list[Stored]:
        """Return the last message of every subject that matches, in the order of their sequences."""
        return await self._read(stream, subject_filter, "last_per_subject")

    async def every(self, stream: str, subject_filter: str) -> list[Stored]:
        """Return every message whose subject matches, the oldest first."""
        return await self._read(stream, subject_filter, "all")

    async def _read(self, stream: str, subject_filter: str, policy: str) -> list[Stored]:
        config = {
            "filter_subject": subject_filter,
            "deliver_policy": policy,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5_000_000_000,
        }
        made = await self.api(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        pending = int(made["num_pending"])
        if not pending:
            return []
        found: list[Stored] = []
        done = asyncio.Event()

        async def on_message(msg: Msg) -> None:
            if not _status(msg):
                found.append(_stored(msg))
            if _status(msg) or len(found) >= pending:
                done.set()

        pull = await self.pull("list", on_message)
        try:
            request = msgspec.json.encode({"batch": pending, "no_wait": True})
            self.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}", request, pull.inbox)
            async with asyncio.timeout(self.settings.timeout):
                await done.wait()
        except TimeoutError as error:
            message = f"NATS did not deliver {subject_filter} in time"
            raise BusUnavailable(message) from error
        finally:
            await pull.cut()
            self.send(f"$JS.API.CONSUMER.DELETE.{stream}.{made['name']}")
        return found

    # -- key-value buckets ----------------------------------------------------------------------------------------

    async def kv_get(self, bucket: str, key: str) -> Stored | None:
        """Return the value of `key`; None if it was never put, deleted, or has expired."""
        found = await self.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        return None if found is None or _is_gone(found) else found

    async def kv_put(
        self, bucket: str, key: str, message: object, *, ttl: float | None = None, expect: int | None = None
    ) -> int:
        """Put a value; with `expect` (0 for a new key) by compare-and-set, raising StaleWrite."""
        subject = f"$KV.{bucket}.{key}"
        try:
            return await self.store(subject, message, ttl=ttl, expect=expect)
        except StaleWrite:
            if expect != 0:
                raise
        marker = await self.last(f"KV_{bucket}", subject)
        if marker is not None and not _is_gone(marker):
            error = f"{bucket}/{key} exists already"
            raise StaleWrite(error)
        return await self.store(subject, message, ttl=ttl, expect=0 if marker is None else marker.seq)

    async def kv_delete(self, bucket: str, key: str) -> None:
        """Delete a key; one that is not there is deleted already."""
        await self.store(f"$KV.{bucket}.{key}", b"", headers={"KV-Operation": "DEL"})

    async def kv_list(self, bucket: str) -> dict[str, Stored]:
        """Return every key with its value."""
        found = await self.last_many(f"KV_{bucket}", f"$KV.{bucket}.>")
        return {each.subject.removeprefix(f"$KV.{bucket}."): each for each in found if not _is_gone(each)}


class _NoMessage(BusError):
    """There is no message on that subject."""


def _bytes(message: object) -> bytes:
    return message if isinstance(message, bytes) else messages.encode(message)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_refusal(text: str) -> bool:
    """Tell whether the server refused who we say that we are."""
    return any(words in text.lower() for words in ("authorization violation", "authentication"))


def _status(msg: Msg) -> str:
    return "" if msg.headers is None else str(msg.headers.get("Status", ""))


def _is_gone(stored: Stored) -> bool:
    return any(name in stored.headers for name in _GONE)


def _api_error(error: _ApiError, subject: str) -> BusError:
    text = f"{subject}: {error.description}"
    if error.err_code == _STALE:
        return StaleWrite(text)
    if error.err_code == _NO_MESSAGE:
        return _NoMessage(text)
    if error.err_code in {_NO_STREAM, _NO_CONSUMER}:
        return NotProvisioned(f"{text}: run `agentd provision`")
    if error.err_code == _IN_PROGRESS or error.err_code in _FULL or error.code in {408, 503}:
        return BusUnavailable(text)
    return BusError(f"{text} ({error.err_code})")


def _parse_headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines if line)}


def _abort(client: Client) -> None:
    """Cut the socket: nats-py's own way waits for a peer that does not answer."""
    transport = _socket(client)
    if transport is not None:
        transport.abort()


def _is_stuck(client: Client) -> bool:
    """Tell whether a reconnection waits for the old socket to take what it still holds."""
    transport = _socket(client)
    return transport is not None and transport.get_write_buffer_size() > 0


def _socket(client: Client) -> asyncio.WriteTransport | None:
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001
    found: asyncio.WriteTransport | None = None if writer is None else writer.transport
    return found


async def _unsubscribe(sub: NatsSubscription) -> None:
    await _lenient(sub.unsubscribe())


async def _lenient(ending: Awaitable[None]) -> None:
    """End something; on a connection that is gone it has ended already."""
    with contextlib.suppress(nats.errors.Error, OSError):
        await ending


def _stored(msg: Msg) -> Stored:
    meta = msg.metadata
    return Stored(msg.subject, meta.sequence.stream, msg.data, meta.timestamp.astimezone(UTC), dict(msg.headers or {}))


def _options(settings: BusSettings, login: Login, identity: str) -> dict[str, Any]:
    """Return nats-py's options for this login; raises ConfigError for a file that cannot be read."""
    options: dict[str, Any] = {"inbox_prefix": login.inbox(identity)}
    if login.nkey_file:
        options["nkeys_seed_str"] = login.nkey_seed()
    elif login.creds_file:
        options["user_credentials"] = _credentials(login)
    elif login.user:
        options |= {"user": login.user, "password": login.password()}
    secure = any(url.startswith(("tls:", "wss:")) for url in settings.servers)
    if secure or login.tls_ca_file or login.tls_cert_file:
        options["tls"] = _tls(login)
    return options


def _credentials(login: Login) -> RawCredentials:
    """Read the credentials file here: nats-py reads it in the loop, and for ever if it holds no JWT."""
    text = login.creds()
    for part in ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"):
        if part not in text:
            message = f"bus.creds_file: {login.creds_file} is not a credentials file: it has no line {part!r}"
            raise ConfigError(message)
    return RawCredentials(text)


def _tls(login: Login) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=login.tls_ca_file)
        if login.tls_cert_file:
            context.load_cert_chain(login.tls_cert_file, login.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        message = f"bus: cannot load the TLS files: {error}"
        raise ConfigError(message) from error
    return context
