"""Whether all is well, and how it is shown: what the pages think before they are served."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from agentd.client.views import Event, EventKind, Reason, RoleState, TaskView
from agentd.web import formats, graph, overview, page, status
from agentd.web.overview import read_overview
from agentd.web.page import Pages
from agentd.wire.announcements import AgentRegistration
from core.web_networks import busy_network, large_network
from core.web_view import TASK_STATES, WORKFLOW_STATES, MemoryView, summary

STATIC = Path(page.__file__).parent / "static"


@pytest.fixture
def network() -> MemoryView:
    """Give a network with a bit of everything."""
    return busy_network()


async def test_a_healthy_daemon_has_one_sentence() -> None:
    """A quiet, ready daemon has level ok, a calm headline and nothing that needs attention."""
    quiet = MemoryView()
    quiet.me = msgspec.structs.replace(quiet.me, roles=[RoleState(str(n), ready=True) for n in range(4)])
    quiet.add_workflow("w1", ["completed", "running", "waiting"], "running", 5)

    picture = await read_overview(quiet)

    assert (picture.level, picture.headline) == ("ok", "All 4 roles ready. 1 workflow running.")
    assert picture.attention == []


@pytest.mark.parametrize(
    ("ready", "sentence"),
    [
        ([], "No role is loaded."),
        ([True], "The r0 is ready."),
        ([False], "The r0 is not ready."),
        ([True, True], "Both roles ready."),
        ([True, False, False], "2 of 3 roles are not ready."),
    ],
)
async def test_the_headline_counts_roles(ready: list[bool], sentence: str) -> None:
    """The first sentence says how the roles of this daemon stand."""
    quiet = MemoryView()
    quiet.me = msgspec.structs.replace(
        quiet.me, roles=[RoleState(f"r{place}", ready=item) for place, item in enumerate(ready)]
    )

    picture = await read_overview(quiet)

    assert picture.headline.startswith(sentence)
    assert (picture.level == "ok") is (all(ready) and bool(ready))


async def test_attention_lists_every_problem_once_by_severity(network: MemoryView) -> None:
    """What needs a person is listed with its reason; a role that readiness names isn't named twice."""
    picture = await read_overview(network)

    named = [item.what for item in picture.attention]
    assert named[:2] == ["mcp-bridge", "plugin ceph-tools"]
    assert len(named) == len(set(named))
    assert {"high_cpu", "purge-old", "cache-41be", "specialist-pve4", "tool clone_vm", "this daemon"} == {*named[2:]}
    assert picture.level == "bad"


async def test_unknown_is_never_healthy(network: MemoryView) -> None:
    """An agent without recent messages is silent, also one that never sent a message."""
    quiet = MemoryView()
    quiet.agent_list = [AgentRegistration("a"), AgentRegistration("b", timestamp=quiet.ago(minutes=2))]

    picture = await read_overview(quiet)

    assert [overview.agent_status(item, picture.at) for item in quiet.agent_list] == ["silent", "silent"]
    assert picture.level == "warn"
    assert status.style_of(status.AGENT, "weird").icon == "ask"
    assert [overview.service_status(item, picture.at) for item in network.service_list][2] == "silent"


async def test_an_untaken_task_and_a_failed_compensation_need_attention() -> None:
    """A task that no agent takes and a half changed world need attention however old they are."""
    quiet = MemoryView()
    stuck = quiet.add_workflow("w1", ["assigned", "waiting", "waiting"], "running", 300)
    quiet.add_workflow("w2", ["failed", "skipped", "skipped"], "compensation_failed", 9e6)
    quiet.add_workflow("w3", ["failed", "skipped", "skipped"], "failed", 9e6)

    picture = await read_overview(quiet)

    assert [item.what for item in picture.attention] == ["w2", "w1"]
    assert stuck.tasks[0].queue in picture.attention[1].text


