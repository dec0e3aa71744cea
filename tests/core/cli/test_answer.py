"""What the command line prints when a workflow has ended."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from agentd.cli.output import tables
from agentd.cli.output.terminal import console
from agentd.wire.messages import WorkflowResponse

if TYPE_CHECKING:
    import pytest


def test_the_guests_of_a_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each guest that a task returned is printed once, in its last state, for any task and tool."""
    out = io.StringIO()
    monkeypatch.setattr(console, "_file", out)
    monkeypatch.setattr(console, "_width", 200)
    guest = {"vmid": 101, "node": "pve1", "name": "web1", "status": "stopped"}
    tasks = {
        "make": {"status": "completed", "result": guest},
        "go": {"status": "completed", "result": guest | {"status": "running"}},
        "other": {"status": "completed", "result": {"vmid": 102, "node": "pve2", "name": "db", "status": "stopped"}},
        "count": {"status": "completed", "result": 7},
        "later": {"status": "skipped"},
    }
    tables.answer(WorkflowResponse("w1", "completed", {"tasks": tasks}))

    assert out.getvalue().splitlines()[1:] == ["guest 101 web1 on pve1: running", "guest 102 db on pve2: stopped"]
