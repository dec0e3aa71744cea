"""Realms, notifications and Ceph's disks: no access is given or removed unnoticed, and no secret passes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import errors
from agentd.wire.messages import Tier
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve

LDAP: dict[str, Any] = {
    "id": "corp",
    "type": "ldap",
    "settings": {
        "server1": "ldap.example.com",
        "base_dn": "dc=example,dc=com",
        "user_attr": "uid",
        "bind_dn": "cn=pve",
    },
}
OPENID: dict[str, Any] = {
    "id": "sso",
    "type": "openid",
    "settings": {"issuer_url": "https://id.example.com", "client_id": "pve"},
}
MATCHER: dict[str, Any] = {"name": "nights", "targets": ["mail-to-root"], "severities": ["error", "warning"]}
CLEAN = [{"state_name": "active+clean", "count": 33}]


class TestRealms:
    """get_realm, create_realm, update_realm, delete_realm."""

    async def test_life(self, tools: Bench) -> None:
        """A realm is created, changed and deleted once each; users that lose access are named; a change is undone."""
        made = await tools.call("create_realm", add := MemoryCall(), **LDAP)
        await tools.call("create_realm", same := MemoryCall(), **LDAP)
        await tools.call("create_user", id="ann@corp")
        new = {"server1": "ldap2.example.com"}
        moved = await tools.call("update_realm", change := MemoryCall(), id="corp", settings=new, digest=made.digest)
        await tools.call("update_realm", still := MemoryCall(), id="corp", settings=new, digest=made.digest)
        back = await tools.call(change.undo[0], **change.undo[1]) if change.undo else None
        await tools.call("delete_realm", gone := MemoryCall(), id="corp")
        await tools.call("delete_realm", twice := MemoryCall(), id="corp")

        assert (made.type, made.settings["base_dn"], add.undo) == (
            "ldap",
            "dc=example,dc=com",
            ("delete_realm", {"id": "corp"}),
        )
        assert add.warnings == ["a person gives the password of cn=pve: pveum realm modify corp --password …"]
        assert add.targets[0].loses == ["ldap.example.com decides from now on who is NAME@corp"]
        assert (same.acted, still.acted, twice.acted) == (0, 0, 0)
        assert (moved.settings["server1"], moved.settings["user_attr"]) == ("ldap2.example.com", "uid")
        assert change.targets[0].loses == ["server1: 'ldap.example.com' → 'ldap2.example.com'"]
        assert back is not None
        assert back.settings["server1"] == "ldap.example.com"
        assert gone.targets[0].loses[0] == "1 users can no longer log in: ann@corp"
        assert "corp" not in {realm.id for realm in (await tools.call("list_realms")).realms}
        assert {tools.tools[f"{item}_realm"].tier for item in ("create", "update", "delete")} == {
            Tier.DESTROY,
            Tier.EXEC,
        }

    async def test_secrets(self, tools: Bench, lab: FakePve) -> None:
        """The client key that Proxmox returns is not shown, and none is taken."""
        await tools.call("create_realm", **OPENID)
        proxmox = connect(lab)
        await proxmox.put("/access/domains/sso", **{"client-key": "s3cret"})
        raw = await proxmox.get("/access/domains/sso")
        await proxmox.close()
        shown = await tools.call("get_realm", id="sso")

        assert raw["client-key"] == "s3cret"
        assert b"s3cret" not in msgspec.json.encode(shown)
        for name in ("client_key", "password"):
            with pytest.raises(errors.InvalidMessage, match=name):
                await tools.call("create_realm", **{**OPENID, "settings": {name: "x"}})

    async def test_refused(self, tools: Bench, sim: AsyncPve, lab: FakePve) -> None:
        """What is missing, foreign, built in or changed meanwhile is reported, and nothing is done."""
        for given, line in (
            ({**LDAP, "settings": {"server1": "a"}}, "settings: a realm of type ldap needs base_dn and user_attr too"),
            ({**OPENID, "settings": {"server1": "a"}}, "settings: a realm of type openid has no server1; it has"),
            ({**LDAP, "id": "pve"}, "id: there is a realm pve of type pve already"),
        ):
            with pytest.raises(errors.Rejected, match=line):
                await tools.call("create_realm", **given)
        with pytest.raises(errors.Rejected, match="id: pve is the realm of agentd itself: it is not deleted"):
            await tools.call("delete_realm", id="pve")
        with pytest.raises(errors.Rejected, match=r"id: pam \(pam\) comes with Proxmox: it is not deleted"):
            await tools.call("delete_realm", id="pam")
        with pytest.raises(errors.NotFound, match="id: there is no realm 'nope'; there are pam, pve"):
            await tools.call("get_realm", id="nope")
        assert [request for request in await sim.log() if request["method"] != "GET"] == []
        await tools.call("create_realm", **LDAP)
        with pytest.raises(errors.ConfigChanged, match="read it again"):
            await tools.call("update_realm", id="corp", settings={"comment": "x"}, digest="0" * 40)
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks Realm.Allocate on /access/realm; to grant it: pveum"):
            await Bench(audit).call("create_realm", **OPENID)
        await audit.close()

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A change whose answer or request was lost is made once, though its digest is an old one then."""
        made = await tools.call("create_realm", **LDAP)
        await sim.rule("PUT", "/access/domains/corp$", {fault: True}, 1)
        call, wanted = MemoryCall(), {"settings": {"comment": "x"}, "digest": made.digest}
        done = await tools.until_done("update_realm", call, id="corp", **wanted)

        assert done.settings["comment"] == "x"
        assert call.adopted is (fault == "cut_after")
        assert len(await sim.log("PUT", "/access/domains")) == (1 if fault == "cut_after" else 2)

    async def test_preview(self, tools: Bench, sim: AsyncPve) -> None:
        """A preview of a sync asks Proxmox to change nothing."""
        await sim.hardware(directories={"corp": "ldap"})
        await tools.call("sync_realm", realm="corp", preview=True)

        (sent,) = await sim.log("POST", "/sync$")
        assert sent["params"]["dry-run"] == "1"


