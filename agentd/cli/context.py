"""What commands share: configuration, connection, output, exit codes.

Modules that need long to import are imported where they are used: completion and `--help` do not need them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from agentd.errors import BusError, TemporaryError, UsageError
from agentd.printable import as_json, printable
from agentd.similar import suggestion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from agentd.bus.jetstream import Bus
    from agentd.config.load import Config
    from agentd.plugins.workflow_files import Reader
    from agentd.wire.workflow import Workflow

T = TypeVar("T")
V = TypeVar("V")
CONNECT: Final = 5.0
"""Seconds that a command waits for the connection to NATS."""
KEYS: Final = "keys"
"""The folder in the state directory with the NKeys of all NATS users, USER.nk."""
EXIT_CODES: Final = {
    "completed": 0,
    "completed_with_warnings": 0,
    "cancelled": 3,
    "compensated": 1,
    "rejected": 65,
    "conflict": 65,
    "expired": 65,
}


def default_state(name: str) -> Path:
    """Return the default state directory of this user for the command `name`."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "agentd" / name


class Group(click.Group):
    """A group of commands that offers the nearest names for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names; raises click.UsageError."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            hint = suggestion(name, self.list_commands(ctx), listed=f"`{ctx.command_path} --help` lists them", shown=6)
            ctx.fail(f"there is no command {name!r}{hint}")
        return super().resolve_command(ctx, args)


@dataclass(frozen=True)
class App:
    """The object that click passes to commands: configuration path, output format."""

    path: Path | None
    as_json: bool

    def config(self) -> Config:
        """Read and check the configuration; raises ConfigError."""
        from agentd.config import load as configuration
        from agentd.plugins import manager

        return configuration.load(self.path, os.environ, manager.installed())

    def reader(self) -> Reader:
        """Return the reader of workflow files; raises ConfigError if no plugin offers one."""
        from agentd.plugins import manager

        return manager.every_plugin(self.config()).reader()

    @contextlib.asynccontextmanager
    async def bus(self, *, admin: bool = False, wait: float = CONNECT) -> AsyncIterator[tuple[Bus, Config]]:
        """Connect as the configured principal; raises BusUnavailable after `wait` s.

        admin  use the credentials of [bus.admin]
        """
        from agentd.bus.jetstream import Bus
        from agentd.telemetry import logs

        config = with_login(self.config())
        bus = Bus(config.bus, config.principal, logs.get_logger())
        await bus.connect(wait=wait, login=config.bus.admin_login() if admin else None)
        try:
            yield bus, config
        finally:
            await bus.close()

    def show(self, value: V, table: Callable[[V], None], data: object = None) -> None:
        """Print `value` by `table`.

        With --json print `data`, or `value` if `data` is None.
        """
        if self.as_json:
            from agentd.wire.codec import plain

            click.echo(as_json(plain(value if data is None else data), indent=2))
        else:
            table(value)


def with_login(config: Config) -> Config:
    """Return the configuration, with the keys of `agentd up` if it names no login."""
    bus = config.bus
    keys = default_state("up") / KEYS
    if bus.user or bus.nkey_file or bus.nkey_dir or bus.creds_file or not (keys / f"{config.principal}.nk").exists():
        return config
    return config.model_copy(update={"bus": bus.model_copy(update={"nkey_dir": str(keys)})})


async def warn_if_frozen(app: App, bus: Bus) -> None:
    """Print a note on standard error if the network is frozen, or if that is unknown."""
    from agentd.safety import freeze

    try:
        found = await freeze.read(bus)
    except BusError as error:
        click.echo(printable(f"whether the network is frozen is not known: {error}"), err=True)
        return
    if found is not None and not app.as_json:
        click.secho(printable(f"The network is {freeze.describe(found)}"), fg="cyan", bold=True, err=True)


def exit_with_state(app: App, state: Workflow) -> NoReturn:
    """Show the workflow and exit: 75 while it waits for an approval, else its code."""
    from agentd.cli.output import tables

    app.show(state, tables.waiting_approvals)
    sys.exit(TemporaryError.exit_code if not state.over else EXIT_CODES.get(state.status, 1))


passes = click.make_pass_decorator(App)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on uvloop."""
    import uvloop

    return uvloop.run(work)


def parse_parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `KEY=VALUE` arguments as parameters; a value is JSON, else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{pair!r} is not KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
