"""Interfaces and software-defined networks: what is changed waits, is shown as it is, and is put in force as shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

PVE1: dict[str, Any] = {"node": "pve1"}
BRIDGE: dict[str, Any] = {**PVE1, "iface": "vmbr7", "type": "bridge"}


class TestInterfaces:
    """list_interfaces, set_interface, delete_interface, apply_network, revert_network."""

    async def test_life(self, tools: Bench) -> None:
        """A bridge waits, is put in force as it was shown, changed without losing the rest, and deleted."""
        before = await tools.call("list_interfaces", **PVE1)
        made = await tools.call("set_interface", make := MemoryCall(), **BRIDGE, cidr="198.51.100.1/24", ports=["eno1"])
        await tools.call("set_interface", same := MemoryCall(), **BRIDGE, cidr="198.51.100.1/24", ports=["eno1"])
        applied = await tools.call("apply_network", apply := MemoryCall(), **PVE1, digest=made.digest)
        again = await tools.call("apply_network", twice := MemoryCall(), **PVE1, digest=made.digest)
        changed = await tools.call("set_interface", **BRIDGE, comment="for guests")
        gone = await tools.call("delete_interface", delete := MemoryCall(), **PVE1, iface="vmbr7")

        assert [interface.iface for interface in before.interfaces] == ["eno1", "vmbr0"]
        assert (before.pending, before.digest) == ([], "")
        assert (same.acted, twice.acted, again.pending) == (0, 0, [])
        assert make.undo == ("delete_interface", {"node": "pve1", "iface": "vmbr7"})
        assert any("198.51.100.1/24" in item for item in made.pending)
        assert any("198.51.100.1/24" in loss for loss in apply.targets[0].loses)
        assert applied.pending == []
        line = next(interface for interface in changed.interfaces if interface.iface == "vmbr7")
        assert (line.cidr, line.ports, line.comment) == ("198.51.100.1/24", "eno1", "for guests")
        assert "cidr 198.51.100.1/24" in delete.targets[0].loses
        assert [interface.iface for interface in gone.interfaces] == ["eno1", "vmbr0"]
        assert tools.tools["apply_network"].tier is tools.tools["revert_network"].tier is Tier.DESTROY

    async def test_another_pending_change(self, tools: Bench, sim: AsyncPve) -> None:
        """What another client prepared after the preview is neither put in force nor dropped."""
        seen = await tools.call("set_interface", **BRIDGE)
        await tools.call("set_interface", **{**BRIDGE, "iface": "vmbr8"})
        for tool in ("apply_network", "revert_network"):
            with pytest.raises(errors.Rejected, match="digest: what waits on pve1 is not what was read"):
                await tools.call(tool, **PVE1, digest=seen.digest)

        assert [request["path"] for request in await sim.log("PUT")] == []
        now = await tools.call("list_interfaces", **PVE1)
        dropped = await tools.call("revert_network", **PVE1, digest=now.digest)
        assert [interface.iface for interface in dropped.interfaces] == ["eno1", "vmbr0"]

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """What carries something is not deleted; wrong types, names and missing rights are reported."""
        with pytest.raises(errors.Rejected, match="eno1 of pve1 is used by vmbr0: change that first"):
            await tools.call("delete_interface", **PVE1, iface="eno1")
        with pytest.raises(errors.Rejected, match="type: vmbr0 of pve1 is of type bridge: delete_interface first"):
            await tools.call("set_interface", **PVE1, iface="vmbr0", type="bond", members=["eno1"])
        with pytest.raises(errors.NotFound, match="iface: pve1 has no network card 'eno9'"):
            await tools.call("set_interface", **PVE1, iface="eno9", type="eth")
        for name, value in {"iface": "a b", "cidr": "10.0.0.1", "mtu": 1, "comment": "a\nb"}.items():
            with pytest.raises(errors.InvalidMessage, match=f"set_interface.{name}"):
                await tools.call("set_interface", **{**BRIDGE, name: value})
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks Sys.Modify on /nodes/pve1; to grant it: pveum"):
            await Bench(audit).call("set_interface", **BRIDGE)
        await audit.close()

    async def test_omitted_options_stay(self, tools: Bench, lab: FakePve) -> None:
        """Addresses, ports and what does not start by itself stay as they are, until their removal is requested."""
        full = connect(lab)
        await full.post("/nodes/pve1/network", iface="vmbr7", type="bridge", cidr="198.51.100.1/24", autostart=False)
        both = await tools.call(
            "set_interface", **BRIDGE, cidr6="2001:db8::1/64", ports=["eno2"], gateway="198.51.100.9"
        )
        less = await tools.call("set_interface", **BRIDGE, without=["cidr", "comment"], comment=None)
        await tools.call("set_interface", same := MemoryCall(), **BRIDGE, without=["cidr"])

        line, after = (next(e for e in item.interfaces if e.iface == "vmbr7") for item in (both, less))
        assert (line.cidr, line.cidr6, line.ports) == ("198.51.100.1/24", "2001:db8::1/64", "eno2")
        assert (line.autostart, after.autostart) == (False, False)
        assert (after.cidr, after.gateway, after.cidr6, after.ports) == ("", "", "2001:db8::1/64", "eno2")
        assert line.gateway == "198.51.100.9"
        assert same.acted == 0
        with pytest.raises(errors.Rejected, match="without: cidr is given as well; give one of the two"):
            await tools.call("set_interface", **BRIDGE, cidr="198.51.100.2/24", without=["cidr"])
        await full.close()

    async def test_open_vswitch(self, tools: Bench, lab: FakePve) -> None:
        """A bridge of Open vSwitch stays one, and keeps its ports, when its address changes."""
        full = connect(lab)
        await full.post("/nodes/pve1/network", iface="vmbr7", type="OVSBridge", ovs_ports="eno2", autostart=True)
        found = await tools.call("set_interface", **BRIDGE, cidr="198.51.100.1/24")

        line = next(interface for interface in found.interfaces if interface.iface == "vmbr7")
        assert (line.type, line.ports, line.cidr) == ("OVSBridge", "eno2", "198.51.100.1/24")
        with pytest.raises(errors.Rejected, match="ports: vmbr7 of pve1 belongs to Open vSwitch"):
            await tools.call("set_interface", **BRIDGE, ports=["eno3"])
        await full.post("/nodes/pve1/network", iface="eno2", type="eth")
        with pytest.raises(errors.Rejected, match="eno2 of pve1 is used by vmbr7"):
            await tools.call("delete_interface", **PVE1, iface="eno2")
        await full.close()

    async def test_bond_and_vlan(self, tools: Bench) -> None:
        """A bond and a VLAN on it are made, and what carries the VLAN is not deleted."""
        await tools.call("set_interface", **PVE1, iface="bond0", type="bond", members=["eno2", "eno3"], mode="802.3ad")
        made = await tools.call("set_interface", **PVE1, iface="bond0.20", type="vlan", cidr="198.51.100.1/24")

        lines = {interface.iface: interface for interface in made.interfaces}
        assert (lines["bond0"].members, lines["bond0"].type, lines["bond0.20"].type) == ("eno2 eno3", "bond", "vlan")
        assert lines["bond0"].autostart
        with pytest.raises(errors.Rejected, match=r"bond0 of pve1 is used by bond0.20"):
            await tools.call("delete_interface", **PVE1, iface="bond0")
        with pytest.raises(errors.Rejected, match="members: a bond has at least one interface"):
            await tools.call("set_interface", **PVE1, iface="bond1", type="bond", members=[])

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_the_node_is_unreachable_meanwhile(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """It is put in force once, though the answer is lost and the node cannot be asked for a while."""
        made = await tools.call("set_interface", **BRIDGE)
        await sim.durations(srvreload=0.5)
        await sim.rule("PUT", "/network$", {fault: True}, 1)
        await sim.rule("GET", "/tasks/.*/status$", {"status": 595, "reason": "No route to host"}, 2)
        applied = await tools.until_done("apply_network", call := MemoryCall(), **PVE1, digest=made.digest)

        tasks = [
            request for request in await sim.log("PUT") if request["path"].endswith("/network") and request["performed"]
        ]
        assert (applied.pending, len(tasks)) == ([], 1)
        assert call.adopted is (fault == "cut_after")

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """An interface whose answer or request was lost is there once."""
        await sim.rule("POST", "/network$", {fault: True}, 1)
        made = await tools.until_done("set_interface", call := MemoryCall(), **BRIDGE)

        assert "vmbr7" in [interface.iface for interface in made.interfaces]
        assert call.adopted is (fault == "cut_after")


class TestSdn:
    """list_sdn, set_sdn_zone, set_sdn_vnet, set_sdn_subnet, delete_sdn, apply_sdn."""

    async def test_life(self, tools: Bench) -> None:
        """A zone with a network and a subnet waits, is put in force as shown, and deleted from the inside out."""
        await tools.call("set_sdn_zone", zone := MemoryCall(), zone="lab", type="vlan", bridge="vmbr0")
        await tools.call("set_sdn_vnet", vnet="labnet", zone="lab", tag=20, alias="ü; =")
        subnet: dict[str, Any] = {"vnet": "labnet", "subnet": "10.7.0.0/24", "gateway": "10.7.0.1", "snat": True}
        made = await tools.call("set_sdn_subnet", **subnet)
        again = await tools.call("set_sdn_subnet", same := MemoryCall(), **subnet)
        applied = await tools.call("apply_sdn", apply := MemoryCall(), digest=made.digest)
        await tools.call("apply_sdn", twice := MemoryCall(), digest=made.digest)
        await tools.call("set_sdn_zone", still := MemoryCall(), zone="lab", type="vlan", bridge="vmbr0")
        more = await tools.call("set_sdn_subnet", vnet="labnet", subnet="10.8.0.0/24")

        assert zone.undo == ("delete_sdn", {"kind": "zone", "name": "lab"})
        assert made.pending == ["zone lab (new)", "virtual network labnet (new)", "subnet 10.7.0.0/24 (new)"]
        assert apply.targets[0].loses == made.pending
        assert (again.digest, same.acted, twice.acted, still.acted) == (made.digest, 0, 0, 0)
        assert (applied.pending, applied.vnets[0].subnets, applied.vnets[0].tag) == ([], ["10.7.0.0/24"], 20)
        assert more.pending == ["subnet 10.8.0.0/24 (new)"]

    async def test_deleted_from_the_inside_out(self, tools: Bench) -> None:
        """What has something in it is not deleted, and what is in it is named."""
        await tools.call("set_sdn_zone", zone="lab", type="simple")
        await tools.call("set_sdn_vnet", vnet="labnet", zone="lab")
        made = await tools.call("set_sdn_subnet", vnet="labnet", subnet="10.7.0.0/24")
        await tools.call("apply_sdn", digest=made.digest)
        with pytest.raises(errors.Rejected, match="zone lab is not empty: labnet"):
            await tools.call("delete_sdn", kind="zone", name="lab")
        with pytest.raises(errors.Rejected, match=r"vnet labnet is not empty: 10.7.0.0/24"):
            await tools.call("delete_sdn", kind="vnet", name="labnet")
        await tools.call("delete_sdn", kind="subnet", name="labnet", subnet="10.7.0.0/24")
        await tools.call("delete_sdn", kind="vnet", name="labnet")
        gone = await tools.call("delete_sdn", kind="zone", name="lab")
        await tools.call("delete_sdn", twice := MemoryCall(), kind="zone", name="lab")
        left = await tools.call("apply_sdn", digest=gone.digest)

        assert "zone lab (deleted)" in gone.pending
        assert twice.acted == 0
        assert (left.zones, left.vnets, left.pending) == ([], [], [])

    async def test_made_again(self, tools: Bench) -> None:
        """What is deleted and made again before it is put in force is there afterwards."""
        await tools.call("set_sdn_zone", zone="lab", type="simple")
        await tools.call("set_sdn_vnet", vnet="labnet", zone="lab")
        made = await tools.call("list_sdn")
        await tools.call("apply_sdn", digest=made.digest)
        await tools.call("delete_sdn", kind="vnet", name="labnet")
        await tools.call("delete_sdn", kind="zone", name="lab")
        with pytest.raises(errors.NotFound, match="zone: there is no zone 'lab'"):
            await tools.call("set_sdn_vnet", vnet="labnet", zone="lab")
        await tools.call("set_sdn_zone", again := MemoryCall(), zone="lab", type="simple", mtu=1400)
        waiting = await tools.call("set_sdn_vnet", net := MemoryCall(), vnet="labnet", zone="lab")

        assert (again.acted, net.acted) == (1, 1)
        assert waiting.pending == ["zone lab (changed)"]

    async def test_changed(self, tools: Bench, lab: FakePve) -> None:
        """A subnet is changed and not made twice; what another client removes is shown as gone."""
        await tools.call("set_sdn_zone", zone="lab", type="simple", mtu=1400)
        await tools.call("set_sdn_vnet", vnet="labnet", zone="lab", alias="deleted soon")
        made = await tools.call("set_sdn_subnet", vnet="labnet", subnet="2001:db8::/64")
        await tools.call("apply_sdn", digest=made.digest)
        more = await tools.call(
            "set_sdn_subnet", call := MemoryCall(), vnet="labnet", subnet="2001:db8::/64", gateway="2001:db8::1"
        )
        await tools.call("set_sdn_subnet", same := MemoryCall(), vnet="labnet", subnet="2001:db8::/64", snat=False)
        full = connect(lab)
        await full.put("/cluster/sdn/zones/lab", delete="mtu")
        await full.put("/cluster/sdn/vnets/labnet", delete="alias")
        found = await tools.call("list_sdn")
        await full.close()

        assert more.pending == ["subnet 2001:db8::/64 (changed)"]
        assert (call.acted, same.acted) == (1, 0)
        assert (found.zones[0].mtu, found.zones[0].pending) == (0, "changed")
        assert (found.vnets[0].alias, found.vnets[0].subnets) == ("", ["2001:db8::/64"])

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """What is put in force is so once, and its task is waited for, whose answer never came."""
        made = await tools.call("set_sdn_zone", zone="lab", type="simple")
        await sim.durations(reloadnetworkall=1)
        await sim.rule("PUT", "/cluster/sdn$", {fault: True}, 1)
        await tools.until_done("apply_sdn", call := MemoryCall(), digest=made.digest)

        assert call.adopted is (fault == "cut_after")
        assert call.upid
        assert [task["exitstatus"] for task in await sim.tasks("reloadnetworkall")] == ["OK"]

    async def test_refused(self, tools: Bench) -> None:
        """Wrong kinds, unknown zones and what changed since it was read are reported."""
        made = await tools.call("set_sdn_zone", zone="lab", type="simple")
        await tools.call("set_sdn_vnet", vnet="labnet", zone="lab")
        with pytest.raises(errors.Rejected, match="digest: what waits is not what was read"):
            await tools.call("apply_sdn", digest=made.digest)
        with pytest.raises(errors.Rejected, match="one of type vxlan has peers"):
            await tools.call("set_sdn_zone", zone="xx", type="vxlan")
        with pytest.raises(errors.NotFound, match="zone: there is no zone 'nope'"):
            await tools.call("set_sdn_vnet", vnet="net1", zone="nope")
        with pytest.raises(errors.Rejected, match="type: zone lab is of type simple"):
            await tools.call("set_sdn_zone", zone="lab", type="vlan", bridge="vmbr0")
        with pytest.raises(errors.InvalidMessage, match=r"set_sdn_zone\.zone"):
            await tools.call("set_sdn_zone", zone="Too-Long-Name", type="simple")
        with pytest.raises(errors.Rejected, match="subnet: is for the kind subnet"):
            await tools.call("delete_sdn", kind="zone", name="lab", subnet="10.0.0.0/8")
