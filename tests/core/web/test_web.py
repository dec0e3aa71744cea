"""The web face of a daemon over real sockets: what an operator, a browser, curl and Prometheus get."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.errors import BusUnavailable, NotProvisioned
from agentd.web import status
from agentd.web.formats import web_address
from agentd.wire.announcements import AgentRegistration
from core.web_client import HTML, Client, serving
from core.web_networks import busy_network
from core.web_view import TASK_STATES, WORKFLOW_STATES, MemoryView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def network() -> MemoryView:
    """Give a network with a bit of everything."""
    return busy_network()


@pytest.fixture
async def get(network: MemoryView) -> AsyncIterator[Client]:
    """Give a client of a server that shows `network`."""
    async with serving(network) as client:
        yield client


async def test_curl_reads_aligned_text(get: Client) -> None:
    """Plain curl gets a status in columns, without a tag."""
    got = await get("/", Accept="*/*")

    assert got.headers["content-type"] == "text/plain; charset=utf-8"
    assert "<" not in re.sub(r"  < nightly", "", got.text)
    lines = got.text.splitlines()
    assert lines[1].startswith("1 of 4 roles is not ready. 3 workflows running.")
    rows = [line for line in lines if "vm_deployment" in line]
    assert len({line.index("vm_deployment") for line in rows}) == 1
    assert any("[+>.] 1/3" in line for line in rows)


async def test_a_browser_reads_a_page_without_scripts_of_its_own(get: Client) -> None:
    """The page shows its first state without JavaScript, and keeps to its content security policy."""
    got = await get.page("/overview")

    assert got.code == 200
    assert "<h1>1 of 4 roles is not ready." in got.text
    assert 'id="w-web2-7f31"' in got.text
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", got.text)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", got.text) == ["", ""]
    assert "default-src 'self'" in got.headers["content-security-policy"]
    ids = re.findall(r'\bid="([^"]+)"', got.text)
    assert len(ids) == len(set(ids))


async def test_format_overrides_accept(get: Client) -> None:
    """`?format=` decides, `Accept: application/json` is understood."""
    as_json = await get("/?format=json", **HTML)
    as_text = await get("/?format=text", **HTML)
    asked = await get("/", Accept="application/json")

    assert as_json.json()["identity"]["node"] == "pve1"
    assert as_text.text.startswith("agentd 0.1.0")
    assert asked.json()["level"] == "bad"


async def test_empty_pages_show_the_next_command() -> None:
    """A new installation gets its next command."""
    async with serving(MemoryView()) as get:
        page = await get.page("/overview")
        text = await get("/")

    assert "agentd submit vm_deployment name=web1" in page.text
    assert "agentd submit vm_deployment name=web1" in text.text


async def test_a_workflow_has_graph_tasks_and_history(get: Client) -> None:
    """The page of a workflow works without JavaScript: picture, tasks with reasons, history."""
    page = await get.page("/workflows/cache-41be")
    text = await get("/workflows/cache-41be")
    data = await get("/workflows/cache-41be?format=json")

    assert page.text.count('class="box ') == 3
    assert "not enough space" in page.text
    assert "planned 3 tasks" in page.text
    assert "x create" in text.text
    assert [task["status"] for task in data.json()["tasks"]] == ["completed", "failed", "skipped"]


@pytest.mark.parametrize("state", [*WORKFLOW_STATES, "from_the_future"])
async def test_every_workflow_state_can_be_shown(state: str) -> None:
    """No status breaks a page, not even one that a newer orchestrator brings."""
    quiet = MemoryView()
    every = [*TASK_STATES, "from_the_future"]
    quiet.add_workflow("w1", every, state, 50, kind="all")

    async with serving(quiet) as get:
        pages = [
            await get.page("/overview"),
            await get.page("/workflows/w1"),
            await get("/"),
            await get("/workflows/w1"),
        ]

    word = status.style_of(status.WORKFLOW, state).word
    assert all(got.code == 200 and word in got.text for got in pages)


async def test_foreign_text_stays_text() -> None:
    """Words from the network are escaped on the page, and carry no control characters to a terminal."""
    quiet = MemoryView()
    evil = "<script>alert(1)</script>\x1b[2J"
    quiet.add_workflow("w1", ["failed", "skipped", "skipped"], "failed", 50, error=evil)
    quiet.agent_list = [AgentRegistration(evil, url="javascript:alert(1)", timestamp=quiet.at, version='"><b>')]

    quiet.me = msgspec.structs.replace(quiet.me, warnings=["run `<b>` & see"])

    async with serving(quiet) as get:
        page, text = await get.page("/overview"), await get("/")

    assert "<script>alert" not in page.text
    assert "javascript:" not in page.text
    assert "\x1b" not in text.text
    assert web_address("https://pve1:8081/") == "https://pve1:8081/"
    assert "run <code>&lt;b&gt;</code> &amp; see" in page.text


async def test_more_workflows_on_demand() -> None:
    """The overview stays small: fifteen workflows, and a link to the others."""
    quiet = MemoryView()
    for number in range(20):
        quiet.add_workflow(f"w{number}", ["completed"] * 3, "completed", 50 + number)

    async with serving(quiet) as get:
        few, many, text = await get.page("/overview"), await get.page("/overview?limit=200"), await get("/")

    assert few.text.count('class="wf"') == 15
    assert "Show 5 more" in few.text
    assert many.text.count('class="wf"') == 20
    assert "and 5 more" in text.text


async def test_a_large_plan_has_a_bar_and_no_picture() -> None:
    """A thousand tasks are counted, not drawn."""
    quiet = MemoryView()
    quiet.add_workflow("big", ["completed"] * 400 + ["waiting"] * 600, "running", 60, kind="fan_out")

    async with serving(quiet) as get:
        page, one = await get.page("/overview"), await get.page("/workflows/big")

    assert '<progress max="1000" value="400"' in page.text
    assert 'id="graph"' not in one.text


async def test_without_nats_the_page_works(network: MemoryView, get: Client) -> None:
    """Without NATS the API says 503 and why; the page works, and shows nothing it can't know."""
    network.fault = BusUnavailable("NATS at pve1:4222 does not answer")

    page, text, data, one = [
        await get.page("/overview"),
        await get("/"),
        await get("/api/agents"),
        await get.page("/workflows/web1-0a2c"),
    ]

    assert [got.code for got in (page, text, data, one)] == [503] * 4
    assert page.text.count("NATS at pve1:4222 does not answer") == 1
    assert "Workflows are unknown" in page.text
    assert "No workflow yet" not in page.text
    assert "? NATS at pve1:4222" in text.text
    assert data.headers["content-type"] == "application/problem+json"
    assert data.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "NATS at pve1:4222 does not answer",
    }
    assert "does not answer" in one.text


