"""A history: what one workflow was told, in order, and the digest of its state after each.

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
from agentd_orchestrator.engine import decide as wf
from agentd_orchestrator.engine.inputs import AgentReport, DecideFailed, Input, PlannedRequest, Signal, TimerFired

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.wire.workflow import Workflow

KINDS: dict[str, type[Any]] = {
    each.__name__: each for each in (PlannedRequest, DecideFailed, TimerFired, AgentReport, Signal)
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
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in lines))


def read(path: Path) -> list[Line]:
    """Read a history."""
    return [msgspec.json.decode(each, type=Line) for each in path.read_bytes().splitlines()]


def replay(lines: list[Line]) -> Workflow:
    """Decide over a history again; raises AssertionError at the first line that is decided differently."""
    state: Workflow | None = None
    for number, each in enumerate(lines, 1):
        given = msgspec.convert(each.given, KINDS[each.kind])
        before = wf.without_outbox(state)
        try:
            after = wf.decide(before, given, each.at)
        except (Rejected, Denied):
            after = before
        got = digest(after) if after is not None and after is not before else ""
        assert got == each.after, f"line {number}: {each.kind} is decided differently: {json.dumps(each.given)[:300]}"
        state = after
    assert state is not None, "an empty history"
    return state
