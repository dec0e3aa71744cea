"""The work loop: pulls messages from a durable consumer and handles them.

Only this file acknowledges, retries or gives up a message.  A handler never acknowledges.  The result of the handler
decides what happens with the message:

- it returns: acknowledged
- it raises BusUnavailable: handled again in this process, as long as the message is still ours
- it raises another TemporaryError: handed back to the server, which delivers it again after the error's delay
- it raises `GiveUp`: stored as a dead letter first (dead_letters.py), then terminated; if it cannot be stored, it is
  delivered again
- it raises any other exception, a bug of ours: delivered again with growing pauses, because a bug must never lose a
  message; after BUGS times it is given up

nats-py offers only `fetch`, and a cancelled `fetch` leaves its pull request open, so that a message arrives in a local
queue while its timer runs.  Here a message is requested only for a free slot, the pull is continuous, and a message is
reported as in progress every ten seconds while it is handled, until its deadline.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.bus.delivery import dead_letters
from agentd.bus.delivery.job import Handle, Job, job_of
from agentd.bus.jetstream import DELETE
from agentd.errors import AgentdError, BusError, BusFull, BusUnavailable, GiveUp, TemporaryError
from agentd.wire import subjects
from agentd.wire.subjects import PROGRESS

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.bus.delivery.journal import Journal
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Delivery, Pull
    from agentd.telemetry.logs import Logger

EXPIRES: Final = 10.0
"""Seconds that one pull request stays open at the server."""
SUSPECT: Final = 3
"""Deliveries after which a message is a suspect: it may kill the process that handles it.

When a process dies, the delivery count of every message that it held rises, so this count alone also blames other
messages: a task that killed its worker repeatedly made the tasks beside it fail [seen].  So suspects run one at a time
in a process, and each start of a suspect is stored before it is handled.
"""
BEGINS: Final = 5
"""Starts of a suspect after which it is given up as poison."""
ALONE: Final = 30.0
"""Seconds for which a suspect runs alone: if it runs longer, it does not kill at once, and others have deadlines."""
MAX_PAUSE: Final = 30.0
"""Longest pause in seconds before a message is delivered again."""
BUGS: Final = 20
"""Unexpected exceptions of one message in this process, over eight minutes, after which it is given up.

