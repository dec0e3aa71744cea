"""Submit workflows, send signals, read states, drain and reload agents."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.errors import BusFull, BusUnavailable, TemporaryError, TooManyWaiting, UsageError
from agentd.similar import suggestion
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.announcements import ControlReply, ControlRequest
from agentd.wire.codec import check_size, encode
from agentd.wire.messages import SignalReply, WorkflowRequest, WorkflowSignal
from agentd.wire.names import check_id, check_own_id
from agentd.wire.workflow import Approval, Status, TaskStatus, Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.bus.stored import Newest

CALL: Final = "tool_call"
"""Type of the workflow that consists of one call of a tool."""
UNDO: Final = "undo"
"""Type of the workflow that undoes calls."""
PREVIEW_TIMEOUT: Final = 10.0
"""Seconds that the preview of a plan by an agent may take."""
STORED: Final = 15.0
"""Seconds for which a request is sent again while NATS does not store it.

When a server is lost, the others elect a new leader of the stream, which takes about five seconds.
"""
RESEND: Final = 0.5
"""Seconds between two of these attempts."""
ANSWERED: Final = 10.0
"""Seconds to wait for an orchestrator's reply to a signal."""
POLL: Final = 2.0
"""Seconds after which the state is read again: an event may have been missed during a reconnect."""


def new_id(workflow_type: str) -> str:
    """Return a new unique id: the name of the type and 40 random bits."""
    return re.sub(r"-+", "-", f"{workflow_type[:40]}-{secrets.token_hex(5)}")


async def submit(bus: Bus, principal: str, request: WorkflowRequest) -> int:
    """Store a request; return its sequence.  The same id again is the same request.

    So it is sent again for `STORED` seconds while NATS does not store it.  Raises BusUnavailable after that time,
    BusFull and TooManyWaiting at once.

    An orchestrator recognises the repetition.  With a message id NATS would discard the repetition, but also every
    message whose id another principal has used before: all subjects of a stream share the message ids.
    """
    check_own_id(request.workflow_id)
    if secret := wire_secrets.refusal(request.parameters):
        raise UsageError(f"parameters: {secret}")
    data = encode(request)
    check_size(data, WorkflowRequest)
    until = time.monotonic() + STORED
    while True:
        try:
            return await bus.store(subjects.request(principal), data)
        except (BusFull, TooManyWaiting):
            raise
        except BusUnavailable:
            if time.monotonic() >= until:
                raise
            await asyncio.sleep(RESEND)


async def state_of(bus: Bus, workflow_id: str) -> Workflow | None:
    """Return the state of one workflow, None if no workflow has this id."""
    return (await newest_state(bus, workflow_id)).value


async def workflow_ids(bus: Bus) -> list[str]:
    """Return the ids of all stored workflows, in no order."""
    return [subject.rpartition(".")[2] for subject in await bus.subjects_of(subjects.WORKFLOWS, subjects.ALL_EVENTS)]


async def newest_state(bus: Bus, workflow_id: str) -> Newest[Workflow]:
    """Return the newest readable state, and the sequence that the next one replaces."""
    subject = subjects.event(check_id(workflow_id))
    return await bus.newest(subjects.WORKFLOWS, subject, Workflow, lambda state: state.workflow_id == workflow_id)


async def plan(bus: Bus, principal: str, tool: str, parameters: dict[str, Any], *, workflow_id: str = "") -> Workflow:
    """Submit a call that needs a second principal's approval; see `begin`."""
    workflow_id = workflow_id or new_id(f"{CALL}-{tool}")
    request = WorkflowRequest(CALL, workflow_id, {"tool": tool, "parameters": parameters})
    return await begin(bus, principal, request)


async def begin(bus: Bus, principal: str, request: WorkflowRequest, *, wait: float = PREVIEW_TIMEOUT) -> Workflow:
    """Submit a request; return its state when it waits for an approval or has ended.

    Raises TemporaryError if it does neither within `wait` seconds; the workflow continues.
    """
    await submit(bus, principal, request)
    state = await _wait_for_state(
        bus, request.workflow_id, lambda current: current.status is Status.WAITING_APPROVAL, wait
    )
    if state is None or not (state.over or state.status is Status.WAITING_APPROVAL):
        raise still_running_error(request.workflow_id, wait)
    return state


async def wait_until_ended(bus: Bus, workflow_id: str, *, wait: float) -> Workflow:
    """Return the state when the workflow has ended, or after `wait` s."""
    state = await _wait_for_state(bus, workflow_id, lambda _: False, wait)
    if state is None:
        raise await unknown(bus, workflow_id)
    return state


async def wait_until_settled(
    bus: Bus, workflow_id: str, *, wait: float, show: Callable[[Workflow], None] = lambda _: None
) -> Workflow:
    """Return a workflow once it has ended or waits for an approval, or after `wait` s.

    show  is called with each state that is read on the way

    Raises UsageError if it is unknown.
    """

    def enough(state: Workflow) -> bool:
        show(state)
        return state.status is Status.WAITING_APPROVAL

    state = await _wait_for_state(bus, workflow_id, enough, wait)
    if state is None:
        raise await unknown(bus, workflow_id)
    return state


