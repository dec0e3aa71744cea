"""Lists that a model can read: what a page costs, what is on it, and what is left out of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import errors
from agentd.wire.messages import Outcome, ToolReply
from agentd_mcp.replies import answer
from agentd_proxmox.model import pages

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench

TOKENS = 1000
LISTS = {
    "list_guests": "guests",
    "list_templates": "templates",
    "list_nodes": "nodes",
    "list_storages": "storages",
    "list_tasks": "tasks",
}


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line with what identifies it, and with what may be left out."""

    name: str
    text: str = ""
    number: int = 0


class Page(msgspec.Struct, frozen=True):
    """A page of lines."""

    total: int
    lines: list[Line] = []
    next: str = ""


def tokens(result: object) -> float:
    """Return what an MCP client gets for a result, structured and as text, four bytes to a token."""
    reply = ToolReply(status=Outcome.COMPLETED, result=msgspec.to_builtins(result))
    return len(answer(reply).model_dump_json(by_alias=True, exclude_none=True).encode()) / 4


async def test_a_large_cluster_costs_a_model_little(tools: Bench, sim: AsyncPve) -> None:
    """Of 503 guests, 33 nodes, 99 storages and 60 tasks each list is one page under 1,000 tokens by one API call."""
    for n in range(30):
        await sim.node(f"node{n:02}", add=True)
    for n in range(494):
        config = {"tags": "prod;web"} if n % 3 else {}
        where = f"node{n % 30:02}"
        await sim.guest(vmid=1000 + n, node=where, name=f"machine-{n:03}", type="qemu", config=config)
    for n in range(60):
        await tools("start_guest", vmid=1000 + n)

    for name, lines in LISTS.items():
        await sim.call("DELETE", "/log")
        page = await tools.call(name)
        calls = {(request["method"], request["path"]) for request in await sim.log()}

        assert tokens(page) < TOKENS, name
        assert len(calls) == (2 if name == "list_nodes" else 1)  # the quorum is asked for too
        assert page.total == {"list_guests": 502, "list_nodes": 33, "list_tasks": 60}.get(name, page.total)
        assert (page.next != "") == (page.total > len(getattr(page, lines)))


def untimed(line: Any) -> Any:
    """Return a line without its uptime, which goes on between two calls."""
    return msgspec.structs.replace(line, uptime=0) if hasattr(line, "uptime") else line


@pytest.mark.parametrize(("name", "lines"), LISTS.items())
async def test_the_cursor_visits_every_line_once(tools: Bench, name: str, lines: str) -> None:
    """Pages of two hold the same lines in the same order as one page of all."""
    await tools.call("start_guest", vmid=101)
    await tools.call("stop_guest", vmid=100)
    whole = await tools.call(name, limit=500)
    seen: list[Any] = []
    cursor = ""
    while True:
        page = await tools.call(name, limit=2, cursor=cursor)
        seen += getattr(page, lines)
        cursor = page.next
        if not cursor:
            break

    assert [untimed(line) for line in seen] == [untimed(line) for line in getattr(whole, lines)]
    assert page.total == whole.total == len(seen) > 0


async def test_fields_are_chosen(tools: Bench) -> None:
    """With `show` a line has what identifies it and the fields that were asked for; a wrong one is named."""
    guests = (await tools.call("list_guests", show=["status"])).guests
    tasks = (await tools.call("list_nodes", show=["memory"])).nodes

    assert json.loads(msgspec.json.encode(guests[0])) == {"vmid": 100, "name": "web-01", "status": "running"}
    assert json.loads(msgspec.json.encode(tasks[0])) == {"node": "pve1", "memory": 68719476736}
    with pytest.raises(errors.Rejected, match=r"show: there is no 'nmae'; there are vmid, name, node, status, type"):
        await tools.call("list_guests", show=["nmae"])
    with pytest.raises(errors.InvalidMessage, match=r"list_guests\.cursor: "):
        await tools.call("list_guests", cursor="pve1")


async def test_texts_have_no_control_characters(tools: Bench, sim: AsyncPve) -> None:
    """What a user wrote into a name, a tag or the end of a task cannot control a terminal, nor begin a line."""
    config = {"tags": "a\x1b[2J;b"}
    await sim.guest(vmid=500, node="pve3", name="odd\x1b]0;x\x07\nname", type="qemu", config=config)
    await sim.rule("POST", "/start$", {"task_exit": "bad\r\n\x1b[31mred"})
    with pytest.raises(errors.TaskFailed):
        await tools.call("start_guest", vmid=101)
    found = [await tools.call("list_guests"), await tools.call("list_tasks")]

    for item in found:
        assert not [sign for sign in _texts(msgspec.to_builtins(item)) if ord(sign) < 32 or 127 <= ord(sign) < 160]
    assert [guest.name for guest in found[0].guests if guest.vmid == 500] == ["odd ]0;x name"]
    assert found[1].tasks[0].status == "bad [31mred"


@given(
    st.lists(st.builds(Line, st.text(min_size=1), st.text(), st.integers(0, 9)), unique_by=lambda build: build.name),
    st.none() | st.integers(1, 7),
)
def test_paging_loses_and_repeats_no_line(lines: list[Line], limit: int | None) -> None:
    """For any texts: each line is listed once, and a page without a limit has its maximum size, or one line."""
    seen: list[Line] = []
    cursor = ""
    while True:
        page = pages.fill(
            Page(len(lines)), "lines", lines, lambda item: item.name, pages.Paged(limit=limit, cursor=cursor)
        )
        seen += page.lines
        if limit is None and len(page.lines) > 1:
            assert tokens(page) <= TOKENS
        assert limit is None or len(page.lines) <= limit
        cursor = page.next
        if not cursor:
            break

    assert seen == sorted(lines, key=lambda line: line.name)


def _texts(value: object) -> str:
    """Return all texts in `value`, one after the other."""
    if isinstance(value, dict):
        return "".join(f"{key}{_texts(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "".join(map(_texts, value))
    return str(value)