class TestNotices:
    """Matchers, mail targets and metric servers: set, created and deleted."""

    async def test_matcher(self, tools: Bench) -> None:
        """A matcher is made, changed and deleted, each taken back to exactly what was there."""
        await tools.call("set_notification_matcher", add := MemoryCall(), **MATCHER)
        await tools.call("set_notification_matcher", same := MemoryCall(), **MATCHER)
        rules = {"rules": ["exact:type=vzdump"], "severities": [], "mode": "any", "enabled": False}
        new = await tools.call("set_notification_matcher", change := MemoryCall(), **{**MATCHER, **rules})
        back = await tools.call(change.undo[0], **change.undo[1]) if change.undo else None
        await tools.call("delete_notification_matcher", gone := MemoryCall(), name="nights")
        again = await tools.call(gone.undo[0], **gone.undo[1]) if gone.undo else None

        assert (add.undo, same.acted) == (("delete_notification_matcher", {"name": "nights"}), 0)
        assert new.settings["match-field"] == "exact:type=vzdump"
        assert "match-severity" not in new.settings
        assert (new.settings["mode"], new.settings["disable"]) == ("any", "1")
        assert back is not None
        assert (back.settings["match-severity"], back.settings["mode"]) == ("error, warning", "all")
        assert "match-field" not in back.settings
        assert gone.targets[0].loses == ["what was sent to mail-to-root"]
        assert again == back

    async def test_targets(self, tools: Bench) -> None:
        """A target is added once; one that a matcher sends to is not deleted."""
        mail: dict[str, Any] = {"name": "ops", "type": "smtp", "server": "mx.example.com", "sender": "pve@example.com"}
        await tools.call("create_mail_target", add := MemoryCall(), **mail, to=["ops@example.com"])
        await tools.call("create_mail_target", same := MemoryCall(), **mail, to=["ops@example.com"])
        with pytest.raises(errors.Rejected, match="name: there is a target ops already, with another mailto"):
            await tools.call("create_mail_target", **mail, to=["else@example.com"])
        await tools.call("set_notification_matcher", name="nights", targets=["ops"])
        with pytest.raises(errors.Rejected, match="name: the matchers nights send to ops: nothing was done"):
            await tools.call("delete_notification_target", name="ops")
        await tools.call("delete_notification_matcher", name="nights")
        await tools.call("delete_notification_target", gone := MemoryCall(), name="ops")
        left = [target.name for target in (await tools.call("list_notifications")).targets]

        assert (add.undo, same.acted, gone.acted) == (("delete_notification_target", {"name": "ops"}), 0, 1)
        assert left == ["mail-to-root"]

    async def test_figures(self, tools: Bench) -> None:
        """A server for figures is added and taken away once each."""
        given: dict[str, Any] = {"name": "graph", "type": "graphite", "server": "192.0.2.7", "port": 2003}
        given["protocol"] = "tcp"
        made = await tools.call("create_metric_server", add := MemoryCall(), **given)
        await tools.call("create_metric_server", same := MemoryCall(), **given)
        listed = (await tools.call("list_notifications")).metric_servers
        with pytest.raises(errors.Rejected, match=r"metric server graph .*already, with another proto, path"):
            await tools.call("create_metric_server", **given | {"protocol": "udp", "path": "other"})
        await tools.call("delete_metric_server", gone := MemoryCall(), name="graph")

        assert (made.settings["server"], same.acted) == ("192.0.2.7", 0)
        assert gone.undo == ("create_metric_server", given)  # with its protocol, which the list does not have
        assert add.undo == ("delete_metric_server", {"name": "graph"})
        assert listed == {"graph": "graphite 192.0.2.7:2003"}
        assert (await tools.call("list_notifications")).metric_servers == {}

    async def test_refused(self, tools: Bench, sim: AsyncPve) -> None:
        """What comes with Proxmox stays, what does not exist is reported, and nothing is done."""
        for tool, given, line in (
            (
                "delete_notification_matcher",
                {"name": "default-matcher"},
                "comes with Proxmox: switch it off with set_notification_matcher",
            ),
            ("delete_notification_target", {"name": "mail-to-root"}, "comes with Proxmox: take it out of the matchers"),
            (
                "create_mail_target",
                {"name": "ops", "type": "smtp", "to": ["a@b.c"]},
                "smtp takes a server and a sender",
            ),
            ("create_mail_target", {"name": "ops", "type": "sendmail"}, "to: give an address, or users"),
            (
                "create_metric_server",
                {"name": "db", "type": "influxdb", "server": "a", "port": 1, "protocol": "tcp"},
                "protocol: InfluxDB without a token is reached over udp",
            ),
        ):
            with pytest.raises(errors.Rejected, match=line):
                await tools.call(tool, **given)
        with pytest.raises(errors.NotFound, match="targets: there is no target 'nope'; there are mail-to-root"):
            await tools.call("set_notification_matcher", name="nights", targets=["nope"])

        assert [request for request in await sim.log() if request["method"] != "GET"] == []


