"""Guests on trial: cut off their networks, and seen to run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd import errors
from agentd_proxmox.guests.boot_check import isolated_options
from proxmox_access import without_hotplug
from tool_bench import Bench, MemoryCall, until

if TYPE_CHECKING:
    from proxmox_access import AsyncPve
    from pve.client import FakePve


class TestIsolate:
    """isolate_guest."""

    @pytest.mark.parametrize("vmid", [105, 201])
    async def test_cut(self, tools: Bench, sim: AsyncPve, vmid: int) -> None:
        """A stopped VM or container has every cable unplugged and does not start at boot, and is changed once."""
        for _ in range(2):
            guest = await tools.call("isolate_guest", vmid=vmid)

            assert guest.networks
            assert all("link_down=1" in network.split(",") for network in guest.networks.values())
            assert not guest.onboot
        assert len(await sim.log("POST")) + len(await sim.log("PUT")) == 1

    async def test_later(self, tools: Bench, lab: FakePve) -> None:
        """A running VM that would take it on only at its next start is not called isolated."""
        await without_hotplug(lab, 100)
        with pytest.raises(errors.TaskFailed, match=r"VM 100 .* at its next start: net0; it is not isolated yet"):
            await tools.call("isolate_guest", vmid=100)

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A change with a lost answer or request is settled by reading the state."""
        await sim.rule("POST", "/config$", {fault: True}, 1)
        guest = await tools.until_done("isolate_guest", MemoryCall(), vmid=105)

        assert guest.networks["net0"].count("link_down=1") == 1

    @given(
        st.dictionaries(st.sampled_from(["net0", "net1", "net31"]), st.sampled_from(["a=b", "a=b,link_down=0,tag=5"])),
        st.sampled_from([0, 1]),
    )
    def test_whole(self, networks: dict[str, str], boot: int) -> None:
        """For any guest, afterwards no cable is plugged, and a second call changes nothing."""
        config: dict[str, Any] = {**networks, "onboot": boot, "network": "x"}
        cut = isolated_options(config)

        assert set(cut) == {*networks, "onboot"}
        assert all(value.split(",")[-1] == "link_down=1" and "link_down=0" not in value for key, value in cut.items()
                   if key != "onboot")  # fmt: skip
        assert isolated_options({**config, **cut}) == cut


class TestCheck:
    """check_guest."""

    async def test_agent(self, tools: Bench) -> None:
        """A VM whose guest agent answers is good at once."""
        seen = await tools.call("check_guest", vmid=100, seconds=3600)

        assert (seen.agent, seen.vmid) == (True, 100)
        assert seen.checked[1].startswith("its guest agent ")

    async def test_runs(self, tools: Bench, sim: AsyncPve) -> None:
        """One without an agent, and a container, have to run for so many seconds, which is waited for."""
        await tools.call("stop_guest", vmid=200)
        await tools.call("start_guest", vmid=200)
        call = MemoryCall()
        seen = await tools.call("check_guest", call, vmid=200, seconds=2)
        await sim.guest(vmid=300, node="pve1", name="mute", status="running", config={"agent": "0"})
        silent = await tools.call("check_guest", vmid=300, seconds=1)

        assert seen.checked == [f"it runs for {seen.uptime} s", "a container has no guest agent"]
        assert (seen.agent, silent.agent, silent.checked[1][:24]) == (False, False, "no guest agent answers: ")
        assert "container 200 'dns' on pve1 runs for 0 of 2 s" in call.texts

    async def test_stops(self, tools: Bench) -> None:
        """A guest that does not run, or stops while it is watched, is reported."""
        with pytest.raises(errors.TaskFailed, match="VM 101 'db-01' on pve1 is stopped: it did not go on running"):
            await tools.call("check_guest", vmid=101)
        call = MemoryCall(seconds=60)
        running = asyncio.create_task(tools.call("check_guest", call, vmid=200, seconds=3600))

        async def watched() -> bool:
            return bool(call.texts)

        await until(watched)
        await tools.call("stop_guest", vmid=200)
        with pytest.raises(errors.TaskFailed, match="container 200 'dns' on pve1 is stopped: it did not go on running"):
            await running
