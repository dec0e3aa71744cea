"""Nodes: services, settings, updates and power; what takes others with it is shown first, and done once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox.nodes import syslog
from agentd_proxmox.nodes.syslog import SEARCHED
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, Doubt, MemoryCall, size, until

if TYPE_CHECKING:
    from pve.client import FakePve

PVE1: dict[str, Any] = {"node": "pve1"}


class TestServices:
    """list_services, start_service, stop_service, restart_service."""

    async def test_life(self, tools: Bench) -> None:
        """A service is stopped and started once each, comes first while it is down, and is taken back by the other."""
        before = await tools.call("list_services", **PVE1)
        stopped = await tools.call("stop_service", stop := MemoryCall(), **PVE1, service="cron")
        again = await tools.call("stop_service", same := MemoryCall(), **PVE1, service="cron")
        down = await tools.call("list_services", **PVE1)
        started = await tools.call("start_service", start := MemoryCall(), **PVE1, service="cron")
        await tools.call("restart_service", **PVE1, service="cron")

        assert (before.running, down.running, down.services[0].service) == (7, 6, "cron")
        assert (stopped.state, again.state, same.acted, started.state) == ("dead", "dead", 0, "running")
        assert stop.targets[0].title == "service cron on pve1, running"
        assert stop.undo == ("start_service", {"node": "pve1", "service": "cron"})
        assert start.undo == ("stop_service", {"node": "pve1", "service": "cron"})
        assert [tools.tools[f"{item}_service"].tier for item in ("start", "stop", "restart")] == [
            Tier.OPERATE,
            Tier.DESTROY,
            Tier.DESTROY,
        ]
        assert size(before) < 400

    @pytest.mark.parametrize("service", ["pveproxy", "pvedaemon", "pve-cluster"])
    async def test_the_api_stays(self, tools: Bench, sim: AsyncPve, service: str) -> None:
        """What the API runs by is not stopped over the API, only restarted."""
        with pytest.raises(errors.Rejected, match="the API cannot start it again without it; use restart_service"):
            await tools.call("stop_service", **PVE1, service=service)
        await tools.call("restart_service", **PVE1, service=service)

        assert [request["path"] for request in await sim.log("POST")] == [f"/nodes/pve1/services/{service}/restart"]

    async def test_a_service_that_does_not_start(self, tools: Bench, sim: AsyncPve) -> None:
        """A service whose task ends well and which does not run is a failure that names it."""
        await tools.call("stop_service", **PVE1, service="cron")
        await sim.rule("POST", "/services/cron/start$", {"task_exit": "command 'systemctl start cron' failed"}, 1)

        with pytest.raises(errors.TaskFailed, match="systemctl start cron"):
            await tools.call("start_service", **PVE1, service="cron")

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A stop whose answer or request is lost is settled by how the service is."""
        await sim.rule("POST", "/services/cron/stop$", {fault: True}, 1)
        line = await tools.until_done("stop_service", call := MemoryCall(), **PVE1, service="cron")

        assert line.state == "dead"
        assert call.adopted is (fault == "cut_after")

    async def test_unknown(self, tools: Bench, lab: FakePve) -> None:
        """An unknown service is named with those there are; missing rights with the command that grants them."""
        with pytest.raises(errors.NotFound, match="service: there is no 'nginx' on pve1; there are corosync, cron"):
            await tools.call("start_service", **PVE1, service="nginx")
        audit = connect(lab, "audit")
        with pytest.raises(errors.Denied, match=r"lacks Sys.Modify on /nodes/pve1; to grant it: pveum"):
            await Bench(audit).call("stop_service", **PVE1, service="cron")
        await audit.close()


