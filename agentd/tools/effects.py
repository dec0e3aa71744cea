"""The effect record: what an agent stores before and after each external change.

AI_EFFECTS holds one record per key, changed only by compare-and-set.  The key of a task is `<workflow>.<task>`, of a
step of it `<workflow>.<task>.<step>`, of a call `<principal>=<key>`: no id contains a `=`, so a caller cannot
reach into a workflow or into the calls of another principal.  The record's epoch is the fence: a process that wakes up
late finds a higher epoch and may not write.  The steps:

1. claim the record (epoch + 1), or find that it is done, cancelled, or held by another live process
2. without a recorded UPID: read the state first; adopt what is ours, fail if the object belongs to something else
3. act, only while the claim is younger than half of `ack_wait`, and record the UPID
4. wait for the end of the Proxmox task, renewing the claim meanwhile
5. record the result; only then publish the completion

The fence protects our records, not Proxmox: between the freshness check and Proxmox's own response, a stopped
process may still wake up.  The protection there is that ids are fixed beforehand and Proxmox creates atomically.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.crash_points import crash_point
from agentd.errors import HELD, BusUnavailable, Fenced, PermanentError, StaleWrite, Stopped
from agentd.wire import subjects
from agentd.wire.messages import StopHint
from agentd.wire.records import EffectRecord
from agentd.wire.subjects import ACK_WAIT, PROGRESS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from datetime import datetime

    from agentd.bus.jetstream import Bus
    from agentd.wire.messages import Target

CLAIMED, DONE, FAILED, CANCELLED = "claimed", "done", "failed", "cancelled"
UNNAMED: Final = "*"
"""The target in a record if the tool names none."""
UNSETTLED: Final = 15.0
"""Seconds during which finding nothing proves nothing.

