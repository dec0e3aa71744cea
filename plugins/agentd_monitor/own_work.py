"""What workflows and calls are changing now: alerts about it are inhibited.  Pure.

The targets come from the effect records, which agents store before each act.  The targets of a workflow count until it
ends, because a node that it has restarted is offline after the act; not while it waits for a person, which may take
days.  The targets of a call count while it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agentd import TERMINAL
from agentd_monitor.alerting.suppression import Condition
from agentd_monitor.alerts import PATIENT

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNING: Final = "workflow_running"
IN_PROGRESS: Final = "claimed"
"""Phase of an effect record while its agent works on it."""
MOST: Final = 1000
"""Maximum number of workflows and calls: a flood must not fill the memory."""


class Effect(msgspec.Struct, frozen=True):
    """The fields of an effect record that are needed here; each act is `<tool> <target>`."""

    key: str
    phase: str = ""
    acted: list[str] = []


class OwnWork:
    """The targets of the workflows and calls that are running."""

    def __init__(self) -> None:
        self._status: dict[str, str] = {}
        self._targets: dict[str, frozenset[str]] = {}

    def observe_workflow(self, workflow_id: str, status: str) -> None:
        """Record the status of a workflow."""
        if status in TERMINAL:
            self._status.pop(workflow_id, None)
            self._targets.pop(workflow_id, None)
        elif workflow_id in self._status or len(self._status) < MOST:
            self._status[workflow_id] = status

    def observe_effect(self, effect: Effect) -> None:
        """Record what a task or a call has begun to change."""
        targets = frozenset(act.rpartition(" ")[2] for act in effect.acted)
        if "=" not in effect.key:  # the key of a call is <principal>=<word>.<word>
            workflow_id = effect.key.partition(".")[0]
            if targets and workflow_id in self._status:
                self._targets[workflow_id] = self._targets.get(workflow_id, frozenset()) | targets
        elif effect.phase != IN_PROGRESS:
            self._targets.pop(effect.key, None)
        elif targets and len(self._targets) < 2 * MOST:
            self._targets[effect.key] = targets

    def open_workflows(self) -> list[str]:
        """Return the workflows that have not ended."""
        return list(self._status)

    def facts(self) -> Iterator[Condition]:
        """Return the facts that inhibit alerts about these targets."""
        for key, targets in self._targets.items():
            if self._status.get(key) not in PATIENT:
                for target in targets:
                    kind, _, name = target.partition("/")
                    if kind == "guest":
                        yield from (Condition(RUNNING, {"guest": f"{one}/{name}"}) for one in ("qemu", "lxc"))
                    elif kind in {"node", "storage"}:
                        yield Condition(RUNNING, {kind: name})
