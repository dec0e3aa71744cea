"""Notes each audit chain's head in the bucket `audit` and in another chain.

Every minute, and when it stops, an agent notes its head in the bucket, if it has written since.  The next agent in the
order of the ids writes the heads that have changed into its own chain.  A record that only notes heads is not a new
head: while nothing else happens, nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from agentd.errors import AgentdError, Denied, InvalidMessage
from agentd.safety.audit_chain import ANCHOR, hash_of
from agentd.safety.signing import valid
from agentd.wire import subjects
from agentd.wire.announcements import ARRIVING, ControlReply, Presence
from agentd.wire.messages import Tier
from agentd.wire.records import AuditAcceptance, AuditKeys, AuditRecord

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received
    from agentd.safety.audit_log import AuditLog
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger

EVERY: Final = 60.0
"""Seconds between two checks of all heads."""
AT_ONCE: Final = 12
"""Heads that one record notes: it must stay below the largest size of a record."""
MOST_TEXT: Final = 500
"""Longest reason, in characters."""


class Anchors:
    """Notes heads while `run` runs, and lets a principal acknowledge an alarm."""

    def __init__(self, bus: Bus, agent_id: str, audit_log: AuditLog, policy: Policy, log: Logger) -> None:
        """Use this chain; `run` starts the work."""
        self._bus = bus
        self._agent = agent_id
        self._audit_log = audit_log
        self._policy = policy
        self._log = log
        self._noted: AuditRecord | None = None
        self._seen: dict[str, str] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Note heads until `stopping` is set, then note our own head once more."""
        subscription = await self._bus.subscribe(subjects.accept("*", self._agent), self._on_accept)
        try:
            while not stopping.is_set():
                await self._try(self._audit_log.check_head())
                await self._try(self.note())
                await self._try(self.anchor())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await stopping.wait()
        finally:
            await self._try(self.note())
            await subscription.stop()

    async def _try(self, work: Any) -> None:  # noqa: ANN401 - any coroutine
        try:
            await work
        except AgentdError as error:  # also if NATS denies it
            self._log.warning("the heads of the audit cannot be noted", reason=str(error))

    async def note(self) -> None:
        """Note our own head in the bucket, if it has changed."""
        newest = self._audit_log.newest
        if newest is not None and newest is not self._noted:
            await self._bus.kv_put(subjects.CHAINS, subjects.audit_head(self._agent), newest)
            self._noted = newest

    async def anchor(self) -> None:
        """Write the heads for which we are responsible into our chain, if changed."""
        heads = await self._bus.kv_values(subjects.CHAINS, AuditRecord, "head.")
        keys = await self._bus.kv_values(subjects.CHAINS, AuditKeys, "key.")
        live_agents = await self._live_agents()
        changed: list[dict[str, Any]] = []
        for agent, head in sorted(heads.items()):
            if agent == self._agent or _responsible_agent(agent, live_agents) != self._agent:
                continue
            record = self._signed_head(agent, head.value, keys[agent].value if agent in keys else None)
            if record is not None and self._seen.get(agent) != record.hash:
                changed.append({"agent": agent, "seq": record.seq, "hash": record.hash, "signer": record.signer})
        for start in range(0, len(changed), AT_ONCE):
            part = changed[start : start + AT_ONCE]
            await self._audit_log.write(
                principal="", tool=ANCHOR, tier=Tier.READ, phase="after", key="", arguments={"heads": part}, anchor=True
            )
            self._seen |= {entry["agent"]: entry["hash"] for entry in part}

    async def _live_agents(self) -> list[str]:
        live_agents = {self._agent}
        for name, presence in (await self._bus.kv_values(subjects.LIVE, Presence)).items():
            if presence.value is not None and presence.value.agent.version and presence.value.agent.status != ARRIVING:
                live_agents.add(name)
        return sorted(live_agents)

    def _signed_head(self, agent: str, record: AuditRecord | None, pinned: AuditKeys | None) -> AuditRecord | None:
        """Return the head of another agent if that agent wrote it, else None."""
        keys = [] if pinned is None or pinned.agent_id != agent else pinned.keys
        signed = record is not None and any(record.signer == key.public for key in keys)
        if record is None or not signed or record.hash != hash_of(record) or record.agent_id != agent:
            self._log.error("the head of another agent's audit is not one that this agent wrote", other=agent)
            return None
        return record if valid(record.signer, record.hash, record.signature) else None

    async def _on_accept(self, received: Received) -> None:
        """Acknowledge the alarm of our chain for a principal."""
        principal = received.subject.split(".")[3]
        try:
            reason = received.decode(AuditAcceptance).reason.strip()
            tier = self._policy.tier_of(principal, plain=False)
            if not tier.covers(Tier.DESTROY):
                raise Denied(
                    f"{principal} has tier {tier}; accepting the audit of {self._agent} as it is needs tier destroy"
                )
            if not reason or len(reason) > MOST_TEXT:
                raise InvalidMessage(f"reason: give one of 1 to {MOST_TEXT} characters")
            text, done = f"accepted: {await self._audit_log.accept(principal, reason)}", True
        except AgentdError as error:
            text, done = str(error), False
        self._log.warning("request to accept the audit as it is", principal=principal, answer=text)
        await received.respond(ControlReply(self._agent, done, text))


def _responsible_agent(agent: str, live_agents: list[str]) -> str:
    """Return the agent that notes the head of `agent`.

    It is the next living agent in the order of the ids, or `agent` itself if it is alone.
    """
    others = [other for other in live_agents if other != agent]
    return next((other for other in others if other > agent), others[0] if others else agent)