A request may still be on its way, and a task may not be listed yet.  Seen in a chaos run: a create was sent and its
process died, another process found nothing and made the guest, the workflow undid that, and eleven seconds after it
was sent the first request made the guest once more.
"""


class ClaimDecision(Enum):
    """What a record means for a process that wants to claim it."""

    TAKE = "no process has it, or its owner is gone"
    DONE = "it was done: use the recorded result"
    CANCELLED = "the workflow was cancelled before it was started"
    BUSY = "another process is doing it"
    CONFLICT = "the key is that of another tool, or of other parameters"


@dataclass(frozen=True)
class ClaimRequest:
    """The claim that an invocation wants to make.

    owner     `<agent>/<process>`
    takeover  no other live process can be running it, because JetStream has delivered the assignment to us
    """

    service: str
    key: str
    tool: str
    digest: str
    attempt: int
    owner: str
    takeover: bool


def decide(record: EffectRecord | None, wanted: ClaimRequest, *, age: float) -> ClaimDecision:
    """Decide what `record` means for an invocation that wants to claim it.

    age  seconds since the record was last written, by the server's clock

    A failure is the final answer of its own attempt, unless the attempt was only held back; the next attempt starts
    again.  A claim of an earlier process of the same agent is free: the lock of the journal ensures that only one of
    them is alive.  An attempt that is delivered again after the next one has begun does not take over: it has been
    answered.

    A record answers only for its own tool and parameters, in every phase; otherwise one call would get the result of
    another.  After a failure the next attempt may have other parameters (another VMID), but never another tool.
    """
    if record is None:
        return ClaimDecision.TAKE
    if record.phase == CANCELLED:
        return ClaimDecision.CANCELLED
    is_retry = record.phase == FAILED and record.attempt < wanted.attempt
    if record.tool != wanted.tool or (record.digest != wanted.digest and not is_retry):
        return ClaimDecision.CONFLICT
    if record.phase in {DONE, FAILED}:
        return ClaimDecision.TAKE if is_retry or _was_held(record) else ClaimDecision.DONE
    same_agent = record.owner.partition("/")[0] == wanted.owner.partition("/")[0]
    stale = age > ACK_WAIT or ((wanted.takeover or same_agent) and wanted.attempt >= record.attempt)
    return ClaimDecision.TAKE if stale else ClaimDecision.BUSY


def _was_held(record: EffectRecord) -> bool:
    return record.error is not None and record.error.code in HELD


class Claim:
    """A claim on one record; every write raises Fenced once another process holds it."""

    def __init__(self, bus: Bus, subject: str, record: EffectRecord, seq: int, written: float) -> None:
        """Use the record as it was just written; the write was sent at `written`."""
        self.record = record
        self.doubtful_since = -UNSETTLED
        self.resumed = record.epoch > 1
        self.stoppable = False
        self._bus = bus
        self._subject = subject
        self._seq = seq
        self._written = written
        self._writing = asyncio.Lock()
        self.stop = asyncio.Event()
        self.interruptible = asyncio.Event()
        self.interruptible.set()
        self._deferred_stops = 0
        if record.stop:
            self.stop.set()

    @contextlib.contextmanager
    def defer_stop(self) -> Iterator[None]:
        """Run a block that a stop may not interrupt.

        It covers the time from an external write until its outcome is known.
        """
        self._deferred_stops += 1
        self.interruptible.clear()
        try:
            yield
        finally:
            self._deferred_stops -= 1
            if not self._deferred_stops:  # a tool may run several steps at the same time
                self.interruptible.set()

    @contextlib.contextmanager
    def allow_stop(self) -> Iterator[None]:
        """Allow a stop to interrupt a part of an `defer_stop` block.

        It is for a part that leaves nothing behind when it is interrupted.
        """
        self.interruptible.set()
        try:
            yield
        finally:
            if self._deferred_stops:
                self.interruptible.clear()

    @property
    def fresh(self) -> bool:
        """Whether no other process can have claimed the record since it was last written."""
        return time.monotonic() - self._written < ACK_WAIT / 2

    async def write(self, **changes: Any) -> None:  # noqa: ANN401 - fields of EffectRecord
        """Change fields of the record; raises Fenced, BusUnavailable.

        Writes are serialized: a renewal that began before a UPID was recorded would overwrite the record without it.
        """
        async with self._writing:
            changed = msgspec.structs.replace(self.record, **changes)
            while True:
                started = time.monotonic()
                try:
                    self._seq = await self._bus.store(self._subject, changed, expect=self._seq)
                except StaleWrite as error:
                    self._seq, stop = await self._as_stored(changed, error)
                    changed = msgspec.structs.replace(changed, stop=stop)
                else:
                    break
            self.record = changed
            if changed.stop:
                self.stop.set()
            self._written = started

    async def _as_stored(self, changed: EffectRecord, error: StaleWrite) -> tuple[int, bool]:
        """Return sequence and stop flag of our record after a write that timed out.

        The write may have been stored all the same.  Raises Fenced when another process holds the record.
        """
        stored, now, _ = await last_record(self._bus, self._subject)
        if now is None or (now.owner, now.epoch) != (changed.owner, changed.epoch):
            holder = "no process" if now is None else now.owner
            raise Fenced(f"{changed.key}: the effect record is held by {holder}") from error
        return stored, now.stop

    async def renew(self) -> None:
        """Write the record again unchanged.

        It shows other processes that the owner is alive, and raises Fenced if the claim is lost.
        """
        await self.write()

    async def settle(self, **changes: Any) -> None:  # noqa: ANN401
        """Write what must not be lost (a UPID, a result), retrying until it is stored.

        Raises Fenced.
        """
        while True:
            try:
                await self.write(**changes)
            except BusUnavailable:
                await asyncio.sleep(1)
            else:
                return


async def last_record(bus: Bus, subject: str) -> tuple[int, EffectRecord | None, datetime | None]:
    """Return the last sequence of an effect, its last readable record and its time.

    Raises PermanentError if an agent has written there and no record can be read.
    """
    newest = await bus.newest(
        subjects.EFFECTS, subject, EffectRecord, lambda record: subject.endswith(f".{record.key}")
    )
    if newest.value is None and newest.doubt:
        raise PermanentError(f"no record at {subject} in {subjects.EFFECTS} can be read: what was done is not known")
    return newest.seq, newest.value, newest.time


async def claim(bus: Bus, wanted: ClaimRequest, now: datetime) -> Claim | EffectRecord:
    """Claim the effect record; return it instead if it cannot be claimed.

    It cannot if it is done, cancelled, or held by another process (phase `claimed`).  Raises BusUnavailable, and
    PermanentError when the key was used for another tool or with other parameters.
    """
    subject = subjects.effect(wanted.service, wanted.key)
    while True:
        seq, record, written = await last_record(bus, subject)
        age = 0.0 if written is None else (bus.server_time() - written).total_seconds()
        decision = decide(record, wanted, age=age)
        if decision is ClaimDecision.CONFLICT:
            raise PermanentError(
                f"{wanted.key}: was used before for another tool or with other parameters; use another key"
            )
        if decision is not ClaimDecision.TAKE and record is not None:
            return record
        new_record = _claimed_record(record, wanted, now)
        started = time.monotonic()  # not the time of the response: the process may be suspended in between
        try:
            seq = await bus.store(subject, new_record, expect=seq)
        except StaleWrite:
            continue
        crash_point("after-claim", wanted.key)
        new_claim = Claim(bus, subject, new_record, seq, started)
        if new_record.acting and not new_record.upid:
            new_claim.doubtful_since = started - age
        return new_claim


def _claimed_record(record: EffectRecord | None, wanted: ClaimRequest, now: datetime) -> EffectRecord:
    """Return the record with us as its owner.

    It keeps what is known of an unfinished act: a temporary failure (mostly a deadline) says nothing about the Proxmox
    task, which may still run.
    """
    fresh = record is None or (record.error is not None and not record.error.retry)
    return EffectRecord(
        key=wanted.key,
        tool=wanted.tool,
        epoch=1 if record is None else record.epoch + 1,
        owner=wanted.owner,
        phase=CLAIMED,
        # A change may have happened since the first owner began, not only since the takeover.
        claimed_at=now if record is None or fresh or not record.acting else record.claimed_at,
        attempt=wanted.attempt,
        digest=wanted.digest,
        upid="" if record is None or fresh else record.upid,
        acting=False if record is None or fresh else record.acting,
        stop=record is not None and record.stop,
        undo=None if record is None or fresh else record.undo,
        acted=[] if record is None else record.acted,
    )


def acts(tool: str, targets: Iterable[Target]) -> list[str]:
    """Return how an effect record names an act of `tool`: one entry per target."""
    return sorted({f"{tool} {target.name}" for target in targets}) or [f"{tool} {UNNAMED}"]


def begun(record: EffectRecord, tool: str, targets: Sequence[Target]) -> bool:
    """Return whether `record` says that `tool` began this act.

    If so, an object with its mark is ours.
    """
    if record.acting:  # also set by older versions, which had no `acted`
        return True
    if not targets:
        return any(entry.startswith(f"{tool} ") for entry in record.acted)
    return not {*acts(tool, targets), f"{tool} {UNNAMED}"}.isdisjoint(record.acted)


async def write_tombstone(  # noqa: PLR0913 - record, bus, owner, time, mode
    bus: Bus, service: str, key: str, owner: str, now: datetime, *, stop: bool = False
) -> bool:
    """Write a tombstone so that the effect cannot be claimed.

    Returns False if it has been claimed already.  With `stop`, the owner of the claim is asked to end: by a flag in the
    record, and by a hint to read the record at once.
    """
    subject = subjects.effect(service, key)
    tombstone = EffectRecord(key=key, tool="", epoch=1, owner=owner, phase=CANCELLED, claimed_at=now)
    free = 0
    while True:
        try:
            await bus.store(subject, tombstone, expect=free)
        except StaleWrite:
            seq, record, _ = await last_record(bus, subject)
        else:
            return True
        if record is None:
            free = seq  # the subject holds only responses of the server
            continue
        if not stop or record.stop or record.phase != CLAIMED:
            return False
        try:
            await bus.store(subject, msgspec.structs.replace(record, stop=True), expect=seq)
        except StaleWrite:
            continue  # its owner has just renewed it
        await bus.publish(subjects.stop(service), StopHint(key))
        return False


@contextlib.asynccontextmanager
async def renewing(claim: Claim) -> AsyncIterator[None]:
    """Renew the claim every ten seconds while the block runs.

    Raises Fenced once the claim is lost, Stopped once its task must end.
    """
    runner = asyncio.current_task()
    reasons: list[Fenced | Stopped] = []

    async def watch() -> None:
        reasons.append(await _reason_to_end(claim))
        if runner is not None:
            runner.cancel()

    task = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if reasons and runner is not None and runner.uncancel() >= 0:
            raise reasons[0] from None
        raise
    finally:
        task.cancel()
        try:
            await asyncio.gather(task, return_exceptions=True)
        except asyncio.CancelledError:
            if not reasons:
                raise
            # The work had already ended when `watch` cancelled this task: its result is valid.


async def _reason_to_end(claim: Claim) -> Fenced | Stopped:
    """Renew the claim until there is a reason to end its work; return that reason."""
    while True:
        if claim.stop.is_set():
            await claim.interruptible.wait()
            if claim.stoppable or not claim.record.upid:
                return Stopped(f"{claim.record.key}: was ended while it ran")
            await asyncio.sleep(PROGRESS)  # a tool that is not stoppable runs to its end
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROGRESS):
                    await claim.stop.wait()
            if claim.stop.is_set():
                continue
        error = await renew_claim(claim)
        if error is not None:
            return error


async def renew_claim(claim: Claim) -> Fenced | None:
    """Renew a claim; return the error if it is lost.

    Renewing also reads what other processes have changed in the record.
    """
    try:
        await claim.renew()
    except BusUnavailable:
        return None  # the freshness check before an act handles this
    except Fenced as error:
        return error
    return None
