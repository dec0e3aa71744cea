"""One source that cannot be read is named, and the others are shown; what will not change is not asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from tool_bench import Bench

INFO = {"result": {"version": "8.2"}}


async def _with_agent(sim: AsyncPve, **agent: Any) -> None:
    await sim.guest(vmid=400, name="talker", node="pve1", status="running", config={"agent": "1"}, agent=agent)


@pytest.mark.parametrize("kind", ["zfs", "lvm", "lvmthin", "directory"])
async def test_local_storage(tools: Bench, sim: AsyncPve, kind: str) -> None:
    """A node that cannot list one kind of storage, such as ZFS without its programs, shows the others all the same."""
    whole = await tools.call("list_local_storage", node="pve1")
    await sim.rule("GET", f"/disks/{kind}$", {"status": 500, "reason": f"{kind} not installed"})
    call = MemoryCall()
    found = await tools.call("list_local_storage", call, node="pve1")

    assert set(found.unread) == {kind}
    assert "not installed" in found.unread[kind]
    assert call.warnings[0].startswith(f"{kind} of pve1 cannot be read: ")
    assert found.made == [made for made in whole.made if made.kind != kind]


async def test_no_local_storage(tools: Bench, sim: AsyncPve) -> None:
    """Where no kind can be listed, there is no list: the call fails with the reason."""
    await sim.rule("GET", "/disks/[a-z]+$", {"status": 500, "reason": "not installed"})
    with pytest.raises(errors.PermanentError, match="not installed"):
        await tools.call("list_local_storage", node="pve1")


async def test_firewall_log(tools: Bench) -> None:
    """A log that does not exist has no lines; what Proxmox says about that is no line of it."""
    found = await tools.call("get_firewall_log", node="pve3")

    assert (found.lines, found.searched) == ([], 0)


async def test_empty_answer(tools: Bench, sim: AsyncPve) -> None:
    """An empty answer of 200 is an error at once: a second try would have the same answer."""
    await sim.rule("GET", "/journal$", {"status": 200, "empty": True})
    with pytest.raises(errors.PermanentError, match="it is empty") as found:
        await tools.call("get_node_log", node="pve1")

    assert not isinstance(found.value, errors.TemporaryError)
    assert len(await sim.log("GET", "/journal$")) == 1


@pytest.mark.parametrize("command", ["get-osinfo", "get-host-name", "network-get-interfaces", "get-fsinfo"])
async def test_agent_info(tools: Bench, sim: AsyncPve, command: str) -> None:
    """A command that an old guest agent does not know is named as not read."""
    await _with_agent(sim, lacks=[command])
    found = await tools.call("get_guest_agent_info", vmid=400)

    assert set(found.unread) == {command}
    assert "CommandNotFound" in found.unread[command]


async def test_agent_ping(tools: Bench, sim: AsyncPve) -> None:
    """An agent that answers with an error does not answer the question."""
    await _with_agent(sim, lacks=["info"])
    found = await tools.call("ping_guest_agent", vmid=400)

    assert (found.answers, "CommandNotFound" in found.reason) == (False, True)


@pytest.mark.parametrize(
    ("tool", "command", "more"),
    [
        ("exec_in_guest", "exec", {"command": ["true"]}),
        ("read_guest_file", "file-read", {"path": "/etc/hosts"}),
        ("write_guest_file", "file-write", {"path": "/tmp/x", "content": "x"}),  # noqa: S108 - in a guest
    ],
)
async def test_agent_acts(tools: Bench, sim: AsyncPve, tool: str, command: str, more: dict[str, Any]) -> None:
    """What the agent refuses with an answer of 200 has failed."""
    await _with_agent(sim, lacks=[command])
    with pytest.raises(errors.PermanentError, match=f"does not do {command}"):
        await tools.call(tool, vmid=400, guest="talker", **more)
