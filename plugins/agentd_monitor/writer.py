"""Stores and publishes the alerts, as long as this monitor is the writer (see bucket.py).

Everything follows from the stored states: what is published is compared with them in each step, so that a step that
failed, a restart and a hand-over repeat nothing and lose nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd import Alert, BusFull, BusUnavailable, StaleWrite, subjects
from agentd_monitor.actions import AlertActions
from agentd_monitor.alerting.network_alerts import NetworkAlerts, alert_of
from agentd_monitor.alerts import RESOLVED
from agentd_monitor.bucket import FINDINGS_KEPT, Findings, MonitorBucket
from agentd_monitor.health.catalogue import facts, objects_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from agentd import Context, Finding
    from agentd_monitor.alerting.book import AlertRule
    from agentd_monitor.alerting.suppression import Condition
    from agentd_monitor.cluster.readings import Snapshot
    from agentd_monitor.delivery.deliveries import Deliveries
    from agentd_monitor.delivery.message import Message
    from agentd_monitor.own_work import OwnWork

NEVER: Final = ("", "")
"""State and severity of an alert that was not published."""


class AlertWriter:
    """Stores and publishes the alerts, and lets their notifications be sent.

    problem  why it cannot; "" if it can
    cluster  whether this monitor reads the cluster
    """

    def __init__(self, context: Context, rules: list[AlertRule], deliveries: Deliveries, own_work: OwnWork) -> None:
        """Write the alerts of these rules, and queue their notifications in `deliveries`."""
        self.problem = ""
        self.settings = context.settings
        self.cluster = False
        self._context = context
        self._rules = rules
        self._deliveries = deliveries
        self._bucket = MonitorBucket(context.bus, context.agent_id)
        self._alerts: NetworkAlerts | None = None
        self.actions = AlertActions(context)
        self._own_work = own_work
        self._facts: list[Condition] = []
        self._published: dict[str, tuple[str, str]] = {}
        self._unrecorded: dict[str, tuple[str, str]] = {}
        self._adopt = False
        self._asked: set[str] = set()

    def adopt(self) -> None:
        """Compare the next findings with the alerts at once: thresholds have changed."""
        self._adopt = True

    async def restored(self) -> list[Alert]:
        """Return the alerts that were firing when they were stored last."""
        return [alert_of(record) for record in (await self._bucket.records()).values() if record.item.open]

    async def step(
        self,
        at: datetime,
        own: Iterable[Alert],
        texts: Mapping[str, str],
        cluster: tuple[Snapshot, list[Finding]] | None,
        requests: Mapping[str, Message],
    ) -> None:
        """Store and publish what has changed.

        own      the alerts about agentd itself that are firing
        texts    why one of them is over, by fingerprint
        cluster  new findings of the checks, with the readings that they come from; None if there are none
        requests the requests for approval that wait
        """
        self.problem = ""
        try:
            alerts = await self._hold(at.timestamp())
            if alerts is not None:
                self._observe(alerts, at.timestamp(), own, texts, cluster)
                await self._ask(requests, at.timestamp())
                await self._write(alerts, at.timestamp())
                if cluster is not None:
                    found = Findings.of(cluster[1], at.timestamp())
                    await self._bucket.put_for("findings", found, FINDINGS_KEPT)
        except StaleWrite:
            self._alerts = None  # another monitor is the writer, or a response was lost: read what is stored
        except BusFull as error:
            self.problem = f"alerts cannot be stored: {error}"
        except BusUnavailable as error:
            self.problem = f"alerts cannot be published: {error}"

    async def close(self) -> None:
        """Store which messages were accepted, so that none is sent again; let another monitor take over at once."""
        if self._alerts is not None:
            outbox = self._deliveries.outbox
            await self._bucket.store_deliveries(outbox.changed, outbox.deliveries())
        await self._bucket.release()

    def firing(self) -> list[str]:
        """Return the types of the alerts that are firing; [] if another monitor writes them."""
        return [] if self._alerts is None else self._alerts.firing()

    async def _hold(self, at: float) -> NetworkAlerts | None:
        """Return the alerts if this monitor is their writer; read them from the bucket when it becomes the writer."""
        if not await self._bucket.hold(cluster=self.cluster):
            self._alerts = None
        elif self._alerts is None:
            alerts = NetworkAlerts(self._rules)
            alerts.restore(await self._bucket.records())
            alerts.observe_until = await self._bucket.installed(at) + self.settings.observe_only
            known = await self._context.bus.kv_values(subjects.ALERTS, Alert)
            self._published = {
                key: (newest.value.state, newest.value.severity)
                for key, newest in known.items()
                if newest.value is not None
            }
            self._deliveries.restore(await self._bucket.deliveries())
            self._asked = await self._bucket.asked()
            self._alerts = alerts
        return self._alerts

    def _observe(
        self,
        alerts: NetworkAlerts,
        at: float,
        own: Iterable[Alert],
        texts: Mapping[str, str],
        cluster: tuple[Snapshot, list[Finding]] | None,
    ) -> None:
        alerts.observe_own(own, texts, at)
        if cluster is not None:
            snapshot, findings = cluster
            self._facts = facts(snapshot)
            alerts.end_removed(objects_of(snapshot), at)
            alerts.observe_findings(findings, at, adopt=self._adopt)
            self._adopt = False
        alerts.tick(at)

    async def _write(self, alerts: NetworkAlerts, at: float) -> None:
        """Publish the changes, then store the states: a monitor that dies in between publishes nothing twice."""
        full: BusFull | None = None
        known = [*self._facts, *self._own_work.facts()]
        open_ = {key for key, record in alerts.records().items() if record.item.open}
        ended = {key: change for key, change in self._unrecorded.items() if key not in open_}
        # One that is open and could not be recorded is not in `_published`, so that it is recorded later.
        for key, record in alerts.unpublished(self._published | ended, known).items():
            try:
                await self._publish_one(key, alert_of(record))
            except BusFull as error:
                full = error
        alerts.acknowledge(await self._bucket.acknowledged())
        silences = await self._bucket.silences()
        notifications = alerts.due(at, known, silences)
        self.actions.choose(alerts, at, known, silences)
        self._deliveries.add(notifications, at)
        if notifications:
            self._deliveries.hurry()
        try:
            outbox = self._deliveries.outbox
            await self._bucket.store_deliveries(outbox.changed, outbox.deliveries())
            await self._bucket.store(alerts.changed, alerts.records())
        except BusFull as error:
            full = error
        self._deliveries.send(alerts.records())
        if full is not None:
            raise full
        await self.actions.follow(alerts, at)

    async def _ask(self, requests: Mapping[str, Message], at: float) -> None:
        """Queue the requests for approval that were not queued yet; withdraw those that are decided."""
        outbox = self._deliveries.outbox
        for request in requests.keys() - self._asked:
            self._deliveries.queue(requests[request], at)
            await self._bucket.store_deliveries(outbox.changed, outbox.deliveries())
            await self._bucket.store_asked(request, at)
            self._asked.add(request)
        outbox.withdraw_requests(requests)

    async def _publish_one(self, key: str, alert: Alert) -> None:
        """Record and publish an alert.

        If NATS has no space for the record, publish the alert at once and record it later.  Only in this case every
        monitor publishes it: people must be notified that there is no space.
        """
        change = (alert.state, alert.severity)
        try:
            new = await self._record(key, alert)
        except BusFull:
            if self._unrecorded.get(key) != change:
                self._unrecorded[key] = change
                await self._publish(alert)
            raise
        published = self._unrecorded.pop(key, None)
        if (published is None and new) or (published is not None and published != change):
            await self._publish(alert)
        self._published[key] = change

    async def _publish(self, alert: Alert) -> None:
        await self._context.bus.publish(subjects.alert(alert.alert_type), alert)
        self._context.log.warning("alert", state=alert.state, kind=alert.alert_type, text=alert.message)

    async def _record(self, key: str, alert: Alert) -> bool:
        """Write the state of an alert; return whether it was new to the network."""
        bus = self._context.bus
        ttl = self.settings.resolved_retention if alert.state == RESOLVED else None
        while True:
            newest = await bus.kv_read(subjects.ALERTS, key, Alert)
            before = newest.value
            known = (RESOLVED, alert.severity) if before is None else (before.state, before.severity)
            if known == (alert.state, alert.severity):
                return False
            try:
                await bus.kv_put(subjects.ALERTS, key, alert, ttl=ttl, expect=newest.seq)
            except StaleWrite:
                continue  # another monitor was faster: read what it wrote
            return True
