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
from agentd.proxmox.read_only import looking
from agentd.safety import budget
from agentd.safety.freeze import Brake
from agentd.safety.policy import CONSENTED, same_guests, unproven
from agentd.tools import effects, large_results
from agentd.tools.invocation import Looked
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import digest, now, plain
from agentd.wire.messages import EffectRecord, Outcome, Preview, TaskError, Tier, ToolReply

if TYPE_CHECKING:
    from typing import Any

    from agentd.bus.jetstream import Bus
    from agentd.safety.audit_log import Ledger
    from agentd.safety.lease import Lease
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool
    from agentd.tools.invocation import Performance
    from agentd.tools.raises import Raise

LONGEST_PAUSE: Final = 15.0
"""Longest pause in seconds before a tool is retried within its attempt."""


class Performer:
    """Runs the tools of one agent.

    owner  `<agent>/<process>`, which identifies its claims
    """

    def __init__(  # noqa: PLR0913 - everything that running a tool needs
        self,
        bus: Bus,
        agent_id: str,
        *,
        policy: Policy,
        ledger: Ledger,
        metrics: Metrics,
        log: Logger,
        brake: Brake | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Use these services to run tools; without a lease no other process has this id."""
        self.owner = f"{agent_id}/{secrets.token_hex(4)}"
        self.bus = bus
        self.policy = policy
        self.ledger = ledger
        self.metrics = metrics
        self.log = log
        self.brake = brake or Brake(bus)
        self.lease = lease
        self._claims: dict[str, effects.Claim] = {}

    async def look_at(self, key: str) -> None:
        """Read the record of an effect for which a stop was requested, if it is ours."""
        claim = self._claims.get(key)
        if claim is not None:
            await effects.looked_at(claim)

    async def perform(self, performance: Performance, parameters: dict[str, Any], *, takeover: bool) -> ToolReply:
        """Run a tool to its end and return the result; raises only errors of the bus."""
        tool = performance.tool
        started = time.monotonic()
        self.metrics.tasks_in_flight.inc()
        try:
            performance.needed, described = await self._needed(performance, parameters)
            if performance.dry_run and tool.tier is not Tier.READ:
                if tool.tier is Tier.EXEC:  # even a dry run of such a tool may read inside a guest
                    self.policy.allow(tool.name, tool.tier, performance.tier, principal=performance.principal)
                with looking():
                    reply = await self._attempt(performance, tool.parse(parameters))
            elif tool.tier is Tier.READ:
                reply = await self._attempt(performance, tool.parse(parameters))
            else:
                await self._allow(performance, described)
                parsed = tool.parse(parameters)
                reply = await self._guarded(performance, parameters, parsed, takeover=takeover)
        except BusUnavailable:
            raise
        except Fenced as error:
            self.metrics.effects_fenced.labels(tool.name).inc()
            message = f"{performance.key}: {error}"
            raise BusUnavailable(message, delay=2.0) from error  # the holder of the claim reports the result
        except AgentdError as error:
            reply = ToolReply(status=Outcome.FAILED, error=task_error(error))
        finally:
            self.metrics.tasks_in_flight.dec()
        self.metrics.task_finished(tool.name, reply.status, time.monotonic() - started)
        return reply

    async def _needed(self, performance: Performance, parameters: dict[str, Any]) -> tuple[Tier, str]:
        """Return the tier that this call needs, and what needs it.

        That is the name of the tool, with the parameters that raise its tier: `update_vm with sshkeys`.
        """
        tool, tier, raised_by = performance.tool, performance.tool.tier, ""
        for rule in tool.raised(parameters):
            if rule.tier.rank > tier.rank and not await self._made_here(performance, rule, parameters):
                tier, raised_by = rule.tier, f" with {rule.says}"
        return tier, tool.name + raised_by

    async def _made_here(self, performance: Performance, rule: Raise, parameters: dict[str, Any]) -> bool:
        """Return whether this workflow created the target, by our own effect records."""
        workflow = performance.key.partition(".")[0]
        if not rule.made or not workflow or "=" in workflow:
            return False
        acts = {f"{tool} {rule.target.format_map(defaultdict(str, parameters))}" for tool in rule.made}
        messages = await self.bus.last_many(
            subjects.EFFECTS, subjects.effect(performance.tool.service, f"{workflow}.>")
        )
        records = [record for stored in messages if (record := self.bus.read(stored, EffectRecord)) is not None]
        return any(record.phase == effects.DONE and acts & set(record.acted) for record in records)

    async def _allow(self, performance: Performance, described: str) -> None:
        """Raise Denied or Held if this call may not begin; a dry run is not checked here.

        Denied: this principal may not.  Held: the agent may not begin anything now.
        """
        tool, needed, principal = performance.tool, performance.needed, performance.principal
        if tool.undoes and not performance.undoes:
            text = f"{tool.name} runs only where an orchestrator undoes a task (name it under `undo`), never as a call"
            raise Denied(text)
        # An assignment states the tier as of its planning.  A tier that is raised now needs an approval besides.
        raised = needed is not tool.tier
        granted = self.policy.tier_of(principal, plain=False) if raised else performance.tier
        self.policy.allow(described, needed, granted, principal=principal)
        if needed in CONSENTED and not performance.authenticated:
            raise Denied(unproven(f"{described} is of tier {needed}", principal))
        self.policy.consented(described, needed, principal, performance.consent, asked=performance.asked)
        await self.brake.begin(tool.name)
        await self.ledger.open()
        self.ledger.check(tool.name)
        performance.guard = partial(self._guard, performance)

    async def _guard(self, performance: Performance) -> None:
        """Raise if the tool may not act on its targets in their present state."""
        tool = performance.tool
        tier = _touching(performance)
        if self.lease is not None:
            await self.lease.check()
        if not performance.changing:  # a run that has begun to change something is completed
            await self.brake.act(tool.name)
            self.ledger.check(tool.name)
        self.policy.touch(tool.name, tier, performance.targets, performance.consent)
        same_guests(tool.name, performance.targets, performance.guests)
        if tier in CONSENTED:
            await budget.spend(self.bus, performance.key, self.policy.per_hour)

    async def _guarded(
        self, performance: Performance, parameters: dict[str, Any], parsed: object, *, takeover: bool
    ) -> ToolReply:
        """Run a tool that changes something, unless it is done or runs elsewhere."""
        tool, key = performance.tool, performance.key
        wanted = effects.Wanted(
            service=tool.service,
            key=key,
            tool=tool.name,
            digest=digest(parameters),
            attempt=performance.attempt,
            owner=self.owner,
            takeover=takeover,
        )
        claim = await effects.claim(self.bus, wanted, now())
        if isinstance(claim, EffectRecord):
            reply = _recorded(claim)
            full_result = reply.result if takeover else await large_results.expand(self.bus, reply.result)
            return msgspec.structs.replace(reply, result=full_result)
        performance.claim = claim
        return await self._claimed(performance, claim, parameters, parsed)

    async def _claimed(
        self, performance: Performance, claim: effects.Claim, parameters: dict[str, Any], parsed: object
    ) -> ToolReply:
        """Run a tool whose claim we hold, write two audit records and store its result."""
        tool, key = performance.tool, performance.key
        line = partial(
            self.ledger.write,
            principal=performance.principal,
            tool=tool.name,
            tier=performance.needed,
            key=key,
            approved_by=performance.consent.by if performance.consent else "",
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
                reply = await self._attempt(performance, parsed)
        except Stopped as error:
            reply = await self._halted(tool, claim, error)
        finally:
            del self._claims[key]
        phase = {Outcome.FAILED: effects.FAILED, Outcome.CANCELLED: effects.CANCELLED}.get(
            Outcome(reply.status), effects.DONE
        )
        await claim.settle(
            phase=phase,
            result=await large_results.shrink(self.bus, reply.result, key),
            error=reply.error,
            warnings=reply.warnings,
        )
        await line(phase="after", outcome=reply.status, upid=claim.record.upid)
        crash_point("after-done")
        return msgspec.structs.replace(reply, undo=key if claim.record.undo is not None else "")

    async def _halted(self, tool: Tool, claim: effects.Claim, error: Stopped) -> ToolReply:
        """Stop the Proxmox task of a stopped tool, and return what is known of it."""
        upid, text = claim.record.upid, str(error)
        if not upid or tool.halt is None:
            text += "" if upid else "; it had begun no task in Proxmox, or a short one that is over"
            return ToolReply(status=Outcome.CANCELLED, error=TaskError(code=error.code, message=text))
        try:
            text += f"; {upid} ended: {await tool.halt(upid)}"
        except AgentdError as trouble:
            text += f"; {upid} may still run: {trouble}"
        return ToolReply(status=Outcome.CANCELLED, error=TaskError(code=error.code, message=text))

    async def _attempt(self, performance: Performance, parsed: object) -> ToolReply:
        """Run the tool; retry temporary failures until the deadline."""
        tries = 0
        while True:
            try:
                return await self._try(performance, parsed)
            except Held as error:
                return _failed(performance, task_error(error))  # the orchestrator waits for a person, not the agent
            except TemporaryError as error:
                pause = min(error.delay * 2 ** min(tries, 5), LONGEST_PAUSE)
                read_only = performance.dry_run or performance.tool.tier is Tier.READ
                if performance.left() < pause or (read_only and isinstance(error, NodeOffline)):
                    return _failed(performance, task_error(error))
                if isinstance(error, BusUnavailable):
                    raise  # the assignment or the call is repeated
                await self._wait(performance, error, pause)
            tries += 1

    async def _wait(self, performance: Performance, error: TemporaryError, pause: float) -> None:
        self.metrics.task_retries.labels(performance.tool.name).inc()
        performance.progress(f"waiting: {error}")
        if isinstance(error, (GuestLocked, NoQuorum)) and performance.claim is not None:
            await performance.claim.settle(upid="")  # that Proxmox task has ended and changed nothing
        await asyncio.sleep(pause)

    async def _try(self, performance: Performance, parsed: object) -> ToolReply:
        """Run the tool once; raises only TemporaryError and Fenced."""
        tool = performance.tool
        performance.targets.clear()
        performance.undo = None
        scope = asyncio.timeout(max(0.0, performance.left()))
        try:
            async with scope:
                reply = await self._run(performance, parsed)
        except TimeoutError as error:
            if not scope.expired():
                return self._bug(performance, error)
            text = f"{tool.name}: not done by its deadline ({performance.now_doing or 'no progress'})"
            return _failed(performance, TaskError(code="deadline", message=text, retry=True))
        except (TemporaryError, Fenced):
            raise
        except AgentdError as error:
            return _failed(performance, task_error(error))
        except Exception as error:  # noqa: BLE001 - no error of a tool may stop the daemon
            return self._bug(performance, error)
        return reply

    async def _run(self, performance: Performance, parsed: object) -> ToolReply:
        """Run the tool; a dry run returns its preview."""
        tool, already = performance.tool, True
        try:
            result = await tool.run(performance, parsed)
        except Looked as looked:
            already = looked.already
        else:
            if not performance.dry_run or tool.tier is Tier.READ:
                return _done(performance, wire_secrets.hidden(plain(result)))
        return self._seen(performance, already=already)

    def _seen(self, performance: Performance, *, already: bool) -> ToolReply:
        """Return the preview of a dry run, or a failure if a target is protected."""
        tool, targets = performance.tool, list(performance.targets)
        try:
            if targets or not already:
                self.policy.touch(tool.name, _touching(performance), targets)
            same_guests(tool.name, targets, performance.guests)
        except AgentdError as error:
            return _failed(performance, task_error(error))
        return _done(performance, plain(Preview(tool.name, targets, already, performance.undo)), looked=True)

    def _bug(self, performance: Performance, error: Exception) -> ToolReply:
        self.log.error("a tool has a bug", tool=performance.tool.name, key=performance.key, exc_info=error)
        return _failed(performance, TaskError(code="bug", message=f"{type(error).__name__}: {error}"))


def _touching(performance: Performance) -> Tier:
    """Return the tier that applies to the targets: destroy for a tool that undoes."""
    return Tier.DESTROY if performance.tool.undoes else performance.needed


def _recorded(record: EffectRecord) -> ToolReply:
    """Return the reply for a record that was found instead of claimed."""
    if record.phase == effects.CANCELLED:
        error = record.error or TaskError(code="cancelled", message="cancelled before it began")
        return ToolReply(status=Outcome.CANCELLED, error=error)
    if record.phase == effects.CLAIMED:
        return ToolReply(status="running", progress=f"in the hands of {record.owner}")
    if record.error is not None:
        return ToolReply(status=Outcome.FAILED, error=record.error, warnings=record.warnings)
    status = Outcome.WARNINGS if record.warnings else Outcome.COMPLETED
    return ToolReply(status=status, result=record.result, warnings=record.warnings)


def _done(performance: Performance, result: Any, *, looked: bool = False) -> ToolReply:  # noqa: ANN401 - JSON
    status = Outcome.WARNINGS if performance.warnings else Outcome.COMPLETED
    return ToolReply(status=status, result=result, warnings=performance.warnings, looked=looked)


def _failed(performance: Performance, error: TaskError) -> ToolReply:
    return ToolReply(status=Outcome.FAILED, error=error, warnings=performance.warnings)


def task_error(error: AgentdError) -> TaskError:
    """Return an error in its message form; `retry` is true for a temporary one."""
    retry = isinstance(error, TemporaryError) and not isinstance(error, Denied)
    return TaskError(code=error.code, message=str(error), retry=retry, log=list(getattr(error, "log", ())))
