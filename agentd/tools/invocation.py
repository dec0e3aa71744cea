"""One invocation of a tool, and calls from a tool to another agent's tool.

`Invocation` implements `Call` of definition.py; its `ensure` holds steps 2 and 3 of effects.py.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agentd.client.tool_calls import call_tool
from agentd.crash_points import crash_point
from agentd.errors import NotOurs, PermanentError, UnknownOutcome, VmidTaken
from agentd.printable import printable
from agentd.safety import policy
from agentd.tools import effects
from agentd.tools.definition import Found, Repeat, Tool
from agentd.wire import subjects
from agentd.wire.messages import Consent, Inverse, Preview, Target, Tier, ToolCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from contextlib import AbstractContextManager
    from datetime import datetime

    from agentd.bus.jetstream import Bus
    from agentd.telemetry.metrics import Metrics
    from agentd.wire.records import EffectRecord

R = TypeVar("R")


class DryRunStop(Exception):
    """Raised where a dry run would act; `already`: there is nothing to do."""

    def __init__(self, *, already: bool) -> None:
        """Store whether there is nothing to do."""
        super().__init__("a dry run ends here")
        self.already = already


@dataclass
class Invocation:
    """One invocation of a tool; implements Call, which documents the shared members.

    guard     called right before the tool acts; raises if it may not
    undoes    the key of the invocation that this one undoes, from the orchestrator's assignment; "" for any other
    changing  this run has begun to change something
    asked     the digest of the tool and of the parameters as in the assignment
    needed    the tier that the tool needs with these parameters
    authenticated  the principal is proven, as the assignment states
    agent     the agent that runs it: its steps are called under this name
    guests    the names that the guests to be changed must have, by target name
    """

    bus: Bus
    metrics: Metrics
    tool: Tool
    key: str
    principal: str
    tier: Tier
    attempt: int
    until: float
    claim: effects.Claim | None = None
    warnings: list[str] = field(default_factory=list)
    now_doing: str = ""
    on_progress: Callable[[str], None] | None = None
    dry_run: bool = False
    consent: Consent | None = None
    targets: list[Target] = field(default_factory=list)
    guard: Callable[[], Awaitable[None]] | None = None
    undo: Inverse | None = None
    undoes: str = ""
    changing: bool = False
    authenticated: bool = True
    agent: str = ""
    asked: str = ""
    guests: dict[str, str] = field(default_factory=dict)
    needed: Tier = Tier.READ

    @property
    def begun(self) -> datetime | None:
        """Time since which the change may have been made; None if it was not begun."""
        claim = self.claim
        return claim.record.claimed_at if claim is not None and claim.record.acting else None

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.until - time.monotonic()

    def warn(self, text: str) -> None:
        """Add a warning to the result, unless it is there already."""
        if text not in self.warnings:
            self.warnings.append(text)

    def progress(self, text: str) -> None:
        """Report the current activity to the waiting caller."""
        self.now_doing = text
        if self.on_progress is not None:
            self.on_progress(text)

    def target(self, target: Target) -> None:
        """Store a target in its present state; its texts are shown to the approver."""
        target = msgspec.structs.replace(
            target, title=printable(target.title), loses=[printable(loss, lines=True) for loss in target.loses]
        )
        self.targets[:] = [*(other for other in self.targets if other.name != target.name), target]

    def inverse(self, tool: str, parameters: dict[str, Any]) -> None:
        """Store the call that undoes this one, for the effect record."""
        self.undo = Inverse(tool, parameters)

    async def ensure(
        self, check: Callable[[], Awaitable[Found | None]], apply: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Apply a change exactly once: steps 2 and 3 of effects.py."""
        if self.dry_run:
            found = await check()
            self._check_ours(found, None)
            raise DryRunStop(already=found is not None)
        claim = self.claim
        if claim is None:
            raise PermanentError(f"{self.tool.name} is of tier {self.tool.tier} and may not change anything")
        if claim.record.upid:
            return Found(claim.record.upid)
        found = await check()
        self._check_ours(found, claim.record)
        if found is not None:
            if found.adopted:
                self.metrics.effects_adopted.labels(self.tool.name).inc()
            await claim.settle(upid=found.upid)
            return found
        self._check_may_apply(claim)
        if self.guard is not None:
            await self.guard()
        with claim.defer_stop():
            return await self._apply(claim, apply)

    def _check_ours(self, found: Found | None, record: EffectRecord | None) -> None:
        """Raise NotOurs if a mark was found but our record says that the act never began.

        Text in Proxmox proves nothing: any user who may edit a description can write a mark.
        """
        if found is None or not found.adopted or self.tool.repeat is not Repeat.MARKED:
            return
        if record is None or not effects.begun(record, self.tool.name, self.targets):
            seen = ", ".join(target.title for target in self.targets) or "what was found"
            raise NotOurs(
                f"{self.tool.name}: {seen} has the mark of this call ({self.key}), but the effect record says that the "
                "call was never started: it is not ours, and nothing was done; check what created it, or use another id"
            )

    async def made(self, tools: Collection[str], target: str) -> bool:
        """Return whether the task being undone began to create `target` by one of these.

        tools  the names of the tools that count
        """
        if not self.undoes:
            return False
        _, record, _ = await effects.last_record(self.bus, subjects.effect(self.tool.service, self.undoes))
        return record is not None and any(f"{tool} {target}" in record.acted for tool in tools)

    def allow_stop(self) -> AbstractContextManager[None]:
        """Allow a stop to interrupt this part of an act."""
        return self.claim.allow_stop() if self.claim else contextlib.nullcontext()

    async def _apply(self, claim: effects.Claim, apply: Callable[[], Awaitable[str | None]]) -> Found:
        # A process that takes over must know that a request may be on its way, and the state before it: from now on
        # this invocation may have changed the target.
        before, undo = claim.record.acted, claim.record.undo or _limited_to(self.undo, self.targets)
        acted = sorted({*before, *effects.acts(self.tool.name, self.targets)})
        await claim.write(acting=True, undo=undo, acted=acted)
        self.changing = True
        try:
            upid = await apply() or ""
        except VmidTaken:  # refused by Proxmox: the guest with this VMID is not ours
            await claim.settle(acted=before)
            raise
        except UnknownOutcome:
            claim.doubtful_since = time.monotonic()
            raise
        crash_point("after-post", self.key)
        if upid:
            await claim.settle(upid=upid)
            crash_point("after-upid")
        return Found(upid, adopted=False)

    def _check_may_apply(self, claim: effects.Claim) -> None:
        """Raise if acting now could repeat an act whose outcome is unknown."""
        if self.tool.repeat is Repeat.UNSAFE and claim.record.acting:
            raise PermanentError(
                f"{self.tool.name} was started and its result is not known: check what it did, then call it again "
                "with a new key"
            )
        unsettled = effects.UNSETTLED - (time.monotonic() - claim.doubtful_since)
        if unsettled > 0:
            raise UnknownOutcome(
                "the last write was not answered; Proxmox may still be starting it", delay=min(unsettled, 2.0)
            )

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """Call another agent's tool; repeating a step repeats the same call."""
        join = "-" if self.key.count(".") > 1 else "."  # a step of a step: its key has three words, too
        call = ToolCall(
            parameters=parameters,
            key=f"{self.key}{join}{step}" if self.key else "",
            principal=self.principal,
            attempt=self.attempt,
            deadline=None,
            dry_run=self.dry_run,
        )
        with self.claim.defer_stop() if self.claim else contextlib.nullcontext():  # a step is short: it is completed
            subject = subjects.tool_step(self.agent, service, tool)
            reply = await call_tool(self.bus, subject, call, seconds=self.left(), progress=self.progress)
        for warning in reply.warnings:
            self.warn(warning)
        if reply.dry_run:
            preview = msgspec.convert(reply.result, Preview)
            self.targets += preview.targets
            self.undo = preview.undo
            raise DryRunStop(already=preview.already)
        return msgspec.convert(reply.result, result)


def _limited_to(undo: Inverse | None, targets: list[Target]) -> Inverse | None:
    """Return `undo` limited to the present guests, by their names.

    If it renames a guest it is returned as it is, because that guest then has another name.
    """
    if undo is None or {"name", "hostname"} & {*undo.parameters.get("options", ())}:
        return undo
    return msgspec.structs.replace(undo, guests=policy.guests(targets))
