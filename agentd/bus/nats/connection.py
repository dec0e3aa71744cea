"""One connection to NATS that a daemon can use for months.

Several defects of nats-py stop a long-running daemon (each reproduced against 2.16):

- a cancelled `flush()` or `rtt()` kills the read loop        → this file never flushes; it watches for PONGs instead
- a frozen server blocks `publish()` and reconnecting for ever → one task (the pump) publishes, callers wait for the
  answer with a time-out, and a watchdog aborts a transport without a PONG for eight seconds
- any `-ERR` closes the client permanently                    → `closed` is set, the daemon exits, systemd restarts it
- `publish_async` leaks its permits while disconnected        → one reply inbox of our own for all answers
- values that changed while disconnected are not reported     → `on_reconnect` lets the holder of a view list them again
- an exception in `error_cb` kills the read loop              → our callback only logs the error
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats
import nats.errors
from nats import micro

from agentd.bus.nats import credentials as logins
from agentd.bus.nats.client import (
    Answering,
    abort,
    certificate_end,
    error_text,
    ignore_closed,
    is_refusal,
    is_stuck,
    status_of,
)
from agentd.bus.nats.replies import Pending
from agentd.bus.nats.subscriptions import DRAIN, Delivery, Handler, Pull, Received, Subscription, as_bytes
from agentd.bus.unreadable import Unreadable
from agentd.errors import BusError, BusUnavailable, Denied, NoResponder
from agentd.telemetry.logs import RateLimitedLog
from agentd.wire import codec, subjects
from agentd.wire.names import is_inbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from agentd.config.settings import Bus as BusSettings
    from agentd.config.settings import Login
    from agentd.telemetry.logs import Logger

M = TypeVar("M")

PING_INTERVAL: Final = 5
"""Seconds between PINGs."""
SILENCE: Final = 8.0
"""Seconds without a PONG after which the transport is aborted."""
WORKERS: Final = 256
"""Messages of subscriptions and requests that are handled at the same time."""


class Connection:
    """One connection to NATS; `Bus` adds JetStream."""

    def __init__(self, settings: BusSettings, agent: str, log: Logger) -> None:
        """Prepare a client with these settings; `connect` opens the connection."""
        self.agent = agent
        self.settings = settings
        self.problem = "not connected"
        self.clock_offset = 0.0
        self.closed = asyncio.Event()
        self.on_reconnect: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.counters = {"reconnects": 0, "watchdog_aborts": 0, "timeouts": 0, "refused_replies": 0}
        self._log = log
        self._limited_log = RateLimitedLog(log)
        self.unreadable = Unreadable(log)
        self._nc: Client = Answering(self._log_refused_reply)
        self._out: deque[tuple[str, bytes, str, dict[str, str] | None]] = deque()
        self._wake = asyncio.Event()
        self._pending: Pending[Msg] = Pending(self._timed_out)
        self._pulls = 0
        self._inbox = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._slots = asyncio.Semaphore(WORKERS)
        self._connecting = False
        self._closing = False

    @property
    def connected(self) -> bool:
        """Return whether the connection is up now."""
        return bool(self._nc.is_connected)

    @property
    def server_version(self) -> str:
        """Return the version of the connected server; "" without a connection."""
        return str(self._nc._server_info.get("version", "")) if self.connected else ""  # noqa: SLF001

    @property
    def certificate_end(self) -> str:
        """Return when the server's certificate ends, in the form of `ssl`; "" without TLS."""
        return certificate_end(self._nc)

    @property
    def max_payload(self) -> int:
        """Return the largest message size, in bytes, that the server accepts.

        The headers count too.
        """
        return int(self._nc.max_payload)

    def server_time(self) -> datetime:
        """Return the NATS server's time, estimated from the last `measure_clock`."""
        return datetime.fromtimestamp(time.time() + self.clock_offset, UTC)

    # -- the connection ---------------------------------------------------------------------------------------

    async def connect(self, *, wait: float | None = None, login: Login | None = None) -> None:
        """Connect; retries for `wait` seconds, without limit if None.

        Raises BusUnavailable after that time, Denied when the server rejects the credentials.
        """
        options = await asyncio.to_thread(logins.options, self.settings, login or self.settings, self.agent)
        prefix = str(options["inbox_prefix"])
        servers = self.settings.shown_servers
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
            hint = logins.hint(self.settings, self.problem)
            raise BusUnavailable(f"no NATS at {servers} ({self.problem}): {hint}") from error
        except (nats.errors.Error, OSError) as error:
            raise BusUnavailable(f"NATS at {servers}: {error}") from error
        finally:
            self._connecting = False
            if not self.connected:
                self._replace_client()
        self.problem = ""
        self._inbox = f"{prefix}.{self._nc._nuid.next().decode()}"  # noqa: SLF001
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_reply, pending_msgs_limit=1 << 20)
        self._background = [asyncio.create_task(self._pump()), asyncio.create_task(self._watchdog())]

    def _replace_client(self) -> None:
        """Replace a client that did not connect.

        Otherwise each `connect` would add the same servers to its list again.
        """
        abort(self._nc)
        self._nc = Answering(self._log_refused_reply)

    async def close(self) -> None:
        """Send the waiting messages to the server, then disconnect."""
        for _ in range(100):
            if not self._out or not self.connected:
                break
            await asyncio.sleep(0.01)
        self._closing = True
        self._out.clear()
        tasks = [*self._background, *self._tasks]
        for task in tasks:
            task.cancel()
        closing = asyncio.ensure_future(ignore_closed(self._nc.close()))
        # Not wait_for: it waits for the cancelled task, but nats-py swallows the cancel and a frozen server blocks it.
        await asyncio.wait([closing, *tasks], timeout=DRAIN)
        if not closing.done():
            abort(self._nc)
            await asyncio.wait([closing, *tasks], timeout=DRAIN)

    async def _pump(self) -> None:
        """Publish all messages, as the only caller of nats-py's `publish`.

        If `publish` blocks, only this task blocks.
        """
        while not self._closing:  # nats-py's publish may swallow a cancel
            await self._wake.wait()
            self._wake.clear()
            while self._out:
                subject, data, reply, headers = self._out.popleft()
                try:
                    await self._nc.publish(subject, data, reply, headers)
                except nats.errors.Error as error:
                    self._pending.fail(_token(reply), BusUnavailable(f"cannot publish {subject}: {error_text(error)}"))
                except Exception as error:  # noqa: BLE001 - one bad message must not end the only publisher
                    self._log.exception("a message cannot be sent", subject=subject)
                    self._pending.fail(_token(reply), BusError(f"cannot publish {subject}: {error_text(error)}"))

    async def _watchdog(self) -> None:
        """Abort a transport that has not answered a PING for SILENCE seconds."""
        pongs, last_pong = -1, time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(1)
            now = time.monotonic()
            seen = self._nc._pongs_received  # noqa: SLF001 - nats-py offers no other sign of life
            stopped_ourselves = now - before > 3  # noqa: PLR2004 - SIGSTOP or a blocked loop: not a fault of NATS
            in_use = self.connected or is_stuck(self._nc)
            if seen != pongs or not in_use or stopped_ourselves:
                pongs, last_pong = seen, now
            elif now - last_pong > SILENCE:
                self.counters["watchdog_aborts"] += 1
                self._log.warning("NATS is silent, aborting the connection", seconds=round(now - last_pong, 1))
                last_pong = now
                abort(self._nc)

    async def _on_error(self, error: Exception) -> None:
        text = error_text(error)
        if not self.connected:
            self.problem = text
            abort(self._nc)  # nats-py leaves the socket of a failed attempt to the garbage collector
        if self._connecting and is_refusal(text):
            # nats-py would retry for ever; it calls this callback inside `connect`, so raising here ends `connect`.
            raise Denied(f"NATS refuses these credentials ({text}): see nkey_file, creds_file, user under [bus]")
        if "permissions violation" in text.lower():
            self._pending.deny(text, self.agent)
            self._log.warning("NATS does not allow it", error=text)
        else:
            self._log.debug("NATS reports an error", error=text)

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
        """Run `work` as a background task; an exception in it is logged."""

        async def run() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception:  # noqa: BLE001 - every exception is logged
                self._log.exception("background work failed")

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began, Python would warn

    # -- requests and answers -----------------------------------------------------------------------------------

    def send(self, subject: str, data: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Queue a message for publishing; no answer is expected."""
        self._out.append((subject, data, reply, headers))
        self._wake.set()

    async def publish(self, subject: str, message: object) -> None:
        """Publish over core NATS: only the current subscribers receive it."""
        self.send(subject, as_bytes(message))

    async def answer(self, reply: str, message: object, *, principal: str = "", others: Iterable[str] = ()) -> None:
        """Publish an answer to a received reply subject.

        If the reply subject is not an inbox, only count and log it.
        """
        if is_inbox(reply, principal, others):
            await self.publish(reply, message)
        else:
            self._log_refused_reply(f"a message of {principal or 'a client'}", reply)

    def _log_refused_reply(self, asked: str, reply: str) -> None:
        self.counters["refused_replies"] += 1
        self._limited_log.warning(
            "not answered: the reply subject is not an inbox of its sender", asked=asked, reply=reply
        )

    def ask(
        self, subject: str, data: bytes, *, wait: float | None = None, headers: dict[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Publish with a reply subject; the future gets the first answer or an error."""
        token, answer = self._pending.add(subject, wait or self.settings.timeout)
        if self._nc.is_closed:
            self._pending.fail(token, BusUnavailable("the connection to NATS is closed"))
        else:
            self.send(subject, data, f"{self._inbox}.{token}", headers)
        return answer

    async def _on_reply(self, msg: Msg) -> None:
        self._pending.settle(_token(msg.subject), msg)

    def _timed_out(self, subject: str) -> BusUnavailable:
        self.counters["timeouts"] += 1
        return BusUnavailable(f"NATS did not answer {subject} in time ({self.problem or 'connected'})")

    async def request(self, subject: str, message: object, kind: type[M], *, wait: float | None = None) -> M:
        """Send a request to `subject` and return the answer.

        Raises NoResponder, BusUnavailable, InvalidMessage.
        """
        answer = await self.ask(subject, as_bytes(message), wait=wait)
        if status_of(answer) == "503":
            raise NoResponder(f"no answer on {subject}: is the agent that offers it running?")
        return codec.decode(answer.data, kind)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call `handler` for each message, each in its own task.

        So no message blocks the others.  Of all subscribers with the same `queue`, one receives a message.
        """
        try:
            sub = await self._nc.subscribe(subject, queue, cb=self._spawning_handler(handler))
        except nats.errors.ConnectionClosedError as error:
            raise BusUnavailable(f"cannot subscribe {subject}: the connection to NATS is closed") from error
        return Subscription(lambda: ignore_closed(sub.unsubscribe()))

    def _spawning_handler(self, handler: Handler) -> Callable[[Msg], Awaitable[None]]:
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
        """Offer `endpoints` (subject → handler) as a NATS micro service.

        `$SRV.INFO` describes the service.
        """
        service = await micro.add_service(self._nc, name=name, version=version, description=description)
        for subject, handler in endpoints.items():
            await service.add_endpoint(
                name=_endpoint(subject), subject=subject, handler=self._answering_handler(handler)
            )

        async def stop() -> None:
            await service.stop()

        return Subscription(stop)

    def _answering_handler(self, handler: Handler) -> Callable[[micro.request.Request], Awaitable[None]]:
        spawning = self._spawning_handler(handler)

        async def on_request(request: micro.request.Request) -> None:
            await spawning(request._msg)  # noqa: SLF001 - the micro request hides its reply subject

        return on_request

    def inbox(self, name: str) -> str:
        """Return a new, unused subject that only this connection may subscribe to."""
        self._pulls += 1
        return f"{self._inbox}-{name}-{self._pulls}"

    async def pull(self, inbox_name: str, on_message: Callable[[Delivery], Awaitable[None]]) -> Pull:
        """Subscribe to a new inbox for the messages of pull requests."""
        inbox = self.inbox(inbox_name)
        sub = await self._nc.subscribe(inbox, cb=on_message, pending_msgs_limit=1 << 20, pending_bytes_limit=1 << 30)
        return Pull(inbox, sub)


def _endpoint(subject: str) -> str:
    """Return the name of an endpoint: the last word of its subject.

    It has the prefix `step_` if only agents may call it.
    """
    name = subject.rpartition(".")[2]
    return f"step_{name}" if subject.startswith(subjects.tool_step("*", "", "").rstrip(".")) else name


def _token(reply: str) -> str:
    return reply.rpartition(".")[2]
