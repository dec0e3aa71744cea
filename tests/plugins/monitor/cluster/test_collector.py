"""The monitor reads the simulated cluster and serves its metrics; a scrape asks nothing of Proxmox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.telemetry.metrics import Metrics
from agentd_monitor.cluster import collector as at_work
from agentd_monitor.cluster.collector import ClusterCollector
from agentd_monitor.settings import MonitorSettings
from proxmox_access import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pve.client import FakePve

EXPORTER = os.environ.get("AGENTD_PVE_EXPORTER_PYTHON", "")
"""An interpreter with prometheus-pve-exporter 3.10.2; without it the comparison is skipped."""
EXPORT = """
import json, sys
from pve_exporter.collector import CollectorsOptions, collect_pve
host, user, name, value = sys.argv[1:]
options = CollectorsOptions(*[True] * len(CollectorsOptions._fields))
config = {"user": user, "token_name": name, "token_value": value, "verify_ssl": False}
sys.stdout.buffer.write(collect_pve(config, host, True, True, options))
"""
MOVING = {"pve_cpu_usage_ratio", "pve_uptime_seconds", "pve_memory_usage_bytes"}
"""Families whose values change between two reads."""


@contextlib.asynccontextmanager
async def reading(lab: FakePve, **settings: Any) -> AsyncIterator[tuple[ClusterCollector, Metrics]]:
    """Run a collector on the simulated cluster."""
    metrics, proxmox = Metrics(), connect(lab)
    collector = metrics.attach(ClusterCollector(MonitorSettings(api_calls_per_minute=120, **settings)))
    running = asyncio.create_task(collector.run(proxmox))
    try:
        yield collector, metrics
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await proxmox.close()


async def page(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the value of each series of the page."""
    return series((await metrics.render()).decode())


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the value of each series in the text format."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("pve_")
    }


async def until_read(collector: ClusterCollector, *sources: str) -> None:
    """Wait until sources were read and the families were built again."""
    async with asyncio.timeout(60):
        while not all(collector.snapshot().data.get(source) for source in sources):  # noqa: ASYNC110 - another task reads
            await asyncio.sleep(0.05)
        await asyncio.sleep(3 * at_work.TICK)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the schedule often."""
    monkeypatch.setattr(at_work, "TICK", 0.05)
    monkeypatch.setattr(at_work, "REBUILD", 0.05)


async def test_metrics_of_the_cluster(lab: FakePve) -> None:
    """Nodes, guests and storages of the cluster appear on the page."""
    async with reading(lab) as (collector, metrics):
        await until_read(collector, "status", "resources", "node_status")
        found = await page(metrics)

    assert found["pve_up", frozenset({("id", "node/pve1")})] == 1
    assert any(name == "pve_guest_info" for name, _ in found)
    assert found["pve_node_load1", frozenset({("id", "node/pve1")})] == 0.3


async def test_a_scrape_makes_no_call(lab: FakePve) -> None:
    """Fifty scrapes make no request to Proxmox."""
    async with reading(lab) as (collector, metrics):
        await until_read(collector, "status", "resources")
        collector.settings = collector.settings.model_copy()
        before = {request["n"] for request in lab.log()}
        for _ in range(50):
            await metrics.render()
        scraped = [request for request in lab.log() if request["n"] not in before]

    # Only the collector's own reads may have happened meanwhile, each at most once.
    assert len(scraped) < 50
    assert len({request["path"] for request in scraped}) == len(scraped)


async def test_unreachable_cluster(lab: FakePve) -> None:
    """A source that fails has no series and is counted, with its reason in the snapshot."""
    lab.rule("GET", "/cluster/resources", {"status": 500, "reason": "broken"})
    async with reading(lab) as (collector, metrics):
        await until_read(collector, "status")
        async with asyncio.timeout(10):
            while not collector.snapshot().problems.get("resources"):  # noqa: ASYNC110 - another task reads
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        found = await page(metrics)

    assert not any(name == "pve_guest_info" for name, _ in found)
    assert found["pve_reading_failures", frozenset({("source", "resources")})] == 1


async def test_same_series_as_the_exporter(lab: FakePve, tmp_path: Path) -> None:
    """Every series of prometheus-pve-exporter is on the page with the same value."""
    if not EXPORTER:
        pytest.skip("AGENTD_PVE_EXPORTER_PYTHON does not name an interpreter with prometheus-pve-exporter")
    program = tmp_path / "export.py"
    await asyncio.to_thread(program.write_text, EXPORT)
    login, _, secret = lab.tokens["full"].partition("=")
    user, _, name = login.partition("!")
    async with reading(lab, legacy_gauges=True, full_state_sets=True) as (collector, metrics):
        await until_read(collector, "status", "resources", "version", "not_backed_up", "subscription", "guest_config")
        await asyncio.sleep(5)
        exported = await asyncio.create_subprocess_exec(
            EXPORTER,
            program,
            lab.url.removeprefix("https://"),
            user,
            name,
            secret,
            stdout=asyncio.subprocess.PIPE,
        )
        text, _ = await exported.communicate()
        ours = await page(metrics)
    theirs = series(text.decode())
    differences = {
        key: (value, ours.get(key)) for key, value in theirs.items() if key[0] not in MOVING and ours.get(key) != value
    }

    assert len(theirs) > 100
    assert not differences, json.dumps([[name, sorted(labels)] for name, labels in differences])
    assert {key for key in theirs if key[0] in MOVING} <= set(ours)
