"""What every command gets: the configuration, a connection, a way to print, and the exit code of a result."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
import uvloop

from agentd.bus.jetstream import Bus
from agentd.config import load as configuration
from agentd.errors import BusError, TemporaryError, UsageError
from agentd.plugins import manager
from agentd.printable import as_json, printable
from agentd.safety import freeze
from agentd.telemetry import logs
from agentd.wire.codec import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from agentd.config.load import Config
    from agentd.plugins.workflow_files import Reader
    from agentd.wire.workflow import Workflow

T = TypeVar("T")
CONNECT = 5.0
"""Seconds that a command waits for NATS."""
EXIT_CODES = {
    "completed": 0,
    "completed_with_warnings": 0,
    "cancelled": 3,
    "compensated": 1,
    "rejected": 65,
    "conflict": 65,
    "expired": 65,
}


@dataclass(frozen=True)
class App:
    """What every command gets: where the configuration lies, and how to print."""

    path: Path | None
    as_json: bool

    def config(self) -> Config:
        """Read the configuration; raises ConfigError."""
        return configuration.load(self.path, os.environ, manager.installed())

    def reader(self) -> Reader:
        """Return what reads workflow files; raises ConfigError."""
        return manager.Plugins(self.config(), set(manager.installed())).reader()

    @contextlib.asynccontextmanager
    async def bus(self, *, admin: bool = False) -> AsyncIterator[tuple[Bus, Config]]:
        """Connect to NATS as the principal of this machine; raises BusUnavailable after a few seconds."""
        config = self.config()
        bus = Bus(config.bus, config.principal, logs.get_logger())
        await bus.connect(wait=CONNECT, login=config.bus.admin_login() if admin else None)
        try:
            yield bus, config
        finally:
            await bus.close()

    def show(self, value: object, table: str) -> None:
        """Print `value` as JSON, or as the table of that name."""
        if self.as_json:
            click.echo(as_json(plain(value), indent=2))
        else:
            from agentd.cli import tables

            tables.show(table, value)


async def say_frozen(app: App, bus: Bus) -> None:
    """Say on the error output that the network is frozen, if it is; one that cannot be asked is no reason to stop."""
    try:
        found = await freeze.read(bus)
    except BusError as error:
        click.echo(printable(f"whether the network is frozen is not known: {error}"), err=True)
        return
    if found is not None and not app.as_json:
        click.secho(printable(f"The network is {freeze.say(found)}"), fg="cyan", bold=True, err=True)


def leave(app: App, state: Workflow) -> NoReturn:
    """Show what was asked for, and end: with 75 while somebody has to approve it, else as it ended."""
    app.show(state, "asked")
    sys.exit(TemporaryError.exit_code if not state.over else EXIT_CODES.get(state.status, 1))


passes = click.make_pass_decorator(App)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on uvloop."""
    return uvloop.run(work)


def parameters_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `KEY=VALUE` arguments as parameters; a value that is JSON is taken as JSON, else as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            message = f"{pair!r} is not KEY=VALUE"
            raise UsageError(message)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
