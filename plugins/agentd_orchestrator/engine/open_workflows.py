"""Cache of the open workflows of an orchestrator, counted by principal."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentd import Workflow


class OpenWorkflows:
    """States with the sequence of their last event: an LRU cache of at most `most`."""

    def __init__(self, most: int) -> None:
        """Start empty."""
        self._most = most
        self._states: OrderedDict[str, tuple[int, Workflow]] = OrderedDict()
        self._count: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return the number of workflows."""
        return len(self._states)

    def __contains__(self, workflow_id: str) -> bool:
        """Return whether the state of this workflow is cached."""
        return workflow_id in self._states

    def get(self, workflow_id: str) -> tuple[int, Workflow] | None:
        """Return the sequence and the state of a workflow, None if it is not cached."""
        return self._states.get(workflow_id)

    def keep(self, state: Workflow, seq: int) -> None:
        """Store the state of an open workflow, or forget an ended one.

        When the cache is full, the least recently used workflow is forgotten.
        """
        self.drop(state.workflow_id)
        if state.over:
            return
        self._states[state.workflow_id] = (seq, state)
        self._count[_requester(state)] += 1
        if len(self._states) > self._most:
            self.drop(next(iter(self._states)))

    def drop(self, workflow_id: str) -> None:
        """Forget a workflow."""
        entry = self._states.pop(workflow_id, None)
        if entry is None:
            return
        principal = _requester(entry[1])
        self._count[principal] -= 1
        if not self._count[principal]:
            del self._count[principal]

    def used(self, workflow_id: str) -> None:
        """Mark a workflow as the most recently used."""
        self._states.move_to_end(workflow_id)

    def oldest(self, most: int) -> list[tuple[str, int]]:
        """Return the `most` least recently used workflows with their sequences."""
        return [(name, seq) for name, (seq, _) in list(self._states.items())[:most]]

    def of(self, principal: str) -> int:
        """Return the number that `principal` has requested; child workflows do not count."""
        return self._count[principal]


def _requester(state: Workflow) -> str:
    """Return the principal that requested a workflow; "" for a child workflow."""
    return state.principal if state.parent is None else ""