async def _wait_for_state(
    bus: Bus, workflow_id: str, enough: Callable[[Workflow], bool], wait: float
) -> Workflow | None:
    """Return the state when `enough` accepts it, at the end, or after `wait` s."""
    until = time.monotonic() + wait
    async with watch_subjects(bus, subjects.event(workflow_id)) as changed:
        while True:
            state = await state_of(bus, workflow_id)
            left = min(POLL, until - time.monotonic())
            if left <= 0 or (state is not None and (state.over or enough(state))):
                return state
            await changed(left)


async def signal(bus: Bus, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
    """Send a signal to a workflow; return whether it was carried out, or why not.

    Raises UsageError if there is no such workflow or it is finished, TemporaryError if no orchestrator replies in time:
    the signal is stored nevertheless, and will be carried out.
    """
    await _running(bus, workflow_id)
    replies: asyncio.Queue[SignalReply] = asyncio.Queue()

    async def on_reply(received: Received) -> None:
        replies.put_nowait(received.decode(SignalReply))

    inbox = bus.inbox("signal")
    subscription = await bus.subscribe(inbox, on_reply)
    try:
        await bus.store(
            subjects.signal(principal, workflow_id),
            msgspec.structs.replace(
                wanted, reply=inbox, workflow_id=workflow_id, reason=wire_secrets.redacted(wanted.reason)
            ),
        )
        async with asyncio.timeout(ANSWERED):
            return await replies.get()
    except TimeoutError as error:
        raise TemporaryError(
            f"no orchestrator has answered within {ANSWERED:.0f} s; {wanted.action} is stored and will be done"
        ) from error
    finally:
        await subscription.stop()


async def send_decision(bus: Bus, principal: str, workflow_id: str, task: str, wanted: WorkflowSignal) -> SignalReply:
    """Approve or reject a task; `wanted.digest` is the digest of what was shown.

    task  may be "" if only one task waits; without a digest, the content that `waiting_approval` returns now is meant

    Raises UsageError if the workflow does not wait for an approval, and the errors of `signal`.
    """
    name, approval = await waiting_approval(bus, workflow_id, task)
    exact = msgspec.structs.replace(wanted, task=name, digest=wanted.digest or approval.digest)
    return await signal(bus, principal, workflow_id, exact)


async def waiting_approval(bus: Bus, workflow_id: str, task: str) -> tuple[str, Approval]:
    """Return the task that waits and its approval; raises UsageError if none waits."""
    state = await _running(bus, workflow_id)
    waiting = {
        name: entry.approval for name, entry in state.tasks.items() if entry.status is TaskStatus.WAITING_APPROVAL
    }
    name = task or (next(iter(waiting)) if len(waiting) == 1 else "")
    approval = waiting.get(name)
    if approval is None:
        others = f"; what waits: {', '.join(waiting)}" if waiting else ""
        raise UsageError(
            f"{workflow_id}: {f'{task} does not wait' if task else 'name the task that waits'} for an approval{others}"
        )
    return name, approval


async def _running(bus: Bus, workflow_id: str) -> Workflow:
    state = await state_of(bus, workflow_id)
    if state is None:
        raise await unknown(bus, workflow_id)
    if state.over:
        raise UsageError(f"workflow {workflow_id!r} has ended: {state.status}")
    return state


@contextlib.asynccontextmanager
async def watch_subjects(bus: Bus, *subjects_: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """Subscribe to subjects; yield a function that waits for the next message."""
    arrived = asyncio.Event()

    async def on_message(_: Received) -> None:
        arrived.set()

    async def wait(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await arrived.wait()
        arrived.clear()

    subscriptions = [await bus.subscribe(subject, on_message) for subject in subjects_]
    try:
        yield wait
    finally:
        for subscription in subscriptions:
            await subscription.stop()


def still_running_error(workflow_id: str, waited: float) -> TemporaryError:
    """Return the error for a caller that stops waiting; the workflow continues."""
    return TemporaryError(f"{workflow_id} has not ended after {waited:g} s; it continues: agentd watch {workflow_id}")


async def unknown(bus: Bus, workflow_id: str) -> UsageError:
    """Return the error for an id that no workflow has; it names the most similar ids."""
    hint = suggestion(workflow_id, await workflow_ids(bus), listed="`agentd workflows` lists them", shown=0)
    return UsageError(f"there is no workflow {workflow_id!r}{hint}")


async def control_agent_as(bus: Bus, principal: str, agent_id: str, action: str) -> ControlReply:
    """Ask one agent to drain or reload on behalf of a principal.

    Raises NoResponder if no agent has this id. The agent decides whether the principal may.
    """
    subject = subjects.control_by(principal, check_id(agent_id, "agent"))
    return await bus.request(subject, ControlRequest(action), ControlReply)


async def control_agent(bus: Bus, agent_id: str, action: str) -> ControlReply:
    """Ask one agent to drain or reload; raises NoResponder if no agent has this id."""
    check_id(agent_id, "agent")
    return await bus.request(subjects.control(agent_id), ControlRequest(action), ControlReply)