async def test_other_bus_errors_are_503_too(network: MemoryView, get: Client) -> None:
    """A missing stream is named with its remedy."""
    network.fault = NotProvisioned("stream AI_WORKFLOWS is missing; run `agentd provision`")

    got = await get("/api/workflows")

    assert (got.code, got.json()["detail"]) == (503, "stream AI_WORKFLOWS is missing; run `agentd provision`")


async def test_a_bug_is_500_with_headers_and_a_traceback_in_the_log(
    network: MemoryView, get: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug isn't shown to the network, and isn't swallowed."""
    network.plugin_list = None  # type: ignore[assignment]
    network.readiness = lambda: 1 / 0  # type: ignore[assignment,method-assign,return-value]

    got = await get("/readyz")

    assert got.code == 500
    assert "traceback" in got.json()["detail"]
    assert got.headers["x-content-type-options"] == "nosniff"
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize(
    ("path", "words_"),
    [
        ("/api/workflows?limit=0", "limit"),
        ("/api/workflows?limit=1001", "limit"),
        ("/api/workflows?limit=1e3", "limit"),
        ("/api/workflows?limit=%C2%B2", "limit"),
        ("/api/workflows?state=failed", "'state'"),
        ("/api/agents?x=1", "'x'"),
        ("/?format=xml", "format"),
        ("/?limit=999", "limit"),
        ("/workflows/a.b", "workflow_id"),
        ("/api/workflows/%2A", "workflow_id"),
    ],
)
async def test_a_bad_parameter_is_named(get: Client, path: str, words_: str) -> None:
    """400 says which parameter is wrong."""
    got = await get(path)

    assert got.code == 400
    assert words_ in got.json()["detail"]


async def test_unknown_paths_and_methods(get: Client) -> None:
    """404 and 405 are JSON for programs and a page for people."""
    data, page, deep = await get("/nope"), await get.page("/nope"), await get("/api/workflows/nope")
    post = await get("/api/agents", "POST")
    head = await get("/", "HEAD")

    assert (data.code, data.json()["detail"]) == (404, "there is no /nope here")
    assert page.code == 404
    assert "<h1>Not here</h1>" in page.text
    assert deep.code == 404
    assert "agentd workflows" in deep.json()["detail"]
    assert post.code == 405
    assert {part.strip() for part in post.headers["allow"].split(",")} == {"GET", "HEAD"}
    assert (head.code, head.body) == (200, b"")


async def test_health_and_readiness(network: MemoryView, get: Client) -> None:
    """/healthz says that the process works, /readyz whether it can do its work, in the asker's form."""
    health, text, data = await get("/healthz"), await get("/readyz"), await get("/readyz", Accept="application/json")
    network.reasons = []
    ready = await get("/readyz")

    assert (health.code, health.text) == (200, "ok\n")
    assert text.code == data.code == 503
    assert text.text == "mcp-bridge: port 8001 is in use; choose another `web.port`\n"
    assert data.json()["reasons"][0]["source"] == "mcp-bridge"
    assert (ready.code, ready.text) == (200, "ready\n")


async def test_health_and_metrics_need_no_network(network: MemoryView, get: Client) -> None:
    """A dead bus stops neither the liveness check nor the scrape."""
    network.fault = BusUnavailable("away")

    health, metrics = await get("/healthz"), await get("/metrics")

    assert health.code == metrics.code == 200
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert metrics.body == await network.prometheus()
    assert network.asked == []


async def test_the_api_matches_its_openapi_description(get: Client) -> None:
    """Every path of the description answers 200, and every reference in it is resolved."""
    document = (await get("/api/openapi.json")).json()

    schemas = document["components"]["schemas"]
    refs = set(re.findall(r"#/components/schemas/([^\"]+)", json.dumps(document)))
    assert refs <= set(schemas)
    for path in (path for path, methods in document["paths"].items() if "get" in methods):
        got = await get(path.replace("{id}", "web1-0a2c"), Accept="application/json")
        assert got.code == (503 if path == "/readyz" else 200), path
    assert len(json.dumps(document)) < 40_000


async def test_workflows_by_status_and_limit(get: Client) -> None:
    """`status` and `limit` reach the view."""
    failed, two = await get("/api/workflows?status=failed"), await get("/api/workflows?limit=2")

    assert [item["workflow_id"] for item in failed.json()] == ["cache-41be"]
    assert len(two.json()) == 2


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "evil.example:1"]
)
async def test_foreign_names_are_refused(get: Client, host: str) -> None:
    """A name that isn't ours is refused before any route is asked: no DNS rebinding."""
    got = await get("/api/agents", Host=host)

    assert got.code == 421
    assert "web.allowed_hosts" in got.text
    assert got.headers["x-content-type-options"] == "nosniff"


