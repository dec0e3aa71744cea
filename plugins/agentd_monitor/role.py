"""The monitor at work: subscribes, ticks, and tells what changed.

Several monitors may run: all of them hear the same and come to the same alerts.  Who writes an alert's new state to
the bucket `alerts` first (by compare-and-set under its fingerprint) publishes it; the others find it there and are
silent.  What could not be written yet waits in `_unsaid`, the newest state of each alert, and is tried at each tick.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentd.errors import BusFull, BusUnavailable, InvalidMessage, StaleWrite
from agentd.telemetry.logs import Seldom
from agentd.wire import subjects
from agentd.wire.codec import decode, now
from agentd.wire.messages import AgentRegistration, Alert, Heartbeat, MetricReport
from agentd_monitor.alerts import DRAINED, DRAINING, KINDS, LOST, RESOLVED, AlertBook, WorkflowView, fingerprint_of
from agentd_monitor.checks import Survey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from starlette.routing import BaseRoute

    from agentd.bus.connection import Received
    from agentd.plugins.role import Context
    from agentd_monitor.settings import MonitorSettings

M = TypeVar("M")

TICK: Final = 5.0
"""Seconds between two looks at what was not heard."""
STATUSES: Final = ("available", "busy", DRAINING, DRAINED, LOST)
"""Agents' statuses that have a series even while nobody is in them."""
PAUSE: Final = 15.0
"""Seconds between two ticks beyond which it was we who did not listen (no bus, or stopped)."""


