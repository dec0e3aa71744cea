"""Sends the outbox of a committed state.

Each message expects that its subject is empty, so sending an outbox again has the effect of sending it once.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agentd import StaleWrite, Tier, Workflow, WorkflowSignal, now, subjects
from agentd.bus.jetstream import SCHEDULE, SCHEDULE_TARGET
from agentd.crash_points import crash_point
from agentd.safety import freeze
from agentd.tools.effects import write_tombstone
from agentd.wire.announcements import CriticalError
from agentd.wire.messages import TaskAssignment, TimerDue
from agentd_orchestrator.expressions.metering import TooExpensive, in_thread, limit_loop_time
from agentd_orchestrator.state_machine import outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from agentd import Bus, Logger
    from agentd.wire.workflow import OutboxMessage


class Outbox:
    """Sends the messages of committed states."""

    def __init__(self, bus: Bus, agent_id: str, log: Logger, external: frozenset[str]) -> None:
        """Send in the name of the orchestrator `agent_id`.

        external  names of external agents, which do not know about a freeze
        """
        self._bus = bus
        self._agent = agent_id
        self._log = log
        self._external = external

    async def send(self, state: Workflow, ttl: float) -> None:
        """Send the outbox; a message whose subject is not empty was sent before.

        ttl  seconds that the response of the workflow is kept
        """
        failed: Exception | None = None
        with limit_loop_time():
            under_way = [(outbox_message, self._send(state, outbox_message, ttl)) for outbox_message in state.outbox]
        for outbox_message, sent in under_way:
            try:
                if sent is not None:
                    await sent
            except StaleWrite:
                await self._send_over_answer(state, outbox_message, ttl)
            except Exception as error:  # noqa: BLE001 - raised after the others have been sent
                failed = failed or error
            crash_point("in-outbox")
        if failed is not None:
            raise failed

    async def _send_over_answer(self, state: Workflow, outbox_message: OutboxMessage, ttl: float) -> None:
        """Send a message again if its subject holds only server replies to other clients.

        Otherwise it was sent before.
        """
        newest = await self._bus.newest(subjects.WORKFLOWS, outgoing.subject_of(state, outbox_message), msgspec.Raw)
        if newest.value is not None or newest.doubt or not newest.seq:
            self._log.debug(
                "sent before", workflow=state.workflow_id, kind=outbox_message.kind, task=outbox_message.task
            )
        elif (sent := self._send(state, outbox_message, ttl, newest.seq)) is not None:
            await sent

    def _send(
        self, state: Workflow, outbox_message: OutboxMessage, ttl: float, expect: int = 0
    ) -> Awaitable[object] | None:
        """Send one message now; the returned awaitable completes when it is stored."""
        match outbox_message.kind:
            case "assign":
                return self._assign(state, outbox_message, expect)
            case "respond":
                return asyncio.ensure_future(self._respond(state, ttl, expect))
            case "report":
                completion = outgoing.child_report(state, self._agent)
                return self._bus.storing(
                    subjects.complete(self._agent, completion.workflow_id, outbox_message.task), completion
                )
            case "entomb" | "stop":
                return self._prevent_start(state, outbox_message)
            case "alert":
                return asyncio.ensure_future(self.alarm(state.workflow_id, f"{state.status}: {state.error}"))
            case _:
                return self._schedule_timer(state.workflow_id, outbox_message, expect)

    async def _respond(self, state: Workflow, ttl: float, expect: int) -> None:
        """Store the response; also publish it if the request used the plain subject.

        The plain response follows the stored one and is not stored itself: after a restart it may be sent twice.
        """
        answer = outgoing.response(state, self._agent)
        try:
            await self._bus.store(subjects.response(state.workflow_id), answer, expect=expect, ttl=ttl)
        finally:
            if state.principal == subjects.PLAIN:
                await self._bus.publish(subjects.WORKFLOW_RESPONSE, answer)

    def _prevent_start(self, state: Workflow, outbox_message: OutboxMessage) -> Awaitable[object]:
        """Prevent a task from being started; with `stop` also stop a running attempt."""
        spec = state.spec(outbox_message.task)
        if spec.workflow:
            child = outgoing.child_id(state.workflow_id, outbox_message.task, outbox_message.attempt)
            signal = WorkflowSignal("cancel", f"{state.workflow_id} has ended", undo=True, workflow_id=child)
            # Sent as the principal of both workflows: the orchestrator itself may lack the permissions for their tasks.
            return self._bus.storing(subjects.signal(state.principal, child), signal)
        service = subjects.service_of(spec.queue)
        key = subjects.effect_key(state.workflow_id, outbox_message.task)
        return asyncio.ensure_future(
            write_tombstone(self._bus, service, key, self._agent, now(), stop=outbox_message.kind == "stop")
        )

    def _assign(self, state: Workflow, outbox_message: OutboxMessage, expect: int) -> Awaitable[object] | None:
        try:
            message = outgoing.assignment(state, outbox_message.task, outbox_message.attempt)
        except TooExpensive:
            return asyncio.ensure_future(self._assign_costly(state, outbox_message, expect))
        return self._assigned(state, outbox_message, message, expect)

    async def _assign_costly(self, state: Workflow, outbox_message: OutboxMessage, expect: int) -> None:
        """Assign a task whose parameters take too long to evaluate on the event loop."""
        message = await in_thread(partial(outgoing.assignment, state, outbox_message.task, outbox_message.attempt))
        sent = self._assigned(state, outbox_message, message, expect)
        if sent is not None:
            await sent

    def _assigned(
        self, state: Workflow, outbox_message: OutboxMessage, message: TaskAssignment | None, expect: int
    ) -> Awaitable[object] | None:
        if message is None:  # an older event's outbox, sent again: the state has changed since
            return None
        subject = subjects.assign(message.assigned_to, state.workflow_id, outbox_message.task, outbox_message.attempt)
        ttl = max((message.deadline - self._bus.server_time()).total_seconds(), 0.0) + 3600.0
        changes = state.spec(outbox_message.task).tier is not Tier.READ
        if changes and subjects.service_of(message.assigned_to) in self._external:
            return asyncio.ensure_future(self._assign_plain(subject, message, ttl, expect))
        return self._bus.storing(subject, message, expect=expect, ttl=ttl)

    async def _assign_plain(self, subject: str, message: TaskAssignment, ttl: float, expect: int) -> None:
        """Assign a task to an external agent, which knows nothing about a freeze.

        During a freeze the task is held back here.
        """
        in_force = await freeze.read(self._bus)
        if in_force is None:
            await self._bus.store(subject, message, expect=expect, ttl=ttl)
        else:
            held = outgoing.held_completion(message, self._agent, freeze.describe(in_force))
            await self._bus.store(subjects.complete(self._agent, message.workflow_id, subject.split(".")[5]), held)

    def _schedule_timer(self, workflow_id: str, outbox_message: OutboxMessage, expect: int) -> Awaitable[object]:
        """Schedule a timer message in JetStream: `@at` uses the server's clock."""
        whole, number = subjects.WHOLE_WORKFLOW, str(outbox_message.attempt)
        at = outbox_message.at or datetime.fromtimestamp(time.time(), UTC)
        headers = {
            SCHEDULE: f"@at {at.astimezone(UTC).isoformat(timespec='microseconds').replace('+00:00', 'Z')}",
            SCHEDULE_TARGET: subjects.due(workflow_id, whole, number),
        }
        timer = TimerDue(outbox_message.kind, whole, outbox_message.attempt, workflow_id)
        return self._bus.storing(subjects.timer(workflow_id, whole, number), timer, expect=expect, headers=headers)

    async def alarm(self, workflow_id: str, text: str) -> None:
        """Report a workflow that a person has to look at."""
        error = CriticalError("orchestrator", f"{workflow_id}: {text}", now())
        await self._bus.publish(subjects.critical_error("orchestrator"), error)
