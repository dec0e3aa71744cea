"""Carries decisions out: loads a state, folds what came in, commits the next event, sends its outbox.

A transition is one compare-and-set publish of the whole state.  There is no lock between orchestrators, no
leader and no recovery at start: who loses the race loads again, and whatever is pending is a message in a durable
consumer or a schedule of JetStream.  Within a process the inputs of one workflow queue up and are folded into one
event (without this a fan-out of 1,000 cost 5,843 conflicts and 1.08 GB).

The order that makes it safe: commit the event, send every message of its outbox (each expects its own subject to
be empty, so sending twice is sending once), only then acknowledge the input.  Whoever loads a state sends its
outbox again before the next event is committed, because that event replaces it.

A state in memory may be old, because another orchestrator has gone on.  A commit would notice; an input that changes
nothing commits nothing, so it is judged again by the leader's state before it is acknowledged.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agentd.bus import dead_letters
from agentd.bus.jetstream import ROLLUP, SCHEDULE, SCHEDULE_TARGET
from agentd.client.requests import newest_state
from agentd.crash_points import crash_point
from agentd.errors import BusUnavailable, Denied, GiveUp, Rejected, StaleWrite, TemporaryError
from agentd.safety import freeze
from agentd.tools.effects import entomb
from agentd.wire import subjects
from agentd.wire.codec import encode, now
from agentd.wire.messages import CriticalError, DeadLetter, TaskAssignment, Tier, TimerDue, WorkflowSignal
from agentd.wire.workflow import TERMINAL, UNDER_WAY, VERSION, Effect, Parent, Status, Workflow
from agentd_orchestrator.engine import decide as wf
from agentd_orchestrator.engine import inputs, outgoing
from agentd_orchestrator.engine.open_workflows import Opened
from agentd_orchestrator.engine.state import going_on
from agentd_orchestrator.expressions.metering import Costly, evaluated, in_thread, on_the_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentd.bus.jetstream import Bus
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics

KEPT = 30 * 86_400.0
"""Seconds that a workflow that is over, and the answer to it, stay: within them the same id is the same workflow.

No more than effect records and stored results stay (provision.py), which the state refers to; `keep` makes it less.
"""
BRIEF = 3600.0
"""Seconds that a request stays that was rejected because its principal asked for too much: a flood fills nothing."""
KEPT_EVENTS = 16
"""Events of a workflow that are kept, about; a person who has to find out what happened may want them."""
CACHE = 10_000
"""Open workflows whose state is kept in memory; one that is not is read again."""
REFRESHED = 500
"""States that are compared with the leader's at a time."""
BROKEN_AFTER = 3
"""Deliveries after which an input that `decide` cannot take ends its workflow, so that a person looks."""
HEADERS = 4096
"""Bytes that the headers and the protocol may take of the server's max_payload."""
NEWER_DELAY = 10.0
"""Seconds before a state of a newer version is offered to another orchestrator."""


@dataclass(slots=True)
class _Given:
    value: inputs.Input
    done: asyncio.Future[Workflow | None]
    delivered: int
    new: bool
    """Nothing is known of this workflow yet, as far as we can tell without reading."""


