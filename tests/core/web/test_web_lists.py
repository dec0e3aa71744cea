"""Lists, forms and the time axis: what the pages of the dashboard are made from."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException

from agentd.errors import InvalidMessage
from agentd.web.dashboard import forms, lists, timescale
from agentd.web.dashboard.listing import select
from agentd.wire.announcements import AgentRegistration
from agentd.wire.codec import now
from core.web_client import serving
from core.web_networks import busy_network
from core.web_view import MemoryView

if TYPE_CHECKING:
    from agentd.client.views import WorkflowDetail


@pytest.mark.parametrize(
    ("query", "vmids"),
    [
        ("q=web-03", [103]),
        ("q=NODE:pve2 status:running", [101, 104, 113, 116]),
        ("q=status:running -type:vm -node:pve1 -node:pve3", [101, 113]),
        ("q=locked", []),
        ("q=status:backup", [104]),
        ("sort=-vmid&limit=2", [123, 122]),
        ("sort=name&offset=22", [122, 123]),
        ("q=node:pve1&sort=status&limit=1&offset=0", [100]),
    ],
)
def test_a_query_selects(query: str, vmids: list[int]) -> None:
    """Words, words of a column and excluded words filter; a column sorts; offset and limit select the page."""
    found = select(lists.GUESTS, busy_network().guest_list, QueryParams(query))

    assert [guest.vmid for guest in found.rows] == vmids
    assert found.total == 24


@pytest.mark.parametrize("query", ["sort=colour", "limit=0", "limit=1001", "offset=-1", f"q={'x' * 201}"])
def test_a_wrong_query_is_refused(query: str) -> None:
    """What a list does not have is a 400 that names the parameter."""
    with pytest.raises(HTTPException, match=query.partition("=")[0]):
        select(lists.GUESTS, [], QueryParams(query))


async def test_the_api_has_pages_filters_and_etags() -> None:
    """A list is split into pages that link to the next one; an unchanged answer is a 304."""
    async with serving(busy_network()) as get:
        first = await get("/api/guests?q=type:vm&limit=5")
        following = first.headers["link"].partition(">")[0].removeprefix("<")
        last = await get(f"{following.replace('offset=5', 'offset=10')}")
        again = await get("/api/guests?q=type:vm&limit=5", If_None_Match=first.headers["etag"])
        workflows = await get("/api/workflows?limit=4&offset=4")

    assert [guest["vmid"] for guest in first.json()] == [100, 102, 104, 106, 108]
    assert first.headers["x-total-count"] == "12"
    assert following == "/api/guests?q=type%3Avm&limit=5&offset=5"
    assert [guest["vmid"] for guest in last.json()] == [120, 122]
    assert "link" not in last.headers
    assert (again.code, again.body) == (304, b"")
    assert len(workflows.json()) == 4


def _workflow(network: MemoryView, waits: timedelta) -> WorkflowDetail:
    """Return a finished workflow with two tasks of ten seconds, and a pause between them."""
    detail = network.add_workflow("one", ["completed"] * 2, "completed", 0, kind="two")
    start = detail.created
    first = msgspec.structs.replace(detail.tasks[0], started=start, finished=start + timedelta(seconds=10))
    again = start + timedelta(seconds=10) + waits
    second = msgspec.structs.replace(detail.tasks[1], started=again, finished=again + timedelta(seconds=10))
    return msgspec.structs.replace(detail, tasks=[first, second], updated=again + timedelta(seconds=10))


@pytest.mark.parametrize("waits", [timedelta(hours=1), timedelta(days=3)])
def test_a_long_pause_is_compressed(waits: timedelta) -> None:
    """Tasks of ten seconds stay visible beside a pause of days; the pause is marked with its length."""
    network = MemoryView()
    bars, gaps = timescale.bars(_workflow(network, waits), network.at)

    (start, length), (later, same) = bars.values()
    assert start == 0
    assert length == pytest.approx(same, abs=0.2)
    assert length > 40
    assert [gap.length for gap in gaps] == [waits]
    assert gaps[0].x == pytest.approx(length, abs=0.2)
    assert later == pytest.approx(gaps[0].x + gaps[0].width, abs=0.2)


def test_a_short_pause_is_not() -> None:
    """A pause that is short beside the tasks has its true length."""
    network = MemoryView()
    bars, gaps = timescale.bars(_workflow(network, timedelta(seconds=4)), network.at)

    assert gaps == []
    assert [start for start, _ in bars.values()] == [0, pytest.approx(14 / 24 * 100, abs=0.1)]


def test_settings_that_differ_are_marked() -> None:
    """Among agents of one role those with other settings are marked; unknown is never shown as equal."""

    def shown(*digests: str) -> list[str]:
        agents = [AgentRegistration(f"a{n}", role="specialist", config_digest=text) for n, text in enumerate(digests)]
        other = AgentRegistration("m", role="monitor", config_digest="ffff")
        (column,) = [column for column in lists.agents_list([*agents, other], now()).columns if column.name == "config"]
        return [column.text(agent) for agent in (*agents, other)]

    assert shown("aa", "aa") == ["aa", "aa", "ffff"]
    assert shown("aa", "bb", "aa", "") == ["aa", "bb differs from aa", "aa", "unknown", "ffff"]
    assert shown("aa", "bb") == ["aa differs from bb", "bb differs from aa", "ffff"]


def test_an_act_on_the_network_has_no_workflow() -> None:
    """The audit links the key of a task to its workflow, and no other key."""
    line = busy_network().audit_lines[0]
    (key,) = [column for column in lists.AUDIT.columns if column.name == "key"]
    keys = ("web2.create", "network.freeze", "agent.drain", "anna=call-1.delete_guest")
    links = [key.shown(msgspec.structs.replace(line, key=text)).link for text in keys]

    assert links == ["/workflows/web2", "", "", ""]


SCHEMA = {
    "required": ["name"],
    "properties": {
        "size": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None},
        "name": {"type": "string", "maxLength": 20},
        "mode": {"$ref": "#/$defs/Mode"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "more": {"type": "object"},
        "start": {"type": "boolean", "default": True},
    },
    "$defs": {"Mode": {"enum": ["a", "b"], "description": "how"}},
}


def test_a_form_has_an_input_for_each_type() -> None:
    """References and optional types are resolved; required fields come first."""
    fields = forms.fields_of(SCHEMA)

    assert [(field.name, field.kind, field.required) for field in fields] == [
        ("name", "text", True),
        ("size", "number", False),
        ("mode", "select", False),
        ("tags", "lines", False),
        ("more", "json", False),
        ("start", "checkbox", False),
    ]
    assert fields[1].limits == {"min": "1"}
    assert (fields[2].help, fields[2].choices) == ("how", ["a", "b"])


def test_an_empty_field_is_left_to_the_workflow() -> None:
    """Only what was entered is a parameter; a box that is on by default can be switched off."""
    fields = forms.fields_of(SCHEMA)
    entered = forms.parse_form(b"p.name=web1&p.size=&p.mode=b&p.tags=a%2C+b%0D%0Ac&p.more=%7B%7D&csrf=x")

    assert forms.parameters_of(fields, entered) == {
        "name": "web1",
        "mode": "b",
        "tags": ["a", "b", "c"],
        "more": {},
        "start": False,
    }
    with pytest.raises(InvalidMessage, match="more"):
        forms.parameters_of(fields, {"p.more": "{"})
    with pytest.raises(InvalidMessage, match="form"):
        forms.parse_form(b"&".join(b"a=1" for _ in range(forms.MOST_FIELDS + 1)))


async def test_a_silent_agent_or_service_is_never_available() -> None:
    """What was not heard lately is shown as silent on its page, and a filter finds it."""
    async with serving(busy_network()) as get:
        tools, agents = await get.page("/tools"), await get("/agents?q=status:silent")

    service = tools.text.partition('id="s-mcp-filesystem"')[2].partition("</li>")[0]
    assert "silent" in service
    assert "available" not in service
    assert "AGENTS: 1 of 6" in agents.text
    assert "specialist-pve4" in agents.text
