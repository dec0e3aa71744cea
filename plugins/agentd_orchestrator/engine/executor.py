"""Executes transitions: load the state, fold the inputs, commit, send the outbox.

A transition is one compare-and-set publish of the whole state.  There is no lock between orchestrators, no
leader and no recovery at start: an orchestrator that loses the race loads the state again, and everything pending is
a message in a durable consumer or a JetStream schedule.  Within a process the inputs of one workflow are queued and
folded into one event (without this a fan-out of 1,000 cost 5,843 conflicts and 1.08 GB).

The order that makes it safe: commit the event, send every message of its outbox (each expects its own subject to
be empty, so sending twice has the effect of sending once), only then acknowledge the input.  An orchestrator that loads
a state sends its outbox again before it commits the next event, because that event replaces the outbox.

A state in memory may be outdated, because another orchestrator has committed a newer one.  A commit would detect this;
an input that changes nothing commits nothing, so it is decided again with the state of the stream's leader before it is
acknowledged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agentd import (
    TERMINAL,
    BusUnavailable,
    Denied,
    GiveUp,
    Parent,
    Rejected,
    StaleWrite,
    Status,
    TemporaryError,
    Workflow,
    dead_letters,
    encode,
    now,
    subjects,
)
from agentd.bus.jetstream import ROLLUP
from agentd.client.requests import newest_state
from agentd.crash_points import crash_point
from agentd.wire.records import DeadLetter
from agentd.wire.workflow import UNDER_WAY, VERSION
from agentd_orchestrator.engine.open_workflows import OpenWorkflows
from agentd_orchestrator.engine.outbox import Outbox
from agentd_orchestrator.expressions.metering import evaluate_async
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine import inputs
from agentd_orchestrator.state_machine.state import continues

if TYPE_CHECKING:
    from agentd import Bus, Logger, Metrics

KEPT: Final = 30 * 86_400.0
"""Seconds that an ended workflow and its response are kept; until then the same id means the same workflow.

At most as long as effect records and stored results are kept (provision.py), because the state refers to them; the
setting `retention_days` reduces it.
"""
BRIEF: Final = 3600.0
"""Seconds that a request over its principal's quota is kept: short, so that a flood of requests fills nothing."""
KEPT_EVENTS: Final = 16
"""Approximate number of events kept per workflow, for a person who investigates what happened."""
CACHE: Final = 10_000
"""Open workflows whose state is kept in memory; the state of any other is read again."""
REFRESHED: Final = 500
"""States that are compared with the stream leader's in one refresh."""
BROKEN_AFTER: Final = 3
"""Deliveries after which an input that makes `decide` fail ends its workflow, so that a person notices."""
HEADERS: Final = 4096
"""Bytes of the server's max_payload that are reserved for headers and the protocol."""
NEWER_DELAY: Final = 10.0
"""Seconds before an input for a state of a newer version is redelivered to another orchestrator."""


@dataclass(slots=True)
class _QueuedInput:
    value: inputs.Input
    done: asyncio.Future[Workflow | None]
    delivered: int
    new: bool
    """The workflow does not exist yet, as far as this process knows without reading."""


