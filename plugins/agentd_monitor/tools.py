"""The tools of the service `monitor`: list alerts and findings, silence and acknowledge alerts.

They read and write the bucket `monitor` alone, so each monitor can run them; the one that writes the alerts reads the
silences and acknowledgements in its next step.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from agentd import Call, Finding, Found, Level, NotFound, Rejected, Repeat, TemporaryError, Tier, digest, formats, tool
from agentd_monitor.alerting.state import State
from agentd_monitor.alerting.suppression import Acknowledgement, Matcher, Silence
from agentd_monitor.bucket import MonitorBucket
from agentd_monitor.health.finding import ORDER

if TYPE_CHECKING:
    from agentd import Bus
    from agentd_monitor.alerting.book import Record

V = TypeVar("V")

SERVICE: Final = "monitor"
CAPABILITY: Final = "monitoring"
ID: Final = 12
"""Characters of the id of an alert or silence that are shown and accepted."""
HOUR: Final = 3600.0
MOST_SILENCES: Final = 500
"""Maximum number of silences: each alert is compared with each of them."""

Limit = Annotated[int, Meta(ge=1, le=500, description="maximum number of entries")]
Hours = Annotated[float, Meta(gt=0, le=24 * 366, description="hours until it ends")]
Comment = Annotated[str, Meta(min_length=1, max_length=500, description="the reason")]
Id = Annotated[
    str, formats.full_match("[0-9a-f]{6,64}", "the id in the list; six characters suffice if they are unique")
]
Match = Annotated[
    str,
    formats.full_match(
        r"[A-Za-z_][A-Za-z0-9_]*!?=[^\x00-\x1f]{0,200}",
        "LABEL=PATTERN or LABEL!=PATTERN, such as alertname=guest_cpu or guest=qemu/1*",
    ),
]


class ListAlerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alerts to list.

    state  firing: those that fire, also without present data; pending: those that may; resolved: those of the last day
    """

    state: Literal["firing", "pending", "resolved", "all"] = "firing"
    name: str = ""
    limit: Limit = 100


class AlertLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An alert; times are in seconds since 1970.

    state        firing, pending, resolved, or unknown: it fires, but its data is missing
    since        when it began to fire
    acknowledged_by, silenced_by  the principal; "" if nothing suppresses its notifications
    workflow     id of the workflow that the alert has started
    """

    id: str
    name: str
    state: str
    severity: str
    text: str
    labels: dict[str, str] = {}
    since: float | None = None
    ended: float | None = None
    advice: str = ""
    acknowledged_by: str = ""
    silenced_by: str = ""
    workflow: str = ""
    workflow_status: str = ""
    workflow_error: str = ""


class AlertList(msgspec.Struct, frozen=True):
    """The alerts, the worst and newest first."""

    total: int
    alerts: list[AlertLine]


class AcknowledgeAlert(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The alert, and how long it needs no reminder, even if it begins again."""

    id: Id
    hours: Hours = 24.0


class SilenceAlerts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The alerts that all matchers fit; a pattern is a shell pattern such as `qemu/1*`."""

    matchers: Annotated[list[Match], Meta(min_length=1, max_length=10)]
    comment: Comment
    hours: Hours = 2.0


class OneSilence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The silence."""

    id: Id


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class SilenceLine(msgspec.Struct, frozen=True):
    """A silence; times are in seconds since 1970."""

    id: str
    matchers: list[str]
    ends: float
    author: str
    comment: str


class SilenceList(msgspec.Struct, frozen=True):
    """The silences, those that end first first."""

    silences: list[SilenceLine]


