"""The dashboard in a real browser: what a person sees and presses, over a network in memory."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.client.move_plans import Planning
from agentd.client.node_loads import NodeLoad
from agentd.client.views import EventKind, FindingSummary, GuestSummary, TimelineEntry
from agentd.safety import tokens
from agentd.wire.announcements import AgentRegistration, Alert
from core.axe import axe_script
from core.browser import BINARY, DESKTOP, PHONE, Chromium
from core.web_client import serving
from core.web_networks import busy_network
from core.web_view import MemoryView, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from core.browser import Page

pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium is installed")

PAGES = (
    "/",
    "/overview",
    "/guests",
    "/agents",
    "/workflows",
    "/workflows/maint-pve4",
    "/rebalance",
    "/rebalance?mode=drain&nodes=pve3",
    "/submit",
    "/submit/vm_deployment",
    "/alerts",
    "/tools",
    "/audit",
    "/login",
)
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
PICTURES = Path(__file__).parents[3] / ".dashboard" / "screenshots"
TOKEN, KEPT = tokens.new_token()
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>'\"`{{7*7}}"


@asynccontextmanager
async def browsing(network: MemoryView, directory: Path) -> AsyncIterator[tuple[Chromium, str]]:
    """Yield a browser and the address of a server that shows `network`, with a token for bob."""
    async with serving(network, tokens={"bob": KEPT}) as client, Chromium(directory) as chromium:
        yield chromium, f"http://127.0.0.1:{client.port}"


async def log_in(page: Page, base: str, token: str = TOKEN) -> None:
    """Log in as a person does."""
    await page.go(f"{base}/login?next=/overview")
    await page.fill("#token", token)
    await page.press("Enter")
    await page.until("location.pathname === '/overview' && !!document.querySelector('#pages form')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_page_fits_and_complains_of_nothing(tmp_path: Path, size: tuple[int, int], *, dark: bool) -> None:
    """On a desktop and on a phone no page is wider than the screen, and no console has an error.

    Pictures of the pages are kept in .dashboard/screenshots.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with browsing(busy_network(), tmp_path) as (chromium, base):
        page = await chromium.page(size=size, dark=dark)
        await log_in(page, base)
        for path in PAGES:
            await page.go(base + path)
            name = re.sub(r"\W+", "-", path.strip("/") or "status")
            await page.screenshot(PICTURES / f"{name}-{size[0]}-{'dark' if dark else 'light'}.png")
            assert await page.js("document.documentElement.scrollWidth <= innerWidth"), path
            assert await page.js("!!document.querySelector('h1') && document.documentElement.lang === 'en'"), path
        foreign = [url for url in page.requests if not url.startswith((base, "about:", "data:"))]

    assert page.complaints == []
    assert foreign == []


async def test_values_of_the_network_are_only_text(tmp_path: Path) -> None:
    """Names of guests, errors, history, labels and parameters that contain markup are shown, never run."""
    network = busy_network()
    network.guest_list = [GuestSummary(100, EVIL, EVIL, EVIL, EVIL, [EVIL], EVIL)]
    network.agent_list = [
        AgentRegistration("agent", role=EVIL, version=EVIL, url="javascript:alert(1)", timestamp=network.at)
    ]
    network.alerts_stored = [Alert(EVIL, EVIL, network.at, EVIL, labels={EVIL: EVIL})]
    network.finding_list = [FindingSummary(EVIL, EVIL, EVIL, {EVIL: EVIL}, EVIL)]
    network.type_list = [msgspec.structs.replace(network.type_list[0], description=EVIL)]
    assert isinstance(network.planned, Planning)
    assert network.planned.plan is not None
    plan = network.planned.plan
    move = msgspec.structs.replace(plan.moves[0], name=EVIL, source=EVIL, target=EVIL, reason=EVIL)
    left = [msgspec.structs.replace(plan.left[0], name=EVIL, node=EVIL, reason=EVIL)]
    shares = [msgspec.structs.replace(plan.shares[0], name=EVIL)]
    plan = msgspec.structs.replace(plan, text=EVIL, moves=[move], left=left, shares=shares, conflict=[EVIL])
    network.planned = Planning(plan, network.at)
    network.resolved = [msgspec.structs.replace(network.resolved[0], name=EVIL, text=EVIL, labels={EVIL: EVIL})]
    network.load_list = [NodeLoad(EVIL, network.load_list[0].points)]
    detail = network.details["cache-41be"]
    task = msgspec.structs.replace(detail.tasks[1], error=EVIL, asks=EVIL, digest=EVIL, status="waiting_approval")
    network.details["cache-41be"] = msgspec.structs.replace(
        detail, error=EVIL, requester=EVIL, tasks=[task], timeline=[TimelineEntry(network.at, EVIL, EVIL, 1, EVIL)]
    )
    shown = []
    async with browsing(network, tmp_path) as (chromium, base):
        page = await chromium.page()
        await log_in(page, base)
        for path in (*PAGES, "/workflows/cache-41be"):
            await page.go(base + path)
            shown.append("<img src=x" in await page.js("document.body.innerText"))
            assert await page.js("document.title !== 'owned' && !document.querySelector('img, main script')"), path
        await page.go(f"{base}/guests?q=%3Cscript%3Edocument.title%3D'owned'%3C/script%3E")
        assert await page.js(
            "document.title !== 'owned' && document.querySelector('input[type=search]').value[0] === '<'"
        )

    assert sum(shown) >= 8
    assert page.complaints == []


