"""What real runs decided is decided again: a change of `decide` that changes a running workflow is seen."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agentd_orchestrator.state_machine import failures
from histories import history

FOLDER = Path(history.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_decided_as_it_was(name: str) -> None:
    """Every input of a recorded run leads to the very state that it led to then."""
    state = history.replay(history.read(FOLDER / f"{name}.jsonl"))

    assert state.over
    assert state.workflow_id == name


def test_there_are_histories() -> None:
    """Deployments, a health check, a cancellation, and a workflow with a bit of everything that is undone."""
    assert NAMES == ["cancelled", "compensated", "deployed", "healthy"]


def test_another_decision_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer pause before a retry, a lost input, another order: each is a difference with its line."""
    lines = history.read(FOLDER / "compensated.jsonl")
    changed = msgspec.structs.replace(lines[0], given={**lines[0].given, "principal": "another"})

    with pytest.raises(AssertionError, match="line 1: PlannedRequest is decided differently"):
        history.replay([changed, *lines[1:]])
    with pytest.raises(AssertionError, match=r"line \d+: \w+ is decided differently"):
        history.replay([*lines[:2], *lines[3:]])
    monkeypatch.setattr(failures, "JITTER", 0.0)
    with pytest.raises(AssertionError, match=r"line \d+: AgentReport is decided differently"):
        history.replay(lines)
