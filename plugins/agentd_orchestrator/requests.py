"""Requests: each becomes a workflow, or a rejection sent to the requester."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from agentd import (
    AgentdError,
    Denied,
    GiveUp,
    InvalidMessage,
    Parent,
    Rejected,
    Status,
    Tier,
    Workflow,
    WorkflowRequest,
    WorkflowResponse,
    secrets,
    subjects,
)
from agentd.tools.large_results import resolve_references
from agentd.wire.messages import TaskAssignment, request_digest, withheld_of
from agentd_orchestrator import external_agents, schedules
from agentd_orchestrator.admission import Quota
from agentd_orchestrator.declared.library import Library
from agentd_orchestrator.engine.executor import BROKEN_AFTER
from agentd_orchestrator.expressions.metering import evaluate_async
from agentd_orchestrator.queues import Queues
from agentd_orchestrator.state_machine.inputs import PlannedRequest
from agentd_orchestrator.state_machine.outgoing import child_id
from agentd_orchestrator.state_machine.planner import Planner, is_authenticated

if TYPE_CHECKING:
    from agentd import Context, Job
    from agentd_orchestrator.engine.executor import Engine
    from agentd_orchestrator.settings import OrchestratorSettings


class Requests:
    """Handles the requests of principals, and of tasks that start a workflow."""

    def __init__(self, context: Context, engine: Engine) -> None:
        """Start workflows in `engine`."""
        self._context = context
        self._engine = engine
        settings: OrchestratorSettings = context.settings
        self._library = Library(settings.workflows_dir, context.known_tools, context.workflows)
        self._planner = Planner(self._library, context.policy)
        self._queues = Queues(context.bus)
        self._quota = Quota(settings.requests_per_minute, settings.open_workflows_per_principal)

    async def read_files(self) -> None:
        """Read the changed workflow files; log each fault once and show it on the page."""
        if not await asyncio.to_thread(self._library.refresh):
            return
        warnings = [str(fault) for fault in self._library.faults]
        for warning in warnings:
            if warning not in self._context.health.warnings:
                self._context.log.warning("a workflow file has errors", fault=warning)
        self._context.health.warnings[:] = warnings

    async def handle(self, job: Job) -> None:
        """Turn a request into a workflow, or into a rejection sent to the requester."""
        plain = job.subject == subjects.WORKFLOW_REQUEST
        principal = subjects.PLAIN if plain else job.subject.split(".")[3]
        tier = self._context.policy.tier_of(principal, plain=plain)
        wanted, given_id = _peek(job.data, "workflow_id"), f"req-{job.sequence}"
        try:
            given_id = await schedules.check_id_free(self._context, wanted, principal) if wanted else given_id
            request = msgspec.structs.replace(job.decode(WorkflowRequest), workflow_id=given_id)
        except AgentdError as error:
            broken = WorkflowRequest(workflow_type=_peek(job.data, "workflow_type"), workflow_id=given_id)
            # Not counted: other clients can make the server write acknowledgements to the subject of a principal.
            begin = PlannedRequest(
                broken, [], principal, tier, refused=str(error), authenticated=not plain, brief=not wanted
            )
        else:
            refused = await self._over_quota(request, principal, job)
            if not refused:
                with self._quota.beginning(principal):
                    await self._carry_on(await self._begin(request, principal, tier, job), job)
                return
            begin = PlannedRequest(request, [], principal, tier, refused=refused, authenticated=not plain, brief=True)
        await self._carry_on(begin, job)

    async def _over_quota(self, request: WorkflowRequest, principal: str, job: Job) -> str:
        """Return why the principal is over its quota, or "".

        A redelivered request was counted before.
        """
        if job.delivered > 1:
            return ""
        refused = self._quota.refusal(principal, time.monotonic(), self._engine.open_of)
        return "" if refused and await schedules.requests_workflow(self._context, request.workflow_id) else refused

    async def _carry_on(self, begin: PlannedRequest, job: Job) -> None:
        """Feed a request to the engine; respond with a conflict if its id is in use.

        The id may belong to another request or to another principal.
        """
        kept = _for_storage(begin)
        state = await self._engine.feed(begin.request.workflow_id, kept, delivered=job.delivered)
        if state is None:
            return
        digests = {request_digest(request) for request in (begin.request, kept.request)}
        if state.digest not in digests or state.principal != begin.principal:
            await self._conflict(kept, state)

    async def _begin(
        self, request: WorkflowRequest, principal: str, tier: Tier, job: Job, parent: Parent | None = None
    ) -> PlannedRequest:
        """Return the request with its plan, or with the reason for its rejection."""
        context = self._context
        if secret := secrets.refusal(msgspec.to_builtins(request)):
            return PlannedRequest(request, [], principal, tier, parent=parent, refused=f"the request: {secret}")
        begin = PlannedRequest(
            request, [], principal, tier, parent=parent, authenticated=is_authenticated(request, principal)
        )
        waited = (context.bus.server_time() - job.stored).total_seconds()
        if waited > request.start_by and parent is None:
            text = f"waited {waited:.0f} s to be started; it was to start within {request.start_by:.0f} s"
            return msgspec.structs.replace(begin, refused=text, status=Status.EXPIRED)
        retried, refused = await self._retried(request.retry_of)
        if refused:
            return msgspec.structs.replace(begin, refused=refused)
        plain = job.subject == subjects.WORKFLOW_REQUEST
        await self._prepare(request.workflow_type)
        try:
            begin = await evaluate_async(
                partial(self._planner.begin, request, principal, tier, plain=plain, retried=retried, parent=parent)
            )
            external_agents.check(begin.plan, context.config.bus.queues, context.policy)
        except Denied as error:
            return msgspec.structs.replace(begin, plan=[], carried={}, refused=str(error))
        except Exception as error:
            if job.delivered < BROKEN_AFTER:
                raise
            context.log.exception("a plan cannot be made", workflow=request.workflow_id, kind=request.workflow_type)
            text = f"the plan of {request.workflow_type} cannot be made: {type(error).__name__}: {error}"
            return msgspec.structs.replace(begin, refused=text, status=Status.FAILED)
        return await self._with_queues(begin)

    async def _with_queues(self, begin: PlannedRequest) -> PlannedRequest:
        """Return the request with the queues of its tasks, or the reason for rejection."""
        if begin.refused or begin.request.dry_run:
            return begin
        try:
            plan = await self._queues.chosen(begin.plan, begin.request.priority)
        except Rejected as error:
            return msgspec.structs.replace(begin, plan=[], carried={}, refused=str(error))
        return msgspec.structs.replace(begin, plan=plan)

    async def _prepare(self, workflow_type: str) -> None:
        """Read the files that the plan of this workflow type needs."""
        if not self._library.is_builtin(workflow_type):
            await self.read_files()
        elif (prepare := self._library[workflow_type].prepare) is not None:
            await asyncio.to_thread(prepare)

    async def _retried(self, workflow_id: str) -> tuple[Workflow | None, str]:
        """Return the workflow that a request retries, or None, and why it cannot be read."""
        try:
            return await self._engine.read(workflow_id) if workflow_id else None, ""
        except (GiveUp, InvalidMessage) as error:
            return None, f"retry_of: {error}"

    async def handle_child(self, job: Job) -> None:
        """Start the child workflow that a task of another workflow requests."""
        try:
            task = job.decode(TaskAssignment)
        except InvalidMessage as error:
            raise GiveUp(str(error)) from error
        name = task.task_id.rpartition(".")[2]
        parent = Parent(task.workflow_id, name, task.attempt, task.depth + 1)
        if not await self._engine.awaits(parent):
            self._context.log.info("not started: its caller no longer waits", task=task.task_id, attempt=task.attempt)
            return
        request = WorkflowRequest(
            task.task_type,
            child_id(task.workflow_id, name, task.attempt),
            await resolve_references(self._context.bus, task.parameters),
            requester_id=task.principal,
            timeout=task.seconds,
            authenticated=task.authenticated,
        )
        begin = await self._begin(request, task.principal, task.tier, job, parent)
        await self._engine.feed(request.workflow_id, _for_storage(begin), delivered=job.delivered)

    async def _conflict(self, begin: PlannedRequest, state: Workflow) -> None:
        """Respond that the id belongs to another workflow; that one's response stays."""
        digest = request_digest(begin.request)
        other = "with other parameters" if state.principal == begin.principal else "of another principal"
        text = f"workflow_id: {state.workflow_id!r} is a {state.workflow_type} {other} ({state.status}); use another id"
        answer = WorkflowResponse(state.workflow_id, "conflict", {}, text, self._context.agent_id)
        subject = subjects.response(subjects.conflict(state.workflow_id, digest))
        await self._context.bus.store(subject, answer, ttl=self._context.settings.retention_days * 86_400)
        if begin.principal == subjects.PLAIN:
            await self._context.bus.publish(subjects.WORKFLOW_RESPONSE, answer)


def _for_storage(begin: PlannedRequest) -> PlannedRequest:
    """Return a request as its state keeps it for days.

    From a rejected request everything that may be a secret is removed.
    """
    if not begin.refused:
        return begin
    return msgspec.structs.replace(begin, request=withheld_of(begin.request), refused=secrets.redacted(begin.refused))


def _peek(data: bytes, field: str) -> str:
    """Return a string field of a message that may not be valid as a whole, or ""."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    text = value.get(field, "") if isinstance(value, dict) else ""
    return text if isinstance(text, str) else ""