async def test_keys_alone_are_enough(tmp_path: Path) -> None:
    """`g` and a letter opens a page, `j` and `k` move, Enter opens, `/` filters, `?` explains, Escape leaves."""
    async with browsing(busy_network(), tmp_path) as (chromium, base):
        page = await chromium.page(f"{base}/overview")
        await page.press("g", "u")
        await page.until("location.pathname === '/guests' && document.readyState === 'complete'")
        await page.press("/")
        await page.fill("input[type=search]", "node:pve2 status:running")
        await page.until("location.search.includes('pve2') && document.querySelectorAll('#rows tr').length === 4")
        await page.press("Escape", "g", "w")
        await page.until("location.pathname === '/workflows' && document.readyState === 'complete'")
        await page.press("j", "j", "k", "j")
        second = await page.js("document.activeElement.textContent")
        await page.press("?")
        keys = await page.until("document.querySelector('dialog')?.innerText")
        await page.press("Escape")
        await page.until("!document.querySelector('dialog')")
        await page.js("document.querySelectorAll('#rows tr a')[1].focus()")
        await page.press("Enter")
        await page.until("location.pathname === '/workflows/db1-resize'")

    assert second == "db1-resize"
    assert "g w" in keys.replace("\n", " ")
    assert page.complaints == []


async def test_a_change_appears_and_an_open_menu_stays(tmp_path: Path) -> None:
    """A page follows the network without being loaded again: focus, opened parts and typed text stay."""
    network = busy_network()
    async with browsing(network, tmp_path) as (chromium, base):
        page = await chromium.page()
        await log_in(page, base)
        await page.go(f"{base}/workflows/web2-7f31")
        await page.until("document.querySelector('#live').textContent === 'live'")
        await page.click("#cancel summary")
        await page.fill("#cancel input[name=reason]", "not needed")
        await page.js("window.same = true")
        network.add_workflow("web2-7f31", ["completed"] * 3, "completed_with_warnings", 14)
        network.details["web2-7f31"] = msgspec.structs.replace(network.details["web2-7f31"], status="running")
        network.emit(EventKind.WORKFLOW, summary(network.details["web2-7f31"]))
        await page.until("document.querySelector('#hero p').textContent.includes('3 of 3')")
        typed = await page.js("[window.same, document.querySelector('#cancel input[name=reason]').value]")

    assert typed == [True, "not needed"]


async def test_a_workflow_that_was_just_submitted_appears(tmp_path: Path) -> None:
    """The page of a workflow that no orchestrator has accepted yet says so, and becomes its page by itself."""
    network = busy_network()
    async with browsing(network, tmp_path) as (chromium, base):
        page = await chromium.page(f"{base}/workflows/just-now")
        await page.until("document.querySelector('#hero').innerText.includes('once an orchestrator has accepted it')")
        network.add_workflow("just-now", ["running"], "running", 0, kind="one")
        await page.until("document.querySelector('h1').textContent === 'just-now'")
        await page.until("!document.querySelector('#hero').dataset.every")


