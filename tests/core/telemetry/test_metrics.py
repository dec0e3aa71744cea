"""The metrics: what is counted, and that showing it does not disturb the work."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import time
from typing import TYPE_CHECKING

from prometheus_client import Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from agentd.telemetry import metrics as module
from agentd.telemetry.metrics import HostMetrics, Metrics

if TYPE_CHECKING:
    import pytest


async def values(metrics: Metrics) -> dict[str, float]:
    """Return each series that is rendered with its value."""
    lines = (await metrics.render()).decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


async def test_work_is_counted() -> None:
    """The figures of the daemon's parts appear under the names that dashboards use."""
    metrics = Metrics("1.2.3")
    metrics.workflow_started("vm_deployment")
    metrics.workflow_finished("vm_deployment", "completed", 12.0)
    metrics.task_finished("create_vm", "failed", 0.3)
    metrics.proxmox_call("GET", "ok", 0.01)
    metrics.effects_adopted.labels("create_vm").inc()
    metrics.role_up.labels("monitor").set(1)
    metrics.event_loop_lag.observe(0.002)
    found = await values(metrics)

    assert found['agentd_workflows_started_total{type="vm_deployment"}'] == 1
    assert found['agentd_workflows_finished_total{type="vm_deployment",status="completed"}'] == 1
    assert found['agentd_workflow_seconds_bucket{type="vm_deployment",le="30.0"}'] == 1
    assert found['agentd_workflow_seconds_bucket{type="vm_deployment",le="10.0"}'] == 0
    assert found['agentd_tasks_total{tool="create_vm",outcome="failed"}'] == 1
    assert found['agentd_proxmox_requests_total{method="GET",outcome="ok"}'] == 1
    assert found['agentd_proxmox_request_seconds_count{method="GET"}'] == 1
    assert found['agentd_effects_adopted_total{tool="create_vm"}'] == 1
    assert found['agentd_role_up{role="monitor"}'] == 1
    assert found['agentd_build_info{version="1.2.3"}'] == 1
    assert found["agentd_event_loop_lag_seconds_count"] == 1
    assert found["process_resident_memory_bytes"] > 0
    assert found["process_open_fds"] > 0
    assert not [name for name in found if not name.startswith(("agentd_", "process_", "python_"))]


async def test_daemons_count_separately() -> None:
    """Two daemons in one process count apart."""
    one, other = Metrics(), Metrics()
    one.decide_errors.inc()

    assert (await values(one))["agentd_decide_errors_total"] == 1
    assert (await values(other))["agentd_decide_errors_total"] == 0


async def test_clients_cannot_create_series() -> None:
    """Workflow types beyond a hundred are counted as `other`: a name in a request costs no memory for ever."""
    metrics = Metrics()
    for number in range(module.MOST_TYPES + 5):
        metrics.workflow_finished(f"made-up-{number}", "rejected", -1.0)
    found = await values(metrics)

    assert found['agentd_workflows_finished_total{type="other",status="rejected"}'] == 5
    assert found['agentd_workflow_seconds_sum{type="other"}'] == 0


async def test_bus_counters_are_taken_over_once() -> None:
    """What the bus has counted is added by its difference, however often it is asked."""
    metrics = Metrics()
    for counters in ({"reconnects": 1}, {"reconnects": 1, "timeouts": 2}, {"reconnects": 3, "timeouts": 2}):
        metrics.bus_counted(counters)
    found = await values(metrics)

    assert found["agentd_bus_reconnects_total"] == 3
    assert found["agentd_bus_timeouts_total"] == 2


class Guests(Collector):
    """A collector as the monitor brings them."""

    def collect(self) -> list[Metric]:
        """Return families with values that are hard to write."""
        family = GaugeMetricFamily("pve_up", 'a "text" with \\ and\nmore', labels=["id"])
        for label, value in {'a"b': 1.5, "c\\d\ne": math.inf, "f": -math.inf, "g": math.nan, "h": 1e300}.items():
            family.add_metric([label], value)
        return [family, InfoMetricFamily("pve", "What it is", value={"version": "9"})]