A message that is delivered again for ever takes one of the consumer's places for unacknowledged messages; a thousand
of them would stop all others.  Errors of NATS do not count: an outage may last long.
"""


class Consumer:
    """A continuous pull from one durable consumer.

    `problem` says why it receives no messages, else "".
    """

    def __init__(  # noqa: PLR0913 - the consumer, its handler, and what the handler runs with
        self, bus: Bus, stream: str, durable: str, handle: Handle, *, slots: int, log: Logger, journal: Journal | None
    ) -> None:
        """Pull from `durable` of `stream` and call `handle` for each message.

        slots    how many messages are handled at once
        journal  records the deliveries that are not answered yet; None: no record
        """
        self.durable = durable
        self.problem = ""
        self.paused = False
        self._bus = bus
        self._stream = stream
        self._bugs: dict[int, int] = {}
        self._full = ("", 0.0)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._handle = handle
        self._slots = slots
        self._log = log
        self._journal = journal
        self._alone = asyncio.Lock() if journal is None else journal.alone
        self._reported = 0.0
        self._asked = 0
        self._asked_at = 0.0
        self._pull: Pull | None = None
        self._stopping = False
        self._active: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Return the number of messages that are being handled now."""
        return len(self._active)

    @property
    def full(self) -> str:
        """Return why JetStream had no room while a message was handled.

        It is empty again once a message was handled, or after MAX_PAUSE and two seconds.
        """
        text, until = self._full
        return text if time.monotonic() < until else ""

    async def run(self, stopping: asyncio.Event, *, drain: float = 30.0) -> None:
        """Handle messages until `stopping` is set.

        Then finish the running ones within `drain` seconds, or hand them back.
        """
        await self._restart_pull()
        self._bus.on_reconnect.append(self._restart_pull)
        try:
            while not stopping.is_set():
                await _wait(stopping, 1.0)
                self._tick()
        finally:
            self._bus.on_reconnect.remove(self._restart_pull)
            await self._finish(drain)

    async def pause(self) -> None:
        """Receive no more messages, not even those of open pull requests.

        Open pull requests could deliver `slots` messages.
        """
        if not self.paused:
            self.paused = True
            if self._pull is not None and self._bus.connected:
                await self._restart_pull()

    def resume(self) -> None:
        """Receive messages again."""
        self.paused = False
        self._ask()

    async def _finish(self, drain: float) -> None:
        self._stopping = True
        if self._pull is not None:
            await self._pull.stop()
        until = time.monotonic() + drain
        while self._active and time.monotonic() < until:
            await _wait(self._idle, 1.0)
            self._report()
        left = list(self._active.values())
        for job, task in left:
            task.cancel()
            self._nak(job, 0.0)
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)

    async def _restart_pull(self) -> None:
        """Pull again with a new inbox.

        Earlier pull requests may still be open at a server that did not restart.
        """
        before, self._pull = self._pull, await self._bus.pull(self.durable, self._on_message)
        self._asked = 0
        self._ask()
        if before is not None:
            await before.stop()

    def _ask(self) -> None:
        free = self._slots - len(self._active) - self._asked
        worth_it = free > 0 and (free >= self._slots / 2 or self._asked == 0)
        if self._pull is None or self._stopping or self.paused or not worth_it:
            return
        self._asked += free
        self._asked_at = time.monotonic()
        request = msgspec.json.encode({"batch": free, "expires": int(EXPIRES * 1e9)})
        self._bus.send(self._next, request, self._pull.inbox)

    def _tick(self) -> None:
        """Forget expired pull requests, and report messages as in progress."""
        if self._asked and time.monotonic() - self._asked_at > EXPIRES + 2:
            self._asked = 0
        self._ask()
        self._report()

    def _report(self) -> None:
        if self._journal is not None:
            self._journal.beat()
        now = time.monotonic()
        if now < self._reported + PROGRESS or not self._bus.connected:
            return
        self._reported = now
        for job, _ in self._active.values():
            if job.ours and (job.until is None or now < job.until):
                self._bus.send(job.reply, b"+WPI")
                job.reported = now

    async def _on_message(self, msg: Delivery) -> None:
        status = "" if msg.headers is None else msg.headers.get("Status", "")
        if status:
            self._on_status(status, msg)
            return
        if not msg.reply:
            return  # not sent by the server: there is nothing to acknowledge
        self._asked = max(0, self._asked - 1)
        self.problem = ""
        job = job_of(msg)
        if self._stopping or len(self._active) >= self._slots:
            self._nak(job, 0.0)  # from a pull request that we believed had ended
            return
        self._idle.clear()
        if self._journal is not None:
            self._journal.add(job.reply)
        task = asyncio.create_task(self._work(job))
        self._active[job.reply] = (job, task)
        if self._asked == 0:
            self._ask()

    def _on_status(self, status: str, msg: Delivery) -> None:
        """408, 404: the request ended unfilled; 409, 503: the consumer moved or is gone."""
        headers = msg.headers or {}
        if status in {"408", "404"}:
            self.problem = ""
            self._asked = max(0, self._asked - int(headers.get("Nats-Pending-Messages", self._asked)))
            self._ask()
            return
        if status in {"409", "503"}:
            # A 503 has no description; nats-py returns the next header as one.
            text = headers.get("Description", "") if status == "409" else "it is not there: run `agentd provision`"
            self.problem = f"consumer {self.durable}: {text}"
            self._asked = 0  # the next tick pulls again: to do it at once would flood the server

    async def _work(self, job: Job) -> None:
        try:
            await self._handle_with_retry(job)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - also a bug of the handler: the message is delivered again
            await self._failed(job, error)
        else:
            self._full = ("", 0.0)
            self._bugs.pop(job.sequence, None)
            self._bus.send(job.reply, b"+ACK")
        finally:
            self._active.pop(job.reply, None)
            if self._journal is not None:
                self._journal.remove(job.reply)
            if not self._active:
                self._idle.set()
            self._ask()

    async def _handle_with_retry(self, job: Job) -> None:
        """Handle a message; retry here while NATS is not available.

        So no further deliveries are counted: a NAK leads to one more delivery, and a message with too many deliveries
        is treated as poison.  Ten deliveries were used up within a minute in which JetStream answered only sometimes
        [seen].
        """
        tries = 0
        while True:
            try:
                await self._handle_limited(job)
            except BusUnavailable as error:
                if self._stopping or not job.ours or (job.until is not None and time.monotonic() > job.until):
                    raise
                tries += 1
                if isinstance(error, BusFull):
                    self._full = (str(error), time.monotonic() + MAX_PAUSE + 2)
                self._log.info("again later", subject=job.subject, delay=error.delay, reason=str(error))
                await asyncio.sleep(min(error.delay * tries, MAX_PAUSE))
            else:
                return

    async def _handle_limited(self, job: Job) -> None:
        """Handle a message, with limits for a suspect.

        Only one suspect runs at a time, and each only a limited number of times.
        """
        if job.delivered <= SUSPECT:
            await self._handle(job)
            return
        await self._alone.acquire()
        release = _call_once(self._alone.release)
        timer = asyncio.get_running_loop().call_later(ALONE, release)
        done = False
        try:
            job.begun = job.begun or await self._count_start(job)
            if job.begun > BEGINS + 1:
                raise GiveUp(f"started {job.begun - 1} times, never finished: the process that handles it crashes")
            await self._handle(job)
            done = True
        finally:
            timer.cancel()
            release()
            self._clear_start(job, done=done)

    async def _count_start(self, job: Job) -> int:
        """Store that a suspect is started; return its number of starts.

        This start is included.
        """
        begun = 1 + ((await self._bus.kv_read(subjects.RESULTS, self._begun(job), int)).value or 0)
        await self._bus.kv_put(subjects.RESULTS, self._begun(job), str(begun).encode())
        return begun

    def _clear_start(self, job: Job, *, done: bool) -> None:
        """Remove the start of a message that did not kill this process.

        A message that is only handed back repeatedly is no poison.  But earlier starts stay recorded, unless the
        message is done: while the claim of a dead process is valid, other processes hand the message back; when that
        removed all starts, poison killed processes for ever [seen].
        """
        before, job.begun = job.begun - 1, 0
        subject = f"$KV.{subjects.RESULTS}.{self._begun(job)}"
        if done or before == 0:
            self._bus.send(subject, b"", headers=DELETE)
        elif before > 0:
            self._bus.send(subject, str(before).encode())

    def _begun(self, job: Job) -> str:
        return subjects.begun_key(self.durable, job.sequence)

    async def _failed(self, job: Job, error: Exception) -> None:
        """Decide what happens with a message that was not handled."""
        if isinstance(error, TemporaryError):
            self._log.info("again later", subject=job.subject, delay=error.delay, reason=str(error))
            self._nak(job, min(error.delay * job.delivered, MAX_PAUSE))
        elif isinstance(error, GiveUp):
            await self._give_up(job, str(error))
        else:
            self._log.exception("a message was not handled", subject=job.subject, delivered=job.delivered)
            if self._failed_too_often(job, error):
                await self._give_up(job, f"{type(error).__name__}: {error} ({BUGS} times)")
            else:
                self._nak(job, min(0.5 * 2 ** min(job.delivered, 10), MAX_PAUSE))

    def _failed_too_often(self, job: Job, error: Exception) -> bool:
        """Count an unexpected exception; return whether this message has caused too many."""
        if isinstance(error, BusError):
            return False
        self._bugs[job.sequence] = self._bugs.get(job.sequence, 0) + 1
        return self._bugs[job.sequence] >= BUGS

    async def _give_up(self, job: Job, reason: str) -> None:
        """Store a message as a dead letter, then terminate it."""
        self._log.error("gave up a message", subject=job.subject, reason=reason)
        try:
            await dead_letters.store_dead_letter(
                self._bus,
                dead_letters.GIVEN_UP,
                self.durable,
                job.letter(self._stream, self._bus.agent, reason),
                job.data,
            )
        except AgentdError as error:
            self._log.error("a dead letter cannot be kept", subject=job.subject, reason=str(error))
            self._nak(job, min(1.0 * job.delivered, MAX_PAUSE))
            return
        self._bugs.pop(job.sequence, None)
        self._bus.send(job.reply, f"+TERM {reason}".encode())

    def _nak(self, job: Job, delay: float) -> None:
        if not job.ours:
            self._log.warning("not returned to the stream: another process may have it", subject=job.subject)
            return
        body = b"-NAK" if delay <= 0 else b'-NAK {"delay": %d}' % int(delay * 1e9)
        self._bus.send(job.reply, body)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, at most `seconds`."""
    task = asyncio.ensure_future(event.wait())
    await asyncio.wait([task], timeout=seconds)
    task.cancel()


def _call_once(work: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls `work` at its first call only."""
    left = [work]

    def run() -> None:
        if left:
            left.pop()()

    return run