class Engine:
    """Executes the transitions of the workflows whose inputs this process receives."""

    def __init__(  # noqa: PLR0913 - what an engine is built of
        self,
        bus: Bus,
        agent_id: str,
        metrics: Metrics,
        log: Logger,
        *,
        kept: float = KEPT,
        external: frozenset[str] = frozenset(),
    ) -> None:
        """Start with no states in memory; keep ended workflows for `kept` seconds.

        external  names of external agents, which do not know about a freeze
        """
        self._outbox = Outbox(bus, agent_id, log, external)
        self._kept = kept
        self._bus = bus
        self._agent = agent_id
        self._metrics = metrics
        self._log = log
        self.writes = VERSION
        """Version that new states are written in: the highest that every orchestrator supports."""
        self._queues: dict[str, list[_QueuedInput]] = {}
        self._states = OpenWorkflows(CACHE)
        self._brief: set[str] = set()

    @property
    def open(self) -> int:
        """Return the number of open workflows that this process knows."""
        return len(self._states)

    def open_of(self, principal: str) -> int:
        """Return the number of open workflows that `principal` has requested."""
        return self._states.of(principal)

    async def feed(self, workflow_id: str, given: inputs.Input, *, delivered: int = 1) -> Workflow | None:
        """Apply `given`; return the state once it is committed and its outbox is sent.

        Raises BusUnavailable or TemporaryError when the input must be redelivered, Rejected or Denied when it is a
        signal that cannot be executed.
        """
        done: asyncio.Future[Workflow | None] = asyncio.get_running_loop().create_future()
        queued = _QueuedInput(given, done, delivered, new=isinstance(given, inputs.PlannedRequest) and delivered == 1)
        if isinstance(given, inputs.PlannedRequest) and given.brief:
            self._brief.add(workflow_id)
        waiting = self._queues.get(workflow_id)
        if waiting is not None:  # another call is working on this workflow and takes this input next
            waiting.append(queued)
        else:
            await self._work(workflow_id, [queued])
        return await done

    async def _work(self, workflow_id: str, batch: list[_QueuedInput]) -> None:
        """Process `batch`, then the inputs that arrived meanwhile, until none is left."""
        waiting = self._queues[workflow_id] = []
        try:
            while batch:
                try:
                    state = await self._transition(workflow_id, batch)
                except Exception as error:  # noqa: BLE001 - every waiting input gets the error; none is lost
                    self._states.drop(workflow_id)
                    _fail_waiters(batch, error)
                else:
                    for given in batch:
                        if not given.done.done():
                            given.done.set_result(state)
                batch, waiting[:] = waiting[:], []
        finally:
            del self._queues[workflow_id]
            self._brief.discard(workflow_id)
            remaining = [*batch, *waiting]
            if remaining:  # the call that started this loop was cancelled: the other inputs are redelivered
                self._states.drop(workflow_id)
                _fail_waiters(remaining, TemporaryError("this orchestrator is stopping", delay=0.0))

    async def _transition(self, workflow_id: str, batch: list[_QueuedInput]) -> Workflow | None:
        while True:
            remembered = workflow_id in self._states
            seq, state = await self._load(workflow_id, batch)
            crash_point("before-commit", workflow_id)
            changed, refused = await self._apply_batch(workflow_id, state, batch)
            if changed is None and remembered:
                self._states.drop(workflow_id)  # another orchestrator may have committed: read the state again first
                continue
            if changed is not None:
                if state is None:
                    changed = replace(changed, v=self.writes)
                changed, data = self._fit(changed, new=state is None)
                try:
                    await self._carry_out(changed, data, seq, new=state is None)
                except StaleWrite:
                    self._metrics.event_conflicts.inc()
                    self._states.drop(workflow_id)
                    continue
            for given, error in refused:
                given.done.set_exception(error)
            crash_point("before-input-ack", workflow_id)
            return changed or state

    async def _carry_out(self, state: Workflow, data: bytes, expect: int, *, new: bool) -> None:
        """Commit the next event, then send its outbox.

        Raises StaleWrite when another orchestrator was faster.
        """
        seq = await self._commit(state, data, expect)
        if new:
            self._metrics.workflow_started(state.workflow_type)
        crash_point("after-commit", state.workflow_id)
        await self._outbox.send(state, self._ttl(state))
        self._states.keep(state, seq)

    async def _apply_batch(
        self, workflow_id: str, state: Workflow | None, batch: list[_QueuedInput]
    ) -> tuple[Workflow | None, list[tuple[_QueuedInput, Exception]]]:
        """Fold the inputs into one state; also return the refused inputs.

        The state is None if nothing changes.  A refused input is a signal that cannot be executed.  If `decide` fails
        for an input, that input gets the error at once and the others continue.
        """
        at = self._bus.server_time()
        start = current = wf.without_outbox(state)
        refused: list[tuple[_QueuedInput, Exception]] = []
        for given in batch:
            if given.done.done():
                continue
            try:
                current = await evaluate_async(partial(wf.decide, current, given.value, at))
            except (Rejected, Denied) as error:
                refused.append((given, error))
            except Exception as error:  # noqa: BLE001 - a bug in decide: only this input fails
                self._log.exception("cannot decide", workflow=workflow_id, given=type(given.value).__name__)
                self._metrics.decide_errors.inc()
                if given.delivered < BROKEN_AFTER:
                    given.done.set_exception(error)
                    continue
                text = f"deciding over {type(given.value).__name__} failed {given.delivered} times: {error}"
                self._bus.spawn(self._store_dead_letter(workflow_id, text, given))
                current = await evaluate_async(partial(wf.decide, current, inputs.decide_failed(given.value, text), at))
        return None if current is start else current, refused

    def _fit(self, state: Workflow, *, new: bool) -> tuple[Workflow, bytes]:
        """Return a state that fits into one event, and its bytes.

        A state that does not fit would block the workflow for ever.
        """
        data = encode(state)
        most = min(Workflow.MAX_BYTES, self._bus.max_payload - HEADERS)
        if len(data) <= most:
            return state, data
        state = wf.end_oversized(state, len(data), most, new=new)
        self._log.error("a workflow has grown too large", workflow=state.workflow_id, reason=state.error)
        return state, encode(state)

    async def _store_dead_letter(self, workflow_id: str, text: str, given: _QueuedInput) -> None:
        """Report an input that ended its workflow, and store it as a dead letter."""
        await self._outbox.alarm(workflow_id, text)
        subject = subjects.event(workflow_id)
        letter = DeadLetter(subjects.WORKFLOWS, 0, subject, text, self._agent, now(), delivered=given.delivered)
        await dead_letters.store_dead_letter(
            self._bus, dead_letters.BROKEN, subjects.ORCH_INPUT, letter, encode(given.value)
        )

    # -- reading and writing ------------------------------------------------------------------------------------------

    async def _load(self, workflow_id: str, batch: list[_QueuedInput]) -> tuple[int, Workflow | None]:
        """Return the last event's sequence and state.

        If this process did not commit the event, its outbox is sent again.
        """
        cached = self._states.get(workflow_id)
        if cached is not None:
            return cached
        if batch[0].new:
            batch[0].new = False  # most requests are new: try once without reading
            return 0, None
        seq, state = await self._read(workflow_id)
        if state is None:
            return seq, None
        await self._outbox.send(state, self._ttl(state))
        self._states.keep(state, seq)
        return seq, state

    async def _read(self, workflow_id: str) -> tuple[int, Workflow | None]:
        """Return the sequence of the last event and the last state that can be decoded.

        The next event replaces that sequence.  An event that cannot be decoded was not written by an orchestrator: the
        workflow continues from the event before it.  Raises TemporaryError for a state of a newer version, GiveUp if no
        event of the workflow can be decoded.
        """
        newest = await newest_state(self._bus, workflow_id)
        version = await self._version(workflow_id) if newest.doubt else newest.value.v if newest.value else 0
        if version > VERSION:
            raise TemporaryError(
                f"{workflow_id}: written by a newer orchestrator (state version {version})", delay=NEWER_DELAY
            )
        if newest.value is None and newest.doubt:
            where = f"{subjects.event(workflow_id)} in {subjects.WORKFLOWS}"
            raise GiveUp(f"{workflow_id}: no state of it can be read; see {where}")
        return newest.seq, newest.value

    async def _version(self, workflow_id: str) -> int:
        """Return the version of the newest state whose version can be decoded."""
        head = (await self._bus.newest(subjects.WORKFLOWS, subjects.event(workflow_id), _Head)).value
        return 0 if head is None else head.v

    async def refresh(self) -> None:
        """Forget states that another orchestrator has advanced or ended.

        Called while too many workflows seem to be open.
        """
        oldest = self._states.oldest(REFRESHED)
        states = (self._bus.last(subjects.WORKFLOWS, subjects.event(name)) for name, _ in oldest)
        try:
            newest = await asyncio.gather(*states)
        except BusUnavailable:
            return
        for (workflow_id, seq), stored in zip(oldest, newest, strict=True):
            cached = self._states.get(workflow_id)
            if workflow_id in self._queues or cached is None or cached[0] != seq:
                continue
            self._states.used(workflow_id)
            if stored is None or stored.seq != seq:
                self._states.drop(workflow_id)

    async def _commit(self, state: Workflow, data: bytes, expect: int) -> int:
        subject = subjects.event(state.workflow_id)
        if state.over:
            seq = await self._bus.store(subject, data, expect=expect, ttl=self._ttl(state), headers={ROLLUP: "sub"})
            self._metrics.workflow_finished(
                state.workflow_type, state.status, (state.updated - state.created).total_seconds()
            )
            return seq
        # Deleting the older events with every event costs half of the throughput; never doing it fills the stream.
        headers = {ROLLUP: "sub"} if expect % KEPT_EVENTS == 0 else None
        return await self._bus.store(subject, data, expect=expect, headers=headers)

    def _ttl(self, state: Workflow) -> float:
        """Return the seconds that an ended workflow and its response are kept."""
        brief = state.workflow_id in self._brief and state.status is Status.REJECTED
        return min(BRIEF, self._kept) if brief else self._kept

    async def ended(self, workflow_id: str) -> bool:
        """Return whether the workflow has ended.

        Most timers fire after the end, and then this one read is all they cost.
        """
        if workflow_id in self._states:
            return False
        newest = await self._bus.newest(subjects.WORKFLOWS, subjects.event(workflow_id), _Head)
        if newest.value is None:
            return not newest.doubt
        return newest.value.v <= VERSION and newest.value.status in TERMINAL

    async def read(self, workflow_id: str) -> Workflow | None:
        """Return the state of a workflow as the stream's leader has it."""
        return (await self._read(workflow_id))[1]

    async def awaits(self, parent: Parent) -> bool:
        """Return whether the task that starts a child workflow still waits for it."""
        state = await self.read(parent.workflow_id)
        task = None if state is None else state.tasks.get(parent.task)
        return (
            state is not None
            and task is not None
            and continues(state)
            and task.status in UNDER_WAY
            and task.attempt == parent.attempt
        )

    async def reported(self, workflow_id: str) -> bool:
        """Return whether a stored completion is not handled yet: then a timer can wait."""
        try:
            completion = await self._bus.last(subjects.INPUT, f"{subjects.TASK_COMPLETE}.*.{workflow_id}.*")
        except BusUnavailable:
            return True
        return completion is not None


def _fail_waiters(batch: list[_QueuedInput], error: Exception) -> None:
    for given in batch:
        if not given.done.done():
            given.done.set_exception(error)
            given.done.exception()  # avoids asyncio's warning when the waiting call was cancelled


class _Head(msgspec.Struct):
    status: str
    v: int = 1
