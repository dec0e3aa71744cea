"""The open workflows that an orchestrator keeps in memory, counted by principal."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentd.wire.workflow import Workflow


class Opened:
    """States with the sequence of their last event, the least recently used first; at most `most`."""

    def __init__(self, most: int) -> None:
        """Begin with none."""
        self._most = most
        self._states: OrderedDict[str, tuple[int, Workflow]] = OrderedDict()
        self._count: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._states)

    def __contains__(self, workflow_id: str) -> bool:
        """Return True if the state of this workflow is here."""
        return workflow_id in self._states

    def get(self, workflow_id: str) -> tuple[int, Workflow] | None:
        """Return the sequence and the state of a workflow, None if it is not here."""
        return self._states.get(workflow_id)

    def keep(self, state: Workflow, seq: int) -> None:
        """Keep the state of a workflow, or forget one that is over; the least recently used one may be forgotten."""
        self.drop(state.workflow_id)
        if state.over:
            return
        self._states[state.workflow_id] = (seq, state)
        self._count[_asked_by(state)] += 1
        if len(self._states) > self._most:
            self.drop(next(iter(self._states)))

    def drop(self, workflow_id: str) -> None:
        """Forget a workflow."""
        found = self._states.pop(workflow_id, None)
        if found is None:
            return
        principal = _asked_by(found[1])
        self._count[principal] -= 1
        if not self._count[principal]:
            del self._count[principal]

    def used(self, workflow_id: str) -> None:
        """Note that a workflow was used now."""
        self._states.move_to_end(workflow_id)

    def oldest(self, most: int) -> list[tuple[str, int]]:
        """Return the least recently used workflows with their sequences, at most `most`."""
        return [(name, seq) for name, (seq, _) in list(self._states.items())[:most]]

    def of(self, principal: str) -> int:
        """Return how many of them `principal` has asked for; those that other workflows started are not counted."""
        return self._count[principal]


def _asked_by(state: Workflow) -> str:
    """Return who has asked for a workflow; "" for another workflow."""
    return state.principal if state.parent is None else ""
