"""Acts on the dashboard of a real daemon, in a real browser: silence an alert, rebalance, restart an agent."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from agentd.client import queries
from agentd.client.tool_calls import call
from core.browser import BINARY, Chromium
from harness import eventually
from pve.client import FakePve
from pve.cluster import NODES, STORAGES, vm
from system.test_dashboard import logged_in, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Net

pytestmark = [pytest.mark.skipif(BINARY is None, reason="no chromium is installed"), pytest.mark.timeout(240)]

POOL = {"name": "rpool", "size": 100, "free": 50, "alloc": 50, "frag": 1, "dedup": 1, "health": "DEGRADED"}
CROWD = range(301, 307)
"""Guests that all run on pve1."""


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[FakePve]:
    """Run a cluster of which one node carries everything, with a degraded pool."""
    guests = [vm(n, f"app-{n}", "pve1", memory=8192, storage="shared", status="running") for n in CROWD]
    described = tmp_path / "cluster.json"
    described.write_text(json.dumps({"name": "lab", "nodes": NODES, "storages": STORAGES, "guests": guests}))
    with FakePve(str(described), directory=tmp_path / "pve") as simulator:
        simulator.rule("GET", "/nodes/pve1/disks/zfs$", {"status": 200, "body": {"data": [POOL]}})
        yield simulator


async def test_an_alert_is_silenced(net: Net, tmp_path: Path) -> None:
    """The form beside an alert silences it as the principal of the session, and the page shows by which principal."""
    net.settings["monitor"] = {"api_calls_per_minute": 120}
    async with running(net) as (_, base), Chromium(tmp_path / "c") as chromium:
        page = await logged_in(chromium, base, "alice")
        await page.go(f"{base}/alerts?q=zfs_health")
        await page.until("document.querySelector('#alerts').innerText.includes('zfs_health')", 90)
        await page.click("#alerts summary")
        await page.fill("#alerts input[name=reason]", "disk is ordered")
        await page.click("#alerts button[formaction='/alerts/silence']")
        await page.until("location.pathname.startsWith('/workflows/silence_alerts-')")
        await page.until("document.querySelector('#hero p')?.textContent.includes('completed, 1 of 1')", 60)
        await page.go(f"{base}/alerts?q=handled:alice")
        await page.until("document.querySelector('#alerts').innerText.includes('silenced by alice')", 30)
        async with net.client() as bus:
            silences = (await call(bus, "tester", "list_silences", {}, seconds=20)).result["silences"]

    assert [(silence["author"], silence["comment"]) for silence in silences] == [("alice", "disk is ordered")]
    assert "alertname=zfs_health" in silences[0]["matchers"]
    assert all("404" in text for text in page.complaints), "the page of a workflow that is not accepted yet is a 404"


async def test_a_plan_is_shown_and_submitted(net: Net, pve: FakePve, tmp_path: Path) -> None:
    """The page shows the plan of the specialist node by node, and its button carries it out."""
    pve.durations(qmigrate=0.3)
    async with running(net) as (_, base), Chromium(tmp_path / "c") as chromium:
        page = await logged_in(chromium, base, "alice")
        await page.go(f"{base}/rebalance?mode=rebalance")
        await page.until("!!document.querySelector('#moves form button')", 120)
        before = await page.js("document.querySelector('#sh-pve1').innerText")
        planned = await page.js("document.querySelectorAll('#moves > ol > li').length")
        reasons = await page.js("document.querySelector('#moves').innerText")
        await page.click("#moves form button")
        await page.until("location.pathname.startsWith('/workflows/resource_optimization-')")
        await page.until("document.querySelector('#hero p')?.textContent.includes('completed')", 120)
        places = {guest["vmid"]: guest["node"] for guest in pve.inventory()["guests"]}

    assert "6 → " in before
    assert planned > 0
    assert "of its memory" in reasons
    assert list(places.values()).count("pve1") == len(CROWD) - planned
    assert page.complaints == []


async def test_an_agent_is_restarted_and_that_is_audited(net: Net, tmp_path: Path) -> None:
    """Restart ends the process and starts it again; the audit names the principal."""
    async with running(net) as (daemon, base), Chromium(tmp_path / "c") as chromium, net.client() as bus:
        started = daemon.log.read_bytes().count(b'"ready"')
        page = await logged_in(chromium, base, "alice")
        await page.go(f"{base}/agents")
        await page.click("#rows summary")
        await page.click("#rows button[formaction$='/restart']")

        async def again() -> str:
            text = await asyncio.to_thread(daemon.log.read_bytes)
            if text.count(b'"ready"') <= started:
                return ""
            return next((agent.url for agent in await queries.agents(bus)), "")

        url = await eventually(again, "the agent is back", 90)
        page = await chromium.page(f"{url}/audit?q=tool:restart")
        await page.until("document.querySelector('#rows').innerText.includes('agent.restart')", 30)
        row = await page.js("document.querySelector('#rows').innerText")

    assert "alice" in row
    assert "operate" in row
