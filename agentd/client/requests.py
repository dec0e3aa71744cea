"""Ask for a workflow, steer it, and see how it stands: what daemons do too; `client.py` has what people do besides."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.errors import TemporaryError, UsageError
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import check_size, encode
from agentd.wire.messages import ControlReply, ControlRequest, SignalReply, WorkflowRequest, WorkflowSignal
from agentd.wire.workflow import Approval, Status, TaskStatus, Workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentd.bus.connection import Received
    from agentd.bus.jetstream import Bus, Newest

CALL: Final = "tool_call"
"""The workflow that is one call of a tool."""
UNDO: Final = "undo"
"""The workflow that takes back what calls have done."""
LOOKED: Final = 10.0
"""Seconds within which an agent has looked at what a plan would change."""
ANSWERED: Final = 10.0
"""Seconds within which an orchestrator says whether it has carried out a signal."""
POLL: Final = 2.0
"""Seconds after which the state is read again: an event may have been missed while reconnecting."""


def new_id(workflow_type: str) -> str:
    """Return an id that nobody else has: the type's name and 40 random bits."""
    return re.sub(r"-+", "-", f"{workflow_type[:40]}-{secrets.token_hex(5)}")


async def submit(bus: Bus, principal: str, request: WorkflowRequest) -> int:
    """Store a request; return its sequence.  Sending it again with the same id is the same request.

    An orchestrator finds that out.  A message id would let NATS leave out a repetition, and with it every message whose
    id another principal has used before: all of the stream's subjects share them.
    """
    subjects.check_own_id(request.workflow_id)
    if secret := wire_secrets.refusal(request.parameters):
        raise UsageError(f"parameters: {secret}")
    data = encode(request)
    check_size(data, WorkflowRequest)
    return await bus.store(subjects.request(principal), data)


async def state_of(bus: Bus, workflow_id: str) -> Workflow | None:
    """Return the state of one workflow, None if there is none of that id."""
    return (await newest_state(bus, workflow_id)).value


async def newest_state(bus: Bus, workflow_id: str) -> Newest[Workflow]:
    """Return the newest readable state of a workflow, and the sequence that the next one replaces."""
    subject = subjects.event(subjects.check_id(workflow_id))
    return await bus.newest(subjects.WORKFLOWS, subject, Workflow, lambda state: state.workflow_id == workflow_id)


async def plan(bus: Bus, principal: str, tool: str, parameters: dict[str, Any], *, workflow_id: str = "") -> Workflow:
    """Ask for a call that somebody else has to approve; as `begin` does."""
    workflow_id = workflow_id or new_id(f"{CALL}-{tool}")
    request = WorkflowRequest(CALL, workflow_id, {"tool": tool, "parameters": parameters})
    return await begin(bus, principal, request)


async def begin(bus: Bus, principal: str, request: WorkflowRequest, *, wait: float = LOOKED) -> Workflow:
    """Submit a request; return how its workflow stands once it waits for an approval, or is over.

    Raises TemporaryError if it does neither within `wait` seconds: it goes on without us.
    """
    await submit(bus, principal, request)
    state = await _when(bus, request.workflow_id, lambda current: current.status is Status.WAITING_APPROVAL, wait)
    if state is None or not (state.over or state.status is Status.WAITING_APPROVAL):
        raise going_on(request.workflow_id, wait)
    return state


async def ended(bus: Bus, workflow_id: str, *, wait: float) -> Workflow:
    """Return how a workflow stands once it is over, or after `wait` seconds; raises UsageError if there is none."""
    state = await _when(bus, workflow_id, lambda _: False, wait)
    if state is None:
        raise _unknown(workflow_id)
    return state


