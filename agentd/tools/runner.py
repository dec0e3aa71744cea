"""Runs one invocation of a tool from start to end.

This includes the policy check, parsing, the claim, two audit records, retries, the deadline and a stop.  Temporary
failures are retried here, within the deadline, before they are reported.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.crash_points import crash_point
from agentd.errors import (
    AgentdError,
    BusUnavailable,
    Denied,
    Fenced,
    GuestLocked,
    Held,
    NodeOffline,
    NoQuorum,
    Stopped,
    TemporaryError,
)
from agentd.proxmox.read_only import dry_run_context
from agentd.safety import budget
from agentd.safety.freeze import FreezeWatch
from agentd.safety.policy import NEEDS_APPROVAL, check_same_guests, unproven_reason
from agentd.tools import effects, large_results
from agentd.tools.invocation import DryRunStop
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import digest, now, plain
from agentd.wire.messages import Outcome, Preview, TaskError, Tier, ToolReply
from agentd.wire.records import EffectRecord

if TYPE_CHECKING:
    from typing import Any

    from agentd.bus.jetstream import Bus
    from agentd.safety.audit_log import AuditLog
    from agentd.safety.lease import Lease
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool
    from agentd.tools.invocation import Invocation
    from agentd.tools.raises import Raise

_PHASES: Final = {Outcome.FAILED: effects.FAILED, Outcome.CANCELLED: effects.CANCELLED}
"""Phase of an effect record whose tool ended so; any other outcome is DONE."""
LONGEST_PAUSE: Final = 15.0
"""Longest pause in seconds before a tool is retried within its attempt."""


class ToolRunner:
    """Runs the tools of one agent.

    owner  `<agent>/<process>`, which identifies its claims
    """

    def __init__(  # noqa: PLR0913 - everything that running a tool needs
        self,
        bus: Bus,
        agent_id: str,
        *,
        policy: Policy,
        audit_log: AuditLog,
        metrics: Metrics,
        log: Logger,
        freeze_watch: FreezeWatch | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Use these services to run tools; without a lease no other process has this id."""
        self.owner = f"{agent_id}/{secrets.token_hex(4)}"
        self.bus = bus
        self.policy = policy
        self.audit_log = audit_log
        self.metrics = metrics
        self.log = log
        self.freeze_watch = freeze_watch or FreezeWatch(bus)
        self.lease = lease
        self._claims: dict[str, effects.Claim] = {}

    async def read_stop_request(self, key: str) -> None:
        """Read the record of an effect for which a stop was requested, if it is ours."""
        claim = self._claims.get(key)
        if claim is not None:
            await effects.renew_claim(claim)

    async def run(self, invocation: Invocation, parameters: dict[str, Any], *, takeover: bool) -> ToolReply:
        """Run a tool to its end and return the result; raises only errors of the bus."""
        tool = invocation.tool
        started = time.monotonic()
        self.metrics.tasks_in_flight.inc()
        try:
            invocation.needed, described = await self._needed(invocation, parameters)
            if invocation.dry_run and tool.tier is not Tier.READ:
                if tool.tier is Tier.EXEC:  # even a dry run of such a tool may read inside a guest
                    self.policy.allow(tool.name, tool.tier, invocation.tier, principal=invocation.principal)
                with dry_run_context():
                    reply = await self._attempt(invocation, tool.parse(parameters))
            elif tool.tier is Tier.READ:
                reply = await self._attempt(invocation, tool.parse(parameters))
            else:
                await self._allow(invocation, described)
                parsed = tool.parse(parameters)
                reply = await self._run_guarded(invocation, parameters, parsed, takeover=takeover)
        except BusUnavailable:
            raise
        except Fenced as error:
            self.metrics.effects_fenced.labels(tool.name).inc()
            # The holder of the claim reports the result.
            raise BusUnavailable(f"{invocation.key}: {error}", delay=2.0) from error
        except AgentdError as error:
            reply = ToolReply(status=Outcome.FAILED, error=task_error(error))
        finally:
            self.metrics.tasks_in_flight.dec()
        self.metrics.task_finished(tool.name, reply.status, time.monotonic() - started)
        return reply

    async def _needed(self, invocation: Invocation, parameters: dict[str, Any]) -> tuple[Tier, str]:
        """Return the tier that this call needs, and what needs it.

        That is the name of the tool, with the parameters that raise its tier: `update_vm with sshkeys`.
        """
        tool, tier, raised_by = invocation.tool, invocation.tool.tier, ""
        for rule in tool.raised(parameters):
            if rule.tier.rank > tier.rank and not await self._is_created_here(invocation, rule, parameters):
                tier, raised_by = rule.tier, f" with {rule.says}"
        return tier, tool.name + raised_by

    async def _is_created_here(self, invocation: Invocation, rule: Raise, parameters: dict[str, Any]) -> bool:
        """Return whether this workflow created the target, by our own effect records."""
        workflow = invocation.key.partition(".")[0]
        if not rule.made or not workflow or "=" in workflow:
            return False
        acts = {f"{tool} {rule.target.format_map(defaultdict(str, parameters))}" for tool in rule.made}
        messages = await self.bus.last_many(subjects.EFFECTS, subjects.effect(invocation.tool.service, f"{workflow}.>"))
        records = [record for stored in messages if (record := self.bus.read(stored, EffectRecord)) is not None]
        return any(record.phase == effects.DONE and acts & set(record.acted) for record in records)

    async def _allow(self, invocation: Invocation, described: str) -> None:
        """Raise Denied or Held if this call may not begin; a dry run is not checked here.

        Denied: this principal may not.  Held: the agent may not begin anything now.
        """
        tool, needed, principal = invocation.tool, invocation.needed, invocation.principal
        if tool.undoes and not invocation.undoes:
            raise Denied(
                f"{tool.name} runs only where an orchestrator undoes a task (name it under `undo`), never as a call"
            )
        # An assignment states the tier as of its planning.  A tier that is raised now needs an approval besides.
        raised = needed is not tool.tier
        granted = self.policy.tier_of(principal, plain=False) if raised else invocation.tier
        self.policy.allow(described, needed, granted, principal=principal)
        if needed in NEEDS_APPROVAL and not invocation.authenticated:
            raise Denied(unproven_reason(f"{described} is of tier {needed}", principal))
        self.policy.check_approval(described, needed, principal, invocation.consent, asked=invocation.asked)
        await self.freeze_watch.begin(tool.name)
        await self.audit_log.open()
        self.audit_log.check(tool.name)
        invocation.guard = partial(self._guard, invocation)

    async def _guard(self, invocation: Invocation) -> None:
        """Raise if the tool may not act on its targets in their present state."""
        tool = invocation.tool
        tier = _target_tier(invocation)
        if self.lease is not None:
            await self.lease.check()
        if not invocation.changing:  # a run that has begun to change something is completed
            await self.freeze_watch.act(tool.name)
            self.audit_log.check(tool.name)
        self.policy.check_targets(tool.name, tier, invocation.targets, invocation.consent)
        check_same_guests(tool.name, invocation.targets, invocation.guests)
        if tier in NEEDS_APPROVAL:
            await budget.take_slot(self.bus, invocation.key, self.policy.per_hour)

    async def _run_guarded(
        self, invocation: Invocation, parameters: dict[str, Any], parsed: object, *, takeover: bool
    ) -> ToolReply:
        """Run a tool that changes something, unless it is done or runs elsewhere."""
        tool, key = invocation.tool, invocation.key
        wanted = effects.ClaimRequest(
            service=tool.service,
            key=key,
            tool=tool.name,
            digest=digest(parameters),
            attempt=invocation.attempt,
            owner=self.owner,
            takeover=takeover,
        )
        claim = await effects.claim(self.bus, wanted, now())
        if isinstance(claim, EffectRecord):
            reply = _recorded_reply(claim)
            full_result = reply.result if takeover else await large_results.resolve_references(self.bus, reply.result)
            return msgspec.structs.replace(reply, result=full_result)
        invocation.claim = claim
        return await self._run_claimed(invocation, claim, parameters, parsed)

    async def _run_claimed(
        self, invocation: Invocation, claim: effects.Claim, parameters: dict[str, Any], parsed: object
    ) -> ToolReply:
        """Run a tool whose claim we hold, write two audit records and store its result."""
        tool, key = invocation.tool, invocation.key
        line = partial(
            self.audit_log.write,
            principal=invocation.principal,
            tool=tool.name,
            tier=invocation.needed,
            key=key,
            approved_by=invocation.consent.by if invocation.consent else "",
        )
        try:
            await line(phase="before", arguments=tool.audited(parameters))
        except BusUnavailable:
            raise  # the assignment or the call is repeated
        except AgentdError as error:
            await claim.settle(phase=effects.FAILED, error=task_error(error))
            raise
        claim.stoppable = tool.stoppable
        self._claims[key] = claim
        try:
            async with effects.renewing(claim):
                reply = await self._attempt(invocation, parsed)
        except Stopped as error:
            reply = await self._stop_proxmox_task(tool, claim, error)
        finally:
            del self._claims[key]
        await claim.settle(
            phase=_PHASES.get(Outcome(reply.status), effects.DONE),
            result=await large_results.store_if_large(self.bus, reply.result, key),
            error=reply.error,
            warnings=reply.warnings,
        )
        await line(phase="after", outcome=reply.status, upid=claim.record.upid)
        crash_point("after-done")
        return msgspec.structs.replace(reply, undo=key if claim.record.undo is not None else "")

    async def _stop_proxmox_task(self, tool: Tool, claim: effects.Claim, error: Stopped) -> ToolReply:
        """Stop the Proxmox task of a stopped tool, and return what is known of it."""
        upid, text = claim.record.upid, str(error)
        if not upid or tool.halt is None:
            text += "" if upid else "; it had started no task in Proxmox, or a short one that has ended"
            return ToolReply(status=Outcome.CANCELLED, error=TaskError(code=error.code, message=text))
        try:
            text += f"; {upid} ended: {await tool.halt(upid)}"
        except AgentdError as trouble:
            text += f"; {upid} may still run: {trouble}"
        return ToolReply(status=Outcome.CANCELLED, error=TaskError(code=error.code, message=text))

    async def _attempt(self, invocation: Invocation, parsed: object) -> ToolReply:
        """Run the tool; retry temporary failures until the deadline."""
        tries = 0
        while True:
            try:
                return await self._try(invocation, parsed)
            except Held as error:
                return _failed(invocation, task_error(error))  # the orchestrator waits for a person, not the agent
            except TemporaryError as error:
                pause = min(error.delay * 2 ** min(tries, 5), LONGEST_PAUSE)
                read_only = invocation.dry_run or invocation.tool.tier is Tier.READ
                if invocation.left() < pause or (read_only and isinstance(error, NodeOffline)):
                    return _failed(invocation, task_error(error))
                if isinstance(error, BusUnavailable):
                    raise  # the assignment or the call is repeated
                await self._wait(invocation, error, pause)
            tries += 1

    async def _wait(self, invocation: Invocation, error: TemporaryError, pause: float) -> None:
        self.metrics.task_retries.labels(invocation.tool.name).inc()
        invocation.progress(f"waiting: {error}")
        if isinstance(error, (GuestLocked, NoQuorum)) and invocation.claim is not None:
            await invocation.claim.settle(upid="")  # that Proxmox task has ended and changed nothing
        await asyncio.sleep(pause)

    async def _try(self, invocation: Invocation, parsed: object) -> ToolReply:
        """Run the tool once; raises only TemporaryError and Fenced."""
        tool = invocation.tool
        invocation.targets.clear()
        invocation.undo = None
        scope = asyncio.timeout(max(0.0, invocation.left()))
        try:
            async with scope:
                reply = await self._run(invocation, parsed)
        except TimeoutError as error:
            if not scope.expired():
                return self._bug_reply(invocation, error)
            text = f"{tool.name}: not done by its deadline ({invocation.now_doing or 'no progress'})"
            return _failed(invocation, TaskError(code="deadline", message=text, retry=True))
        except (TemporaryError, Fenced):
            raise
        except AgentdError as error:
            return _failed(invocation, task_error(error))
        except Exception as error:  # noqa: BLE001 - no error of a tool may stop the daemon
            return self._bug_reply(invocation, error)
        return reply

    async def _run(self, invocation: Invocation, parsed: object) -> ToolReply:
        """Run the tool; a dry run returns its preview."""
        tool, already = invocation.tool, True
        try:
            result = await tool.run(invocation, parsed)
        except DryRunStop as stop:
            already = stop.already
        else:
            if not invocation.dry_run or tool.tier is Tier.READ:
                return _done(invocation, wire_secrets.hidden(plain(result)))
        return self._preview(invocation, already=already)

    def _preview(self, invocation: Invocation, *, already: bool) -> ToolReply:
        """Return the preview of a dry run, or a failure if a target is protected."""
        tool, targets = invocation.tool, list(invocation.targets)
        try:
            if targets or not already:
                self.policy.check_targets(tool.name, _target_tier(invocation), targets)
            check_same_guests(tool.name, targets, invocation.guests)
        except AgentdError as error:
            return _failed(invocation, task_error(error))
        return _done(invocation, plain(Preview(tool.name, targets, already, invocation.undo)), dry_run=True)

    def _bug_reply(self, invocation: Invocation, error: Exception) -> ToolReply:
        self.log.error("a tool has a bug", tool=invocation.tool.name, key=invocation.key, exc_info=error)
        return _failed(invocation, TaskError(code="bug", message=f"{type(error).__name__}: {error}"))


