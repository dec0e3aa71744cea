"""Any written value is read back unchanged; the pages of any list together are the list."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd import errors
from agentd.proxmox.responses import one_line
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

AWKWARD = [
    *("=", "a=b;c&d=e", "%3D%26", "+ +", "ü→\U0001f600", "<b>&amp;</b>", "$(reboot)`id`", "'\"\\", "a,b;c d", "1"),
    *("net0=virtio,bridge=vmbr0", "\u202eabc", "key: value\nother=line", "  spaces  ", "{{guestname}}", "-", "--x"),
]


def ageless(line: Any) -> str:
    """Return a line without how old it is now: a second may have passed."""
    return re.sub(r", (age|uptime)=[^,)]*", "", repr(line))


def plain(text: str) -> str:
    """Return a text as Proxmox and the tools keep it: lines without control characters, nothing around them."""
    return "\n".join(one_line(line) for line in text.splitlines()).strip()


class TestEncoding:
    """Values on their way to the API and back."""

    @pytest.mark.parametrize("text", AWKWARD)
    async def test_awkward(self, tools: Bench, text: str) -> None:
        """Shell, form and URL characters, unicode and spaces are kept in a description, and change nothing else."""
        before = await tools.call("get_guest", vmid=101)
        after = await tools.call("update_vm", MemoryCall(text[:4].encode().hex() + ".x"), vmid=101, description=text)

        assert after.description == plain(text)
        assert (after.name, after.cores, after.networks, after.tags) == (
            before.name, before.cores, before.networks, before.tags,
        )  # fmt: skip

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
    def test_any_value(self, laboratory: FakePve, text: str) -> None:
        """Any text arrives whole in one parameter, beside others, at a server that splits forms as Proxmox does."""
        laboratory.call("DELETE", "/log")
        self._post(laboratory, text)
        (entry,) = laboratory.log("POST", "/config$")

        assert entry["params"] == {"description": text, "cores": "2"}

    @staticmethod
    def _post(laboratory: FakePve, text: str) -> None:
        async def post() -> None:
            proxmox = connect(laboratory)
            await proxmox.post("/nodes/pve1/qemu/100/config", description=text, cores=2)
            await proxmox.close()

        asyncio.run(post())

    async def test_values_that_are_too_long(self, tools: Bench) -> None:
        """What is longer than Proxmox takes is refused before it leaves, or by Proxmox, and named."""
        wrong: dict[str, Any] = {"description": "x" * 600_000, "memory": 10**30, "cores": 0, "tags": ["a b"]}
        for name, value in wrong.items():
            with pytest.raises((errors.InvalidMessage, errors.PermanentError), match=name):
                await tools.call("update_vm", MemoryCall(f"{name}.x"), vmid=101, **{name: value})

        assert (await tools.call("get_guest", vmid=101)).memory == 4096


LISTS: list[tuple[str, str, dict[str, Any]]] = [
    ("list_guests", "guests", {}),
    ("list_templates", "templates", {}),
    ("list_nodes", "nodes", {}),
    ("list_storages", "storages", {}),
    ("list_tasks", "tasks", {}),
    ("list_volumes", "volumes", {"storage": "local-lvm", "node": "pve1"}),
    ("list_backups", "backups", {}),
    ("list_users", "users", {}),
    ("list_pools", "pools", {}),
    ("list_bridges", "bridges", {"node": "pve1"}),
    ("list_old_snapshots", "snapshots", {"days": 0, "guests": 1, "limit": 500}),  # its pages are of guests
    ("list_guests_without_backup", "guests", {}),
    ("list_updates", "packages", {"node": "pve1"}),
]


@pytest.fixture
async def crowded(tools: Bench, sim: AsyncPve) -> Bench:
    """Return the tools of a cluster in which each list has something in it."""
    for number in range(3):
        await tools.call("create_backup", MemoryCall(f"b{number}.x"), vmid=100 + number % 2, storage="local")
        await tools.call("create_pool", MemoryCall(f"p{number}.x"), pool=f"pool{number}")
        await tools.call("create_user", MemoryCall(f"u{number}.x"), id=f"user{number}@pve")
    for name in ("one", "two"):
        await tools.call("create_snapshot", MemoryCall(f"{name}.x"), vmid=100, name=name)
    await tools.call("refresh_updates", node="pve1")
    del sim
    return tools


@pytest.mark.parametrize(("tool", "name", "parameters"), LISTS, ids=[item[0] for item in LISTS])
async def test_pages_are_the_whole(crowded: Bench, tool: str, name: str, parameters: dict[str, Any]) -> None:
    """Page by page each line comes once, in the order of the whole; any cursor is a place to go on from."""
    most = {key: {"guests": 200}.get(key, value) for key, value in parameters.items()} | {"limit": 500}
    whole = getattr(await crowded.call(tool, **most), name)
    lines, cursor = [], ""
    while True:
        page = await crowded.call(tool, **({"limit": 1} | parameters), cursor=cursor)
        lines += getattr(page, name)
        cursor = page.next
        if not cursor:
            break

    assert len(whole) >= 1
    assert [ageless(line) for line in lines] == [ageless(item) for item in whole]


@pytest.mark.parametrize(("tool", "name", "parameters"), LISTS, ids=[item[0] for item in LISTS])
async def test_an_invented_cursor(crowded: Bench, tool: str, name: str, parameters: dict[str, Any]) -> None:
    """A cursor beyond everything ends the list, or is refused by its name; never something else."""
    try:
        beyond = getattr(await crowded.call(tool, **parameters, cursor="\U0010ffff"), name)
    except (errors.InvalidMessage, errors.Rejected) as error:
        beyond = [] if "cursor" in str(error) else [error]

    assert beyond == []