class Engine:
    """Decides for every workflow whose inputs this process gets."""

    def __init__(self, bus: Bus, agent_id: str, metrics: Metrics, log: Logger, *, kept: float = KEPT) -> None:
        """Begin with nothing in memory; a workflow that is over stays for `kept` seconds."""
        self._kept = kept
        self._bus = bus
        self._agent = agent_id
        self._metrics = metrics
        self._log = log
        self.plain: frozenset[str] = frozenset()
        """Agents in other languages, which do not know of a freeze."""
        self.writes = VERSION
        """Version that new states are written in: the highest that every orchestrator knows."""
        self._queues: dict[str, list[_Given]] = {}
        self._states = Opened(CACHE)
        self._brief: set[str] = set()

    @property
    def open(self) -> int:
        """Return how many open workflows this process knows of."""
        return len(self._states)

    def open_of(self, principal: str) -> int:
        """Return how many of them `principal` has asked for."""
        return self._states.of(principal)

    async def feed(self, workflow_id: str, given: inputs.Input, *, delivered: int = 1) -> Workflow | None:
        """Decide over `given`; return the workflow's state once it is committed and its outbox sent.

        Raises BusUnavailable or TemporaryError when the input has to come again, Rejected or Denied when it is a signal
        that cannot be carried out.
        """
        done: asyncio.Future[Workflow | None] = asyncio.get_running_loop().create_future()
        mine = _Given(given, done, delivered, new=isinstance(given, inputs.Begin) and delivered == 1)
        if isinstance(given, inputs.Begin) and given.brief:
            self._brief.add(workflow_id)
        waiting = self._queues.get(workflow_id)
        if waiting is not None:  # somebody is at it and takes ours next
            waiting.append(mine)
        else:
            await self._work(workflow_id, [mine])
        return await done

    async def _work(self, workflow_id: str, batch: list[_Given]) -> None:
        """Decide over `batch`, then over what has come meanwhile, again and again, until nothing has."""
        waiting = self._queues[workflow_id] = []
        try:
            while batch:
                try:
                    state = await self._transition(workflow_id, batch)
                except Exception as error:  # noqa: BLE001 - every waiting input is told; none is lost
                    self._states.drop(workflow_id)
                    _tell(batch, error)
                else:
                    for each in batch:
                        if not each.done.done():
                            each.done.set_result(state)
                batch, waiting[:] = waiting[:], []
        finally:
            del self._queues[workflow_id]
            self._brief.discard(workflow_id)
            left = [*batch, *waiting]
            if left:  # whoever began was cancelled: the others come again
                self._states.drop(workflow_id)
                _tell(left, TemporaryError("this orchestrator is stopping", delay=0.0))

    async def _transition(self, workflow_id: str, batch: list[_Given]) -> Workflow | None:
        while True:
            remembered = workflow_id in self._states
            seq, state = await self._load(workflow_id, batch)
            crash_point("before-commit", workflow_id)
            changed, refused = await self._fold(workflow_id, state, batch)
            if changed is None and remembered:
                self._states.drop(workflow_id)  # another orchestrator may have gone on: ask before it is dropped
                continue
            if changed is not None:
                if state is None:
                    changed = replace(changed, v=self.writes)
                changed, data = self._fitting(changed, new=state is None)
                try:
                    await self._carry_out(changed, data, seq, new=state is None)
                except StaleWrite:
                    self._metrics.event_conflicts.inc()
                    self._states.drop(workflow_id)
                    continue
            for each, error in refused:
                each.done.set_exception(error)
            crash_point("before-input-ack", workflow_id)
            return changed or state

    async def _carry_out(self, state: Workflow, data: bytes, expect: int, *, new: bool) -> None:
        """Commit the next event, then send its outbox; raises StaleWrite when another one was faster."""
        seq = await self._commit(state, data, expect)
        if new:
            self._metrics.workflow_started(state.workflow_type)
        crash_point("after-commit", state.workflow_id)
        await self._emit(state)
        self._states.keep(state, seq)

    async def _fold(
        self, workflow_id: str, state: Workflow | None, batch: list[_Given]
    ) -> tuple[Workflow | None, list[tuple[_Given, Exception]]]:
        """Fold the inputs into one state, None for no change; also return those that cannot be carried out, and why.

        One that cannot be decided is told at once, the others go on.
        """
        at = self._bus.server_time()
        start = current = wf.cleared(state)
        refused: list[tuple[_Given, Exception]] = []
        for each in batch:
            if each.done.done():
                continue
            try:
                current = await evaluated(partial(wf.decide, current, each.value, at))
            except (Rejected, Denied) as error:
                refused.append((each, error))
            except Exception as error:  # noqa: BLE001 - a bug in decide: this input alone is blamed
                self._log.exception("cannot decide", workflow=workflow_id, given=type(each.value).__name__)
                self._metrics.decide_errors.inc()
                if each.delivered < BROKEN_AFTER:
                    each.done.set_exception(error)
                    continue
                text = f"deciding over {type(each.value).__name__} failed {each.delivered} times: {error}"
                self._bus.spawn(self._bury(workflow_id, text, each))
                current = await evaluated(partial(wf.decide, current, inputs.broken(each.value, text), at))
        return None if current is start else current, refused

    def _fitting(self, state: Workflow, *, new: bool) -> tuple[Workflow, bytes]:
        """Return the state as one event can carry it, and its bytes: what does not fit would be stuck for ever."""
        data = encode(state)
        most = min(Workflow.MAX_BYTES, self._bus.max_payload - HEADERS)
        if len(data) <= most:
            return state, data
        state = wf.overgrown(state, len(data), most, new=new)
        self._log.error("a workflow has grown too large", workflow=state.workflow_id, reason=state.error)
        return state, encode(state)

    async def _alarm(self, workflow_id: str, text: str) -> None:
        error = CriticalError("orchestrator", f"{workflow_id}: {text}", now())
        await self._bus.publish(subjects.critical_error("orchestrator"), error)

    async def _bury(self, workflow_id: str, text: str, given: _Given) -> None:
        """Tell of an input that ended its workflow, and keep it."""
        await self._alarm(workflow_id, text)
        subject = subjects.event(workflow_id)
        letter = DeadLetter(subjects.WORKFLOWS, 0, subject, text, self._agent, now(), delivered=given.delivered)
        await dead_letters.bury(self._bus, dead_letters.BROKEN, subjects.ORCH_INPUT, letter, encode(given.value))

    # -- reading and writing ------------------------------------------------------------------------------------------

    async def _load(self, workflow_id: str, batch: list[_Given]) -> tuple[int, Workflow | None]:
        """Return the last event's sequence and state; what we did not commit ourselves is emitted again."""
        known = self._states.get(workflow_id)
        if known is not None:
            return known
        if batch[0].new:
            batch[0].new = False  # most requests are: try without reading, once
            return 0, None
        seq, state = await self._read(workflow_id)
        if state is None:
            return seq, None
        await self._emit(state)
        self._states.keep(state, seq)
        return seq, state

    async def _read(self, workflow_id: str) -> tuple[int, Workflow | None]:
        """Return the sequence of the last event, which the next one replaces, and the last state that can be read.

        What cannot be read was not written by an orchestrator: the workflow goes on from the event before it.  Raises
        TemporaryError for a state of a newer version, GiveUp if no event of the workflow can be read.
        """
        newest = await newest_state(self._bus, workflow_id)
        version = await self._version(workflow_id) if newest.doubt else newest.value.v if newest.value else 0
        if version > VERSION:
            message = f"{workflow_id}: written by a newer orchestrator (state version {version})"
            raise TemporaryError(message, delay=NEWER_DELAY)
        if newest.value is None and newest.doubt:
            where = f"{subjects.event(workflow_id)} in {subjects.WORKFLOWS}"
            raise GiveUp(f"{workflow_id}: no state of it can be read; see {where}")
        return newest.seq, newest.value

    async def _version(self, workflow_id: str) -> int:
        """Return the version of the newest state of which that much can be read."""
        head = (await self._bus.newest(subjects.WORKFLOWS, subjects.event(workflow_id), _Head)).value
        return 0 if head is None else head.v

    async def refresh(self) -> None:
        """Forget what another orchestrator has carried on or ended; asked while too many seem to be open."""
        oldest = self._states.oldest(REFRESHED)
        states = (self._bus.last(subjects.WORKFLOWS, subjects.event(name)) for name, _ in oldest)
        try:
            found = await asyncio.gather(*states)
        except BusUnavailable:
            return
        for (workflow_id, seq), stored in zip(oldest, found, strict=True):
            known = self._states.get(workflow_id)
            if workflow_id in self._queues or known is None or known[0] != seq:
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
        # Replacing at each event what was before it costs half of the throughput; never doing it fills the stream.
        headers = {ROLLUP: "sub"} if expect % KEPT_EVENTS == 0 else None
        return await self._bus.store(subject, data, expect=expect, headers=headers)

    def _ttl(self, state: Workflow) -> float:
        """Return the seconds that a workflow that is over, and its answer, stay."""
        brief = state.workflow_id in self._brief and state.status is Status.REJECTED
        return min(BRIEF, self._kept) if brief else self._kept

    async def _emit(self, state: Workflow) -> None:
        """Send the outbox; what lies there already was sent before."""
        failed: Exception | None = None
        with on_the_loop():
            under_way = [(each, self._send(state, each)) for each in state.outbox]
        for effect, sent in under_way:
            try:
                if sent is not None:
                    await sent
            except StaleWrite:
                await self._send_over_answer(state, effect)
            except Exception as error:  # noqa: BLE001 - the others are waited for, then it is raised
                failed = failed or error
            crash_point("in-outbox")
        if failed is not None:
            raise failed

    async def _send_over_answer(self, state: Workflow, effect: Effect) -> None:
        """Send an effect again if only the server's answers to others are on its subject; else it was sent before."""
        newest = await self._bus.newest(subjects.WORKFLOWS, outgoing.subject_of(state, effect), msgspec.Raw)
        if newest.value is not None or newest.doubt or not newest.seq:
            self._log.debug("sent before", workflow=state.workflow_id, kind=effect.kind, task=effect.task)
        elif (sent := self._send(state, effect, newest.seq)) is not None:
            await sent

    def _send(self, state: Workflow, effect: Effect, expect: int = 0) -> Awaitable[object] | None:
        """Send one effect now; return what tells that it is stored."""
        match effect.kind:
            case "assign":
                return self._assign(state, effect, expect)
            case "respond":
                return asyncio.ensure_future(self._respond(state, expect))
            case "report":
                told = outgoing.report(state, self._agent)
                return self._bus.storing(subjects.complete(self._agent, told.workflow_id, effect.task), told)
            case "entomb" | "stop":
                return self._end(state, effect)
            case "alert":
                return asyncio.ensure_future(self._alarm(state.workflow_id, f"{state.status}: {state.error}"))
            case _:
                return self._arm(state.workflow_id, effect, expect)

    async def _respond(self, state: Workflow, expect: int) -> None:
        """Store the answer; a request on the plain subject is answered on the plain subject as well, after that.

        The plain answer is not stored: after a restart it may be sent twice.
        """
        answer = outgoing.response(state, self._agent)
        try:
            await self._bus.store(subjects.response(state.workflow_id), answer, expect=expect, ttl=self._ttl(state))
        finally:
            if state.principal == subjects.PLAIN:
                await self._bus.publish(subjects.WORKFLOW_RESPONSE, answer)

    def _end(self, state: Workflow, effect: Effect) -> Awaitable[object]:
        """Keep a task from being begun; with `stop` end it, whoever is at it."""
        spec = state.spec(effect.task)
        if spec.workflow:
            child = outgoing.child_id(state.workflow_id, effect.task, effect.attempt)
            signal = WorkflowSignal("cancel", f"{state.workflow_id} is over", compensate=True, workflow_id=child)
            # In the name of whose workflow both are: an orchestrator itself need not be allowed what they do.
            return self._bus.storing(subjects.signal(state.principal, child), signal)
        service = outgoing.service_of(spec.queue)
        key = subjects.effect_key(state.workflow_id, effect.task)
        return asyncio.ensure_future(entomb(self._bus, service, key, self._agent, now(), stop=effect.kind == "stop"))

    def _assign(self, state: Workflow, effect: Effect, expect: int) -> Awaitable[object] | None:
        try:
            message = outgoing.assignment(state, effect.task, effect.attempt)
        except Costly:
            return asyncio.ensure_future(self._assign_costly(state, effect, expect))
        return self._assigned(state, effect, message, expect)

    async def _assign_costly(self, state: Workflow, effect: Effect, expect: int) -> None:
        """Assign a task whose parameters take the event loop too long."""
        message = await in_thread(partial(outgoing.assignment, state, effect.task, effect.attempt))
        sent = self._assigned(state, effect, message, expect)
        if sent is not None:
            await sent

    def _assigned(
        self, state: Workflow, effect: Effect, message: TaskAssignment | None, expect: int
    ) -> Awaitable[object] | None:
        if message is None:  # an older event's outbox, sent again: the state has gone on
            return None
        subject = subjects.assign(message.assigned_to, state.workflow_id, effect.task, effect.attempt)
        ttl = max((message.deadline - self._bus.server_time()).total_seconds(), 0.0) + 3600.0
        changes = state.spec(effect.task).tier is not Tier.READ
        if changes and outgoing.service_of(message.assigned_to) in self.plain:
            return asyncio.ensure_future(self._assign_plain(subject, message, ttl, expect))
        return self._bus.storing(subject, message, expect=expect, ttl=ttl)

    async def _assign_plain(self, subject: str, message: TaskAssignment, ttl: float, expect: int) -> None:
        """Give a task to an agent that knows nothing of a freeze: while there is one, the task is held back here."""
        found = await freeze.read(self._bus)
        if found is None:
            await self._bus.store(subject, message, expect=expect, ttl=ttl)
        else:
            held = outgoing.held_back(message, self._agent, freeze.say(found))
            await self._bus.store(subjects.complete(self._agent, message.workflow_id, subject.split(".")[5]), held)

    def _arm(self, workflow_id: str, effect: Effect, expect: int) -> Awaitable[object]:
        """Let JetStream send a message when it is time: `@at` is the server's clock."""
        whole, number = subjects.WHOLE_WORKFLOW, str(effect.attempt)
        at = effect.at or datetime.fromtimestamp(time.time(), UTC)
        headers = {
            SCHEDULE: f"@at {at.astimezone(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')}",
            SCHEDULE_TARGET: subjects.due(workflow_id, whole, number),
        }
        timer = TimerDue(effect.kind, whole, effect.attempt, workflow_id)
        return self._bus.storing(subjects.timer(workflow_id, whole, number), timer, expect=expect, headers=headers)

    async def ended(self, workflow_id: str) -> bool:
        """Tell whether the workflow is over: most timers fire after that, and then one look is all they cost."""
        if workflow_id in self._states:
            return False
        newest = await self._bus.newest(subjects.WORKFLOWS, subjects.event(workflow_id), _Head)
        if newest.value is None:
            return not newest.doubt
        return newest.value.v <= VERSION and newest.value.status in TERMINAL

    async def read(self, workflow_id: str) -> Workflow | None:
        """Return the state of a workflow as the leader knows it."""
        return (await self._read(workflow_id))[1]

    async def awaits(self, parent: Parent) -> bool:
        """Tell whether the task that wants to start a workflow still waits for it."""
        state = await self.read(parent.workflow_id)
        task = None if state is None else state.tasks.get(parent.task)
        return (
            state is not None
            and task is not None
            and going_on(state)
            and task.status in UNDER_WAY
            and task.attempt == parent.attempt
        )

    async def reported(self, workflow_id: str) -> bool:
        """Tell whether a completion of a task is stored and not handled yet: then what is due can wait."""
        try:
            found = await self._bus.last(subjects.INPUT, f"{subjects.TASK_COMPLETE}.*.{workflow_id}.*")
        except BusUnavailable:
            return True
        return found is not None


def _tell(batch: list[_Given], error: Exception) -> None:
    for each in batch:
        if not each.done.done():
            each.done.set_exception(error)
            each.done.exception()  # asyncio would complain where nobody waits any more: whoever began was cancelled


class _Head(msgspec.Struct):
    status: str
    v: int = 1