async def _when(bus: Bus, workflow_id: str, enough: Callable[[Workflow], bool], wait: float) -> Workflow | None:
    """Return how a workflow stands once that is enough, it is over, or `wait` seconds have passed."""
    until = time.monotonic() + wait
    async with changes(bus, subjects.event(workflow_id)) as changed:
        while True:
            state = await state_of(bus, workflow_id)
            left = min(POLL, until - time.monotonic())
            if left <= 0 or (state is not None and (state.over or enough(state))):
                return state
            await changed(left)


async def signal(bus: Bus, principal: str, workflow_id: str, wanted: WorkflowSignal) -> SignalReply:
    """Ask for a change of a running workflow; return whether an orchestrator carried it out, and if not, why.

    Raises UsageError if there is no such workflow or it is over, TemporaryError if nobody answers in time: the signal
    is stored all the same, and will be carried out.
    """
    await _running(bus, workflow_id)
    heard: asyncio.Queue[SignalReply] = asyncio.Queue()

    async def on_reply(received: Received) -> None:
        heard.put_nowait(received.decode(SignalReply))

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
            return await heard.get()
    except TimeoutError as error:
        message = f"no orchestrator has answered within {ANSWERED:.0f} s; {wanted.action} is stored and will be done"
        raise TemporaryError(message) from error
    finally:
        await subscription.stop()


async def decide(bus: Bus, principal: str, workflow_id: str, task: str, wanted: WorkflowSignal) -> SignalReply:
    """Approve or reject what a workflow waits for, as it was shown: `wanted.digest` says as what.

    task  may be "" when only one waits; without a digest it is what `waits` shows now

    Raises UsageError when it waits for nothing, and what `signal` raises.
    """
    name, approval = await waits(bus, workflow_id, task)
    exact = msgspec.structs.replace(wanted, task=name, digest=wanted.digest or approval.digest)
    return await signal(bus, principal, workflow_id, exact)


async def waits(bus: Bus, workflow_id: str, task: str) -> tuple[str, Approval]:
    """Return the task that waits for an approval, and what is shown; raises UsageError when none does."""
    state = await _running(bus, workflow_id)
    waiting = {
        name: entry.approval for name, entry in state.tasks.items() if entry.status is TaskStatus.WAITING_APPROVAL
    }
    name = task or (next(iter(waiting)) if len(waiting) == 1 else "")
    approval = waiting.get(name)
    if approval is None:
        there = f"; what waits: {', '.join(waiting)}" if waiting else ""
        message = (
            f"{workflow_id}: {f'{task} does not wait' if task else 'name the task that waits'} for an approval{there}"
        )
        raise UsageError(message)
    return name, approval


async def _running(bus: Bus, workflow_id: str) -> Workflow:
    state = await state_of(bus, workflow_id)
    if state is None:
        raise _unknown(workflow_id)
    if state.over:
        message = f"workflow {workflow_id!r} is over: {state.status}"
        raise UsageError(message)
    return state


@contextlib.asynccontextmanager
async def changes(bus: Bus, *subjects_: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
    """Listen to subjects; yield what waits for so many seconds for the next message on one of them."""
    heard = asyncio.Event()

    async def on_message(_: Received) -> None:
        heard.set()

    async def wait(seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await heard.wait()
        heard.clear()

    subscriptions = [await bus.subscribe(subject, on_message) for subject in subjects_]
    try:
        yield wait
    finally:
        for subscription in subscriptions:
            await subscription.stop()


def going_on(workflow_id: str, waited: float) -> TemporaryError:
    """Return the error of who has waited long enough for a workflow that goes on."""
    return TemporaryError(f"{workflow_id} is not over after {waited:g} s; it goes on: agentd watch {workflow_id}")


def _unknown(workflow_id: str) -> UsageError:
    return UsageError(f"there is no workflow {workflow_id!r}; `agentd workflows` lists them")


async def control(bus: Bus, agent_id: str, action: str) -> ControlReply:
    """Tell one agent to drain or reload; raises NoResponder when there is none of that id."""
    subjects.check_id(agent_id, "agent")
    return await bus.request(subjects.control(agent_id), ControlRequest(action), ControlReply)
