"""The checks of plugins: none of them harms another, and what cannot be checked is unknown."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest

from agentd import Check, Finding, Level
from agentd_monitor.plugin_checks import PluginChecks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def checking(*runs: Callable[[], Any], limit: float = 5) -> AsyncIterator[PluginChecks]:
    """Run checks with the names check0, check1, …, fifty times a second."""
    checks = PluginChecks([Check(f"check{n}", "", run, every=0.02, timeout=limit) for n, run in enumerate(runs)], ())
    running = asyncio.create_task(checks.run())
    try:
        async with asyncio.timeout(10):
            while len({finding.check for finding in checks.findings()}) < len(runs):  # noqa: ASYNC110 - they run
                await asyncio.sleep(0.01)
        yield checks
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def levels(checks: PluginChecks) -> dict[str, Level]:
    """Return the level of each check."""
    return {finding.check: finding.level for finding in checks.findings()}


async def well() -> list[Finding]:
    """Find that all is well."""
    return [Finding("", {}, Level.OK, "all is well")]


def badly() -> list[Finding]:
    """Find something, in a thread."""
    return [Finding("other", {"thread": str(threading.current_thread() is threading.main_thread())}, Level.WARNING, "")]


async def test_findings() -> None:
    """A check is a coroutine function, or a function that runs in a thread; its findings have its name."""
    async with checking(well, badly) as checks:
        assert levels(checks) == {"check0": Level.OK, "check1": Level.WARNING}
        assert checks.findings()[1].labels == {"thread": "False"}


async def test_failures() -> None:
    """A check that fails or returns something else is unknown and says why; the others go on."""

    def fail() -> list[Finding]:
        raise OSError("no such device")

    async def wrong() -> Any:
        return [1]

    async with checking(fail, wrong, well) as checks:
        assert levels(checks) == {"check0": Level.UNKNOWN, "check1": Level.UNKNOWN, "check2": Level.OK}
        assert "no such device" in checks.findings()[0].text


async def test_hangs() -> None:
    """A check that hangs is unknown after its time, is not started again while it hangs, and holds up no other."""
    started: list[int] = []
    hold = threading.Event()

    def hang() -> list[Finding]:
        started.append(1)
        hold.wait(20)
        return [Finding("", {}, Level.OK, "at last")]

    async def sleep() -> list[Finding]:
        await asyncio.sleep(20)
        return []

    async with checking(hang, sleep, well, limit=0.1) as checks:
        await asyncio.sleep(0.5)
        held = levels(checks), len(started)
        hold.set()
        async with asyncio.timeout(5):
            while levels(checks)["check0"] is not Level.OK:  # noqa: ASYNC110 - it runs
                await asyncio.sleep(0.01)

    assert held == ({"check0": Level.UNKNOWN, "check1": Level.UNKNOWN, "check2": Level.OK}, 1)


@pytest.mark.parametrize("taken", [(), ("check",)])
def test_names(taken: tuple[str, ...]) -> None:
    """Of two checks with one name, the second is left out, and this is reported."""
    checks = PluginChecks([Check("check", "", well)] * 2, taken)

    assert [rule.rule.name for rule in checks.rules()] == ([] if taken else ["check"])
    assert len(checks.problems) == (2 if taken else 1)
