"""Two versions of the daemon at once, as during a rollout: neither breaks what the other one has begun."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import agentd
from agentd.client import queries, requests
from agentd.wire.messages import WorkflowRequest
from agentd.wire.workflow import VERSION, Workflow
from harness import eventually, until

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from harness import Daemon, Net

AGENTS = ("specialist", "mcp-bridge")


def newer(folder: Path) -> str:
    """Copy agentd into `folder` as its next version, whose states have a version of their own; return PYTHONPATH."""
    here = Path(agentd.__file__).parent
    shutil.copytree(here, folder / "agentd")
    for plugin in here.parent.glob("agentd_*"):
        if plugin.suffix != ".dist-info" and plugin.is_dir() and (plugin / "__init__.py").exists():
            shutil.copytree(plugin, folder / plugin.name)
    for plugin in (here.parent / "plugins").glob("agentd_*"):
        shutil.copytree(plugin, folder / plugin.name)
    file = folder / "agentd" / "wire" / "workflow.py"
    text, count = re.subn(
        r"^VERSION: Final = \d+$", f"VERSION: Final = {VERSION + 1}", file.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    file.write_text(text)
    return os.pathsep.join([str(folder), str(Path(__file__).parents[1] / "child")])


async def begin(bus: Bus, name: str) -> Workflow:
    """Ask for a VM; return the state once it is begun."""
    await requests.submit(bus, "tester", WorkflowRequest("vm_deployment", name, {"name": name, "template": 9000}))

    async def begun() -> Workflow | None:
        return await queries.state(bus, name)

    return await eventually(begun, f"{name} is begun", 45)


def handed_back(daemon: Daemon, state: Workflow) -> bool:
    """Return whether the daemon logged that an input of this workflow is for a newer one."""
    return f"{state.workflow_id}: written by a newer orchestrator" in daemon.log.read_text()


async def test_an_old_and_a_new_daemon(net: Net, tmp_path: Path) -> None:
    """States are written so that the oldest orchestrator understands them; what is newer is left to newer ones."""
    assert net.pve is not None
    path = newer(tmp_path / "next")
    net.pve.durations(qmclone=2.0)
    async with net.client() as bus:
        with (
            net.daemon("agents", AGENTS),
            net.daemon("old", ("orchestrator",)) as old,
            net.daemon("new", ("orchestrator",), PYTHONPATH=path) as new,
        ):
            together = [await begin(bus, f"both{number}") for number in range(4)]
            ends = [await queries.follow(bus, item.workflow_id, lambda _: None, wait=60) for item in together]
            old.stop()

            async def on_its_own() -> Workflow | None:
                alone = await begin(bus, requests.new_id("alone"))
                return alone if alone.v > VERSION else None

            alone = await eventually(on_its_own, "the new one writes its own version", 60)
            new.stop()
            old.start().ready()
            await asyncio.to_thread(until, lambda: handed_back(old, alone) or None, "the old one hands it back", 60)
            new.start().ready()
            old.stop()
            ends.append(await queries.follow(bus, alone.workflow_id, lambda _: None, wait=60))

    assert {item.v for item in together} == {VERSION}
    assert {end.status for end in ends} == {"completed"}, ends
    for end in ends:
        vmid = end.result["tasks"]["create_vm"]["result"]["vmid"]
        made = [entry for entry in net.pve.log("POST", "clone") if str(entry["params"].get("newid")) == str(vmid)]
        assert len(made) == 1
