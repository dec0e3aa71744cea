"""The rules in a real Prometheus, which scrapes a monitor: their alerts reach a real Alertmanager and are resolved."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from agentd_monitor import role as at_work
from agentd_monitor.alerting.book import Record
from agentd_monitor.alerting.state import Item, State
from agentd_monitor.cluster import collector
from agentd_monitor.delivery import receivers
from agentd_monitor.delivery.receivers import ReceiverSettings
from harness import Net, eventually, free_port
from plugins.monitor.monitoring_servers import Alertmanager, Prometheus
from plugins.monitor.test_receivers import pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness import NatsServer
    from pve.client import FakePve

FILES = Path(__file__).parents[3] / "ansible" / "roles" / "monitoring" / "files"
RULES = [FILES / "pve_rules.yml", FILES / "rules.yml"]
DEGRADED = "PveZfsPoolDegraded"
MANY = 10_000


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    """Yield a running Alertmanager."""
    made = Alertmanager(tmp_path)
    made.start("stored")
    yield made
    made.kill()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    """Yield a Prometheus that is not started yet."""
    made = Prometheus(tmp_path)
    yield made
    made.kill()


async def seen(what: Callable[[], object], name: str) -> None:
    """Wait until a blocking function returns something true."""

    async def found() -> bool:
        return bool(await asyncio.to_thread(what))

    await eventually(found, name, 60)


async def test_rules(
    tmp_path: Path,
    nats_server: NatsServer,
    lab: FakePve,
    monkeypatch: pytest.MonkeyPatch,
    prometheus: Prometheus,
    alertmanager: Alertmanager,
) -> None:
    """An alert of the rules arrives, survives restarts of Prometheus and the monitor, and is resolved.

    A rule for a metric that does not exist fires nothing, and disturbs no other rule.
    """
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(collector, "TICK", 0.05)
    monkeypatch.setattr(collector, "REBUILD", 0.2)
    lab.rule("GET", "/nodes/pve1/disks/zfs$", pool("DEGRADED"))
    net = Net(tmp_path, nats_server.url, lab)
    port = free_port()
    net.settings["monitor"] = {"api_calls_per_minute": 120}
    net.settings["instances"]["monitor"] = {"roles": ["monitor"], "port": port}
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        yaml.safe_dump({"groups": [{"name": "x", "rules": [{"alert": "NoMetric", "expr": "pve_none > 0"}]}]})
    )
    rules = [*RULES, wrong]

    def start() -> None:
        prometheus.start(f"127.0.0.1:{port}", rules, alertmanager)

    await asyncio.to_thread(start)
    async with net.client():
        async with net.here("monitor"):
            await seen(lambda: alertmanager.alerts(DEGRADED), "the alert arrives")
            (first,) = await asyncio.to_thread(alertmanager.alerts, DEGRADED) or []
            loaded = await asyncio.to_thread(prometheus.rules)
            page = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read())
            await asyncio.to_thread(prometheus.kill)
            await asyncio.to_thread(start)
            await seen(prometheus.rules, "Prometheus is back")
        async with net.here("monitor"):
            await asyncio.sleep(5)
            still = await asyncio.to_thread(alertmanager.alerts, DEGRADED)
        lab.clear()
        lab.rule("GET", "/nodes/pve1/disks/zfs$", pool("ONLINE"))
        async with net.here("monitor"):  # it reads the pools at once, and then every ten minutes
            await seen(lambda: alertmanager.alerts(DEGRADED) == [], "the alert is resolved")

    assert first["labels"]["id"] == "zfs/pve1/rpool"
    assert first["annotations"]["summary"] == "zfs/pve1/rpool is not ONLINE"
    assert [alert["fingerprint"] for alert in still or []] == [first["fingerprint"]]
    written = [
        rule for file in rules for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]
    ]
    assert set(loaded) == {rule.get("alert") or rule["record"] for rule in written}
    assert {rule.get("lastError", "") for rule in loaded.values()} == {""}
    assert loaded["NoMetric"]["state"] == "inactive"
    assert lint(page) == ["pve_not_backed_up_total"]


def lint(page: bytes) -> list[str]:
    """Return the families that `promtool check metrics` complains about."""
    promtool = shutil.which("promtool")
    assert promtool is not None
    ran = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    return sorted({line.split()[0] for line in (ran.stdout + ran.stderr).decode().splitlines()})


def test_many(alertmanager: Alertmanager) -> None:
    """10,000 alerts at once arrive at Alertmanager, and all of them are resolved."""

    def record(number: int, ended: float | None) -> Record:
        at = time.time() - 60
        state = State.FIRING if ended is None else State.RESOLVED
        started = at if ended is None else None
        item = Item("guest_cpu", {"guest": f"qemu/{number}"}, state, at, started=started, begun=at, ended=ended)
        return Record(item, notified=at)

    settings = ReceiverSettings(type="alertmanager", urls=(alertmanager.url,))

    def send(ended: float | None) -> int:
        receivers.send_all(settings, alertmanager.url, "", [record(number, ended) for number in range(MANY)])
        return len(alertmanager.alerts("guest_cpu") or [])

    until_up = time.monotonic() + 30
    while alertmanager.alerts("guest_cpu") is None and time.monotonic() < until_up:
        time.sleep(0.1)

    assert send(None) == MANY
    assert send(time.time() - 1) == 0