async def test_tabs_share_one_stream(tmp_path: Path) -> None:
    """Of three tabs one has the stream, and all show the change; when it is closed, another takes over."""
    network = busy_network()
    async with browsing(network, tmp_path) as (chromium, base):
        tabs = [await chromium.page(f"{base}/workflows/web2-7f31") for _ in range(3)]
        await asyncio.sleep(1)
        streams = [sum(url.endswith("/events") for url in tab.requests) for tab in tabs]
        network.add_workflow("web2-7f31", ["completed"] * 3, "completed", 14)
        network.emit(EventKind.WORKFLOW, summary(network.details["web2-7f31"]))
        for tab in tabs:
            await tab.until("document.querySelector('#hero p').textContent.includes('3 of 3')", 5)
        leader = streams.index(1)
        await tabs[leader].close()
        others = [tab for place, tab in enumerate(tabs) if place != leader]
        await asyncio.sleep(1)
        taken = sum(url.endswith("/events") for tab in others for url in tab.requests)

    assert sorted(streams) == [0, 0, 1]
    assert taken == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_axe_finds_nothing(tmp_path: Path, *, dark: bool) -> None:
    """axe-core finds no violation of WCAG 2 A and AA on any page."""
    script, found = await asyncio.to_thread(axe_script), {}
    async with browsing(busy_network(), tmp_path) as (chromium, base):
        page = await chromium.page(size=PHONE if dark else DESKTOP, dark=dark)
        await log_in(page, base)
        for path in PAGES:
            await page.go(base + path)
            await page.js(f"{{{script}}}; typeof axe")
            await page.js("document.querySelectorAll('details').forEach(part => part.open = true)")
            text = await page.js(
                f"axe.run({{runOnly: {RULES}}}).then(found => JSON.stringify("
                "found.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 200))])))"
            )
            if violations := json.loads(text):
                found[path] = violations

    assert found == {}


async def test_ten_thousand_guests(tmp_path: Path) -> None:
    """A page of 1,000 of 10,000 guests changes in place within the time of a frame, and a filter finds one of them."""
    network = busy_network()

    def guests(state: str) -> list[GuestSummary]:
        return [
            GuestSummary(100 + n, f"guest-{n:05d}", f"pve{n % 40}", state if n % 5 == 0 else "running", "qemu", ["a"])
            for n in range(10_000)
        ]

    network.guest_list = guests("stopped")
    async with browsing(network, tmp_path) as (chromium, base):
        page = await chromium.page(f"{base}/guests?limit=1000")
        await page.until("document.querySelectorAll('#rows tr').length === 1000")
        await page.js("document.querySelector('#rows tr').marked = true")
        network.guest_list = guests("paused")
        network.emit(EventKind.AGENT, network.agent_list[0])
        await page.until("document.querySelectorAll('#rows .warn.toned').length === 200")
        kept = await page.js("document.querySelector('#rows tr').marked")
        await page.press("/")
        await page.fill("input[type=search]", "guest-09999")
        await page.until("document.querySelectorAll('#rows tr').length === 1")
        total = await page.js("document.querySelector('.title p').textContent")

    assert kept is True
    assert total == "1 of 10000"


async def test_what_is_unknown_is_never_shown_as_healthy(tmp_path: Path) -> None:
    """Without a monitor the alerts are unknown; a server that is gone turns the page grey and says so."""
    network = MemoryView()
    async with browsing(network, tmp_path) as (chromium, base):
        page = await chromium.page(f"{base}/alerts")
        alone = await page.js("document.querySelector('#hero').className + document.querySelector('h1').textContent")
        await page.go(f"{base}/overview")
        await page.until("document.querySelector('#live').textContent === 'live'")
        await page.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        await page.until("document.body.classList.contains('lost')")
        shown = await page.js("document.querySelector('#live').textContent")

    assert "odd" in alone
    assert "unknown" in alone
    assert "last known" in shown