async def test_text_equals_that_of_the_library() -> None:
    """Our writer, made to be interruptible, says what prometheus_client's says."""
    metrics = Metrics()
    metrics.registry.register(metrics.attach(Guests()))
    metrics.task_finished("create_vm", "completed", 0.3)
    ours = list(text_string_to_metric_families((await metrics.render()).decode()))
    text = await asyncio.to_thread(generate_latest, metrics.registry)
    theirs = list(text_string_to_metric_families(text.decode()))

    assert plain(ours) == plain(theirs)


def plain(families: list[Metric]) -> dict[str, object]:
    """Return what can be compared: nothing that changes from one moment to the next."""
    changing = ("process_", "python_gc")
    return {
        family.name: (
            family.type,
            family.documentation,
            {(sample.name, *sorted(sample.labels.items())): repr(float(sample.value)) for sample in family.samples},
        )
        for family in families
        if not family.name.startswith(changing) and not family.name.endswith("_created")
    }


async def test_ten_thousand_series_do_not_block() -> None:
    """A rendering of 10,000 series lets the loop run all the time: it yields every few milliseconds of its own work."""
    metrics = Metrics()
    family = metrics.attach(Gauge("pve_guest", "x", ["id"], registry=metrics.registry))
    for number in range(10_000):
        family.labels(f"qemu/{number}").set(number)
    turns: list[float] = []
    stop = asyncio.Event()

    async def turn() -> None:
        while not stop.is_set():
            # CPU time of this thread: other processes of the machine must not fail this test.
            turns.append(time.thread_time())
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    gc.disable()  # a collection over all that other tests left is none of ours
    try:
        text = await metrics.render()
    finally:
        gc.enable()
    stop.set()
    await turning
    longest = max(after - before for before, after in itertools.pairwise(turns))

    assert text.count(b"pve_guest{") == 10_000
    assert longest < 0.030  # measured 2 ms; the rest is room for coverage


async def test_memory_of_labels_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of labels is forgotten when there is too much of it, and the result is the same."""
    metrics = Metrics()
    metrics.decide_errors.inc()
    first = await values(metrics)
    monkeypatch.setattr(module, "LABELS_KEPT", 1)
    again = await values(metrics)

    assert first.keys() == again.keys()


def test_snapshot_has_the_figures_of_a_report() -> None:
    """A report holds the names that the monitor judges, as percent and bytes."""
    metrics = Metrics()
    metrics.tasks_in_flight.set(3)
    figures = metrics.snapshot()

    assert figures.keys() == {
        "cpu_percent",
        "memory_percent",
        "rss_bytes",
        "host_cpu_percent",
        "host_memory_percent",
        "load1",
        "tasks_in_flight",
        "audit_broken",
    }
    assert figures["tasks_in_flight"] == 3
    assert figures["rss_bytes"] > 1_000_000
    assert all(0 <= value <= 100 for name, value in figures.items() if name.endswith("_percent"))
    assert figures["host_memory_percent"] > figures["memory_percent"] > 0


def test_cpu_is_measured_since_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percentages of CPU are over the time since the last report, and stay for a second."""
    clock = {"now": 100.0, "used": 5.0}
    ticks = iter([(1000, 4000), (1150, 4200), (1150, 4400)])
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["used"])
    monkeypatch.setattr(module, "_cpu", lambda: next(ticks))
    machine = HostMetrics()
    clock |= {"now": 102.0, "used": 5.5}
    first = machine.figures()
    clock |= {"now": 102.5, "used": 5.9}
    soon = machine.figures()
    clock |= {"now": 112.0, "used": 30.0}
    busy = machine.figures()

    assert (first["cpu_percent"], first["host_cpu_percent"]) == (25.0, 75.0)
    assert (soon["cpu_percent"], soon["host_cpu_percent"]) == (25.0, 75.0)
    assert (busy["cpu_percent"], busy["host_cpu_percent"]) == (100.0, 0.0)
