"""Every metric with its help text; one registry a daemon, nothing global.

`render` runs on the event loop in slices of SLICE seconds.  prometheus_client's own writer takes about 70 ms for
10,000 series and cannot be interrupted; in a thread it repeatedly holds the interpreter for its switch interval, and
the event loop was seen to wait 10 to 20 ms.  This one works in slices, and caches the label text of each series.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Sample

SLICE: Final = 0.002
"""Seconds that `render` uses the event loop before it yields to other tasks."""
LABELS_KEPT: Final = 50_000
"""Series whose label text is cached; about 150 bytes each."""
MOST_TYPES: Final = 100
"""Workflow types with a series of their own; a limit, because requests for unknown types must not create series."""
OTHER: Final = "other"
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
SHORTEST: Final = 1.0
"""Shortest interval in seconds over which a CPU percentage is measured."""

C = TypeVar("C", bound=Collector)

_NOT_FINITE: Final = {math.inf: "+Inf", -math.inf: "-Inf"}
_SECONDS: Final = (0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_LAG: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """The metrics of one daemon; roles add their own collectors with `attach`."""

    def __init__(self, version: str = "unknown") -> None:
        """Create every metric, at zero."""
        self.registry = CollectorRegistry()
        self._collectors: list[Collector] = []
        self._text: dict[tuple[str, ...], str] = {}
        self._types: set[str] = set()
        self._bus_before: dict[str, int] = {}
        self.machine = HostMetrics()

        self._add_work()
        self._add_connections()
        self._add_daemon(version)

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return self.attach(Counter(f"agentd_{name}", text, labels, registry=self.registry))

    def _gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return self.attach(Gauge(f"agentd_{name}", text, labels, registry=self.registry))

    def _seconds(
        self, name: str, text: str, labels: Iterable[str] = (), buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return self.attach(Histogram(f"agentd_{name}_seconds", text, labels, buckets=buckets, registry=self.registry))

    def _add_work(self) -> None:
        count, gauge, seconds = self._counter, self._gauge, self._seconds
        self.workflows_started = count("workflows_started", "Workflows whose first event was written", ["type"])
        self.workflows_finished = count("workflows_finished", "Workflows that are over", ["type", "status"])
        self.workflow_seconds = seconds("workflow", "From the start of a workflow to its end", ["type"])
        self.event_conflicts = count("event_conflicts", "Events that another process wrote first; decided again")
        self.decide_errors = count("decide_errors", "Inputs that could not be decided: a bug, or a broken message")
        self.tasks = count("tasks", "Calls of a tool that ended", ["tool", "outcome"])
        self.task_seconds = seconds("task", "How long a call of a tool took, with its retries", ["tool"])
        self.task_retries = count("task_retries", "Further attempts at a call of a tool", ["tool"])
        self.tasks_in_flight = gauge("tasks_in_flight", "Calls of tools that are running now")
        self.effects_adopted = count("effects_adopted", "Effects found done already, and not done again", ["tool"])
        self.effects_fenced = count("effects_fenced", "Effects left to another process that holds them", ["tool"])

    def _add_connections(self) -> None:
        count, gauge, seconds = self._counter, self._gauge, self._seconds
        self.bus_reconnects = count("bus_reconnects", "Times that the connection to NATS came back")
        self.bus_watchdog_aborts = count("bus_watchdog_aborts", "Connections aborted because NATS was silent")
        self.bus_timeouts = count("bus_timeouts", "Publishes and requests that NATS did not answer in time")
        self.bus_refused_replies = count(
            "bus_refused_replies", "Messages that were not answered: their reply subject was not an inbox"
        )
        self.records_unreadable = count("records_unreadable", "Stored records that could not be read and were skipped")
        self.bus_connected = gauge("bus_connected", "1 while the connection to NATS is up")
        self.proxmox_requests = count("proxmox_requests", "Calls of the Proxmox API", ["method", "outcome"])
        self.proxmox_seconds = seconds("proxmox_request", "How long a call of the Proxmox API took", ["method"])

    def _add_daemon(self, version: str) -> None:
        count, gauge, seconds = self._counter, self._gauge, self._seconds
        self.agents = gauge("agents", "Agents that are known, by status", ["status"])
        self.alerts_firing = gauge("alerts_firing", "Alerts that are firing", ["type"])
        self.notifications_waiting = gauge(
            "notifications_waiting", "Notifications of alerts that a receiver has not accepted yet", ["receiver"]
        )
        self.notifications_lost = gauge(
            "notifications_lost", "Notifications of alerts that were given up since the monitor started", ["receiver"]
        )
        self.dead_letters = count("dead_letters", "Messages that were given up, as a monitor saw it", ["stream"])
        self.dead_letters_open = gauge("dead_letters_open", "Dead letters that wait for a person", ["stream"])
        self.stream_bytes = gauge("stream_bytes", "What a stream takes of JetStream's storage", ["stream"])
        self.storage_share = gauge("storage_share", "How full a limit of NATS is, 0 to 1", ["what"])
        self.audit_broken = gauge("audit_broken", "1 while the audit of this agent is not as the agent wrote it")
        self.frozen = gauge("frozen", "1 while the network is frozen: nothing is changed")
        self.role_up = gauge("role_up", "1 while the role works", ["role"])
        self.role_restarts = count("role_restarts", "Times that a role failed and was started again", ["role"])
        self.event_loop_lag = seconds("event_loop_lag", "How late the event loop wakes up", buckets=_LAG)
        gauge("build_info", "1, with the version as label", ["version"]).labels(version).set(1)
        # These read files in /proc/self and the interpreter; they have only a few series.
        self._system = (ProcessCollector(registry=self.registry), PlatformCollector(registry=self.registry))

    def attach(self, collector: C) -> C:
        """Render `collector` too; its families may produce their samples lazily."""
        self._collectors.append(collector)
        return collector

    def workflow_started(self, kind: str) -> None:
        """Count a workflow that starts."""
        self.workflows_started.labels(self._known(kind)).inc()

    def workflow_finished(self, kind: str, status: str, seconds: float) -> None:
        """Count a finished workflow, and record its duration."""
        kind = self._known(kind)
        self.workflows_finished.labels(kind, status).inc()
        self.workflow_seconds.labels(kind).observe(max(seconds, 0.0))

    def task_finished(self, tool: str, outcome: str, seconds: float) -> None:
        """Count a finished call of a tool, and record its duration."""
        self.tasks.labels(tool, outcome).inc()
        self.task_seconds.labels(tool).observe(seconds)

    def proxmox_call(self, method: str, outcome: str, seconds: float) -> None:
        """Count a call of the Proxmox API; `outcome` is `ok` or an error code."""
        self.proxmox_requests.labels(method, outcome).inc()
        self.proxmox_seconds.labels(method).observe(seconds)

    def bus_counted(self, counters: Mapping[str, int]) -> None:
        """Add what the bus has counted since the last call."""
        for name, metric in (
            ("reconnects", self.bus_reconnects),
            ("watchdog_aborts", self.bus_watchdog_aborts),
            ("timeouts", self.bus_timeouts),
            ("refused_replies", self.bus_refused_replies),
            ("unreadable", self.records_unreadable),
        ):
            metric.inc(counters.get(name, 0) - self._bus_before.get(name, 0))
        self._bus_before = dict(counters)

    def snapshot(self) -> dict[str, float]:
        """Return the figures of a MetricReport."""
        (in_flight,), (broken,) = self.tasks_in_flight.collect(), self.audit_broken.collect()
        counted = {"tasks_in_flight": in_flight.samples[0].value, "audit_broken": broken.samples[0].value}
        return {**self.machine.figures(), **counted}

    async def render(self) -> bytes:
        """Return every metric in the text format, without blocking the event loop."""
        system = await asyncio.to_thread(
            lambda: [family for collector in self._system for family in collector.collect()]
        )
        if len(self._text) > LABELS_KEPT:
            self._text.clear()
        lines: list[str] = []
        until = time.perf_counter() + SLICE
        for line in self._lines(system):
            lines.append(line)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE
        return "".join(lines).encode()

    def _lines(self, system: Iterable[Metric]) -> Iterator[str]:
        for collector in self._collectors:
            if isinstance(collector, MetricWrapperBase):
                (family,) = collector.describe()
                yield _head(family.name, family.type, family.documentation)
                # `collect` would create all samples at once, which takes 27 ms for 10,000.
                for sample in collector._samples():  # noqa: SLF001
                    if sample.name != "_created":
                        yield self._line(family.name, sample)
            else:
                yield from self._families(collector.collect())
        yield from self._families(system)

    def _families(self, families: Iterable[Metric]) -> Iterator[str]:
        for family in families:
            yield _head(family.name, family.type, family.documentation)
            for sample in family.samples:
                yield self._line("", sample)

    def _line(self, family: str, sample: Sample) -> str:
        """Return the line of one series; the text of its labels is cached."""
        key = (family, sample.name, *sample.labels, *sample.labels.values())
        text = self._text.get(key)
        if text is None:
            labels = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in sample.labels.items())
            text = self._text[key] = f"{family}{sample.name}{{{labels}}} " if labels else f"{family}{sample.name} "
        value = sample.value
        return f"{text}{value if math.isfinite(value) else _NOT_FINITE.get(value, 'NaN')}\n"

    def _known(self, kind: str) -> str:
        """Return `kind`, or `other` if there are already MOST_TYPES types."""
        if kind not in self._types and len(self._types) >= MOST_TYPES:
            return OTHER
        self._types.add(kind)
        return kind


class HostMetrics:
    """The resource usage of this process and its machine, from /proc.

    A CPU percentage is measured over the time since the last measurement, and at least over SHORTEST seconds.
    """

    def __init__(self) -> None:
        """Start the first measurement."""
        self._total = _memory()[0]
        self._taken = time.monotonic()
        self._process = time.process_time()
        self._host = _cpu()
        self._cpu = (0.0, 0.0)

    def figures(self) -> dict[str, float]:
        """Return the present usage.

        cpu_percent           of one core, by this process; limited to 100 also with several threads
        memory_percent        of the machine's memory, by this process (resident)
        rss_bytes             resident memory of this process
        host_cpu_percent      of all cores, by all processes including guests
        host_memory_percent   of the machine's memory, that is not available to a new process
        load1                 the machine's load average over one minute
        """
        process, host = self._percentages()
        total, available = _memory()
        resident = int(_read("/proc/self/statm").split()[1]) * PAGE
        return {
            "cpu_percent": process,
            "memory_percent": round(100 * resident / total, 2),
            "rss_bytes": float(resident),
            "host_cpu_percent": host,
            "host_memory_percent": round(100 * (total - available) / total, 2),
            "load1": os.getloadavg()[0],
        }

    def _percentages(self) -> tuple[float, float]:
        now = time.monotonic()
        if now - self._taken < SHORTEST:
            return self._cpu
        used, (busy, total) = time.process_time(), _cpu()
        host = 100 * (busy - self._host[0]) / max(total - self._host[1], 1)
        process = 100 * (used - self._process) / (now - self._taken)
        self._taken, self._process, self._host = now, used, (busy, total)
        self._cpu = (round(min(process, 100.0), 2), round(min(max(host, 0.0), 100.0), 2))
        return self._cpu


def _cpu() -> tuple[int, int]:
    """Return the busy ticks and all ticks of all cores; iowait counts as idle."""
    ticks = [int(tick) for tick in _read("/proc/stat").partition("\n")[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _memory() -> tuple[int, int]:
    """Return the machine's total and available memory, in bytes."""
    lines = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, available


def _read(path: str) -> str:
    """Return the beginning of a file in /proc."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.pread(file, 4096, 0).decode()
    finally:
        os.close(file)


def _head(name: str, kind: str, text: str) -> str:
    """Return the header lines of a family; counters have the suffix `_total`."""
    shown = {"counter": f"{name}_total", "info": f"{name}_info"}.get(kind, name)
    kind = {"info": "gauge", "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}.get(kind, kind)
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {shown} {text}\n# TYPE {shown} {kind}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
