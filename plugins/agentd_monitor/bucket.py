"""The bucket `monitor`: what the monitors store, with one writer at a time.

    writer                          which monitor stores and publishes alerts now; expires without renewal
    installed                       when the first monitor started
    alert.<fingerprint>             state of an alert
    silence.<id> ack.<fingerprint>  what principals asked for, written by the tools; they expire
    findings                        what the checks of the cluster found last
    approval.<id>                   when a request for approval was queued; expires
    message.<id>                    a notification that a receiver has not accepted yet

Decisions:

- Every monitor receives and checks everything, so that its data is complete when it becomes the writer.  Only the
  writer changes keys of alerts and messages, by compare-and-set: a writer that was suspended and wakes up fails at its
  first write, and stops being the writer.
- Silences and acknowledgements are read in each step (two requests every five seconds, by one monitor) and not
  watched: a watch would also need a cache, its expiry, and a new read after each reconnect.
- When there is no space to renew the lease, every monitor is a writer: that NATS is full must be published.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentd import BusFull, Finding, Level, StaleWrite, subjects
from agentd_monitor.alerting.book import Record, essential
from agentd_monitor.alerting.suppression import Acknowledgement, Silence
from agentd_monitor.delivery.outbox import KEEP, Delivery

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd import Bus

V = TypeVar("V")

LEASE: Final = 20.0
"""Seconds for which a monitor is the writer without renewing it."""
RENEW: Final = 5.0
"""Seconds after which the writer renews its lease."""
MOST_FINDINGS: Final = 500
"""Maximum number of findings that are stored: more would not fit into a message."""
FINDINGS_KEPT: Final = 120.0
"""Seconds after which findings are no longer shown: the checks run every 15 s."""
ASKED_KEPT: Final = 30 * 86_400.0
"""Seconds for which it is known that a request for approval was queued."""
REMOVED: Final = 60.0
"""Seconds after which the marker of a removed entry expires."""


class Writer(msgspec.Struct, frozen=True):
    """The monitor that writes, by its agent id; one that reads the cluster takes over from one that does not."""

    agent: str
    cluster: bool = False


class Findings(msgspec.Struct, frozen=True):
    """What the checks of the cluster found last.

    at        time in seconds since 1970
    counts    number of findings by level
    findings  those that are not ok, the worst first, at most MOST_FINDINGS
    """

    at: float
    counts: dict[str, int]
    findings: list[Finding]

    @classmethod
    def of(cls, found: list[Finding], at: float) -> Findings:
        """Return what is stored of all findings."""
        bad = [finding for finding in found if finding.level is not Level.OK]
        return cls(at, dict(Counter(str(finding.level) for finding in found)), bad[:MOST_FINDINGS])


class MonitorBucket:
    """The bucket, for one monitor."""

    def __init__(self, bus: Bus, agent_id: str) -> None:
        self._bus = bus
        self._agent = agent_id
        self._lease = 0
        self._renewed = -LEASE
        self._seqs: dict[str, int] = {}
        self._stored: dict[str, tuple[object, ...]] = {}

    async def hold(self, *, cluster: bool = False) -> bool:
        """Return whether this monitor is the writer; take over if there is none, and renew if it is due.

        cluster  whether it reads the cluster
        """
        if time.monotonic() - self._renewed < RENEW:
            return True
        newest = await self._bus.kv_read(subjects.MONITOR, "writer", Writer)
        other = newest.value is not None and newest.value.agent != self._agent
        if newest.value is not None and other and (newest.value.cluster or not cluster):
            self._renewed = -LEASE
            return False
        started = time.monotonic()
        try:
            self._lease = await self._bus.kv_put(
                subjects.MONITOR, "writer", Writer(self._agent, cluster), ttl=LEASE, expect=newest.seq
            )
        except StaleWrite:
            self._renewed = -LEASE
            return False
        except BusFull:
            return True
        self._renewed = started
        return True

    async def release(self) -> None:
        """Let another monitor be the writer at once."""
        if self._lease:
            await self._bus.kv_delete(subjects.MONITOR, "writer", expect=self._lease)

    async def installed(self, at: float) -> float:
        """Return when the first monitor started, in seconds since 1970; `at` if this is the first one."""
        newest = await self._bus.kv_read(subjects.MONITOR, "installed", float)
        if newest.value is not None:
            return newest.value
        await self._bus.kv_put(subjects.MONITOR, "installed", at, expect=newest.seq)
        return at

    async def records(self) -> dict[str, Record]:
        """Return the stored state of each alert, by fingerprint."""
        found = await self._load("alert.", Record)
        self._stored = {f"alert.{key}": essential(record) for key, record in found.items()}
        return found

    async def silences(self) -> list[Silence]:
        """Return the silences that are stored."""
        found = await self._bus.kv_values(subjects.MONITOR, Silence, "silence.")
        return [newest.value for newest in found.values() if newest.value is not None]

    async def acknowledged(self) -> dict[str, Acknowledgement]:
        """Return the acknowledgements, by fingerprint."""
        found = await self._bus.kv_values(subjects.MONITOR, Acknowledgement, "ack.")
        return {key: newest.value for key, newest in found.items() if newest.value is not None}

    async def findings(self) -> Findings | None:
        """Return what the checks of the cluster found last; None if there is nothing recent."""
        return (await self._bus.kv_read(subjects.MONITOR, "findings", Findings)).value

    async def put_for(self, place: str, value: object, seconds: float) -> None:
        """Store a value that expires."""
        newest = await self._bus.kv_read(subjects.MONITOR, place, msgspec.Raw)
        await self._bus.kv_put(subjects.MONITOR, place, value, ttl=seconds, expect=newest.seq)

    async def delete(self, place: str) -> None:
        """Delete a value."""
        await self._bus.kv_delete(subjects.MONITOR, place, ttl=REMOVED)

    async def store(self, changed: set[str], records: Mapping[str, Record]) -> None:
        """Store the alerts that changed, and remove them from `changed`; raises StaleWrite if another monitor did."""
        for key in sorted(changed):
            record, place = records.get(key), f"alert.{key}"
            if record is None:
                await self._remove(place)
            elif self._stored.get(place) != essential(record):
                await self._put(place, record)
                self._stored[place] = essential(record)
            changed.discard(key)

    async def deliveries(self) -> list[Delivery]:
        """Return the messages that wait for their receivers."""
        return list((await self._load("message.", Delivery)).values())

    async def store_deliveries(self, changed: set[str], deliveries: Mapping[str, Delivery]) -> None:
        """Store the messages that changed, and remove them from `changed`; raises StaleWrite if another monitor did."""
        for key in sorted(changed):
            delivery, place = deliveries.get(key), f"message.{key}"
            if delivery is None:
                await self._remove(place)
            else:
                await self._put(place, delivery, KEEP)
            changed.discard(key)

    async def asked(self) -> set[str]:
        """Return the ids of the requests for approval that were queued."""
        return set(await self._bus.kv_values(subjects.MONITOR, float, "approval."))

    async def store_asked(self, request: str, at: float) -> None:
        """Store that a request for approval was queued."""
        await self.put_for(f"approval.{request}", at, ASKED_KEPT)

    async def _load(self, prefix: str, kind: type[V]) -> dict[str, V]:
        found = await self._bus.kv_values(subjects.MONITOR, kind, prefix)
        self._seqs |= {f"{prefix}{key}": newest.seq for key, newest in found.items()}
        return {key: newest.value for key, newest in found.items() if newest.value is not None}

    async def _put(self, place: str, value: object, ttl: float | None = None) -> None:
        self._seqs[place] = await self._bus.kv_put(
            subjects.MONITOR, place, value, ttl=ttl, expect=self._seqs.get(place, 0)
        )

    async def _remove(self, place: str) -> None:
        self._stored.pop(place, None)
        if place in self._seqs:
            await self._bus.kv_delete(subjects.MONITOR, place, expect=self._seqs.pop(place), ttl=REMOVED)
