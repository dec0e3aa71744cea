"""Fixtures of all tests: the facts that were recorded from the real Proxmox, servers, and what a test may not do."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from blockbuster import BlockBuster, blockbuster_ctx

from agentd.plugins import manager
from agentd.telemetry import logs
from harness import NatsServer, Net
from pve.client import FakePve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

OURS = ["agentd", *(entry.value for entry in manager.installed().values())]

EARLIER = 10.0
"""Seconds before pytest-timeout's bound at which a test that waits is cancelled."""

pytest_plugins = ["project.ci_skips"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cancel a test that waits for too long: it alone fails, while pytest-timeout's thread would end the whole run."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            mark = item.get_closest_marker("timeout")
            given = item.config.getoption("timeout")
            limit = float(mark.args[0] if mark else item.config.getini("timeout") if given is None else given)
            item.obj = _bounded(item.obj, limit - EARLIER if limit else None)


def _bounded(test: Callable[..., Awaitable[None]], seconds: float | None) -> Callable[..., Awaitable[None]]:
    """Return the test with a bound of its own."""

    @functools.wraps(test)
    async def bounded(*args: object, **named: object) -> None:
        scope = asyncio.timeout(seconds)
        try:
            async with scope:
                await test(*args, **named)
        except TimeoutError:
            if not scope.expired():
                raise
        if (
            scope.expired()
        ):  # reported here and without a traceback: pytest cannot show that of a thousand tasks at once
            pytest.fail(f"not over after {seconds:.0f} s", pytrace=False)

    return bounded


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on the loop that daemons run on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which code of ours blocks the event loop; the test itself may."""
    with blockbuster_ctx(OURS) as active:
        # Coverage guards its data by a lock of its own, which it takes wherever a new thread or file begins.
        active.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        # The modules with tools are listed when they are imported, and the import system reads files, too.
        active.functions["os.listdir"].can_block_in("agentd_proxmox/areas.py", "_areas")
        yield active


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a test has configured of the log: a command that runs in this process would silence later tests."""
    yield
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if type(handler).__module__ == logs.__name__]
    if ours:
        logs.configure("info", "json", env={})
        root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ != logs.__name__]


@pytest.fixture(scope="session")
def facts() -> Path:
    """Return the folder of recorded facts about Proxmox; they are not part of the project."""
    folder = Path(os.environ.get("AGENTD_FACTS", "../shared"))
    if not (folder / "pve" / "recorded").is_dir():
        pytest.skip("no recorded facts here: set AGENTD_FACTS")
    return folder


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Run a nats-server of the test's own."""
    with NatsServer(tmp_path) as server:
        yield server


@pytest.fixture
def pve(tmp_path: Path) -> Iterator[FakePve]:
    """Run a simulated Proxmox VE of the test's own: three nodes, storages, a template, some guests."""
    with FakePve(directory=tmp_path / "pve") as simulator:
        yield simulator


@pytest.fixture
def net(tmp_path: Path, nats_server: NatsServer, pve: FakePve) -> Net:
    """Return the configuration of a network on this NATS and this Proxmox, with exact permissions."""
    return Net(tmp_path, nats_server.url, pve, exact=True)