class TestCephDisks:
    """list_ceph_pools, move_osd_data."""

    async def test_out_and_in(self, tools: Bench, sim: AsyncPve) -> None:
        """A disk is taken out once while all data is whole, and taken in again; it is named by its node too."""
        await sim.hardware(ceph={"pgmap": {"bytes_total": 300, "bytes_used": 100, "pgs_by_state": CLEAN}})
        await tools.call("move_osd_data", out := MemoryCall(), osd=1, host="pve2", data="out")
        await tools.call("move_osd_data", same := MemoryCall(), osd=1, host="pve2", data="out")
        first = (await tools.call("list_osds", node="pve1")).osds[0]
        back = await tools.call(out.undo[0], **out.undo[1]) if out.undo else None
        with pytest.raises(errors.Rejected, match=r"host: osd.1 is in pve2, not in pve1: list_osds again"):
            await tools.call("move_osd_data", osd=1, host="pve1", data="out")

        assert (first.id, first.in_, same.acted) == (1, False, 0)
        assert out.targets[0].loses == ["data is moved until osd.1 is out"]
        assert back is not None
        assert back.in_

    async def test_not_while_data_is_missing(self, tools: Bench, sim: AsyncPve) -> None:
        """No disk is taken out while some data has not all its copies."""
        groups = [*CLEAN, {"state_name": "active+undersized+degraded", "count": 4}]
        await sim.hardware(ceph={"pgmap": {"pgs_by_state": groups}})
        with pytest.raises(errors.Rejected, match=r"osd: not all data has all its copies now \(4 active\+undersized"):
            await tools.call("move_osd_data", osd=1, host="pve2", data="out")

        assert await sim.log("POST") == []

    async def test_pools(self, tools: Bench, sim: AsyncPve) -> None:
        """Pools are listed in percent, and a monitor that is away is warned of."""
        await sim.hardware(ceph={})
        await sim.node("pve3", online=False)
        found = await tools.call("list_ceph_pools", call := MemoryCall(), node="pve1")

        assert [(pool.name, pool.size, pool.used) for pool in found.pools] == [("vms", 3, 86.1)]
        assert found.monitors[0].name == "pve3"
        assert call.warnings == ["monitor pve3 on pve3 is not in the quorum"]


class TestDisk:
    """initialize_disk."""

    async def test_once(self, tools: Bench, sim: AsyncPve) -> None:
        """An unused disk gets its partition table once; one that is used, or another one, is left alone."""
        disk: dict[str, Any] = {"node": "pve1", "device": "/dev/sdc", "serial": "pve1-C"}
        done = await tools.call("initialize_disk", call := MemoryCall(), **disk)
        await tools.call("initialize_disk", same := MemoryCall(), **disk)
        for wrong, line in (
            ({**disk, "serial": "OTHER"}, "serial: /dev/sdc of pve1 is the disk pve1-C, not OTHER"),
            (
                {**disk, "device": "/dev/sda", "serial": "pve1-A"},
                r"/dev/sda of pve1 \(pve1-A\) is used by LVM: nothing",
            ),
        ):
            with pytest.raises(errors.Rejected, match=line):
                await tools.call("initialize_disk", **wrong)

        assert (done.gpt, same.acted) == (True, 0)
        assert call.targets[0].state == {"/dev/sdc": "pve1-C"}
        assert len(await sim.tasks("diskinit")) == 1
