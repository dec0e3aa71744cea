"""What the overview shows of the cluster: its nodes, its guests by state, and workflows by the hour.  Pure."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd.web.overview import agent_status

if TYPE_CHECKING:
    from datetime import datetime

    from agentd.client.views import GuestSummary
    from agentd.web.overview import Overview

HOURS: Final = 24
HEIGHT: Final = 40
"""Height of a chart in its own units; a bar is 10 wide."""


class NodeCard(NamedTuple):
    """A node: its agents by state, and its guests by state; None if the guests are not known."""

    name: str
    agents: int
    worst: str
    guests: dict[str, int] | None
    load: float | None


class Bar(NamedTuple):
    """One hour of the chart of workflows."""

    x: int
    height: int
    failed: int
    text: str


_ORDER: Final = ("offline", "silent", "draining", "busy", "available")


def node_cards(picture: Overview, guests: list[GuestSummary] | None) -> list[NodeCard]:
    """Return a card for each node that an agent or a guest is on."""
    agents = picture.agents or []
    names = sorted({agent.node for agent in agents if agent.node} | {guest.node for guest in guests or ()})
    cards = []
    for name in names:
        here = [agent for agent in agents if agent.node == name]
        states = {agent_status(agent, picture.at) for agent in here}
        worst = next((state for state in _ORDER if state in states), "unknown")
        by_status = None if guests is None else dict(Counter(g.status for g in guests if g.node == name).most_common())
        loads = [agent.load for agent in here if agent_status(agent, picture.at) not in {"silent", "offline"}]
        cards.append(NodeCard(name, len(here), worst, by_status, max(loads, default=None)))
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


def _hour(at: datetime, hours: int) -> str:
    return f"{at - timedelta(hours=hours + 1):%H:%M} to {at - timedelta(hours=hours):%H:%M} UTC"
