"""Announces an agent: registration, discovery, lease, heartbeat, metrics, control.

All messages are made from one record, so that an external agent that reads the subjects and a reader of the bucket get
the same data.  The lease is for people and pages; work is never re-assigned because of it.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.errors import AgentdError, BusError, Denied, InvalidMessage
from agentd.safety.lease import Lease
from agentd.wire import announcements, codec, subjects
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.bus.jetstream import Bus
    from agentd.bus.nats.subscriptions import Received, Subscription
    from agentd.safety.audit_log import AuditLog
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger

RENEW: Final = 5.0
"""Seconds between two renewals of the lease."""
BEAT: Final = 30.0
"""Seconds between two heartbeats, and two metric reports."""
CLOCK: Final = 60.0
"""Seconds between two measurements of the server's clock."""


class Announcer:
    """Announces one instance while `run` runs."""

    def __init__(  # noqa: PLR0913 - what it announces, and how it is controlled
        self,
        bus: Bus,
        describe: Callable[[], announcements.Presence],
        control: Callable[[str], Awaitable[str]],
        log: Logger,
        lease: Lease | None = None,
        *,
        policy: Policy | None = None,
        audit_log: AuditLog | None = None,
    ) -> None:
        """Announce what `describe` returns; `control` handles `ai.control.<agent>`.

        policy     decides which principals may send such messages under their own names; without it, none may
        audit_log  records what it did for a principal
        """
        self._policy = policy
        self._audit_log = audit_log
        self._bus = bus
        self._describe = describe
        self._control = control
        self._log = log
        self._agent = describe().agent.agent_id
        self._lease = lease or Lease(bus, self._agent, log, secrets.token_hex(4))

    async def run(self, stopping: asyncio.Event) -> None:
        """Announce until `stopping` is set, then go offline and release the lease."""
        subscriptions = [
            await self._bus.subscribe(subjects.AGENT_DISCOVERY, self._on_discovery),
            await self._bus.subscribe(subjects.SERVICE_DISCOVERY, self._on_discovery),
            await self._bus.subscribe(subjects.control(self._agent), self._on_control),
            await self._bus.subscribe(subjects.control_by("*", self._agent), self._on_control_by),
        ]
        self._bus.on_reconnect.append(self.register)
        try:
            await self.register()
            await self._send_heartbeats(stopping)
        finally:
            self._bus.on_reconnect.remove(self.register)
            await self._announce_offline(subscriptions)

    async def _send_heartbeats(self, stopping: asyncio.Event) -> None:
        ticks, broken = 0, 0.0
        while not stopping.is_set():
            now = self._describe()
            await self._try(self._lease.renew(now))
            before, broken = broken, now.metrics.get("audit_broken", 0.0)
            if broken != before or ticks % round(BEAT / RENEW) == 0:
                await self._report(now)
            if ticks % round(CLOCK / RENEW) == 0:
                await self._try(self._bus.measure_clock(subjects.WORKFLOWS))
            ticks += 1
            waiting = asyncio.ensure_future(stopping.wait())
            await asyncio.wait([waiting], timeout=RENEW)
            waiting.cancel()

    async def _report(self, now: announcements.Presence) -> None:
        time = codec.now()
        beat = announcements.Heartbeat(self._agent, time, now.agent.status)
        await self._bus.publish(subjects.heartbeat(self._agent), beat)
        tags = {"node": now.agent.node, "role": now.agent.role}
        report = announcements.MetricReport(self._agent, time, now.metrics, tags)
        await self._bus.publish(subjects.metrics(self._agent), report)

    async def _try(self, work: Awaitable[object]) -> None:
        """Await `work` and log a BusError: the next tick repeats the work."""
        try:
            await work
        except BusError as error:
            self._log.warning("cannot announce this agent", reason=str(error))

    async def register(self) -> None:
        """Publish the registration of the agent and of its services."""
        now = self._describe()
        await self._bus.publish(subjects.AGENT_REGISTER, now.agent)
        for service in now.services:
            await self._bus.publish(subjects.SERVICE_REGISTER, service)

    async def _on_discovery(self, _: Received) -> None:
        await self.register()

    async def _on_control(self, received: Received) -> None:
        """Carry out drain, restart or reload, and reply with the result."""
        try:
            request = received.decode(announcements.ControlRequest)
            text, done = await self._control(request.action), True
        except InvalidMessage as error:
            text, done = str(error), False
        await received.respond(announcements.ControlReply(self._agent, done, text))

    async def _on_control_by(self, received: Received) -> None:
        """Carry out drain, restart or reload for a principal, proven by NATS, if its tier suffices."""
        principal = received.subject.split(".")[3]
        try:
            request = received.decode(announcements.ControlRequest)
            tier = Tier.READ if self._policy is None else self._policy.tier_of(principal, plain=False)
            if not tier.covers(Tier.OPERATE):
                raise Denied(f"{principal} has tier {tier}; {request.action} of an agent needs tier operate")
            if self._audit_log is not None:
                await self._audit_log.write(
                    principal=principal,
                    tool=request.action,
                    tier=Tier.OPERATE,
                    phase="before",
                    key=f"agent.{request.action}",
                )
            text, done = await self._control(request.action), True
        except AgentdError as error:
            text, done = str(error), False
        self._log.warning("request to control this agent", principal=principal, answer=text)
        await received.respond(announcements.ControlReply(self._agent, done, text))

    async def _announce_offline(self, subscriptions: list[Subscription]) -> None:
        for subscription in subscriptions:
            await subscription.stop()
        last = self._describe()
        agent = msgspec.structs.replace(last.agent, status="offline")
        await self._bus.publish(subjects.AGENT_REGISTER, agent)
        await self._bus.publish(
            subjects.heartbeat(self._agent), announcements.Heartbeat(self._agent, codec.now(), "offline")
        )
        await self._try(self._lease.release())
