"""The dashboard of a real daemon in a real browser, over a real NATS and the simulated cluster."""

from __future__ import annotations

import asyncio
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agentd.client import queries, requests
from agentd.safety import tokens
from agentd.wire.messages import WorkflowRequest
from core.browser import BINARY, PHONE, Chromium
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from core.browser import Page
    from harness import Daemon, NatsServer, Net

pytestmark = [pytest.mark.skipif(BINARY is None, reason="no chromium is installed"), pytest.mark.timeout(180)]

TOKENS = {name: tokens.new_token() for name in ("alice", "bob")}


@asynccontextmanager
async def running(net: Net) -> AsyncIterator[tuple[Daemon, str]]:
    """Yield a daemon with all roles in a process of its own, and the address of its pages."""
    net.settings["web"] = {"port": 0, "tokens": {name: kept for name, (_, kept) in TOKENS.items()}}
    net.settings["policy"] = {"default_tier": "read", "principals": {"alice": "destroy", "bob": "destroy"}}
    async with net.client() as bus:
        daemon = net.daemon("all")
        try:
            await asyncio.to_thread(lambda: daemon.start().ready(60))
            agent = (await eventually(lambda: queries.agents(bus), "an agent"))[0]
            yield daemon, agent.url
        finally:
            await asyncio.to_thread(daemon.stop)


async def logged_in(chromium: Chromium, base: str, name: str) -> Page:
    """Return a tab in which the principal has logged in."""
    page = await chromium.page(f"{base}/login?next=/overview")
    await page.fill("#token", TOKENS[name][0])
    await page.click("main button")
    await page.until(f"document.querySelector('#pages form b')?.textContent === '{name}'")
    return page


async def test_a_workflow_is_submitted_and_followed_to_its_end(net: Net, tmp_path: Path) -> None:
    """The form of a workflow deploys a VM; the page, loaded again in between, follows it to its end."""
    assert net.pve is not None
    async with running(net) as (_, base), Chromium(tmp_path) as chromium:
        page = await logged_in(chromium, base, "alice")
        await page.go(f"{base}/submit/vm_deployment")
        await page.fill("[name='p.name']", "web-ui")
        await page.fill("[name='p.template']", "9000")
        await page.fill("[name='p.memory']", "2048")
        await page.fill("[name='p.disk']", "8")
        await page.click("main form p:last-child button")
        await page.until("location.pathname.startsWith('/workflows/vm_deployment-')")
        await page.reload()
        await page.until("document.querySelector('#hero p').textContent.includes('completed, 3 of 3')", 60)
        history = await page.js("document.querySelector('#timeline').innerText")
        await page.go(f"{base}/guests?q=web-ui")
        await page.until("document.querySelector('#rows').innerText.includes('web-ui')")
        await page.go(f"{base}/audit?q=create_vm")
        audit = await page.js("document.querySelector('#rows').innerText")

    assert "requested" in history
    assert "alice" in audit
    assert len(net.pve.creates()) == 1
    assert page.complaints == []


async def test_a_second_principal_approves_what_it_sees(net: Net, tmp_path: Path) -> None:
    """The requester cannot approve on the page; another principal approves exactly the text that is shown."""
    assert net.pve is not None
    async with running(net) as (_, base), Chromium(tmp_path / "a") as first, Chromium(tmp_path / "b") as second:
        async with net.client() as bus:
            await requests.submit(
                bus,
                "alice",
                WorkflowRequest(
                    "tool_call", "drop", {"tool": "delete_guest", "parameters": {"vmid": 101, "name": "db-01"}}
                ),
            )
        mine, other = await logged_in(first, base, "alice"), await logged_in(second, base, "bob")
        await mine.go(f"{base}/workflows/drop")
        await mine.until("!!document.querySelector('.approval')")
        own = await mine.js("document.querySelector('.approval').innerText")
        buttons = await mine.js("document.querySelectorAll('.approval button').length")
        await other.resize(PHONE)
        await other.go(f"{base}/workflows/drop")
        await other.until("!!document.querySelector('.approval button')")
        shown = await other.js("document.querySelector('.approval pre').textContent")
        await other.fill(".approval input[name=reason]", "checked")
        await other.click(".approval button.danger")
        await mine.until(
            "!document.querySelector('.approval') && document.querySelector('#hero').innerText.includes('completed')",
            40,
        )

    assert "another principal has to approve it" in own
    assert buttons == 0
    assert "db-01" in shown
    assert len(net.pve.log("DELETE")) == 1
    assert mine.complaints + other.complaints == []


async def test_a_workflow_is_cancelled_and_an_agent_drained(net: Net, tmp_path: Path) -> None:
    """Cancelling asks for a reason and shows what became of it; draining an agent ends its process."""
    async with running(net) as (daemon, base), Chromium(tmp_path) as chromium:
        async with net.client() as bus:
            plan = {"tool": "delete_guest", "parameters": {"vmid": 101, "name": "db-01"}}
            await requests.submit(bus, "alice", WorkflowRequest("tool_call", "stay", plan))
        page = await logged_in(chromium, base, "alice")
        await page.go(f"{base}/workflows/stay")
        await page.click("#cancel summary")
        await page.fill("#cancel input[name=reason]", "changed my mind")
        await page.click("#cancel button")
        await page.until("document.querySelector('#hero p').textContent.includes('cancelled')")
        why = await page.js("document.querySelector('main').innerText")
        await page.go(f"{base}/agents")
        await page.click("#rows summary")
        await page.click("#rows button.danger")
        code = await asyncio.to_thread(daemon.wait, 40)

    assert "changed my mind" in why
    assert code == 0


async def test_nats_restarts_under_the_page(net: Net, nats_server: NatsServer, tmp_path: Path) -> None:
    """While NATS is away the page says that it cannot see the network; afterwards it goes on by itself."""
    async with running(net) as (_, base), Chromium(tmp_path) as chromium:
        page = await chromium.page(f"{base}/overview")
        await page.until("document.querySelector('#live').textContent === 'live'")
        await page.js("window.same = true")
        await asyncio.to_thread(nats_server.kill)
        await page.until(
            "document.querySelector('#hero').className.match(/bad|odd/) && !!document.querySelector('.banner')", 30
        )
        shown = await page.js("document.querySelector('main').innerText")
        await asyncio.to_thread(nats_server.start)
        await page.until(
            "!document.querySelector('.banner') && document.querySelector('#live').textContent === 'live'", 60
        )
        same = await page.js("window.same")

    assert "The network can't be seen" in shown
    assert same is True


async def test_pages_read_well_as_text(net: Net) -> None:
    """A client such as curl gets every page as text in columns."""
    async with running(net) as (_, base):

        def read(path: str) -> str:
            with urllib.request.urlopen(base + path, timeout=10) as answer:  # noqa: S310 - loopback
                return str(answer.read().decode())

        texts = [
            await asyncio.to_thread(read, path)
            for path in (
                "/overview",
                "/guests",
                "/agents",
                "/workflows",
                "/submit",
                "/alerts",
                "/tools?q=list_guests",
                "/audit",
            )
        ]

    assert all("<" not in text.replace("<agent", "") for text in texts[:4])
    assert "vm_deployment" in texts[4]
    assert "db-01" in texts[1]
    assert "list_guests" in texts[6]