def _target_tier(invocation: Invocation) -> Tier:
    """Return the tier that applies to the targets: destroy for a tool that undoes."""
    return Tier.DESTROY if invocation.tool.undoes else invocation.needed


def _recorded_reply(record: EffectRecord) -> ToolReply:
    """Return the reply for a record that was found instead of claimed."""
    if record.phase == effects.CANCELLED:
        error = record.error or TaskError(code="cancelled", message="cancelled before it began")
        return ToolReply(status=Outcome.CANCELLED, error=error)
    if record.phase == effects.CLAIMED:
        return ToolReply(status="running", progress=f"held by {record.owner}")
    if record.error is not None:
        return ToolReply(status=Outcome.FAILED, error=record.error, warnings=record.warnings)
    status = Outcome.WARNINGS if record.warnings else Outcome.COMPLETED
    return ToolReply(status=status, result=record.result, warnings=record.warnings)


def _done(invocation: Invocation, result: Any, *, dry_run: bool = False) -> ToolReply:  # noqa: ANN401 - JSON
    status = Outcome.WARNINGS if invocation.warnings else Outcome.COMPLETED
    return ToolReply(status=status, result=result, warnings=invocation.warnings, dry_run=dry_run)


def _failed(invocation: Invocation, error: TaskError) -> ToolReply:
    return ToolReply(status=Outcome.FAILED, error=error, warnings=invocation.warnings)


def task_error(error: AgentdError) -> TaskError:
    """Return an error in its message form; `retry` is true for a temporary one."""
    retry = isinstance(error, TemporaryError) and not isinstance(error, Denied)
    return TaskError(code=error.code, message=str(error), retry=retry, log=list(getattr(error, "log", ())))
