"""The commands by which nothing is destroyed that was not meant: what a person types, and reads."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

from harness import SCRIPTS

if TYPE_CHECKING:
    from harness import Net


async def _agentd(net: Net, principal: str, *arguments: str) -> tuple[int, str]:
    """Run `agentd …` as a principal; return the exit code and the output."""
    net.settings["client"] = {"principal": principal}
    file = net.config_file()
    done = await asyncio.to_thread(
        subprocess.run,
        [str(SCRIPTS / "agentd"), "--config", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    return done.returncode, done.stdout + done.stderr


async def test_undo_of_a_call(net: Net) -> None:
    """A guest is started; the undo is shown, and done."""
    assert net.pve is not None
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy"}}
    async with net.client(), net.here():
        preview = await _agentd(net, "alice", "call", "start_guest", "vmid=101", "--dry-run")
        started = await _agentd(net, "alice", "call", "start_guest", "vmid=101", "--key", "c1.start_guest")
        shown = await _agentd(net, "alice", "undo", "c1", "--dry-run")
        undone = await _agentd(net, "alice", "undo", "c1")
        unknown = await _agentd(net, "alice", "undo", "c2.start_guest")

    assert preview[0] == 0
    assert preview[1].splitlines() == [
        "start_guest would change VM 101 'db-01' on pve1",
        "agentd undo would call shutdown_guest",
    ]
    assert started[0] == 0
    assert "undo with: agentd undo alice=c1.start_guest" in started[1]
    assert shown[0] == 0
    row = shown[1].splitlines()[1].split(None, 3)
    assert row == ["alice=c1.start_guest", "start_guest", "shutdown_guest", '{"vmid": 101}']
    assert undone[0] == 0, undone
    assert net.pve.tasks("qmshutdown")
    text = "c2.start_guest: no change is recorded under this key; `agentd audit list` has the keys"
    assert unknown == (2, f"agentd: {text}\n")


async def test_undo_that_needs_an_approval(net: Net) -> None:
    """A snapshot is deleted by an undo only after another principal has approved."""
    assert net.pve is not None
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy"}}
    async with net.client(), net.here():
        await _agentd(net, "alice", "call", "create_snapshot", "vmid=101", "name=s1", "--key", "c3.create_snapshot")
        plan = await _agentd(net, "alice", "undo", "c3.create_snapshot")
        workflow = plan[1].partition("agentd approve ")[2].split()[0]
        own = await _agentd(net, "alice", "approve", workflow)
        approved = await _agentd(net, "bob", "approve", workflow)
        ended = await _agentd(net, "bob", "watch", workflow)
        denied = await _agentd(net, "eve", "call", "delete_snapshot", "vmid=101", "guest=db-01", "name=s1")

    assert plan[0] == 75
    assert "for a second principal to approve call0:" in plan[1]
    assert "delete_snapshot: VM 101 'db-01' on pve1, stopped (its snapshot s1, " in plan[1]
    assert own[0] == 65
    assert "another principal has to approve call0" in own[1]
    assert approved[0] == 0
    assert ended[0] == 0, ended
    assert (net.pve.found(101) or {})["snapshots"] == []
    assert denied[0] == 77
    assert "delete_snapshot needs tier destroy; eve has read" in denied[1]
