"""What the overview shows of the cluster: its nodes, its guests by state, and workflows by the hour.  Pure."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd.web.overview import COUNTED, agent_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from agentd.client.views import GuestSummary
    from agentd.web.dashboard.charts import LoadChart
    from agentd.web.overview import Overview

HOURS: Final = 24
HEIGHT: Final = 40
"""Height of a chart in its own units; a bar is 10 wide."""


class NodeCard(NamedTuple):
    """A node: its agents by state, its guests by state (None if not known), and the chart of its load."""

    name: str
    agents: int
    worst: str
    guests: dict[str, int] | None
    load: float | None
    chart: LoadChart | None = None


class Bar(NamedTuple):
    """One hour of the chart of workflows."""

    x: int
    height: int
    failed: int
    text: str


_ORDER: Final = ("offline", "silent", "draining", "busy", "available")


def node_cards(
    picture: Overview, guests: list[GuestSummary] | None, charts: Mapping[str, LoadChart] | None = None
) -> list[NodeCard]:
    """Return a card for each node that an agent or a guest is on."""
    agents, charts = picture.agents or [], charts or {}
    names = sorted({agent.node for agent in agents if agent.node} | {guest.node for guest in guests or ()})
    cards = []
    for name in names:
        here = [agent for agent in agents if agent.node == name]
        states = {agent_status(agent, picture.at) for agent in here}
        worst = next((state for state in _ORDER if state in states), "unknown")
        by_status = None if guests is None else dict(Counter(g.status for g in guests if g.node == name).most_common())
        loads = [agent.load for agent in here if agent_status(agent, picture.at) not in {"silent", "offline"}]
        cards.append(NodeCard(name, len(here), worst, by_status, max(loads, default=None), charts.get(name)))
    return cards


def workflow_chart(picture: Overview) -> list[Bar]:
    """Count the workflows that began in each of the last hours, and those that failed."""
    begun, failed = [0] * HOURS, [0] * HOURS
    for run in picture.workflows or []:
        hours = int((picture.at - run.created) / timedelta(hours=1))
        if 0 <= hours < HOURS:
            begun[HOURS - 1 - hours] += 1
            failed[HOURS - 1 - hours] += run.status in {"failed", "compensation_failed"}
    most = max(1, *begun)
    return [
        Bar(
            place * 10,
            round(HEIGHT * count / most),
            round(HEIGHT * failed[place] / most),
            f"{_hour(picture.at, HOURS - 1 - place)}: {count} workflows, {failed[place]} failed",
        )
        for place, count in enumerate(begun)
    ]


def workflow_chart_text(picture: Overview, bars: list[Bar]) -> str:
    """Return in a sentence what the chart of workflows shows."""
    recent = [run for run in picture.workflows or [] if picture.at - run.created < timedelta(hours=HOURS)]
    failed = sum(run.status in {"failed", "compensation_failed"} for run in recent)
    if not recent:
        return f"no workflow began in the last {HOURS} hours"
    limit = f", of the {COUNTED} latest" if len(picture.workflows or []) >= COUNTED else ""
    busiest = max(bars, key=lambda bar: bar.height)
    return f"{len(recent)} in {HOURS} hours{limit}, {failed} failed; most from {busiest.text}"


def _hour(at: datetime, hours: int) -> str:
    return f"{at - timedelta(hours=hours + 1):%H:%M} to {at - timedelta(hours=hours):%H:%M} UTC"