class ListFindings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which findings of the checks to list.

    level  the least level: warning also lists what is critical, unknown also what cannot be read
    """

    level: Literal["unknown", "warning", "critical"] = "unknown"
    check: str = ""
    node: formats.Node | None = None
    limit: Limit = 100


class FindingList(msgspec.Struct, frozen=True):
    """The findings, the worst first.

    counts  number of findings of each level, of all checks
    age     seconds since the checks ran
    """

    status: Level
    counts: dict[str, int]
    age: float
    total: int
    findings: list[Finding]


class MonitorTools:
    """The tools."""

    def __init__(self, bus: Bus | None, node: str) -> None:
        self._bus = bus
        self._node = node

    def _bucket(self) -> MonitorBucket:
        if self._bus is None:
            raise TemporaryError("this process has no connection to NATS")
        return MonitorBucket(self._bus, self._node)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability=CAPABILITY)
    async def list_alerts(self, call: Call, p: ListAlerts) -> AlertList:
        """List the alerts about the cluster and about agentd, with who has acknowledged or silenced them."""
        bucket, at = self._bucket(), time.time()
        silences = await bucket.silences()
        acknowledged = await bucket.acknowledged()
        lines = [
            _line(key, record, silences, acknowledged.get(key), at)
            for key, record in (await bucket.records()).items()
            if _is_wanted(record, p)
        ]
        lines.sort(key=lambda line: (line.severity != "critical", -(line.since or 0.0), line.id))
        return AlertList(len(lines), lines[: p.limit])

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability=CAPABILITY)
    async def acknowledge_alert(self, call: Call, p: AcknowledgeAlert) -> AlertLine:
        """Acknowledge an alert: it has no reminders, and is not notified again if it ends and begins again."""
        bucket, at = self._bucket(), time.time()
        key, record = _one((await bucket.records()), p.id, "alert")
        wanted = Acknowledgement(call.principal, at, at + p.hours * HOUR)

        async def check() -> Found | None:
            held = (await bucket.acknowledged()).get(key)
            return Found() if held is not None and held.by == wanted.by and held.until >= wanted.until else None

        async def apply() -> None:
            await bucket.put_for(f"ack.{key}", wanted, p.hours * HOUR)

        await call.ensure(check, apply)
        return _line(key, record, await bucket.silences(), wanted, at)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability=CAPABILITY)
    async def list_silences(self, call: Call, p: NoParameters) -> SilenceList:  # noqa: ARG002
        """List the silences that hold now."""
        silences = sorted(await self._bucket().silences(), key=lambda silence: silence.ends)
        return SilenceList([_silence_line(silence) for silence in silences if silence.ends > time.time()])

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability=CAPABILITY)
    async def silence_alerts(self, call: Call, p: SilenceAlerts) -> SilenceLine:
        """Silence the alerts that all matchers fit: they are listed, but no receiver is notified until it ends."""
        bucket, at = self._bucket(), time.time()
        matchers = tuple(_matcher(text) for text in p.matchers)
        silence = Silence(digest(call.key)[:ID], matchers, at, at + p.hours * HOUR, call.principal, p.comment)

        async def check() -> Found | None:
            held = await bucket.silences()
            if any(other.id == silence.id for other in held):
                return Found()
            if len(held) >= MOST_SILENCES:
                raise Rejected(f"there are {MOST_SILENCES} silences already: delete some with delete_silence")
            call.inverse("delete_silence", {"id": silence.id})
            return None

        async def apply() -> None:
            await bucket.put_for(f"silence.{silence.id}", silence, p.hours * HOUR)

        await call.ensure(check, apply)
        return _silence_line(silence)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability=CAPABILITY)
    async def delete_silence(self, call: Call, p: OneSilence) -> SilenceLine:
        """End a silence: its alerts are notified if they still fire."""
        bucket = self._bucket()
        found = {silence.id: silence for silence in await bucket.silences()}
        if call.begun and not any(key.startswith(p.id) for key in found):
            return SilenceLine(p.id, [], time.time(), "", "")
        key, silence = _one(found, p.id, "silence")

        async def check() -> Found | None:
            return None if any(other.id == key for other in await bucket.silences()) else Found()

        async def apply() -> None:
            await bucket.delete(f"silence.{key}")

        await call.ensure(check, apply)
        return _silence_line(silence)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability=CAPABILITY)
    async def list_findings(self, call: Call, p: ListFindings) -> FindingList:
        """List what the checks of the cluster found: what is critical, to be warned of, or cannot be read."""
        held = await self._bucket().findings()
        if held is None:
            raise TemporaryError(
                "no monitor has checked the cluster yet: see [proxmox] and cluster_metrics of monitors"
            )
        found = [
            finding
            for finding in held.findings
            if ORDER[finding.level] >= ORDER[Level(p.level)]
            and p.check in {"", finding.check}
            and (p.node is None or finding.labels.get("node") == p.node)
        ]
        levels = [level for level, count in held.counts.items() if count]
        worst = max((Level(level) for level in levels), key=ORDER.__getitem__, default=Level.UNKNOWN)
        return FindingList(worst, held.counts, max(0.0, time.time() - held.at), len(found), found[: p.limit])


def _is_wanted(record: Record, p: ListAlerts) -> bool:
    item = record.item
    state = State.FIRING if item.open else item.state
    return p.name in {"", item.rule} and (
        state == p.state if p.state != "all" else state in {State.FIRING, State.PENDING, State.RESOLVED}
    )


def _line(
    key: str, record: Record, silences: list[Silence], acknowledged: Acknowledgement | None, at: float
) -> AlertLine:
    item = record.item
    labels = {**item.labels, "alertname": item.rule, "severity": item.severity}
    silenced = next((silence.author for silence in silences if silence.covers(labels, at)), "")
    return AlertLine(
        key[:ID],
        item.rule,
        item.state,
        item.severity,
        item.text,
        item.labels,
        item.begun,
        None if item.open else item.ended,
        record.advice,
        acknowledged.by if acknowledged is not None and at < acknowledged.until else "",
        silenced,
        *(("", "", "") if record.run is None else (record.run.workflow_id, record.run.status, record.run.error)),
    )


def _one(found: dict[str, V], start: str, what: str) -> tuple[str, V]:
    """Return the only entry whose key begins with `start`; raises NotFound or Rejected."""
    fitting = [key for key in found if key.startswith(start)]
    if not fitting:
        raise NotFound(f"id: there is no {what} {start}; list_{what}s lists them")
    if len(fitting) > 1:
        raise Rejected(f"id: {len(fitting)} {what}s begin with {start}: give more characters")
    return fitting[0], found[fitting[0]]


def _matcher(text: str) -> Matcher:
    label, _, pattern = text.partition("=")
    return Matcher(label.removesuffix("!"), pattern, negate=label.endswith("!"))


def _silence_line(silence: Silence) -> SilenceLine:
    matchers = [f"{m.label}{'!=' if m.negate else '='}{m.pattern}" for m in silence.matchers]
    return SilenceLine(silence.id, matchers, silence.ends, silence.author, silence.comment)
