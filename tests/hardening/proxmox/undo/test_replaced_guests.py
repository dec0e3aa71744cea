"""What is taken back is taken back of the guest that was changed, never of another one that has its VMID by now."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from agentd.client.tool_calls import call_tool
from agentd.errors import Rejected
from agentd.safety.policy import check_same_guests, guests
from agentd.wire import subjects
from agentd.wire.messages import Inverse, Target, ToolCall
from core.probe import SERVICE, Probe, a_worker, record, serving
from harness import SCRIPTS

if TYPE_CHECKING:
    from typing import Any

    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Call
    from harness import Net

WEB = Target("guest/105", "VM 105 'web' on pve1", labels=["guest/web", "tag/keep"])
NAMELESS = Target("guest/105", "VM 105 on pve1", labels=["guest/"])
POOL = Target("pool/core", "pool core", labels=["guest/web"])


@pytest.mark.parametrize("target", [replace(WEB, labels=["guest/shop"]), NAMELESS, replace(WEB, labels=["tag/web"])])
def test_another_guest(target: Target) -> None:
    """A guest of another name, or of which the name is not known, is not the one that was changed."""
    with pytest.raises(Rejected, match="was called 'web' when the call was made that this undoes"):
        check_same_guests("stop_guest", [target], {"guest/105": "web"})


def test_the_same_guest() -> None:
    """The guest itself may be changed, and so may what was not named: a guest of which the name was not known."""
    assert guests([WEB, POOL]) == {"guest/105": "web"}
    assert guests([NAMELESS]) == {}
    check_same_guests("stop_guest", [WEB, POOL], {"guest/105": "web"})
    check_same_guests("stop_guest", [NAMELESS], {})


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"vmid": 105}, {"guest/105": "web"}),
        ({"vmid": 105, "options": {"tags": "a"}}, {"guest/105": "web"}),
        ({"vmid": 105, "options": {"name": "old"}}, {}),
        ({"vmid": 105, "options": {"hostname": "old"}}, {}),
    ],
)
async def test_written_down(probing: Bus, probe: Probe, parameters: dict[str, Any], named: dict[str, str]) -> None:
    """The names stand beside the inverse before the act; of a change of the name itself there are none."""

    async def check_first(call: Call) -> None:
        call.target(WEB)
        call.inverse("probed", parameters)

    probe.on_check = check_first
    async with serving(a_worker(probing, probe)):
        await call_tool(probing, subjects.tool_call("tester", SERVICE, "marked"), ToolCall({}, "w.t.step"), seconds=15)

    assert (await record(probing, "tester=w.t.step")).undo == Inverse("probed", parameters, named)


async def test_from_the_call_to_its_undoing(net: Net) -> None:
    """`agentd undo` does nothing to a guest that was made under the same VMID since."""
    assert net.pve is not None
    net.settings["policy"] = {"principals": {"alice": "operate"}}
    net.settings["client"] = {"principal": "alice"}

    async def agentd(*arguments: str) -> tuple[int, str]:
        command = [str(SCRIPTS / "agentd"), "--config", str(net.config_file()), *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=90, check=False, env=os.environ
        )
        return done.returncode, done.stdout + done.stderr

    async with net.client(), net.here():
        assert (await agentd("call", "start_guest", "vmid=101", "--key", "c1.start_guest"))[0] == 0
        net.pve.drop_guest(101)
        net.pve.guest(vmid=101, name="payroll", node="pve1", status="running")
        code, text = await agentd("undo", "c1")

    assert code == 1
    assert "was called 'db-01' when the call was made that this undoes" in " ".join(text.split())
    assert net.pve.tasks("qmshutdown") == []
    assert (net.pve.found(101) or {})["status"] == "running"
