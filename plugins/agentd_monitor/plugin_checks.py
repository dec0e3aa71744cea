"""Runs the checks that plugins add: each at its interval, with a time limit, and without harm to the others."""

from __future__ import annotations

import asyncio
import inspect
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Finding, Level
from agentd_monitor.alerting.book import AlertRule
from agentd_monitor.alerting.state import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from agentd import Check

GROUP: Final = "plugin"
MOST: Final = 1000
"""Maximum number of findings of one check."""
ADVICE: Final = "See the log of the plugin that brings this check."


class PluginChecks:
    """The checks of plugins, and their last findings.

    problems  why checks are left out
    """

    def __init__(self, checks: Iterable[Check], taken: Collection[str]) -> None:
        """Use `checks` but for those whose name is `taken`."""
        self.problems: list[str] = []
        self._findings: dict[str, list[Finding]] = {}
        self._checks: dict[str, Check] = {}
        for check in checks:
            if check.name in taken or check.name in self._checks:
                self.problems.append(f"the check {check.name!r} of a plugin is left out: there is one of that name")
            else:
                self._checks[check.name] = check

    def __bool__(self) -> bool:
        """Return whether there is a check."""
        return bool(self._checks)

    def rules(self) -> list[AlertRule]:
        """Return the rules of their alerts."""
        return [
            AlertRule(Rule(name, check.pending_for, check.keep_firing_for, stale_after=4 * check.every + 60), GROUP)
            for name, check in self._checks.items()
        ]

    def findings(self) -> list[Finding]:
        """Return the last findings of all checks."""
        return [finding for found in self._findings.values() for finding in found]

    async def run(self) -> None:
        """Run the checks until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for check in self._checks.values():
                group.create_task(self._repeat(check), name=f"check {check.name}")

    async def _repeat(self, check: Check) -> None:
        running: asyncio.Future[Any] | None = None
        while True:
            if running is None or running.done():
                running = _start(check.run)
                running.add_done_callback(_retrieve)
            try:
                async with asyncio.timeout(check.timeout):
                    found = await asyncio.shield(running)
                self._findings[check.name] = _checked(check, found)
            except TimeoutError:
                if inspect.iscoroutinefunction(check.run):
                    running.cancel()
                self._findings[check.name] = _unknown(check, f"no result within {check.timeout:g} s")
            except Exception as error:  # noqa: BLE001 - a check comes from a foreign plugin
                self._findings[check.name] = _unknown(check, f"the check failed: {error!r}")
            await asyncio.sleep(check.every)


def _start(run: Callable[[], Any]) -> asyncio.Future[Any]:
    """Start a check.

    A plain function runs in a thread of its own, which may hang without holding anything up.
    """
    loop = asyncio.get_running_loop()
    if inspect.iscoroutinefunction(run):
        return loop.create_task(run())
    result: asyncio.Future[Any] = loop.create_future()

    def end(found: object, error: Exception | None) -> None:
        if result.cancelled():
            return
        if error is None:
            result.set_result(found)
        else:
            result.set_exception(error)

    def work() -> None:
        found, failed = None, None
        try:
            found = run()
        except Exception as error:  # noqa: BLE001 - passed on
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, found, failed)

    Thread(target=work, daemon=True, name="check").start()
    return result


def _retrieve(result: asyncio.Future[Any]) -> None:
    """Retrieve the error of a check that failed after its time was over."""
    if not result.cancelled():
        result.exception()


def _checked(check: Check, found: object) -> list[Finding]:
    """Return the findings under the name of their check.

    Raises TypeError for anything else.
    """
    if not isinstance(found, list) or not all(isinstance(finding, Finding) for finding in found):
        raise TypeError(f"{check.name} returned no list of findings")
    return [msgspec.structs.replace(finding, check=check.name) for finding in found[:MOST]]


def _unknown(check: Check, reason: str) -> list[Finding]:
    return [Finding(check.name, {}, Level.UNKNOWN, f"not known: {reason}", ADVICE)]