class TestSettings:
    """get_node_settings, set_dns, set_timezone."""

    async def test_dns(self, tools: Bench) -> None:
        """Name servers are set once and can be undone; a decision on old ones is refused."""
        before = await tools.call("get_node_settings", **PVE1)
        wanted = {**PVE1, "dns": ["192.0.2.1", "2001:db8::53"], "search": "lab.example"}
        after = await tools.call("set_dns", call := MemoryCall(), **wanted)
        await tools.call("set_dns", same := MemoryCall(), **wanted)

        assert (before.dns, after.dns, after.search) == (["192.0.2.53"], ["192.0.2.1", "2001:db8::53"], "lab.example")
        assert same.acted == 0
        assert call.undo == ("set_dns", {"node": "pve1", "dns": ["192.0.2.53"], "search": "example.com"})
        with pytest.raises(errors.ConfigChanged, match="configuration of pve1 was changed since it was read"):
            await tools.call("set_dns", **PVE1, dns=["192.0.2.9"], search="x.example", digest=before.digest)
        with pytest.raises(errors.Rejected, match="dns: name each server once"):
            await tools.call("set_dns", **PVE1, dns=["192.0.2.9", "192.0.2.9"], search="x.example")
        for dns, search in ((["nope!"], "x.example"), ([], "x.example"), (["192.0.2.1"], "a b")):
            with pytest.raises(errors.InvalidMessage, match=r"set_dns\.(dns|search)"):
                await tools.call("set_dns", **PVE1, dns=dns, search=search)

    @pytest.mark.parametrize("fault", ["cut_after", "lost_before"])
    async def test_dns_answer_lost(self, tools: Bench, sim: AsyncPve, fault: str) -> None:
        """A change whose answer is lost is known by what the node asks now, though its digest is another by then."""
        before = await tools.call("get_node_settings", **PVE1)
        await sim.rule("PUT", "/dns$", {fault: True}, 1)
        wanted = {"dns": ["192.0.2.1"], "search": "lab.example", "digest": before.digest}
        after = await tools.until_done("set_dns", call := MemoryCall(), **PVE1, **wanted)

        assert (after.dns, call.adopted) == (["192.0.2.1"], fault == "cut_after")

    async def test_not_so(self, tools: Bench, sim: AsyncPve) -> None:
        """A change that Proxmox says it made and did not is a failure that says how things are."""
        await sim.rule("PUT", "/(dns|time)$", {"status": 200, "body": {"data": None}})

        with pytest.raises(
            errors.TaskFailed, match=r"pve1 uses the DNS servers 192\.0\.2\.53 and searches 'example\.com'"
        ):
            await tools.call("set_dns", **PVE1, dns=["192.0.2.1"], search="lab.example")
        with pytest.raises(errors.TaskFailed, match="the time zone of pve1 is Etc/UTC"):
            await tools.call("set_timezone", **PVE1, timezone="Europe/Berlin")

    async def test_clock(self, tools: Bench, sim: AsyncPve) -> None:
        """A time zone is set and undone; a clock that is off is reported with its offset."""
        set_ = await tools.call("set_timezone", call := MemoryCall(), **PVE1, timezone="Europe/Berlin")
        await sim.settings(clock_skew=60)
        found = await tools.call("get_node_settings", off := MemoryCall(), **PVE1)

        assert set_.timezone == "Europe/Berlin"
        assert call.undo == ("set_timezone", {"node": "pve1", "timezone": "Etc/UTC"})
        assert 57 < found.offset < 63
        assert "s off ours: is chrony running on both?" in off.warnings[0]
        with pytest.raises(errors.AgentdError, match="zoneinfo"):
            await tools.call("set_timezone", **PVE1, timezone="Europe/Nowhere")


class TestUpdates:
    """list_updates, refresh_updates, get_node_log."""

    async def test_refreshed(self, tools: Bench, sim: AsyncPve) -> None:
        """A refresh brings what could be newer; one that runs is waited for."""
        before = await tools.call("list_updates", **PVE1)
        await sim.durations(aptupdate=0.4)
        both = await asyncio.gather(*(tools.call("refresh_updates", MemoryCall(), **PVE1) for _ in range(2)))
        page = await tools.call("list_updates", **PVE1, limit=1)

        assert before.total == 0
        assert [item.total for item in both] == [3, 3]
        assert (page.by_origin, page.kernel) == ({"Debian": 1, "Proxmox": 2}, True)
        assert page.packages[0].package == "libssl3t64"
        assert page.next

    async def test_log(self, tools: Bench, sim: AsyncPve) -> None:
        """The last lines are shown, or those of them with a word; Proxmox' own marks are no lines."""
        last = await tools.call("get_node_log", **PVE1, lines=3)
        some = await tools.call("get_node_log", **PVE1, match="LINE 5")
        none = await tools.call("get_node_log", **PVE1, minutes=1, match="nope")

        assert [line[-7:] for line in last.lines] == ["line 57", "line 58", "line 59"]
        assert len(some.lines) == 11
        assert (some.searched, none.lines) == (60, [])
        sent = [request["params"] for request in await sim.log("GET", "/journal$")]
        assert [message.get("lastentries") for message in sent] == ["3", str(SEARCHED), None]

    async def test_log_of_a_time(self, tools: Bench, sim: AsyncPve, monkeypatch: pytest.MonkeyPatch) -> None:
        """A time is read in pieces that meet, the newest first, no further than wanted; omissions are reported."""
        await sim.settings(journal_step=10)
        few = await tools.call("get_node_log", **PVE1, minutes=60, lines=10)
        asked = [request["params"] for request in await sim.log("GET", "/journal$")]
        whole = await tools.call("get_node_log", all_ := MemoryCall(), **PVE1, minutes=60, match="line 5")
        monkeypatch.setattr(syslog, "MOST", 20)
        cut = await tools.call("get_node_log", call := MemoryCall(), **PVE1, minutes=60, match="nope")

        assert [line[-7:] for line in few.lines] == [f"line {number}" for number in range(50, 60)]
        assert len(asked) == 2
        assert asked[1]["until"] == asked[0]["since"]
        assert (whole.searched, len(whole.lines), all_.warnings) == (60, 11, [])
        assert (cut.searched < 60, cut.lines) == (True, [])
        assert f"only the newest {cut.searched} lines were searched" in call.warnings[0]


