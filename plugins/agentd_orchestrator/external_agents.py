"""External agents: clients in any language that know only the wire messages.

The decisions:

- An external agent has a queue of its own name under `[[bus.queues]]`, with `external`.  With `pull` it takes its tasks
  from the durable consumer and acknowledges them: a task that it does not acknowledge is redelivered.  With `push` the
  NATS server itself publishes them to `ai.tasks.assign.<agent>` while the agent is subscribed: core NATS is enough, and
  a lost assignment is repeated through the deadline of its attempt and its retries.  No agentd process forwards the
  tasks, so none can fail while doing so.
- It stores no effect records, so it may execute a task twice: it gets only tasks of tier `read`, unless
  `[policy.external_agents]` grants it a higher tier.  A plan that gives it more is rejected before it starts.
- It completes on the plain `ai.tasks.complete`, where nothing proves the sender.  So such a completion is valid only
  for a task that is under way, in a queue declared with `external`, and of a tier that the agent may have; never
  for a preview, because a person approves its result.  The attempt may be missing: then the current one is meant.
- On `ai.tasks.complete.<agent>.<workflow>.<task>` NATS proves the agent.  The fields of the message must match the
  subject, and an external agent can complete only tasks of its own queue.  Here too the attempt may be missing: the
  assignment of a first attempt does not have it.
- It writes no lease itself: orchestrators keep a lease for it in the bucket `live` while they receive its messages, so
  that people and pages see it.  An id of an agentd daemon is never taken over, and the number of leases is limited,
  because any client may register.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec.structs import replace

from agentd import (
    AgentRegistration,
    BusError,
    Denied,
    Heartbeat,
    InvalidMessage,
    RateLimitedLog,
    StaleWrite,
    TaskStatus,
    Workflow,
    now,
    subjects,
)
from agentd.client.requests import state_of
from agentd.wire.announcements import DiscoveryRequest, Presence, ServiceRegistration
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentd import Context, Policy, Received, TaskSpec
    from agentd.config.settings import Queue
    from agentd.wire.messages import TaskCompletion

M = TypeVar("M")

LEASE: Final = 90.0
"""Seconds that an external agent counts as alive after its last message: three heartbeats."""
RENEW: Final = 10.0
"""Seconds between two writes of one lease, however often its agent sends messages."""
PAUSE: Final = 0.5
"""Seconds between two rounds of writing."""
KNOWN: Final = 200
"""Maximum of external agents that have a lease at the same time."""
OFFLINE: Final = "offline"


def configured_names(queues: Iterable[Queue], policy: Policy) -> frozenset[str]:
    """Return the external agents in the configuration."""
    return frozenset(
        {subjects.service_of(queue.name) for queue in queues if queue.external != "no"} | set(policy.external_agents)
    )


def check(plan: list[TaskSpec], queues: Iterable[Queue], policy: Policy) -> None:
    """Raise Denied for a task whose tier is too high for its external agent."""
    plain = configured_names(queues, policy)
    for task in plan:
        agent = subjects.service_of(task.queue)
        granted = policy.tier_of_plain_agent(agent)
        if agent in plain and not granted.covers(task.tier):
            raise Denied(
                f"task {task.name}: needs tier {task.tier}, and the plain agent {agent} may be given {granted}; "
                f'if it can be trusted to do nothing twice: [policy.external_agents] {agent} = "{task.tier}"'
            )


# -- completions ------------------------------------------------------------------------------------------------------


async def complete_plain(context: Context, completion: TaskCompletion) -> tuple[str, str, TaskCompletion]:
    """Return workflow, task and a plain completion with missing fields filled in.

    Raises InvalidMessage that names the invalid field.
    """
    workflow, dot, name = completion.task_id.rpartition(".")
    if not dot:
        raise InvalidMessage(
            f"TaskCompletion.task_id: {completion.task_id!r} is not <workflow>.<task>, as in the assignment"
        )
    check_id(workflow, "TaskCompletion.task_id")
    state = await _state(context, workflow, name)
    queue = next((queue for queue in context.config.bus.queues if queue.name == state.spec(name).queue), None)
    _acceptable(completion, state, name, "no" if queue is None else queue.external)
    return workflow, name, _normalized(completion, state.spec(name), state.tasks[name].attempt, context.policy)


async def verify_completion(
    context: Context, subject: str, completion: TaskCompletion
) -> tuple[str, str, TaskCompletion]:
    """Return workflow, task and a completion whose subject names them and its agent.

    Raises InvalidMessage if the message does not match its subject.
    """
    _, _, _, agent, workflow, name = subject.split(".")
    stated = {"agent_id": agent, "workflow_id": workflow, "task_id": f"{workflow}.{name}"}
    for field, value in stated.items():
        given = getattr(completion, field)
        if given and given != value:
            raise InvalidMessage(f"TaskCompletion.{field}: {given!r} is not {value!r}, which its subject names")
    check_id(workflow)
    plain = {subjects.service_of(queue.name) for queue in context.config.bus.queues if queue.external != "no"}
    if agent in plain:
        state = await _state(context, workflow, name)
        spec = state.spec(name)
        if spec.preview or subjects.service_of(spec.queue) != agent:
            raise InvalidMessage(f"TaskCompletion: {workflow}.{name} is not a task that {agent!r} may complete")
        attempt = completion.attempt or state.tasks[name].attempt
        return workflow, name, replace(completion, **stated, service_id=agent, attempt=attempt)
    return workflow, name, replace(completion, **stated)


async def _state(context: Context, workflow: str, name: str) -> Workflow:
    """Return the state of a workflow that has the task `name`; raises InvalidMessage."""
    state = await state_of(context.bus, workflow)
    if state is None or name not in state.tasks:
        raise InvalidMessage(f"TaskCompletion.task_id: there is no task {f'{workflow}.{name}'!r}")
    return state


def _acceptable(completion: TaskCompletion, state: Workflow, name: str, plain: str) -> None:
    """Raise InvalidMessage if the agent may not complete the task on a plain subject."""
    spec, task = state.spec(name), state.tasks[name]
    named = f"{subjects.TASK_COMPLETE}.<agent>.<workflow>.<task>"
    if plain == "no":
        raise InvalidMessage(
            f"TaskCompletion: {completion.task_id} is for the queue {spec.queue!r}, not declared with `external` "
            f"under [[bus.queues]]: nothing proves who completes it on {subjects.TASK_COMPLETE}; publish to {named}"
        )
    if spec.preview:
        raise InvalidMessage(
            f"TaskCompletion: {completion.task_id} is a preview, which a person approves, so publish to {named}"
        )
    if task.status is TaskStatus.WAITING_APPROVAL:
        raise InvalidMessage(f"TaskCompletion: {completion.task_id} waits for an approval and was given to no agent")
    given = subjects.service_of(spec.queue) if plain == "push" else task.agent
    if given and completion.agent_id not in {"", given}:
        raise InvalidMessage(
            f"TaskCompletion.agent_id: {completion.agent_id!r} was not given {completion.task_id}; {given!r} was"
        )


def _normalized(completion: TaskCompletion, spec: TaskSpec, attempt: int, policy: Policy) -> TaskCompletion:
    """Return the completion with the fields that `decide` needs.

    Raises InvalidMessage if the sender may not complete this task.
    """
    service = subjects.service_of(spec.queue)
    if service not in {completion.service_id, completion.agent_id}:
        named = completion.service_id or completion.agent_id
        raise InvalidMessage(
            f"TaskCompletion.{'service_id' if completion.service_id else 'agent_id'}: {named!r} was not given "
            f"{completion.task_id}; {service!r} was"
        )
    if not policy.tier_of_plain_agent(service).covers(spec.tier):
        raise InvalidMessage(
            f"TaskCompletion: {completion.task_id} is of tier {spec.tier}: nothing proves who completes it on "
            f"{subjects.TASK_COMPLETE}; publish to {subjects.TASK_COMPLETE}.<agent>.<workflow>.<task>"
        )
    return replace(
        completion,
        attempt=completion.attempt or attempt,
        service_id=service,
        agent_id=completion.agent_id or service,
    )


# -- presence ---------------------------------------------------------------------------------------------------------


class ExternalAgents:
    """Keeps the leases of the external agents that send messages."""

    def __init__(self, context: Context) -> None:
        """Start without any agents."""
        self._context = context
        self._known: dict[str, _Known] = {}
        self._gone: set[str] = set()
        self._changed = asyncio.Event()
        self._limited_log = RateLimitedLog(context.log)

    async def run(self) -> None:
        """Keep leases until the context is stopping.

        Leases are written at most twice a second, however many messages arrive.
        """
        bus, stopping = self._context.bus, self._context.stopping
        subscriptions = [
            await bus.subscribe(
                subjects.AGENT_REGISTER, self._observing_handler(AgentRegistration, self._on_registration)
            ),
            await bus.subscribe(
                subjects.SERVICE_REGISTER, self._observing_handler(ServiceRegistration, self._on_service)
            ),
            await bus.subscribe(subjects.ALL_HEARTBEATS, self._observing_handler(Heartbeat, self._on_heartbeat)),
        ]
        try:
            request = DiscoveryRequest(self._context.agent_id, now())  # repeats what was sent before the subscription
            await bus.publish(subjects.AGENT_DISCOVERY, request)
            await bus.publish(subjects.SERVICE_DISCOVERY, request)
            while not stopping.is_set():
                await self._wait_for_change(stopping)
                await self._write()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE):
                        await stopping.wait()
        finally:
            for subscription in subscriptions:
                await subscription.stop()

    async def _wait_for_change(self, stopping: asyncio.Event) -> None:
        """Wait until there is something to write, or `stopping` is set."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        self._changed.clear()

    def _observing_handler(self, kind: type[M], note: Callable[[M], None]) -> Callable[[Received], Awaitable[None]]:
        async def handler(received: Received) -> None:
            try:
                note(received.decode(kind))
            except InvalidMessage as error:
                self._limited_log.warning("cannot be decoded", subject=received.subject, reason=str(error))

        return handler

    def _on_registration(self, agent: AgentRegistration) -> None:
        if agent.version:
            return  # an agentd daemon: it keeps its lease itself
        known = self._known.get(check_id(agent.agent_id, "AgentRegistration.agent_id"))
        self._note_presence(Presence(agent, [] if known is None else known.presence.services))

    def _on_service(self, service: ServiceRegistration) -> None:
        """Treat a service as its agent, if the configuration declares it with `plain`.

        The services of agentd daemons register on the same subject.
        """
        name = check_id(service.service_id, "ServiceRegistration.service_id")
        if any(
            queue.external != "no" and subjects.service_of(queue.name) == name
            for queue in self._context.config.bus.queues
        ):
            known = self._known.get(name)
            agent = AgentRegistration(name, service.capabilities, status=service.status)
            self._note_presence(Presence(agent if known is None else known.presence.agent, [service]))

    def _on_heartbeat(self, beat: Heartbeat) -> None:
        known = self._known.get(beat.agent_id)
        if known is not None:
            self._note_presence(replace(known.presence, agent=replace(known.presence.agent, status=beat.status)))

    def _note_presence(self, presence: Presence) -> None:
        name, at = presence.agent.agent_id, time.monotonic()
        known = self._known.get(name)
        if presence.agent.status == OFFLINE:
            if self._known.pop(name, None) is not None:
                self._gone.add(name)
                self._changed.set()
        elif known is not None:
            known.due = known.due or known.presence != presence or at - known.written > RENEW
            known.presence, known.seen = presence, at
            if known.due:
                self._changed.set()
        elif self._has_room(at):
            self._known[name] = _Known(presence, at)
            self._gone.discard(name)
            self._changed.set()
        else:
            self._limited_log.warning("too many plain agents; this one is not shown", agent=name, most=KNOWN)

    def _has_room(self, at: float) -> bool:
        """Return whether one more agent can be kept, after removing the silent ones."""
        if len(self._known) >= KNOWN:
            self._known = {name: known for name, known in self._known.items() if at - known.seen < LEASE}
        return len(self._known) < KNOWN

    # -- the leases ---------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Renew the leases that are due, and delete those of agents that went offline."""
        try:
            for name, known in [(name, known) for name, known in self._known.items() if known.due]:
                known.due, known.written = False, time.monotonic()
                await self._renew(name, known.presence)
            while self._gone:
                name = next(iter(self._gone))
                if await self._lease_sequence(name) is not None:
                    await self._context.bus.kv_delete(subjects.LIVE, name)
                self._gone.discard(name)
        except BusError as error:  # the next heartbeat repeats the write, or the lease expires
            self._limited_log.warning("the leases of plain agents cannot be kept", reason=str(error))

    async def _renew(self, name: str, presence: Presence) -> None:
        expect = await self._lease_sequence(name)
        if expect is None:
            return
        shown = replace(presence, agent=replace(presence.agent, timestamp=now()))
        # If another orchestrator was faster, it has received the same message.
        with contextlib.suppress(StaleWrite):
            await self._context.bus.kv_put(subjects.LIVE, name, shown, ttl=LEASE, expect=expect)

    async def _lease_sequence(self, name: str) -> int | None:
        """Return the sequence of an external agent's lease, 0 for none.

        None if the id belongs to an agentd daemon.
        """
        newest = await self._context.bus.kv_read(subjects.LIVE, name, Presence)
        presence = newest.value
        if presence is not None and presence.agent.version:
            self._limited_log.warning("a plain agent uses the id of an agentd daemon", agent=name)
            return None
        return newest.seq


@dataclass
class _Known:
    """The last known presence of an external agent.

    seen     monotonic time of its last message
    written  monotonic time of the last write of its lease
    due      its lease has to be written
    """

    presence: Presence
    seen: float
    written: float = 0.0
    due: bool = True
