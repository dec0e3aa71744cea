"""Why the notification of a firing alert is withheld: inhibition, silences, acknowledgement.  Pure.

The inhibition graph is small and fixed.  Routing by receiver, time windows and escalation are left to Alertmanager.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Edge(NamedTuple):
    """A condition that inhibits alerts.

    source  the condition: the name of an alert, or of a fact such as `maintenance`
    groups  groups of the alerts that are inhibited
    equal   the label that must be the same; "" inhibits all alerts of the groups
    """

    source: str
    groups: frozenset[str]
    equal: str


GRAPH: Final = (
    Edge("node_down", frozenset({"node", "storage", "service", "replication"}), "node"),
    Edge("node_lost", frozenset({"guest", "performance", "lock"}), "guest"),
    Edge("not_quorate", frozenset({"ha", "replication"}), ""),
    Edge("maintenance", frozenset({"node", "service", "ha", "performance"}), "node"),
    Edge("backup_lock", frozenset({"performance", "lock"}), "guest"),
    Edge("workflow_running", frozenset({"node", "guest", "service", "performance", "lock"}), "guest"),
    Edge("workflow_running", frozenset({"node", "guest", "service", "performance", "lock"}), "node"),
    Edge("workflow_running", frozenset({"storage"}), "storage"),
)
"""What inhibits what; only `node_down` and `not_quorate` are alerts, the others are facts.

The labels of a guest's alerts do not have its node, so that a migration is not a new alert: that its node is down is
the fact `node_lost` about the guest.
"""


class Condition(NamedTuple):
    """A fact, or an alert that is pending, firing or unknown, as a source of inhibition."""

    name: str
    labels: Mapping[str, str]


class Matcher(msgspec.Struct, frozen=True):
    """A condition on one label; `pattern` is a shell pattern such as `web-*`.  `negate` reverses it."""

    label: str
    pattern: str
    negate: bool = False

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the label fits; a missing label is empty."""
        return fnmatchcase(labels.get(self.label, ""), self.pattern) != self.negate


class Silence(msgspec.Struct, frozen=True):
    """No notification of the alerts that all matchers fit, between two times (seconds since 1970)."""

    id: str
    matchers: tuple[Matcher, ...]
    starts: float
    ends: float
    author: str
    comment: str = ""

    def covers(self, labels: Mapping[str, str], at: float) -> bool:
        """Return whether the silence holds for an alert at a time; without a matcher it covers nothing."""
        return bool(self.matchers) and self.starts <= at < self.ends and all(m.matches(labels) for m in self.matchers)


class Acknowledgement(msgspec.Struct, frozen=True):
    """A person has taken an incident: no reminders, and no notification if it begins again before `until`."""

    by: str
    at: float
    until: float


class Inhibition:
    """The conditions of one moment, indexed: 10,000 alerts are compared with the graph, not with each other."""

    def __init__(self, conditions: Iterable[Condition]) -> None:
        self._found: dict[tuple[str, str, str], Condition] = {}
        for condition in conditions:
            for edge in GRAPH:
                if edge.source == condition.name and (not edge.equal or edge.equal in condition.labels):
                    self._found[edge.source, edge.equal, condition.labels.get(edge.equal, "")] = condition

    def of(self, name: str, group: str, labels: Mapping[str, str]) -> Condition | None:
        """Return the condition that inhibits an alert, None if there is none.

        No alert inhibits an alert of its own name, so none inhibits itself.
        """
        for edge in GRAPH:
            if group not in edge.groups or edge.source == name or (edge.equal and edge.equal not in labels):
                continue
            found = self._found.get((edge.source, edge.equal, labels.get(edge.equal, "")))
            if found is not None:
                return found
        return None
