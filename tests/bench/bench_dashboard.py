"""What the dashboard costs: bytes of a page, scripting in a browser, CPU and memory of a daemon with many viewers."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest

from agentd.client import queries
from agentd.client.views import EventKind, GuestSummary
from bench.systems import cpu_seconds, provisioned, pss
from core.browser import BINARY, Chromium
from core.web_client import HTML, Client, serving
from core.web_networks import busy_network
from core.web_view import summary
from harness import ALL_ROLES, NatsServer, Net, eventually
from pve.client import FakePve

if TYPE_CHECKING:
    from pathlib import Path

    from bench.conftest import Figures
    from core.web_view import MemoryView

UPDATES = 10
VIEWERS = 100
WATCHED = 30.0
"""Seconds for which the viewers watch."""
REFRESH = 15.0
"""Seconds after which static/live.js fetches a page again without a change."""


async def _bytes(get: Client, path: str) -> tuple[int, int]:
    """Return the compressed bytes of a page, and with everything that it loads."""
    page = await get(path, Accept_Encoding="gzip", **HTML)
    text = (await get.page(path)).text
    files = {name.partition("#")[0] for name in re.findall(r'(?:href|src)="(/static/[^"]+)"', text)}
    loaded = [await get(name, Accept_Encoding="gzip") for name in sorted(files)]
    return len(page.body), len(page.body) + sum(len(got.body) for got in loaded)


async def test_bytes_of_pages(figures: Figures) -> None:
    """The status page takes 5 kB, the dashboard 25 kB."""
    async with serving(busy_network()) as get:
        status, dashboard = await _bytes(get, "/"), await _bytes(get, "/overview")
        pages = {path: (await _bytes(get, path))[0] for path in ("/guests", "/rebalance", "/workflows/maint-pve4")}

    figures.add("status page with all it loads", status[1] / 1000, "kB", at_most=5)
    figures.add("overview with all it loads", dashboard[1] / 1000, "kB", at_most=25)
    figures.add(
        "dashboard: files of all pages, and the three largest pages",
        sum((dashboard[1], *pages.values())) / 1000,
        "kB",
        at_most=25,
    )


def _guests(network: MemoryView, turn: int) -> None:
    network.guest_list = [
        GuestSummary(
            100 + n, f"guest-{n:04d}", f"pve{n % 40}", ("running", "stopped", "paused")[(n + turn) % 3], "qemu"
        )
        for n in range(1000)
    ]


@pytest.mark.skipif(BINARY is None, reason="no chromium is installed")
async def test_scripting(tmp_path: Path, figures: Figures) -> None:
    """A thousand guests that all change once a second take less scripting than a frame lasts."""
    network = busy_network()
    _guests(network, 0)
    async with serving(network) as client, Chromium(tmp_path) as chromium:
        page = await chromium.page(f"http://127.0.0.1:{client.port}/guests?limit=1000")
        await page.until("document.querySelector('#live').textContent === 'live'")
        await page.send("Performance.enable")

        async def spent() -> dict[str, float]:
            found = await page.send("Performance.getMetrics")
            return {entry["name"]: entry["value"] * 1000 for entry in found["metrics"]}

        before, fetched = await spent(), network.asked.count("guests")
        for turn in range(1, UPDATES + 1):
            _guests(network, turn)
            network.emit(EventKind.WORKFLOW, summary(network.details["web2-7f31"]))
            await asyncio.sleep(1)
        after, updates = await spent(), network.asked.count("guests") - fetched

    assert updates >= UPDATES - 1
    figures.add(
        "1,000 guests: scripting of an update",
        (after["ScriptDuration"] - before["ScriptDuration"]) / updates,
        "ms",
        at_most=16,
    )
    for name in ("RecalcStyleDuration", "LayoutDuration"):
        figures.add(f"1,000 guests: {name} of an update", (after[name] - before[name]) / updates, "ms")


async def _watch(port: int, until: float, place: int) -> int:
    """Hold a stream, and fetch the overview as the script of a page does; return how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    changed, fetched, due, tag = asyncio.Event(), 0, time.monotonic() + REFRESH * place / VIEWERS, b""

    async def follow() -> None:
        while line := await reader.readline():
            if line.startswith(b"event: workflow"):
                changed.set()

    following = asyncio.create_task(follow())
    while time.monotonic() < until:
        if not changed.is_set() and time.monotonic() < due:
            await asyncio.sleep(0.25)
            continue
        changed.clear()
        tag = await _fetch(port, tag)
        fetched, due = fetched + 1, time.monotonic() + REFRESH
        await asyncio.sleep(0.5)
    following.cancel()
    writer.close()
    return fetched


async def _fetch(port: int, tag: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /overview HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n"
        b"If-None-Match: " + tag + b"\r\nConnection: close\r\n\r\n"
    )
    answer = await reader.read(-1)
    writer.close()
    found = re.search(rb"etag: ([^\r]+)", answer)
    return found[1] if found else b""


async def test_viewers(tmp_path: Path, figures: Figures) -> None:
    """A hundred open pages cost a real daemon less than a tenth of a core."""
    with NatsServer(tmp_path) as server, FakePve(directory=tmp_path / "pve") as pve:
        net = Net(tmp_path, server.url, pve)
        net.settings["web"] = {"port": 0}
        await provisioned(net)
        async with net.client() as bus:
            with net.daemon("all", ALL_ROLES, AGENTD_TEST_BLOCKBUSTER="", PYTHONPATH="") as daemon:
                agent = (await eventually(lambda: queries.agents(bus), "an agent"))[0]
                port = int(agent.url.rstrip("/").rpartition(":")[2])
                assert daemon.process is not None
                pid = daemon.process.pid
                await _fetch(port, b"")
                await asyncio.sleep(5)
                idle, memory = cpu_seconds(pid), pss(pid)
                await asyncio.sleep(WATCHED / 2)
                idle = (cpu_seconds(pid) - idle) / (WATCHED / 2)
                begun, until = cpu_seconds(pid), time.monotonic() + WATCHED
                fetched = await asyncio.gather(*(_watch(port, until, place) for place in range(VIEWERS)))
                busy = (cpu_seconds(pid) - begun) / WATCHED
                grown = pss(pid) - memory

    figures.add("daemon without a viewer: share of a core", 100 * idle, "%")
    figures.add("100 viewers of the overview: share of a core", 100 * (busy - idle), "%", at_most=10)
    figures.add("100 viewers: pages fetched a second", sum(fetched) / WATCHED, "")
    figures.add("100 viewers: memory", grown, "MiB", at_most=32)
