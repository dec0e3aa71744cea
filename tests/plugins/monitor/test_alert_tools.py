"""Alerts, silences, acknowledgements and findings as principals see them: the tools of the monitor, and the CLI."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from agentd.client import tool_calls
from agentd.errors import Denied, InvalidMessage, NotFound, UsageError
from agentd_monitor import role as at_work
from agentd_monitor.cluster import collector
from harness import Net, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from harness import NatsServer
    from pve.client import FakePve

POOL = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": "DEGRADED"}
AGENTD = str(Path(sys.executable).with_name("agentd"))


class Monitored:
    """A network with a monitor of a cluster with one degraded pool."""

    def __init__(self, bus: Bus, net: Net) -> None:
        """Use the client `bus`."""
        self.bus = bus
        self.net = net

    async def __call__(self, tool: str, principal: str = "alice", **parameters: Any) -> Any:
        """Call a tool; return its result."""
        return (await tool_calls.call(self.bus, principal, tool, parameters, seconds=20)).result

    async def command(self, *words: str) -> tuple[int, str]:
        """Run a command of the CLI; return its exit code and what it printed."""
        made = await asyncio.create_subprocess_exec(
            AGENTD,
            "--config",
            str(self.net.directory / "agentd.toml"),
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await made.communicate()
        return made.returncode or 0, printed.decode()

    async def pool(self) -> dict[str, Any]:
        """Return the alert of the pool, as it is listed."""
        (found,) = (await self("list_alerts", name="zfs_health"))["alerts"]
        return dict(found)


@pytest_asyncio.fixture
async def monitored(
    tmp_path: Path, nats_server: NatsServer, lab: FakePve, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Monitored]:
    """Run a monitor with the NATS permissions of its role until it has found the pool."""
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 0.2)
    monkeypatch.setattr(collector, "TICK", 0.05)
    lab.rule("GET", "/nodes/pve1/disks/zfs$", {"status": 200, "body": {"data": [POOL]}})
    net = Net(tmp_path, nats_server.url, lab, exact=True)
    net.settings["monitor"] = {"api_calls_per_minute": 120}
    net.settings["policy"] |= {"default_tier": "read", "principals": {"alice": "operate", "tester": "operate"}}
    net.settings["instances"]["monitor"] = {"roles": ["monitor"]}
    async with net.client() as bus, net.here("monitor"):
        found = Monitored(bus, net)

        async def seen() -> bool:
            try:
                return bool((await found("list_alerts", name="zfs_health"))["alerts"])
            except UsageError:  # the monitor has not announced its tools yet
                return False

        await eventually(seen, "the pool is found", 40)
        yield found


async def test_silence(monitored: Monitored) -> None:
    """A silence names who made it, is listed with the alerts that it covers, and ends when it is deleted."""
    made = await monitored(
        "silence_alerts", matchers=["alertname=zfs_*", "pool!=tank"], comment="being replaced", hours=1
    )
    other = await monitored("silence_alerts", matchers=["node=pve2"], comment="x")
    covered = await monitored.pool()
    listed = (await monitored("list_silences", principal="carol"))["silences"]
    await monitored("delete_silence", id=made["id"])
    after = await monitored.pool()

    assert covered["silenced_by"] == "alice"
    assert {silence["id"]: silence["matchers"] for silence in listed} == {
        made["id"]: ["alertname=zfs_*", "pool!=tank"],
        other["id"]: ["node=pve2"],
    }
    assert "silenced_by" not in after
    with pytest.raises(NotFound, match="list_silences lists them"):
        await monitored("delete_silence", id=made["id"])


async def test_acknowledge(monitored: Monitored) -> None:
    """An alert is acknowledged by the first characters of its id."""
    alert = await monitored.pool()
    await monitored("acknowledge_alert", id=alert["id"][:6])

    assert (await monitored.pool())["acknowledged_by"] == "alice"
    with pytest.raises(NotFound, match="there is no alert ffffff"):
        await monitored("acknowledge_alert", id="ffffff")


async def test_list(monitored: Monitored) -> None:
    """The list has the alerts of a state and of a type; a critical one is before the warnings."""

    async def both() -> list[dict[str, Any]]:
        alerts: list[dict[str, Any]] = (await monitored("list_alerts", principal="carol"))["alerts"]
        return alerts if {"zfs_health", "disk_wear"} <= {alert["name"] for alert in alerts} else []

    firing = await eventually(both, "the alerts of the pool and of a disk")
    resolved = await monitored("list_alerts", state="resolved")
    first = await monitored("list_alerts", state="all", limit=1)

    assert [alert["severity"] for alert in firing] == sorted(alert["severity"] for alert in firing)
    assert resolved == {"total": 0, "alerts": []}
    assert (first["total"] >= len(firing), len(first["alerts"])) == (True, 1)


async def test_who_may(monitored: Monitored) -> None:
    """Every principal may list; to silence and to acknowledge needs tier operate, and a matcher that is one."""
    with pytest.raises(Denied):
        await monitored("silence_alerts", principal="carol", matchers=["node=pve1"], comment="x")
    with pytest.raises(Denied):
        await monitored("acknowledge_alert", principal="carol", id=(await monitored.pool())["id"])
    for matchers in ([], ["node"], ["=x"]):
        with pytest.raises(InvalidMessage):
            await monitored("silence_alerts", matchers=matchers, comment="x")

    assert (await monitored("list_silences", principal="carol"))["silences"] == []


async def test_findings(monitored: Monitored) -> None:
    """The findings are listed, the worst first, with the number of all of them; they can be filtered."""
    found = await monitored("list_findings", level="critical")
    other = await monitored("list_findings", node="pve2", check="zfs_health", level="warning")

    assert found["status"] == "critical"
    assert found["counts"]["critical"] == len(found["findings"]) == found["total"]
    assert {"node": "pve1", "pool": "rpool"} in [finding["labels"] for finding in found["findings"]]
    assert found["age"] < 60
    assert other["findings"] == []


async def test_commands(monitored: Monitored) -> None:
    """`agentd alerts` lists, acknowledges and silences; `agentd checks` lists the findings; both also as JSON."""
    _, listed = await monitored.command("alerts")
    _, as_json = await monitored.command("alerts", "--json")
    (alert,) = [entry for entry in json.loads(as_json)["alerts"] if entry["name"] == "zfs_health"]
    code, acknowledged = await monitored.command("alerts", "ack", alert["id"], "--for", "4h")
    _, silenced = await monitored.command("alerts", "silence", "node=pve1", "--reason", "maintenance", "--json")
    _, silences = await monitored.command("alerts", "silences")
    _, ended = await monitored.command("alerts", "unsilence", json.loads(silenced)["silences"][0]["id"])
    _, checked = await monitored.command("checks", "--level", "critical")
    wrong, error = await monitored.command("alerts", "silence", "node", "--reason", "x")

    assert "ZFS pool rpool on pve1 is DEGRADED" in listed
    assert alert["severity"] == "critical"
    assert code == 0
    assert "acknowledged by tester" in acknowledged
    assert "maintenance" in silences
    assert "maintenance" in ended
    assert "zpool status rpool" in checked
    assert "critical:" in checked
    assert wrong == UsageError.exit_code
    assert "LABEL=PATTERN" in error
