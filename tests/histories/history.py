"""A history: the inputs of one workflow, in order, and the digest of its state after each.

One line of JSON for each input: when it was decided over, what it was, and `after`, the digest of the state that
came of it ("" for no change).  The digest leaves out nothing: a change of `decide` that decides differently is seen.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.errors import Denied, Rejected
from agentd.wire.codec import digest
from agentd_orchestrator.state_machine import decide as wf
from agentd_orchestrator.state_machine.inputs import (
    AgentReport,
    DecideFailed,
    Input,
    PlannedRequest,
    Signal,
    TimerFired,
)

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.wire.workflow import Workflow

KINDS: dict[str, type[Any]] = {
    item.__name__: item for item in (PlannedRequest, DecideFailed, TimerFired, AgentReport, Signal)
}


class Line(msgspec.Struct, frozen=True):
    """One input and what came of it."""

    at: datetime
    kind: str
    given: dict[str, Any]
    after: str


def line(given: Input, at: datetime, before: Workflow | None, after: Workflow | None) -> Line:
    """Return the line of an input."""
    changed = after is not None and after is not before
    return Line(at, type(given).__name__, msgspec.to_builtins(given), digest(after) if changed else "")


def write(path: Path, lines: list[Line]) -> None:
    """Write a history."""
    path.write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in lines))


def read(path: Path) -> list[Line]:
    """Read a history."""
    return [msgspec.json.decode(item, type=Line) for item in path.read_bytes().splitlines()]


def replay(lines: list[Line]) -> Workflow:
    """Decide over a history again; raises AssertionError at the first line that is decided differently."""
    state: Workflow | None = None
    for number, item in enumerate(lines, 1):
        given = msgspec.convert(item.given, KINDS[item.kind])
        before = wf.without_outbox(state)
        try:
            after = wf.decide(before, given, item.at)
        except (Rejected, Denied):
            after = before
        got = digest(after) if after is not None and after is not before else ""
        assert got == item.after, f"line {number}: {item.kind} is decided differently: {json.dumps(item.given)[:300]}"
        state = after
    assert state is not None, "an empty history"
    return state
