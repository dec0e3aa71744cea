"""Alerts arrive at a real Alertmanager, a webhook and a mail server, and survive restarts of all of them."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from agentd.client import requests
from agentd_monitor import role as at_work
from agentd_monitor.cluster import collector
from agentd_monitor.delivery import deliveries, outbox
from agentd_monitor.delivery.formats import SIGNATURE, sign
from harness import Net, eventually
from plugins.monitor.mail_server import mail_server
from plugins.monitor.monitoring_servers import Alertmanager
from plugins.monitor.receiver import receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from harness import NatsServer
    from pve.client import FakePve

KEY = "a key of this test"


def pool(health: str) -> dict[str, Any]:
    """Return the response with one ZFS pool."""
    held = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": health}
    return {"status": 200, "body": {"data": [held]}}


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    """Yield an Alertmanager that is not started yet."""
    made = Alertmanager(tmp_path)
    yield made
    made.kill()


@pytest.fixture
def net(tmp_path: Path, nats_server: NatsServer, lab: FakePve, monkeypatch: pytest.MonkeyPatch) -> Net:
    """Return a network whose monitor checks, sends and tries again often."""
    monkeypatch.setattr(at_work, "TICK", 0.1)
    monkeypatch.setattr(at_work, "CLUSTER_EVERY", 0.2)
    monkeypatch.setattr(collector, "TICK", 0.05)
    monkeypatch.setattr(deliveries, "RESEND", 0.5)
    monkeypatch.setattr(outbox, "FIRST", 0.2)
    monkeypatch.setattr(outbox, "LONGEST", 0.5)
    lab.rule("GET", "/nodes/pve1/disks/zfs$", pool("DEGRADED"))
    made = Net(tmp_path, nats_server.url, lab, exact=True)
    (tmp_path / "secret").write_text(KEY)
    (tmp_path / "secret").chmod(0o600)
    made.settings["monitor"] = {"api_calls_per_minute": 120, "observe_only": 0, "receivers": {}}
    made.settings["instances"]["monitor"] = {"roles": ["monitor"]}
    return made


@contextlib.asynccontextmanager
async def monitoring(net: Net) -> AsyncIterator[None]:
    """Run a monitor."""
    async with net.client(), net.here("monitor"):
        yield


async def seen(what: Any, name: str) -> None:
    """Wait until a blocking function returns something true."""

    async def found() -> bool:
        return bool(await asyncio.to_thread(what))

    await eventually(found, name, 60)


async def test_alertmanager(net: Net, lab: FakePve, alertmanager: Alertmanager) -> None:
    """An alert arrives, survives restarts of Alertmanager and of the monitor, and is resolved."""
    net.settings["monitor"]["receivers"]["am"] = {"type": "alertmanager", "urls": [alertmanager.url]}
    await asyncio.to_thread(alertmanager.start, "one")
    async with monitoring(net):
        await seen(partial(alertmanager.alerts, "zfs_health"), "the alert arrives")
        (first,) = await asyncio.to_thread(alertmanager.alerts, "zfs_health") or []
        await asyncio.to_thread(alertmanager.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(alertmanager.start, "two")
        await seen(
            partial(alertmanager.alerts, "zfs_health"), "the alert arrives at an Alertmanager that has lost everything"
        )
    await asyncio.sleep(1)
    async with monitoring(net):
        await asyncio.sleep(2)
        (again,) = await asyncio.to_thread(alertmanager.alerts, "zfs_health") or []
    lab.clear()
    lab.rule("GET", "/nodes/pve1/disks/zfs$", pool("ONLINE"))
    async with monitoring(net):  # it reads the pools at once, and then every ten minutes
        await seen(lambda: alertmanager.alerts("zfs_health") == [], "the alert is resolved")

    assert first["labels"] == {"alertname": "zfs_health", "node": "pve1", "pool": "rpool"}
    assert "DEGRADED" in first["annotations"]["summary"]
    assert again["fingerprint"] == first["fingerprint"]
    assert again["startsAt"] == first["startsAt"]


async def test_alertmanager_and_nats(net: Net, nats_server: NatsServer, alertmanager: Alertmanager) -> None:
    """While NATS is restarted, an alert is neither resolved nor begun again, and reaches a new Alertmanager."""
    net.settings["monitor"]["receivers"]["am"] = {"type": "alertmanager", "urls": [alertmanager.url]}
    await asyncio.to_thread(alertmanager.start, "one")
    async with monitoring(net):
        await seen(partial(alertmanager.alerts, "zfs_health"), "the alert arrives")
        (first,) = await asyncio.to_thread(alertmanager.alerts, "zfs_health") or []
        await asyncio.to_thread(nats_server.kill)
        await asyncio.sleep(2)
        without = await asyncio.to_thread(alertmanager.alerts, "zfs_health")
        await asyncio.to_thread(nats_server.start)
        await asyncio.to_thread(alertmanager.kill)
        await asyncio.to_thread(alertmanager.start, "two")
        await seen(partial(alertmanager.alerts, "zfs_health"), "the alert arrives at another Alertmanager")
        (again,) = await asyncio.to_thread(alertmanager.alerts, "zfs_health") or []

    assert [alert["fingerprint"] for alert in without or []] == [first["fingerprint"]]
    assert (again["fingerprint"], again["startsAt"]) == (first["fingerprint"], first["startsAt"])


async def test_webhook(net: Net, nats_server: NatsServer, lab: FakePve) -> None:
    """A receiver that is down gets each notification once, signed, after restarts of the monitor and of NATS."""
    with receiver(500) as hook, receiver(0) as dead:
        hook_settings = {"type": "webhook", "url": hook.url, "secret_file": str(net.directory / "secret")}
        net.settings["monitor"]["receivers"] = {"ops": hook_settings, "dead": {"type": "webhook", "url": dead.url}}
        async with monitoring(net):
            await seen(lambda: len(hook.bodies) > 2, "attempts")
        await asyncio.to_thread(nats_server.kill)
        await asyncio.to_thread(nats_server.start)
        tries = len(hook.bodies)
        hook.answers = [200]
        async with monitoring(net):
            await seen(lambda: len(hook.bodies) > tries, "the notification is accepted")
            await asyncio.sleep(1)
            delivered = hook.bodies[tries:]
        lab.clear()
        lab.rule("GET", "/nodes/pve1/disks/zfs$", pool("ONLINE"))
        async with monitoring(net):  # it reads the pools at once, and then every ten minutes
            await seen(lambda: pools(hook.bodies)[-1]["status"] == "resolved", "the end is notified")
        dead.hang.set()

    assert [body["status"] for body in pools(delivered)] == ["firing"]
    assert len({headers["Idempotency-Key"] for headers, body in hook.bodies if is_pool(body)}) == 2
    headers, _ = hook.bodies[0]
    timestamp = headers["X-Agentd-Timestamp"]
    assert headers[SIGNATURE] == f"v1={sign(KEY, timestamp, hook.raw[0])}"


async def test_proxmox_target(net: Net, lab: FakePve) -> None:
    """An alert is mailed to the recipients of a notification target of Proxmox, which the monitor reads."""
    with mail_server() as server:
        target = {"server": "127.0.0.1", "port": server.port, "mode": "insecure", "mailto": ["ops@example.org"]}
        listed = [{"name": "relay", "type": "smtp"}]
        lab.rule("GET", "/cluster/notifications/targets$", {"status": 200, "body": {"data": listed}})
        lab.rule("GET", "/notifications/endpoints/smtp/relay$", {"status": 200, "body": {"data": target}})
        net.settings["monitor"]["receivers"]["pve"] = {"type": "proxmox", "target": "relay"}
        async with monitoring(net):
            await seen(
                lambda: [mail for _, mail in server.mails if "DEGRADED" in mail["Subject"]], "the alert is mailed"
            )

    assert {tuple(recipients) for recipients, _ in server.mails} == {("ops@example.org",)}


async def test_approval(net: Net) -> None:
    """A plan that waits is sent once, also after a restart of the monitor, and only to a principal who may approve."""
    net.settings["policy"] = {"principals": {"alice": "destroy", "bob": "destroy", "eve": "operate"}}
    net.settings["instances"]["worker"] = {"roles": ["orchestrator", "mcp-bridge"]}
    with receiver(200) as bob, receiver(200) as alice, receiver(200) as eve:
        net.settings["monitor"]["receivers"] = {
            name: {"type": "webhook", "url": hook.url, "approvals": True, "principal": name}
            for name, hook in (("bob", bob), ("alice", alice), ("eve", eve))
        }
        async with net.client() as bus, net.here("worker"):
            async with net.here("monitor"):
                plan = await requests.plan(bus, "alice", "delete_guest", {"vmid": 101, "name": "db-01"})
                await seen(lambda: approvals(bob.bodies), "the request is sent")
            async with net.here("monitor"):
                await asyncio.sleep(2)

    (request,) = approvals(bob.bodies)
    assert request["labels"]["workflow"] == plan.workflow_id
    assert "db-01" in request["text"]
    assert approvals(alice.bodies) == []
    assert approvals(eve.bodies) == []


def approvals(found: list[tuple[dict[str, str], Any]]) -> list[dict[str, Any]]:
    """Return the requests for approval."""
    return [body["alert"] for _, body in found if body["status"] == "approval"]


def is_pool(body: dict[str, Any]) -> bool:
    """Return whether a notification is about the pool."""
    return bool(body["alert"]["name"] == "zfs_health")


def pools(found: list[tuple[dict[str, str], Any]]) -> list[dict[str, Any]]:
    """Return the notifications about the pool."""
    return [body for _, body in found if is_pool(body)]


async def test_observe_only(net: Net) -> None:
    """In the first day no receiver is notified."""
    net.settings["monitor"]["observe_only"] = 86_400
    with receiver(200) as hook:
        net.settings["monitor"]["receivers"] = {"ops": {"type": "webhook", "url": hook.url}}
        async with net.client() as bus, net.here("monitor"):

            async def published() -> bool:
                return bool(await bus.kv_values("alerts", dict))

            await eventually(published, "an alert is published", 40)
            await asyncio.sleep(1)

    assert hook.bodies == []