async def test_own_names_are_answered(network: MemoryView) -> None:
    """Loopback, addresses and configured names are answered, in any case and with any port."""
    async with serving(network, allowed_hosts=("pve1.lan",)) as get:
        codes_ = [
            (await get("/healthz", Host=host)).code
            for host in (
                "localhost",
                "LOCALHOST:99",
                "127.0.0.1:1",
                "[::1]:80",
                "10.1.2.3",
                "pve1.lan:8080",
                "PVE1.LAN.",
            )
        ]

    assert codes_ == [200] * 7


async def test_security_headers_are_on_every_answer(get: Client) -> None:
    """Pages, data, static files, streams and refusals carry the same headers."""
    for path in ("/", "/api/agents", "/static/base.css", "/nope", "/healthz"):
        headers = (await get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


async def test_static_files_are_cached_by_content(get: Client) -> None:
    """A tagged file is kept forever, an untagged one is asked for again and answered with 304."""
    page = await get.page("/")
    found = re.search(r"/static/base\.css\?v=\w+", page.text)
    assert found is not None
    tagged, plain = await get(found[0]), await get("/static/base.css")
    again = await get("/static/base.css", If_None_Match=plain.headers["etag"])

    assert "immutable" in tagged.headers["cache-control"]
    assert plain.headers["cache-control"] == "no-cache"
    assert (again.code, again.body) == (304, b"")
    assert (await get("/static/..%2Fapp.py")).code == 404


async def test_weight(get: Client) -> None:
    """The status page of a busy network weighs at most 5 kB; the whole dashboard, without its data, 25 kB.

    Both with style and script, compressed.
    """
    network = MemoryView()
    network.type_list = busy_network().type_list
    network.add_workflow("one", ["completed"], "completed", 60, kind="one")
    files = ("/static/base.css", "/static/live.js", "/static/icons.svg")
    pages = ("/overview", "/guests", "/agents", "/workflows", "/workflows/one", "/alerts", "/tools", "/audit")
    forms = ("/submit", "/submit/vm_deployment", "/login", "/static/dashboard.css", "/static/dashboard.js")

    async with serving(network) as quiet:
        status, dashboard = await _weight(get, "/", *files), await _weight(quiet, "/", *files, *pages, *forms)

    assert status <= 5_000
    assert dashboard <= 25_000


async def _weight(get: Client, *paths: str) -> int:
    parts = [await get(path, Accept="text/html", Accept_Encoding="gzip") for path in paths]
    assert {part.code for part in parts} == {200}
    return sum(len(part.body) for part in parts)
