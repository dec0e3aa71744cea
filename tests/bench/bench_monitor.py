"""What monitoring a cluster costs: scrape time, API calls a minute, memory and CPU, beside prometheus-pve-exporter.

Both read the same simulator in the same run, one after the other.  AGENTD_PVE_EXPORTER_PYTHON names an interpreter
with prometheus-pve-exporter 3.10.2 in an environment of its own; without it only the monitor is measured.  The exporter
reads the API in each scrape, so that its calls and its CPU follow from the interval of Prometheus, here 15 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from bench.systems import cpu_seconds, provisioned, rss
from harness import NatsServer, Net, free_port, until
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.conftest import Figures

EXPORTER = os.environ.get("AGENTD_PVE_EXPORTER_PYTHON", "")
SIZES = ((3, 100), (16, 1000), (40, 10_000))
"""Nodes and guests."""
SETTLE = 60.0
"""Seconds until every source that is read each minute was read."""
MEASURED = 60.0
SCRAPES = 20
EXPORTER_SCRAPES = 4
INTERVAL = 15.0
"""Seconds between two scrapes of Prometheus."""


def cluster(directory: Path, nodes: int, guests: int) -> str:
    """Write the description of a cluster, half of whose guests run; return its path."""
    names = [f"pve{number + 1}" for number in range(nodes)]
    described = {
        "name": "lab",
        "nodes": [{"name": name, "maxcpu": 64, "maxmem": 2**40} for name in names],
        "guests": [
            {
                "type": "lxc" if number % 4 == 0 else "qemu",
                "vmid": 100 + number,
                "name": f"guest-{number}",
                "node": names[number % nodes],
                "status": "running" if number % 2 else "stopped",
                "config": {"cores": 1, "memory": 512, "hostname" if number % 4 == 0 else "ostype": "l26"},
            }
            for number in range(guests)
        ],
    }
    path = directory / "cluster.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return str(path)


def get(url: str) -> tuple[float, int]:
    """Return the seconds that a request took, and the size of the response."""
    begun = time.perf_counter()
    with urllib.request.urlopen(url, timeout=120) as answer:  # noqa: S310 - loopback
        size = len(answer.read())
    return time.perf_counter() - begun, size


def calls(pve: FakePve, since: int) -> tuple[int, int]:
    """Return the number of requests to the simulator after number `since`, and the last number."""
    last = max((request["n"] for request in pve.log(since=since)), default=since)
    return last - since, last


@contextlib.contextmanager
def exporter(directory: Path, pve: FakePve) -> Iterator[tuple[int, str]]:
    """Run prometheus-pve-exporter; yield its process id and the address of a scrape."""
    login, _, secret = pve.tokens["full"].partition("=")
    user, _, name = login.partition("!")
    file, port = directory / "exporter.yml", free_port()
    login_lines = {"user": user, "token_name": name, "token_value": secret, "verify_ssl": False}
    file.write_text(json.dumps({"default": login_lines}), encoding="utf-8")
    program = Path(EXPORTER).with_name("pve_exporter")
    options = ["--config.file", str(file), "--web.listen-address", f"127.0.0.1:{port}"]
    with (directory / "exporter.log").open("wb") as log:
        running = subprocess.Popen([EXPORTER, str(program), *options], stdout=log, stderr=log)
    target = pve.url.removeprefix("https://")
    url = f"http://127.0.0.1:{port}/pve?target={target}&cluster=1&node=1"
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/"), "the exporter answers")
        yield running.pid, url
    finally:
        running.kill()
        running.wait()


def _answers(url: str) -> bool:
    try:
        get(url)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("nodes", "guests"), SIZES)
def test_monitor(nodes: int, guests: int, tmp_path: Path, figures: Figures) -> None:
    """A scrape is answered from the cache; the calls to a node stay below ten a minute."""
    where = f"{nodes} nodes, {guests} guests"
    with FakePve(cluster=cluster(tmp_path, nodes, guests), directory=tmp_path / "pve") as pve:
        with NatsServer(tmp_path) as server:
            _measure_monitor(where, Net(tmp_path, server.url, pve), pve, figures, nodes)
        if EXPORTER:
            _measure_exporter(where, tmp_path, pve, figures)


def _measure_monitor(where: str, net: Net, pve: FakePve, figures: Figures, nodes: int) -> None:
    net.settings["log"]["level"] = "info"
    port = free_port()
    net.settings["instances"]["monitor"] = {"roles": ["monitor"], "port": port}
    asyncio.run(provisioned(net))
    with net.daemon("monitor", ("monitor",), AGENTD_TEST_BLOCKBUSTER="", PYTHONPATH="") as daemon:
        daemon.start()
        daemon.ready()
        assert daemon.process is not None
        pid = daemon.process.pid
        time.sleep(SETTLE)
        _, before = calls(pve, 0)
        cpu, begun = cpu_seconds(pid), time.monotonic()
        time.sleep(MEASURED)
        seconds = time.monotonic() - begun
        idle = 100 * (cpu_seconds(pid) - cpu) / seconds
        made, _ = calls(pve, before)
        scraped = [get(f"http://127.0.0.1:{port}/metrics") for _ in range(SCRAPES)]
        figures.add(f"{where}: monitor, scrape", 1000 * median(took for took, _ in scraped), "ms")
        figures.add(f"{where}: monitor, size of a scrape", scraped[-1][1] / 1024, "KiB")
        figures.add(f"{where}: monitor, API calls a minute and node", made * 60 / seconds / nodes, "", at_most=10)
        figures.add(f"{where}: monitor, memory", rss(pid), "MiB")
        figures.add(f"{where}: monitor, CPU without scrapes", idle, "% of a core")


def _measure_exporter(where: str, directory: Path, pve: FakePve, figures: Figures) -> None:
    with exporter(directory, pve) as (pid, url):
        get(url)
        _, before = calls(pve, 0)
        cpu = cpu_seconds(pid)
        scraped = [get(url) for _ in range(EXPORTER_SCRAPES)]
        made, _ = calls(pve, before)
        used = (cpu_seconds(pid) - cpu) / EXPORTER_SCRAPES
        minutes = 60 / INTERVAL
        figures.add(f"{where}: exporter, scrape", 1000 * median(took for took, _ in scraped), "ms")
        figures.add(f"{where}: exporter, size of a scrape", scraped[-1][1] / 1024, "KiB")
        figures.add(f"{where}: exporter, API calls a minute of one target", made / EXPORTER_SCRAPES * minutes, "")
        figures.add(f"{where}: exporter, memory", rss(pid), "MiB")
        figures.add(f"{where}: exporter, CPU", 100 * used / INTERVAL, "% of a core")
