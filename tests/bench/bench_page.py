"""How long the status page of a large cluster takes to render: the event loop does nothing else meanwhile."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING

from agentd.web.overview import read_overview
from agentd.web.page import Frame, Pages
from core.web_networks import large_network

if TYPE_CHECKING:
    from bench.conftest import Figures

ROUNDS = 20


def test_page(figures: Figures) -> None:
    """200 workflows and 50 agents on one page: at most a quarter of a second."""
    picture, pages, took = asyncio.run(read_overview(large_network())), Pages(), []
    frame = Frame(picture.identity)
    assert pages.overview(frame, picture, 200, cards=[], chart=[], chart_text="").count('class="wf"') == 200
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        pages.overview(frame, picture, 200, cards=[], chart=[], chart_text="")
        took.append((time.perf_counter() - begun) * 1000)

    figures.add("overview of 200 workflows", median(took), "ms", at_most=250)
