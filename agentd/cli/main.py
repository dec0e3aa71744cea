"""The command line: parse, run, turn an error into one line and an exit code.

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 cancelled · 65 rejected · 69 NATS not reachable · 75 not finished
yet, or restart required · 77 not allowed · 78 the configuration is wrong.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from agentd.cli import completion
from agentd.cli.context import (
    App,
    Group,
    exit_with_state,
    parse_parameters,
    passes,
    run_async,
    warn_if_frozen,
    with_login,
)
from agentd.errors import AgentdError, NeedsPlan, NoResponder, UsageError
from agentd.printable import printable
from agentd.similar import suggestion
from agentd.version import __version__

if TYPE_CHECKING:
    from agentd.wire.announcements import AgentRegistration, ControlReply
    from agentd.wire.messages import ToolReply
    from agentd.wire.workflow import Workflow

CONFIG: Final = "Default: $AGENTD_CONFIG, else ~/.config/agentd/agentd.toml, else /etc/agentd/agentd.toml."
COLLECTIONS: Final = (20_000, 50, 50)
"""Arguments of gc.set_threshold in daemons; Python's default of 700 is meant for short scripts."""
WORKFLOWS: Final = [
    "submit",
    "watch",
    "workflows",
    "show",
    "cancel",
    "pause",
    "resume",
    "approve",
    "reject",
    "retry",
    "schedules",
]
LAZY_COMMANDS: Final = {
    "config": "agentd.cli.setup.config",
    "dead-letters": "agentd.cli.records.dead_letters",
    "audit": "agentd.cli.records.audit",
    "export": "agentd.cli.records.export",
    "backup": "agentd.cli.setup.backup",
    "restore": "agentd.cli.setup.backup",
    "undo": "agentd.cli.undo",
    "permissions": "agentd.cli.setup.permissions",
    "nkey": "agentd.cli.setup.permissions",
    "freeze": "agentd.cli.freeze",
    "thaw": "agentd.cli.freeze",
    "tools": "agentd.cli.tools",
    "explain": "agentd.cli.explain",
    "mcp": "agentd.cli.mcp",
    "alerts": "agentd.cli.records.alerts",
    "checks": "agentd.cli.records.alerts",
    **dict.fromkeys(WORKFLOWS, "agentd.cli.workflows"),
}
"""Commands that have their own file; the file is imported when one of its commands is used."""