class Monitor:
    """Raises and clears alerts."""

    name = "monitor"
    port = 8082
    services: tuple[str, ...] = ()
    routes: tuple[BaseRoute, ...] = ()

    def __init__(self) -> None:
        """Begin without a context."""
        self._context: Context
        self._settings: MonitorSettings
        self._seldom: Seldom
        self._book: AlertBook
        self._survey: Survey
        self._ticked: datetime
        self._unsaid: dict[str, Alert] = {}
        self._unrecorded: dict[str, Alert] = {}
        self._news = asyncio.Event()

    async def run(self, context: Context) -> None:
        """Watch until the context says stop."""
        self._context, self._settings = context, context.settings
        self._seldom = Seldom(context.log)
        self._ticked = now()
        self._book = AlertBook(self._settings.thresholds(), self._ticked)
        there = (await context.bus.kv_values(subjects.ALERTS, Alert)).values()
        self._book.restore([each.value for each in there if each.value is not None])
        hearing = [
            await context.bus.subscribe(subjects.ALL_HEARTBEATS, self._hears(Heartbeat, self._book.observe_heartbeat)),
            await context.bus.subscribe(
                subjects.AGENT_REGISTER, self._hears(AgentRegistration, self._book.observe_registration)
            ),
            await context.bus.subscribe(subjects.ALL_METRICS, self._hears(MetricReport, self._book.observe_metrics)),
            await context.bus.subscribe(subjects.ALL_EVENTS, self._hears(WorkflowView, self._book.observe_workflow)),
            await context.bus.subscribe(subjects.ALL_DEAD, self._on_dead),
        ]
        self._survey = Survey(context, self._book, self._tell)
        try:
            await self._catch_up()
            await self._watch()
        finally:
            for each in hearing:
                await each.stop()

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Take over new thresholds, for alerts that are firing too."""
        self._settings = settings
        self._tell(self._book.adopt(settings.thresholds(), now()))

    async def _catch_up(self) -> None:
        """Read what streams still know, so that what stopped while no monitor ran is missed all the same."""
        bus = self._context.bus
        for stored in await bus.last_many(subjects.METRICS, subjects.ALL_HEARTBEATS):
            self._observe(stored.data, stored.subject, Heartbeat, self._book.observe_heartbeat, stored.time)
        for stored in await bus.last_many(subjects.WORKFLOWS, subjects.ALL_EVENTS):
            self._observe(stored.data, stored.subject, WorkflowView, self._book.observe_workflow, stored.time)

    async def _watch(self) -> None:
        context = self._context
        stopping = asyncio.create_task(context.stopping.wait())
        try:
            while not stopping.done():
                self._tick(now())
                await self._survey.look(now())
                await self._say()
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({stopping, news}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        finally:
            stopping.cancel()

    def _tick(self, at: datetime) -> None:
        context = self._context
        if not context.bus.connected:
            context.health.down(context.bus.problem)
            return
        if at - self._ticked > timedelta(seconds=PAUSE):
            self._book.resume(at)
        self._ticked = at
        self._tell(self._book.tick(at))

    async def _on_dead(self, _: Received) -> None:
        """Look at once when a letter was written, or one was closed."""
        self._survey.hurry()
        self._news.set()

    # -- hearing ----------------------------------------------------------------------------------------------------

    def _hears(
        self, kind: type[M], observe: Callable[[M, datetime], list[Alert]]
    ) -> Callable[[Received], Awaitable[None]]:
        async def handler(received: Received) -> None:
            self._observe(received.data, received.subject, kind, observe, now())

        return handler

    def _observe(
        self, data: bytes, subject: str, kind: type[M], observe: Callable[[M, datetime], list[Alert]], at: datetime
    ) -> None:
        """Take one message into the book; there is no await in it, so messages count in the order of their coming."""
        try:
            message = decode(data, kind)
        except InvalidMessage as error:
            self._seldom.warning("a message cannot be understood", subject=subject, reason=str(error))
            return
        self._tell(observe(message, at))

    # -- telling ----------------------------------------------------------------------------------------------------

    def _tell(self, alerts: list[Alert]) -> None:
        if alerts:
            self._unsaid.update({fingerprint_of(each): each for each in alerts})
            self._news.set()

    async def _say(self) -> None:
        """Record and publish what changed; while NATS is away it stays unsaid and is tried again."""
        context = self._context
        self._news.clear()
        problem = self._survey.problem
        try:
            for key, alert in list(self._unsaid.items()):
                try:
                    await self._say_one(key, alert)
                except BusFull as error:
                    problem = f"alerts cannot be kept: {error}"
        except BusUnavailable as error:
            problem = f"alerts cannot be told: {error}"
        if problem:
            context.health.down(problem)
        else:
            context.health.up()
        self._measure()

    async def _say_one(self, key: str, alert: Alert) -> None:
        """Record and publish an alert; when NATS has no room for the record, publish at once and record later.

        Only then each monitor tells it: that there is no room is what somebody has to hear.
        """
        try:
            new = await self._record(key, alert)
        except BusFull:
            if self._unrecorded.get(key) is not alert:
                self._unrecorded[key] = alert
                await self._publish(alert)
            raise
        told = self._unrecorded.pop(key, None)
        if (told is None and new) or (told is not None and told.state != alert.state):
            await self._publish(alert)
        if self._unsaid.get(key) is alert:
            del self._unsaid[key]

    async def _publish(self, alert: Alert) -> None:
        await self._context.bus.publish(subjects.alert(alert.alert_type), alert)
        self._context.log.warning("alert", state=alert.state, kind=alert.alert_type, text=alert.message)

    def _measure(self) -> None:
        metrics = self._context.metrics
        firing = Counter(each.alert_type for each in self._book.firing())
        for kind in KINDS:
            metrics.alerts_firing.labels(kind).set(firing[kind])
        agents = self._book.agents()
        for status in (*STATUSES, *agents):
            metrics.agents.labels(status).set(agents[status])

    async def _record(self, key: str, alert: Alert) -> bool:
        """Write the state of an alert; tell whether it was new to the network."""
        bus = self._context.bus
        ttl = self._settings.resolved_for if alert.state == RESOLVED else None
        while True:
            newest = await bus.kv_read(subjects.ALERTS, key, Alert)
            before = newest.value
            known = RESOLVED if before is None else before.state
            if known == alert.state:
                return False
            try:
                await bus.kv_put(subjects.ALERTS, key, alert, ttl=ttl, expect=newest.seq)
            except StaleWrite:
                continue  # another monitor was faster: look what it wrote
            return True
