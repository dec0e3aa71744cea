"""The commands by which nothing is destroyed that was not meant: what a person types, and reads."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

from harness import SCRIPTS

if TYPE_CHECKING:
    from harness import Net


async def test_from_a_call_to_its_undoing(net: Net) -> None:
    """A guest is started; taken back; its snapshot is deleted only after another principal has approved."""
    assert net.pve is not None
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy"}}

    async def agentd(principal: str, *arguments: str) -> tuple[int, str]:
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

    async with net.client(), net.here():
        looked = await agentd("alice", "call", "start_guest", "vmid=101", "--dry-run")
        started = await agentd("alice", "call", "start_guest", "vmid=101", "--key", "c1.start_guest")
        shown = await agentd("alice", "undo", "c1", "--dry-run")
        taken_back = await agentd("alice", "undo", "c1")
        nothing = await agentd("alice", "undo", "c2.start_guest")
        await agentd("alice", "call", "create_snapshot", "vmid=101", "name=s1", "--key", "c3.create_snapshot")
        plan = await agentd("alice", "undo", "c3.create_snapshot")
        workflow = plan[1].partition("agentd approve ")[2].split()[0]
        own = await agentd("alice", "approve", workflow)
        approved = await agentd("bob", "approve", workflow)
        ended = await agentd("bob", "watch", workflow)
        too_much = await agentd("eve", "call", "delete_snapshot", "vmid=101", "guest=db-01", "name=s1")

    assert looked[0] == 0
    assert looked[1].splitlines() == [
        "start_guest would change VM 101 'db-01' on pve1",
        "agentd undo would call shutdown_guest",
    ]
    assert started[0] == 0
    assert "undo with: agentd undo alice=c1.start_guest" in started[1]
    assert shown[0] == 0
    assert shown[1].splitlines()[1].split(None, 3) == [
        "alice=c1.start_guest",
        "start_guest",
        "shutdown_guest",
        '{"vmid": 101}',
    ]
    assert taken_back[0] == 0, taken_back
    assert net.pve.tasks("qmshutdown")
    text = "c2.start_guest: no change is recorded under this key; `agentd audit list` has the keys"
    assert nothing == (2, f"agentd: {text}\n")
    assert plan[0] == 75
    assert "for a second principal to approve call0:" in plan[1]
    assert "delete_snapshot: VM 101 'db-01' on pve1, stopped (its snapshot s1, " in plan[1]
    assert own[0] == 65
    assert "another principal has to approve call0" in own[1]
    assert approved[0] == 0
    assert ended[0] == 0, ended
    assert (net.pve.found(101) or {})["snapshots"] == []
    assert too_much[0] == 77
    assert "delete_snapshot needs tier destroy; eve has read" in too_much[1]