class TestPower:
    """stop_node, wake_node, stop_task."""

    async def test_down_and_up(self, tools: Bench, sim: AsyncPve) -> None:
        """The approver sees the guests that stop; a second call sends nothing; the node is woken."""
        down = await tools.call("stop_node", call := MemoryCall(), node="pve3", command="shutdown")
        again = await tools.call("stop_node", same := MemoryCall(), node="pve3", command="shutdown")
        up = await tools.call("wake_node", node="pve3")

        (target,) = call.targets
        assert target.name == "node/pve3"
        assert target.state["running"] == [104]
        assert target.loses == ["VM 104 'nas' on pve3 stops"]
        assert {"guest/104", "guest/nas"} <= set(target.labels)
        assert (down.status, down.guests) == ("offline", ["VM 104 'nas' on pve3"])
        assert (again.status, same.acted, up.status) == ("offline", 0, "online")
        assert len(await sim.log("POST", "/status$")) == 1

    async def test_our_own_way(self, tools: Bench, sim: AsyncPve) -> None:
        """The approver sees that agentd reaches the cluster through this node; losing it is no failure."""
        refused = {"status": 595, "reason": "Connection refused", "empty": True}
        await sim.rule("GET", "/cluster/status$", refused, 1, 2)
        found = await tools.call("stop_node", call := MemoryCall(), node="pve1", command="reboot")

        assert (found.node, found.status) == ("pve1", "unknown")
        assert call.targets[0].loses[0].startswith("agentd's own way to the cluster")

    async def test_quorum(self, tools: Bench, sim: AsyncPve) -> None:
        """A node without which the others could decide nothing stays up, unless that is meant."""
        await sim.node("pve2", online=False)
        with pytest.raises(errors.Rejected, match=r"without pve3 1 of 3 nodes would be online: no quorum"):
            await tools.call("stop_node", node="pve3", command="shutdown")

        assert await sim.log("POST") == []
        await tools.call("stop_node", node="pve3", command="shutdown", without_quorum=True)

    async def test_reboot_is_not_repeated(self, tools: Bench, sim: AsyncPve) -> None:
        """A reboot whose answer is lost is never sent again by itself."""
        await sim.rule("POST", "/nodes/pve3/status$", {"cut_after": True}, 1)
        call = Doubt()
        with pytest.raises(errors.UnknownOutcome):
            await tools("stop_node", call, node="pve3", command="reboot")
        with pytest.raises(errors.PermanentError, match="its result is not known"):
            await tools("stop_node", call, node="pve3", command="reboot")

        assert len(await sim.log("POST", "/status$")) == 1

    async def test_unknown_and_off(self, tools: Bench, sim: AsyncPve) -> None:
        """An unknown node is named with those there are; one that is off cannot be rebooted."""
        with pytest.raises(errors.NotFound, match="there is no node 'pve9'; there are pve1, pve2, pve3"):
            await tools.call("stop_node", node="pve9", command="reboot")
        await sim.node("pve3", online=False)
        with pytest.raises(errors.Rejected, match="pve3 is not online"):
            await tools.call("stop_node", node="pve3", command="reboot")

    async def test_task_stopped(self, tools: Bench, sim: AsyncPve) -> None:
        """A running task is shown, ended and its end reported; one that is over is left alone."""
        await sim.durations(vzdump=30)
        backing = asyncio.create_task(tools("create_backup", vmid=100, storage="local"))
        running = await until(lambda: sim.tasks("vzdump"))
        upid = running[0]["upid"]
        ended = await tools.call("stop_task", call := MemoryCall(), upid=upid)
        again = await tools.call("stop_task", same := MemoryCall(), upid=upid)
        with pytest.raises(errors.TaskFailed):
            await backing

        assert "vzdump 100 of agentd@pve!full on" in call.targets[0].title
        assert "guest/100" in call.targets[0].labels
        assert ended.status == again.status == "unexpected status"
        assert same.acted == 0