async def test_a_view_that_hangs_is_a_problem_not_a_hang(network: MemoryView, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer in time makes the picture unknown, once, and the page is there."""
    monkeypatch.setattr(overview, "ANSWER_WITHIN", 0.05)
    network.slow = 9.0

    picture = await read_overview(network)

    assert picture.problems == ["no answer from the network within 0 s"]
    assert picture.workflows is None
    assert picture.agents is None


def test_every_status_has_colour_symbol_and_word() -> None:
    """Each status has its own symbol and word, and the page has the symbol."""
    sprite = set(re.findall(r'symbol id="(\w+)"', (STATIC / "icons.svg").read_text()))

    for table, states in ((status.WORKFLOW, WORKFLOW_STATES), (status.TASK, TASK_STATES)):
        assert list(table) == states
        assert len({row.word for row in table.values()}) == len(states)
    others = (status.AGENT, status.PLUGIN, status.ROLE, status.LEVEL, status.GUEST, status.TIER, status.SEVERITY)
    for table in (status.WORKFLOW, status.TASK, *others):
        assert {row.icon for row in table.values()} <= sprite
        assert all(len(row.mark) == 1 and row.mark.isascii() for row in table.values())


def test_colours_have_contrast() -> None:
    """Every text colour reaches WCAG AA (4.5) on card and page, light and dark."""
    pairs = dict(re.findall(r"--(\w+): (light-dark\([^)]*\))", (STATIC / "base.css").read_text()))
    css = (STATIC / "base.css").read_text()
    tones = re.findall(r"--tone: light-dark\((#\w+), (#\w+)\)", css)
    grounds = [re.findall(r"#\w+", pairs[name]) for name in ("bg", "card")]
    inks = [re.findall(r"#\w+", pairs[name]) for name in ("ink", "soft", "link")]

    for ink in [*map(list, tones), *inks]:
        for ground in grounds:
            for place in (0, 1):
                assert _contrast(ink[place], ground[place]) >= 4.5, (ink, ground, place)


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * item for item in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_plan_is_drawn_in_columns() -> None:
    """Each task is drawn right of all that it waits for; a cycle and a single task have no picture."""

    def task(name: str, *after: str) -> TaskView:
        return TaskView(workflow_id="w", name=name, tool="t", status="waiting", after=list(after))

    picture = graph.draw(
        [task("a"), task("b", "a"), task("c", "a", "unknown"), task("d", "b", "c"), task("e", "a", "d")]
    )

    assert picture is not None
    column = {box.task.name: box.x for box in picture.boxes}
    assert column["a"] < column["b"] == column["c"] < column["d"] < column["e"]
    assert len({(box.x, box.y) for box in picture.boxes}) == 5
    assert len(picture.lines) == 6
    assert graph.draw([task("a", "b"), task("b", "a")]) is None
    assert graph.draw([task("a")]) is None


def test_times_have_one_unit() -> None:
    """One unit, never negative."""
    at = MemoryView().at

    answer = [formats.ago(at - timedelta(seconds=n), at) for n in (-5, 0, 59, 60, 3599, 3600, 172799, 172800)]

    assert answer == ["0 s ago", "0 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "47 h ago", "2 d ago"]
    assert formats.ago(None, at) == "never"
    assert [formats.percent(n) for n in (-1, 0.125, 1, 7)] == ["0 %", "12 %", "100 %", "100 %"]


def test_event_keys_are_unique_per_object(network: MemoryView) -> None:
    """Two events with one key are about one thing."""
    alert = network.alerts_stored[0]
    other = msgspec.structs.replace(alert, labels={"node": "pve3"})

    keys = {
        Event(EventKind.ALERT, alert).key,
        Event(EventKind.ALERT, other).key,
        Event(EventKind.AGENT, network.agent_list[0]).key,
        Event(EventKind.WORKFLOW, summary(network.details["web1-0a2c"])).key,
    }

    assert len(keys) == 4


def test_a_role_that_is_not_ready_is_named_without_a_reason() -> None:
    """A role that is down and says nothing is still named."""
    quiet = MemoryView()
    quiet.me = msgspec.structs.replace(quiet.me, roles=[RoleState("monitor", ready=False)])
    quiet.reasons = [Reason("bus", "")]

    found = asyncio.run(read_overview(quiet)).attention

    assert [(item.what, item.text) for item in found] == [
        ("bus", "not ready, and no reason is given"),
        ("monitor", "not ready, and no reason is given"),
    ]


async def test_a_page_of_a_large_cluster() -> None:
    """200 workflows and 50 agents are on one page; `tests/bench/bench_page.py` says how long it takes."""
    picture = await read_overview(large_network())
    pages = await asyncio.to_thread(Pages)

    frame = page.Frame(picture.identity)
    assert pages.overview(frame, picture, 200, cards=[], chart=[], chart_text="").count('class="wf"') == 200
