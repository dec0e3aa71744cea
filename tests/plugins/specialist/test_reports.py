"""Changes are listed in order of importance; a report says what was done, what was left, and why."""

from __future__ import annotations

from typing import Any

from agentd_specialist.balance.model import Measure, Move
from agentd_specialist.balance.plan import Left
from agentd_specialist.changes import summarize
from agentd_specialist.report_tools import MovedView, PlanView, report

NOW = 1_000_000.0
COUNTS = (
    "in the last 24 hours: failed 1, deleted 1, restored or rolled back 1, migrated 1, nodes booted 1, "
    "started or stopped 2, backups 1"
)


def task(kind: str, about: str, status: str = "OK", node: str = "pve1", at: int = 999_000) -> dict[str, Any]:
    """Return an entry of a task list."""
    return {"type": kind, "id": about, "status": status, "node": node, "starttime": at, "user": "root@pam"}


def test_failures_come_first() -> None:
    """Failures, deletions, migrations and a reboot are named in this order; what changes nothing is left out."""
    tasks = [
        task("qmstart", "101"),
        task("qmstart", "101", at=998_000),
        task("qmigrate", "102", node="pve2"),
        task("vzdestroy", "103"),
        task("vzdump", "104", "job errors"),
        task("vzdump", "", "OK"),
        task("aptupdate", "", "OK"),
        task("qmclone", "105", "RUNNING"),
        task("qmrollback", "106", "WARNINGS: 1"),
    ]
    found = summarize(
        tasks,
        [{"node": "pve1", "uptime": 600}, {"node": "pve2", "uptime": 900_000}],
        {101: "web", 104: "db"},
        now=NOW,
        hours=24,
        unread=["pve3 (is offline)"],
    )

    assert found.text.splitlines() == [
        COUNTS,
        "guest 104 db: vzdump on pve1 failed: job errors",
        "guest 103 was deleted",
        "guest 106 was rolled back to a snapshot",
        "guest 102 left pve2",
        "node pve1 was booted",
        "guest 101 web was started (2 times)",
        "backups on pve1 succeeded",
        "not read: pve3 (is offline)",
    ]
    assert found.changes[-2].at == 998_000
    assert (found.counts["power"], found.unlisted) == (2, 0)


def test_nothing_has_changed() -> None:
    """A calm day is one line, and thousands of changes are still a short text."""
    calm = summarize([], [], {}, now=NOW, hours=24)
    busy = summarize([task("qmstart", str(vmid)) for vmid in range(100, 1100)], [], {}, now=NOW, hours=1)

    assert calm.text == "in the last 24 hours: nothing changed"
    assert (len(busy.changes), busy.unlisted) == (200, 800)
    assert len(busy.text.splitlines()) == 14
    assert busy.text.endswith("and 988 more")


def plan(gap: float, *left: Left) -> PlanView:
    """Return a plan with this gap."""
    return PlanView("2 migrations of 8.0 GiB", Measure(0, 0.0, gap, 50.0, 0.0, 0.0, 0.0), list(left))


def test_what_was_done_and_left() -> None:
    """A guest that moved at the second attempt is done; one that stayed is named with its last reason."""
    moves = [Move(vmid, f"g{vmid}", "a", "b", 4.0) for vmid in (101, 102)]
    first = MovedView(moves[:1], [Left(102, "g102", "a", "migration aborted"), Left(103, "g103", "a", "no room")])
    second = MovedView(moves[1:], [Left(103, "g103", "a", "it is locked (backup)")])
    found = report(plan(40, Left(104, "g104", "a", "its tag says that it stays")), [first, second], plan(3.9))

    assert found.text.splitlines() == [
        "done: 2 migrations of 8.0 GiB; the gap between the nodes went from 40.0 to 3.9 % of memory",
        "g104 (104) stays on a: its tag says that it stays",
        "g103 (103) stays on a: it is locked (backup)",
    ]
    assert (found.moves, found.gib, [one.vmid for one in found.left]) == (2, 8.0, [104, 103])


def test_nothing_was_moved() -> None:
    """Without a migration the report is the sentence of the plan."""
    assert report(plan(3), [], None).text == "nothing was moved: 2 migrations of 8.0 GiB"
