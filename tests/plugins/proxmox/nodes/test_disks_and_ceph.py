"""Disks, Ceph, storages, figures: only the disk that is meant is used, and trouble is reported first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall, size

if TYPE_CHECKING:
    from pve.client import FakePve

PVE1: dict[str, Any] = {"node": "pve1"}
B: dict[str, Any] = {"device": "/dev/sdb", "serial": "pve1-B"}
C: dict[str, Any] = {"device": "/dev/sdc", "serial": "pve1-C"}
ZFS: dict[str, Any] = {**PVE1, "kind": "zfs", "name": "tank", "raid": "mirror", "disks": [B, C]}
HEALTH: dict[str, Any] = {
    "health": {
        "status": "HEALTH_WARN",
        "checks": {"OSD_DOWN": {"severity": "HEALTH_WARN", "summary": {"message": "1 osds down"}}},
    },
    "osdmap": {"num_osds": 3, "num_up_osds": 2, "num_in_osds": 3},
    "pgmap": {"bytes_total": 3000, "bytes_used": 1000, "pgs_by_state": [{"state_name": "active+clean", "count": 33}]},
    "quorum_names": ["pve1", "pve2"],
}


class TestDisks:
    """list_node_disks, get_disk_health, list_local_storage, get_zfs_status, create_local_storage."""

    async def test_problems_are_listed_first(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk that fails or is worn out is at the top of the list and warned of; so is a full thin pool."""
        await sim.hardware(disks={"pve1:/dev/sda": "FAILED"})
        disks = await tools.call("list_node_disks", call := MemoryCall(), **PVE1)
        smart = await tools.call("get_disk_health", **PVE1, device="/dev/sda")
        made = await tools.call("list_local_storage", full := MemoryCall(), **PVE1)

        assert [disk.device for disk in disks.disks] == ["/dev/sda", "/dev/sdc", "/dev/sdb", "/dev/sdd"]
        assert [disk.worn for disk in disks.disks] == [3, 96, 1, None]
        assert ["FAILED" in call.warnings[0], "96 % of its life used" in call.warnings[1]] == [True, True]
        assert (smart.health, smart.attributes[0].name) == ("FAILED", "Reallocated_Sector_Ct")
        assert {(item.kind, item.name) for item in made.made} == {("lvm", "pve"), ("lvmthin", "data")}
        assert full.warnings == ["thin pool data of pve1: data 95.0 %, metadata 25.0 % used"]
        assert size(disks) < 250

    async def test_a_pool_is_made_once(self, tools: Bench, sim: AsyncPve) -> None:
        """A pool is made of the disks that were shown, which are used then; asked again nothing is made."""
        made = await tools.call("create_local_storage", call := MemoryCall(), **ZFS)
        await tools.call("create_local_storage", same := MemoryCall(), **ZFS)
        used = {disk.device: disk.used for disk in (await tools.call("list_node_disks", **PVE1)).disks}
        well = await tools.call("get_zfs_status", **PVE1, pool="tank")
        await sim.hardware(pools={"pve1:tank": "DEGRADED"})
        ill = await tools.call("get_zfs_status", **PVE1, pool="tank")
        await tools.call("list_local_storage", warned := MemoryCall(), **PVE1)

        assert ("zfs", "tank", "ONLINE") in {(item.kind, item.name, item.state) for item in made.made}
        assert same.acted == 0
        assert (used["/dev/sdb"], used["/dev/sdc"]) == ("ZFS", "ZFS")
        (target,) = call.targets
        assert target.loses[0].startswith("whatever is on /dev/sdb (SIM_DISK, pve1-B,")
        assert target.state == {"/dev/sdb": "pve1-B", "/dev/sdc": "pve1-C"}
        assert (well.state, well.action, ill.action) == ("ONLINE", "", "Replace the faulted device.")
        assert [(part.name, part.write) for part in ill.parts if part.message] == [("sdc", 12)]
        assert "zfs tank of pve1 is DEGRADED: get_zfs_status shows which disk" in warned.warnings
        assert tools.tools["create_local_storage"].tier is Tier.DESTROY

    async def test_another_disk_has_its_path(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk that is used, or that is another one than was shown, is left alone."""
        for wrong, line in (
            (
                {"device": "/dev/sda", "serial": "pve1-A"},
                r"/dev/sda of pve1 \(pve1-A\) is used by LVM: nothing",
            ),
            ({"device": "/dev/sdb", "serial": "OTHER"}, "serial: /dev/sdb of pve1 is the disk pve1-B, not OTHER"),
        ):
            with pytest.raises(errors.Rejected, match=line):
                await tools.call("create_local_storage", **{**ZFS, "disks": [wrong]})
        with pytest.raises(errors.NotFound, match="device: pve1 has no disk /dev/sdz; it has /dev/sda"):
            await tools.call("get_disk_health", **PVE1, device="/dev/sdz")
        with pytest.raises(errors.Rejected, match="disks: lvm is made of one disk"):
            await tools.call("create_local_storage", **{**ZFS, "kind": "lvm"})
        with pytest.raises(errors.NotFound, match="pool: pve1 has no ZFS pool 'nope'; it has none"):
            await tools.call("get_zfs_status", **PVE1, pool="nope")

        assert [request for request in await sim.log() if request["method"] != "GET"] == []

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A pool whose answer or request was lost is there once."""
        await sim.rule("POST", "/disks/zfs$", {fault: True}, 1)
        await tools.until_done("create_local_storage", call := MemoryCall(), **ZFS)

        assert call.adopted is (fault == "cut_after")
        assert len(await sim.tasks("zfscreate")) == 1


class TestCeph:
    """get_ceph_status, list_osds, set_ceph_flag."""

    async def test_none(self, tools: Bench) -> None:
        """A cluster without Ceph says so; it is no error to ask."""
        assert (await tools.call("get_ceph_status")).installed is False
        with pytest.raises(errors.AgentdError, match="not installed"):
            await tools.call("set_ceph_flag", flag="noout", value=True)

    @pytest.mark.parametrize("reason", ["got timeout", "rados_connect failed - Operation timed out"])
    async def test_unreachable(self, tools: Bench, sim: AsyncPve, reason: str) -> None:
        """A Ceph whose monitors do not answer is not taken for none."""
        await sim.rule("GET", "/cluster/ceph/status$", {"status": 500, "reason": reason})

        with pytest.raises(errors.AgentdError, match=reason):
            await tools.call("get_ceph_status")

    async def test_health(self, tools: Bench, sim: AsyncPve) -> None:
        """Warnings are reported in words, disks that are down come first, flags are set once and undone."""
        await sim.hardware(ceph=HEALTH)
        set_ = await tools.call("set_ceph_flag", call := MemoryCall(), flag="noout", value=True)
        await tools.call("set_ceph_flag", same := MemoryCall(), flag="noout", value=True)
        await sim.node("pve3", online=False)
        found = await tools.call("get_ceph_status")
        osds = await tools.call("list_osds", **PVE1)

        assert (set_.flags, same.acted) == (["noout"], 0)
        assert call.undo == ("set_ceph_flag", {"flag": "noout", "value": False})
        assert (found.health, found.checks) == ("HEALTH_WARN", ["OSD_DOWN: 1 osds down"])
        assert (found.osds, found.osds_up, found.groups, found.flags) == (3, 2, {"active+clean": 33}, ["noout"])
        assert [(osd.node, osd.up) for osd in osds.osds] == [("pve3", False), ("pve1", True), ("pve2", True)]


class TestStorages:
    """list_storage_definitions, create_storage, update_storage, delete_storage."""

    async def test_life(self, tools: Bench) -> None:
        """A storage is added, changed and removed once each, and each can be taken back where it can."""
        wanted = {
            "storage": "shelf",
            "type": "nfs",
            "server": "192.0.2.9",
            "export": "/srv/pve",
            "content": ["iso", "backup"],
        }
        made = await tools.call("create_storage", add := MemoryCall(), **wanted)
        await tools.call("create_storage", same := MemoryCall(), **wanted)
        off = await tools.call("update_storage", change := MemoryCall(), storage="shelf", enabled=False, nodes=["pve1"])
        await tools.call("update_storage", still := MemoryCall(), storage="shelf", enabled=False)
        back = await tools.call(change.undo[0], **change.undo[1]) if change.undo else None
        await tools.call("delete_storage", gone := MemoryCall(), storage="shelf")
        await tools.call("delete_storage", twice := MemoryCall(), storage="shelf")
        left = [storage.storage for storage in (await tools.call("list_storage_definitions")).storages]

        assert (made.content, made.source, made.enabled) == (["backup", "iso"], "192.0.2.9:/srv/pve", True)
        assert (same.acted, still.acted, twice.acted) == (0, 0, 0)
        assert add.undo == ("delete_storage", {"storage": "shelf"})
        assert (off.enabled, off.nodes) == (False, ["pve1"])
        assert back is not None
        assert (back.enabled, back.nodes) == (True, [])
        assert gone.targets[0].loses == ["the use of 192.0.2.9:/srv/pve for backup, iso"]
        assert "shelf" not in left

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_change_unanswered(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A change bound to a digest is made once, though its answer or request was lost."""
        found = await tools.call("list_storage_definitions")
        digest = next(storage.digest for storage in found.storages if storage.storage == "local")
        await sim.rule("PUT", "/storage/local$", {fault: True}, 1)
        call = MemoryCall()
        off = await tools.until_done("update_storage", call, storage="local", enabled=False, digest=digest)

        assert digest
        assert (off.enabled, call.adopted) == (False, fault == "cut_after")

    async def test_open_share(self, tools: Bench) -> None:
        """A share without a login is added; one with a password is for a person."""
        share: dict[str, Any] = {
            "storage": "open",
            "type": "cifs",
            "server": "192.0.2.9",
            "share": "iso",
            "content": ["iso"],
        }
        made = await tools.call("create_storage", **share)
        await tools.call("create_storage", same := MemoryCall(), **share)

        assert (made.source, same.acted) == ("192.0.2.9/iso", 0)
        with pytest.raises(errors.InvalidMessage, match="'password': is a secret"):
            await tools.call("create_storage", **share, password="x")  # noqa: S106 - none

    async def test_one_that_is_used_stays(self, tools: Bench, sim: AsyncPve) -> None:
        """A storage on which guests have disks is not removed, and they are named."""
        with pytest.raises(errors.Rejected, match=r"storage: local-lvm holds disks of VM 100 .*: nothing was done"):
            await tools.call("delete_storage", storage="local-lvm")

        assert await sim.log("DELETE") == []

    async def test_refused(self, tools: Bench, lab: FakePve) -> None:
        """What does not fit the type, what is there as something else, and what has changed are reported."""
        with pytest.raises(errors.Rejected, match="type: nfs takes server and export, and no other of path"):
            await tools.call("create_storage", storage="x1", type="nfs", path="/x", content=["iso"])
        with pytest.raises(errors.Rejected, match="storage: there is a dir storage local on /var/lib/vz already"):
            await tools.call("create_storage", storage="local", type="dir", path="/other", content=["iso"])
        with pytest.raises(errors.NotFound, match="storage: there is no storage 'nope'; there are local"):
            await tools.call("update_storage", storage="nope", enabled=False)
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_storage", storage="local", enabled=False, digest="0" * 40)
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks Datastore.Allocate on /storage; to grant it: pveum"):
            await Bench(audit).call("create_storage", storage="x1", type="dir", path="/x", content=["iso"])
        await audit.close()


class TestUsage:
    """get_usage."""

    @pytest.mark.parametrize(
        ("of", "value"), [({"vmid": 100}, "mem"), (PVE1, "memused"), ({**PVE1, "storage": "local"}, "used")]
    )
    async def test_few_numbers(self, tools: Bench, of: dict[str, Any], value: str) -> None:
        """Seventy points are four numbers a value; all points only of what is asked for; empty ones are none."""
        found = await tools.call("get_usage", **of)
        whole = await tools.call("get_usage", **of, points=[value])

        assert (found.samples, found.points) == (70, {})
        assert found.values[value].least == found.values[value].most == found.values[value].last > 0
        assert len(whole.points[value]) == 69
        assert size(found) < 250

    async def test_refused(self, tools: Bench) -> None:
        """The target must be given, and unknown values are reported."""
        with pytest.raises(errors.Rejected, match="node: name a guest by its vmid, a node, or a storage"):
            await tools.call("get_usage", storage="local")
        with pytest.raises(errors.Rejected, match="points: there is no 'colour'; there are cpu"):
            await tools.call("get_usage", vmid=100, points=["colour"])
        with pytest.raises(errors.NotFound, match="there is no guest 999"):
            await tools.call("get_usage", vmid=999)


class TestNotices:
    """list_notifications, test_notification, sync_realm."""

    async def test_targets(self, tools: Bench) -> None:
        """Targets and matchers are listed; a test goes to one that there is."""
        found = await tools.call("list_notifications")
        sent = await tools.call("test_notification", name=found.targets[0].name)

        assert found.matchers
        assert sent.name == found.targets[0].name
        with pytest.raises(errors.NotFound, match="name: there is no target 'nope'; there are"):
            await tools.call("test_notification", name="nope")

    async def test_sync(self, tools: Bench, sim: AsyncPve) -> None:
        """A directory is synced without deleting users; an unknown realm is reported."""
        await sim.hardware(directories={"corp": "ldap"})
        done = await tools.call("sync_realm", realm="corp", scope="users")

        assert "updating users" in done.log[0]
        (sent,) = await sim.log("POST", "/sync$")
        assert sent["params"]["remove-vanished"] == "none"
        with pytest.raises(errors.NotFound, match="realm: there is no directory 'pam' to sync with; there are corp"):
            await tools.call("sync_realm", realm="pam")
