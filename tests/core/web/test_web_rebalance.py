"""The pages about the distribution of guests and the load of nodes: plans, alert history, charts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec
import pytest

from agentd.client.move_plans import Planning
from agentd.client.node_loads import LoadPoint, NodeLoad
from agentd.errors import BusUnavailable, Rejected
from agentd.safety import tokens
from agentd.web.dashboard.charts import HEIGHT, load_chart, path
from core.web_client import serving
from core.web_networks import busy_network
from core.web_view import MemoryView

TOKEN, KEPT = tokens.new_token()


async def test_a_plan_shows_moves_reasons_and_what_stays() -> None:
    """Before and after of each node, each move with its reason, and each other guest under the reason why it stays."""
    network = busy_network()
    async with serving(network) as get:
        page = (await get.page("/rebalance?mode=drain&nodes=pve3&local_disks=1")).text
        text = (await get("/rebalance")).text
        data = await get("/api/rebalance")

    goal = network.goals[0]
    assert (goal.mode, goal.nodes, goal.local_disks, goal.restart_containers) == ("drain", ["pve3"], True, False)
    assert 'aria-label="pve3: memory 91 % before, 63 % after"' in page
    assert "pve3 is at 91 % of its memory, pve1 at 42 %" in page
    assert "the cluster is balanced without its move <small>21 guests" in page
    assert re.search(r'value="pve3" checked', page)
    assert re.search(r'name="local_disks" value="1" checked', page)
    assert "pve3  pve1" in text
    assert "pinned" in text
    assert [move["vmid"] for move in data.json()["plan"]["moves"]] == [102, 105]


async def test_the_form_submits_the_same_parameters() -> None:
    """The button submits resource_optimization with mode, nodes and permissions of the shown plan."""
    network = busy_network()
    async with serving(network, tokens={"bob": KEPT}) as get:
        login = await get.send("/login", f"token={TOKEN}".encode())
        cookie = login.headers["set-cookie"].partition(";")[0]
        page = await get(
            "/rebalance?mode=drain&nodes=pve3&nodes=pve1&restart_containers=1", Cookie=cookie, Accept="text/html"
        )
        form = page.text.partition('action="/submit/resource_optimization"')[2].partition("</form>")[0]

    assert 'name="p.mode" value="drain"' in form
    assert '<textarea hidden name="p.nodes">pve1\npve3</textarea>' in form
    assert 'name="p.restart_containers" value="1"' in form
    assert "p.local_disks" not in form
    assert "another principal has to approve" in form


async def test_without_a_specialist_it_is_unknown() -> None:
    """Where no agent plans, and where the network is away, the page says so and shows no plan."""
    network = MemoryView()
    async with serving(network) as get:
        page = (await get.page("/rebalance")).text
        network.fault = BusUnavailable("no connection to NATS")
        lost = await get.page("/rebalance")
        api = await get("/api/rebalance")

    assert "It is unknown what would move." in page
    assert "no agent offers a tool &#39;plan_moves&#39;" in page
    assert "no connection to NATS" in lost.text
    assert api.code == 503
    assert all('id="moves"' not in shown for shown in (page, lost.text))


async def test_a_plan_that_is_being_computed_says_so() -> None:
    """The page shows the progress and fetches itself again soon; the API responds 202."""
    network = MemoryView()
    network.planned = Planning(None, network.at, "checking: VM 101 to pve2")
    async with serving(network) as get:
        page, api = await get.page("/rebalance"), await get("/api/rebalance")

    assert "The plan is being computed: checking: VM 101 to pve2" in page.text
    assert 'data-every="1500"' in page.text
    assert api.code == 202


@pytest.mark.parametrize(
    ("query", "code"),
    [("mode=erase", 400), ("nodes=a%20b", 400), ("local_disks=yes", 400), ("colour=red", 400), ("mode=drain", 409)],
)
async def test_a_wrong_goal_is_refused(query: str, code: int) -> None:
    """A parameter that is wrong is named, and nothing is asked of a specialist."""
    network = MemoryView()
    async with serving(network) as get:
        api = await get(f"/api/rebalance?{query}")

    assert api.code == code
    assert query.partition("=")[0] in api.text or "nodes" in api.text
    assert network.goals == []


async def test_the_refusal_of_the_specialist_is_shown() -> None:
    """A goal that the specialist refuses is a conflict with its reason, on the page too."""
    network = MemoryView()
    network.planned = Rejected("nodes: there is no node 'pve9'; there are pve1, pve2")
    async with serving(network) as get:
        api, page = (
            await get("/api/rebalance?mode=drain&nodes=pve9"),
            await get.page("/rebalance?mode=drain&nodes=pve9"),
        )

    assert api.code == 409
    assert "there is no node &#39;pve9&#39;" in page.text


async def test_the_alert_history_is_filtered() -> None:
    """The page of alerts shows what was resolved lately, with its duration; words filter both lists."""
    async with serving(busy_network()) as get:
        page = (await get.page("/alerts")).text
        found = (await get.page("/alerts?q=severity:critical")).text
        only = await get("/alerts?q=state:resolved&format=json")
        api = await get("/api/alert-history?q=guest_memory")
        text = (await get("/alerts")).text

    history = page.partition('id="history"')[2].partition("</section>")[0]
    assert "VM 104 used 97 %" in history
    assert "fired for 1 h" in history
    assert "pve1: CPU at 90 %" in history
    assert "pve1: CPU at 90 %" not in found
    assert "VM 104 used 97 %" in found
    assert "1 alert firing" in found, "a filter does not change what is firing"
    assert [alert["name"] for alert in only.json()] == ["high_cpu", "guest_memory"]
    assert [alert["name"] for alert in api.json()] == ["guest_memory"]
    assert "RESOLVED IN THE LAST 24 HOURS" in text


def test_a_chart_has_gaps_and_says_the_same_in_words() -> None:
    """A minute without a report is a gap, not zero; the sentence has the last value and the range."""
    at = datetime.fromtimestamp(60 * 1000 + 30, UTC)
    load = NodeLoad("pve1", [LoadPoint(996, 10.0, None), LoadPoint(997, 20.0, None), LoadPoint(1000, 50.0, None)])
    chart = load_chart(load, at)

    assert path([0.0, 100.0, None, 50.0]) == f"M0 {HEIGHT}L4 0M12 {HEIGHT // 2}h1"
    assert chart.cpu.count("M") == 2
    assert chart.memory == ""
    assert chart.text == "CPU 50 %, in the last 30 minutes 10 to 50 %"
    assert load_chart(NodeLoad("pve1", [LoadPoint(900, 1.0, 1.0)]), at).text.startswith("no load was reported")


async def test_the_overview_has_charts_with_text() -> None:
    """Each node with reports has a chart, whose text says what it shows; a node without has none."""
    network = busy_network()
    network.load_list = network.load_list[:2]
    async with serving(network) as get:
        page = (await get.page("/overview")).text

    assert page.count('class="spark"') == 2
    assert re.search(r'aria-label="CPU 4\d %, in the last 30 minutes 40 to 46 %; memory', page)
    assert re.search(r"\d in 24 hours, 1 failed; most from", page)


EVIL = "<script>alert(1)</script>\x1b[2J`'\""


async def test_plans_and_resolved_alerts_are_only_text() -> None:
    """Names of guests and nodes, reasons, rules and labels that contain markup or control characters stay text."""
    network = busy_network()
    assert isinstance(network.planned, Planning)
    assert network.planned.plan is not None
    plan = network.planned.plan
    move = msgspec.structs.replace(plan.moves[0], name=EVIL, source=EVIL, target=EVIL, reason=EVIL)
    left = [msgspec.structs.replace(plan.left[0], name=EVIL, node=EVIL, reason=EVIL)]
    share = msgspec.structs.replace(plan.shares[0], name=EVIL)
    plan = msgspec.structs.replace(plan, text=EVIL, moves=[move], left=left, shares=[share], conflict=[EVIL])
    network.planned = Planning(plan, network.at)
    network.resolved = [msgspec.structs.replace(network.resolved[0], name=EVIL, text=EVIL, labels={EVIL: EVIL})]
    network.load_list = [NodeLoad(EVIL, network.load_list[0].points)]
    async with serving(network) as get:
        pages = [await get.page(path) for path in ("/rebalance", "/alerts", "/overview")]
        texts = [await get(path) for path in ("/rebalance", "/alerts")]
        apis = [await get(path) for path in ("/api/rebalance", "/api/alert-history")]

    assert all("<script>alert" not in got.text for got in pages)
    assert all("&lt;script&gt;" in got.text for got in pages[:2])
    assert all("\x1b" not in got.text for got in (*pages, *texts, *apis))
