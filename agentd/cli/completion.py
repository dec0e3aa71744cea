"""Shell completion of commands, tools, workflow types, ids, agents and codes.

click's script calls agentd again for each completion.  Names that only the network knows are read from it; any failure
means no completion: an error message in the middle of a typed line helps no user.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import get_completion_class

from agentd.cli.context import App, run_async
from agentd.errors import UsageError
from agentd.similar import suggestion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentd.bus.jetstream import Bus

DEADLINE: Final = 1.0
"""Seconds that one completion waits for the connection, and then for what it reads; imports do not count."""
WORD: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*")
"""The names that are offered: the shell would interpret other characters, and other agents choose names."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    r"""Print the script for completion in SHELL.

    \b
    bash  agentd completion bash > /etc/bash_completion.d/agentd
    zsh   agentd completion zsh > "${fpath[1]}/_agentd"
    fish  agentd completion fish > ~/.config/fish/completions/agentd.fish

    Start a new shell afterwards. For one shell only: eval "$(agentd completion bash)". Tools, ids and agents are read
    from the network; none is offered if NATS does not answer within 1 s.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "agentd", "_AGENTD_COMPLETE").source())


def tools(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the tools that the running agents offer."""
    from agentd.client import queries

    async def read(bus: Bus) -> Iterable[str]:
        return [tool for service in await queries.services(bus) for tool in service.tools]

    return _from_network(context, begun, read)


def agents(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the ids of the running agents."""
    from agentd.client import queries

    async def read(bus: Bus) -> Iterable[str]:
        return [agent.agent_id for agent in await queries.agents(bus)]

    return _from_network(context, begun, read)


def workflow_ids(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the ids of all workflows."""
    from agentd.client import requests

    async def read(bus: Bus) -> Iterable[str]:
        return await requests.workflow_ids(bus)

    return _from_network(context, begun, read)


def schedules(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the schedules of the configuration."""
    return _silently(begun, lambda: _app(context).config().schedules)


def workflow_types(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the workflow types that this machine knows."""

    def read() -> Iterable[str]:
        from agentd.plugins import manager

        return manager.every_plugin(_app(context).config()).workflows()

    return _silently(begun, read)


def instances(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """Return the instances of the configuration, and the roles that are installed."""

    def read() -> Iterable[str]:
        config = _app(context).config()
        return [*config.instances, *config.known_plugins]

    return _silently(begun, read)


def statuses(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the statuses that a workflow can have."""
    from agentd.wire.workflow import Status

    return _silently(begun, lambda: Status)


def known_status(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the value of `--status`; raises UsageError if it is no workflow status."""
    from agentd.wire.workflow import Status

    if value and value not in set(Status):
        raise UsageError(f"--status: unknown {value!r}{suggestion(value, Status)}")
    return value


STATUS: Final = click.option(
    "--status",
    shell_complete=statuses,
    callback=known_status,
    help="Only workflows with this status, such as failed.",
)


def codes(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Return the codes that `agentd explain` knows."""
    from agentd.cli.explain import explanations

    return _silently(begun, explanations)


def _app(context: click.Context) -> App:
    """Return the app of the command line that is completed; no callback has run."""
    return App(context.find_root().params.get("path"), as_json=False)


def _from_network(context: click.Context, begun: str, read: Callable[[Bus], Awaitable[Iterable[str]]]) -> list[str]:
    async def work() -> Iterable[str]:
        async with _app(context).bus(wait=DEADLINE) as (bus, _), asyncio.timeout(DEADLINE):
            return await read(bus)

    def found() -> Iterable[str]:
        from agentd.telemetry import logs

        logs.configure("critical", "console")
        return run_async(work())

    return _silently(begun, found)


def _silently(begun: str, read: Callable[[], Any]) -> list[str]:
    """Return the names that begin with `begun`, sorted; none if they cannot be read."""
    try:
        names = {str(name) for name in read()}
    except Exception:  # noqa: BLE001 - every kind of failure means that nothing is offered
        return []
    return sorted(name for name in names if name.startswith(begun) and WORD.fullmatch(name))
