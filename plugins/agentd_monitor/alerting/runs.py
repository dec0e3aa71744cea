"""Which alerts start the workflow that the settings name for them.  Pure: times are parameters, in seconds since 1970.

The rules:
- An incident starts its workflow once, and only after it was notified: nothing starts in the first day after the
  installation, during a silence, below another alert, or while a person has acknowledged the alert.
- One object starts it at most once an hour, all objects of an alert together at most `per_hour` times; what exceeds
  this starts later if the alert still fires then.
- The run is stored before it is requested.  The id of the workflow comes from the incident, so that a monitor that was
  restarted, or takes over, requests the same workflow again, and no second one.
- The orchestrator applies the policy, tiers and approvals to it, as to each request of its principal.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import TERMINAL, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentd_monitor.actions import ActionSettings
    from agentd_monitor.alerting.book import Record

REQUESTED: Final = "requested"
NOT_STARTED: Final = "not_started"
"""Status of a run that no orchestrator has accepted."""
HOUR: Final = 3600.0


class Run(msgspec.Struct, frozen=True):
    """A workflow that an alert has started.

    incident  time when the incident began to fire
    at        time of the decision
    status    REQUESTED, NOT_STARTED, or the last known status of the workflow
    error     why it was not started, or has failed
    """

    workflow_id: str
    principal: str
    incident: float
    at: float
    status: str = REQUESTED
    error: str = ""

    @property
    def over(self) -> bool:
        """Return whether its status can no longer change."""
        return self.status == NOT_STARTED or self.status in TERMINAL


def due(
    wanting: Mapping[str, Record], records: Iterable[Record], actions: Mapping[str, ActionSettings], at: float
) -> dict[str, Run]:
    """Return the runs to start now, by fingerprint.

    wanting  alerts that fire, were notified, and that nothing suppresses, by fingerprint
    records  all alerts
    """
    recent = Counter(record.item.rule for record in records if record.run is not None and _is_recent(record.run, at))
    found: dict[str, Run] = {}
    for key, record in sorted(wanting.items(), key=lambda entry: entry[1].item.begun or 0.0):
        rule, run, action = record.item.rule, record.run, actions.get(record.item.rule)
        if action is None or (action.severity == "critical" and record.item.severity != "critical"):
            continue
        if run is not None and (run.incident == record.item.begun or not run.over or _is_recent(run, at)):
            continue
        if recent[rule] < action.per_hour:
            recent[rule] += 1
            found[key] = _run(key, record, action, at)
    return found


def parameters(record: Record, action: ActionSettings) -> dict[str, Any]:
    """Return the parameters of the workflow: the fixed ones, and those that are labels of the alert."""
    return action.parameters | {name: record.item.labels.get(label, "") for name, label in action.labels.items()}


def _run(key: str, record: Record, action: ActionSettings, at: float) -> Run:
    begun = record.item.begun or 0.0
    run = Run(f"alert-{record.item.rule}-{digest([key, begun])[:16]}", action.principal, begun, at)
    missing = sorted(label for label in action.labels.values() if not record.item.labels.get(label))
    if missing:
        return msgspec.structs.replace(run, status=NOT_STARTED, error=f"the alert has no label {missing[0]}")
    return run


def _is_recent(run: Run, at: float) -> bool:
    """Return whether a run began within an hour; also if the clock was set back since."""
    return abs(at - run.at) < HOUR