def _as_json(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - as click calls it
    if value and isinstance(context.obj, App):
        context.obj = dataclasses.replace(context.obj, as_json=True)


def _with_json(command: click.Command) -> click.Command:
    """Accept `--json` also after a command, and after each command of a group."""
    if not any("--json" in option.opts for option in command.params):
        text = "Print JSON instead of tables."
        command.params.append(
            click.Option(["--json"], is_flag=True, expose_value=False, is_eager=True, callback=_as_json, help=text)
        )
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _with_json(subcommand)
    return command


class Commands(Group):
    """The commands of this file, and those of LAZY_COMMANDS, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *LAZY_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command `cmd_name`, None if it does not exist."""
        if cmd_name not in LAZY_COMMANDS:
            command = super().get_command(ctx, cmd_name)
            return None if command is None else _with_json(command)
        imported: click.Command = getattr(importlib.import_module(LAZY_COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        return _with_json(imported)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentd")
@click.option("--config", "path", type=click.Path(path_type=Path), help=CONFIG)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def cli(context: click.Context, path: Path | None, *, as_json: bool) -> None:
    """Run durable workflows on a Proxmox VE cluster."""
    from agentd.telemetry import logs

    logs.configure("error", "console")
    context.obj = App(path, as_json)


cli.add_command(completion.completion)


# -- daemons -------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("instance", shell_complete=completion.instances)
@passes
def run(app: App, instance: str) -> None:
    """Run the daemon INSTANCE in the foreground.

    INSTANCE is the role of an installed plugin, such as orchestrator, or a section [instances.INSTANCE] of the
    configuration.
    """
    from agentd.daemon.supervisor import Supervisor
    from agentd.telemetry import logs

    config = app.config()
    logs.configure(config.log.level, config.log.format)
    supervisor = Supervisor(config, instance, reload=app.config)
    # Loaded modules are never freed: scanning them and every open workflow in each collection took a sixth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)
    code = run_async(supervisor.run())
    if supervisor.restarting and not code and not os.environ.get("NOTIFY_SOCKET"):
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - this command again; systemd starts its services by itself
    sys.exit(code)


@cli.command()
@click.option("--state", type=click.Path(path_type=Path), help="Directory for the data of NATS and agentd.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=4222,
    show_default=True,
    help="Port of the nats-server that is started.",
)
@click.option(
    "--nats-server", type=click.Path(path_type=Path), help="nats-server binary to use instead of the bundled one."
)
@click.option("--nats-server-sha256", help="SHA-256 of that binary, checked before it is started.")
@passes
def up(app: App, state: Path | None, port: int, nats_server: Path | None, nats_server_sha256: str | None) -> None:
    """Run every role in one process, with an embedded nats-server."""
    from agentd.cli.setup import demo
    from agentd.cli.setup import nats_server as cli_nats_server

    if (nats_server is None) != (nats_server_sha256 is None):
        raise click.UsageError("--nats-server and --nats-server-sha256 go together")
    binary = cli_nats_server.Binary(nats_server, nats_server_sha256 or "") if nats_server else None
    sys.exit(demo.up(app.config(), state, port, binary))


@cli.command(name="demo")
@click.option("--once", is_flag=True, help="Exit when the workflow has ended.")
@click.option("--state", type=click.Path(path_type=Path), help="Directory for the data of the demo.")
@passes
def demo_command(app: App, state: Path | None, *, once: bool) -> None:
    """Deploy one VM on a simulated Proxmox, shown live."""
    from agentd.cli.setup import demo

    del app
    sys.exit(demo.demo(state, once=once))


@cli.command()
@passes
def provision(app: App) -> None:
    """Create missing streams, buckets, consumers and schedules.

    Uses the credentials of [bus.admin]. The schedules are those of [schedules].
    """
    from agentd import schedules
    from agentd.bus.setup import provision as provisioning
    from agentd.cli.output import tables
    from agentd.plugins import manager

    async def work() -> list[str]:
        async with app.bus(admin=True) as (bus, config):
            made = await provisioning.provision(bus, services, config.bus.queues)
            return made + await schedules.provision(bus, config.schedules)

    checked = app.config()
    plugins = manager.every_plugin(checked)
    services = plugins.services()
    if checked.schedules:
        schedules.check(checked, plugins.workflows())

    app.show(run_async(work()) or ["everything is there"], tables.lines)


@cli.command()
@click.option(
    "--roles", is_flag=True, help="Only print the commands that create Proxmox roles with the least privileges."
)
@click.option(
    "--grants", is_flag=True, help="With --roles: include Permissions.Modify, which lets tools grant any role."
)
@click.option("--instance", help="Check with the login of this agent on this node, such as orchestrator.")
@passes
def doctor(app: App, *, instance: str | None, roles: bool, grants: bool) -> None:
    """Check NATS, permissions, clocks, certificates and Proxmox.

    Each finding says what to do. Exit code 1 if a check fails.
    """
    from agentd.cli.output import tables
    from agentd.cli.setup import doctor as examination
    from agentd.telemetry import logs

    if roles:
        app.show(run_async(examination.roles(app.config(), grants=grants)), tables.lines)
        return
    findings = run_async(examination.run_checks(with_login(app.config()), logs.get_logger(), instance))
    app.show(findings, tables.findings)
    sys.exit(0 if all(finding.good for finding in findings) else 1)


@cli.command()
@click.argument("principal")
@passes
def token(app: App, principal: str) -> None:
    """Create an HTTP and MCP token for PRINCIPAL.

    The token is shown once and not stored. Put the printed digest into [web.tokens] of the daemons that have to accept
    the token.
    """
    from agentd.cli.output import tables
    from agentd.safety import tokens
    from agentd.wire.names import check_id

    new_token, digest = tokens.new_token()
    found = {"principal": check_id(principal, "principal"), "token": new_token, "digest": digest}
    lines = [
        f"token    {new_token}",
        "add to the configuration of each daemon that must accept the token:",
        "[web.tokens]",
    ]
    app.show([*lines, f'{principal} = "{digest}"'], tables.lines, found)


# -- agents and tools ----------------------------------------------------------------------------------------------


@cli.command()
@passes
def agents(app: App) -> None:
    """List the agents that are running."""
    from agentd.cli.output import tables
    from agentd.client import queries

    async def work() -> list[AgentRegistration]:
        async with app.bus() as (bus, _):
            await warn_if_frozen(app, bus)
            return await queries.agents(bus)

    app.show(run_async(work()), tables.agents)


@cli.command()
@click.argument("agent_id", metavar="AGENT", shell_complete=completion.agents)
@passes
def drain(app: App, agent_id: str) -> None:
    """Drain an agent: finish the running work, then stop.

    The agent takes no new work. systemd may start it again after it has stopped. Uses the credentials of [bus.admin].
    """
    from agentd.cli.output import tables
    from agentd.client import queries, requests

    async def work() -> ControlReply:
        async with app.bus(admin=True) as (bus, _):
            try:
                return await requests.control_agent(bus, agent_id, "drain")
            except NoResponder:
                running = [agent.agent_id for agent in await queries.agents(bus)]
                hint = suggestion(agent_id, running, listed="`agentd agents` lists them")
                raise UsageError(f"there is no running agent {agent_id!r}{hint}") from None

    app.show(run_async(work()), tables.control)


@cli.command()
@click.argument("tool", shell_complete=completion.tools)
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--key", default="", help="Key of the call, <word>.<word>[.<word>]; repeating it returns the first result."
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for the result.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@passes
def call(app: App, tool: str, pairs: tuple[str, ...], key: str, timeout: float, *, dry_run: bool) -> None:  # noqa: PLR0913
    """Call a tool: agentd call list_guests node=pve1.

    A call of tier destroy or exec becomes a plan that a second principal has to approve.
    """
    from agentd.cli.output import tool_tables
    from agentd.client import requests, tool_calls
    from agentd.wire.messages import ToolReply

    parameters = parse_parameters(pairs)

    async def work() -> ToolReply | Workflow:
        async with app.bus() as (bus, config):
            note = (lambda _text: None) if app.as_json else (lambda text: click.echo(f"  {printable(text)}", err=True))
            try:
                return await tool_calls.call(
                    bus, config.principal, tool, parameters, seconds=timeout, key=key, dry_run=dry_run, progress=note
                )
            except NeedsPlan:
                return await requests.plan(bus, config.principal, tool, parameters)

    found = run_async(work())
    if isinstance(found, ToolReply):
        app.show(found, tool_tables.preview if found.dry_run else tool_tables.reply)
        return
    exit_with_state(app, found)


def _wrong_usage(error: click.UsageError) -> NoReturn:
    """Print the error first, then the usage of the command; exit with code 2."""
    click.echo(printable(f"agentd: {error.format_message()}", lines=True), err=True)
    if error.ctx is not None and not isinstance(error.ctx.command, click.Group):
        click.echo(f"{error.ctx.get_usage()}\n`{error.ctx.command_path} --help` explains it", err=True)
    sys.exit(error.exit_code)


def _open_closed_streams() -> None:
    """Open /dev/null for closed standard streams, so that no socket gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
            assert null == number  # noqa: S101


def main() -> NoReturn:
    """Run a command; print an expected error as one line and exit with its code."""
    _open_closed_streams()
    try:
        try:
            cli(standalone_mode=False)
        finally:
            sys.stdout.flush()
    except AgentdError as error:
        click.echo(printable(f"agentd: {error}", lines=True), err=True)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        _wrong_usage(error)
    except click.ClickException as error:
        click.echo(printable(f"agentd: {error.format_message()}", lines=True), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("agentd: interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        click.echo(printable(f"agentd: {error.strerror or error}{where}"), err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would flush it once more, and report that error too
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
