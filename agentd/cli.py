"""The command line: parse, load, run, turn an error into one line and an exit code.

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 cancelled · 65 rejected · 69 NATS away · 75 not over yet, or to be
started again · 77 not allowed · 78 the configuration is wrong.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
import msgspec
import uvloop

from agentd import config as configuration
from agentd import logs, plugins, subjects
from agentd.bus import Bus
from agentd.errors import AgentdError, InvalidMessage, Rejected, UsageError
from agentd.messages import WorkflowRequest, WorkflowSignal, plain, request_digest
from agentd.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from agentd.config import Config
    from agentd.definitions import Reader
    from agentd.messages import SignalReply, WorkflowResponse

T = TypeVar("T")
CONNECT = 5.0
"""Seconds that a command waits for NATS."""
PLANNED = 30.0
"""Seconds that a dry run is waited for: an orchestrator needs none of them."""
COLLECTIONS = (20_000, 50, 50)
"""Python's gc.set_threshold for daemons; its default of 700 is for short scripts."""
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
        return configuration.load(self.path, os.environ, plugins.installed())

    def reader(self) -> Reader:
        """Return what reads workflow files; raises ConfigError."""
        return plugins.Plugins(self.config(), set(plugins.installed())).reader()

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
            click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))
        else:
            from agentd import tables

            tables.show(table, value)


passes = click.make_pass_decorator(App)
ELSEWHERE = {"dead": "agentd.cli_dead", "export": "agentd.cli_export"}
"""Commands that have a file of their own, which imports this one."""


class Commands(click.Group):
    """The commands of this file, and those of others, which are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted({*super().list_commands(ctx), *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one command."""
        if cmd_name not in ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        found: click.Command = getattr(importlib.import_module(ELSEWHERE[cmd_name]), cmd_name)
        return found


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on uvloop."""
    return uvloop.run(work)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentd")
@click.option("--config", "path", type=click.Path(path_type=Path), help="Default: /etc/agentd/agentd.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.pass_context
def cli(context: click.Context, path: Path | None, *, as_json: bool) -> None:
    """Run durable work on a Proxmox VE cluster."""
    context.obj = App(path, as_json)


# -- daemons -------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("instance")
@passes
def run(app: App, instance: str) -> None:
    """Run the daemon INSTANCE: a role (orchestrator, specialist, monitor, mcp-bridge) or [instances.INSTANCE]."""
    from agentd.supervisor import Supervisor

    config = app.config()
    logs.configure(config.log.level, config.log.format)
    supervisor = Supervisor(config, instance, reload=app.config)
    # What was loaded stays: looking through it and through every open workflow again and again took a sixth of the CPU.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTIONS)
    sys.exit(run_async(supervisor.run()))


@cli.command()
@click.option("--state", type=click.Path(path_type=Path), help="Where NATS and agentd keep their data.")
@click.option("--port", default=4222, show_default=True, help="Port of the embedded nats-server.")
@passes
def up(app: App, state: Path | None, port: int) -> None:
    """Run every role in one process, with an embedded nats-server."""
    from agentd import demo

    sys.exit(demo.up(app.config(), state, port))


@cli.command(name="demo")
@click.option("--once", is_flag=True, help="End when the workflow is over.")
@click.option("--state", type=click.Path(path_type=Path), help="Where the demo keeps its data.")
@passes
def demo_command(app: App, state: Path | None, *, once: bool) -> None:
    """Deploy one VM on a simulated Proxmox, shown live."""
    from agentd import demo

    del app
    sys.exit(demo.demo(state, once=once))


@cli.command()
@click.option("--show", is_flag=True, help="Print what is in force and where it comes from; secrets are hidden.")
@passes
def check(app: App, *, show: bool) -> None:
    """Check the configuration and the plugins; nothing is started."""
    from agentd import schedules

    config = app.config()
    found = plugins.Plugins(config, set(plugins.installed()))
    for name in found.loaded():
        found.settings(name)
    schedules.check(config, found.workflows())
    if show:
        click.echo(configuration.show(config))
        return
    app.show(list(found.status.values()), "plugins")
    if any(each.status == plugins.BROKEN for each in found.status.values()):
        sys.exit(78)


@cli.command()
@passes
def provision(app: App) -> None:
    """Make the streams, buckets and consumers that are missing, put [schedules] in force; with [bus.admin]'s login."""
    from agentd import provision as provisioning
    from agentd import schedules

    async def work() -> list[str]:
        async with app.bus(admin=True) as (bus, config):
            made = await provisioning.provision(bus, *provisioning.wanted(config.bus))
            return made + await schedules.provision(bus, config.schedules)

    checked = app.config()
    if checked.schedules:
        schedules.check(checked, plugins.Plugins(checked, set(plugins.installed())).workflows())

    app.show(run_async(work()) or ["everything is there"], "lines")


@cli.command()
@click.option(
    "--roles", is_flag=True, help="Print the commands that make the least roles in Proxmox; nothing is changed."
)
@passes
def doctor(app: App, *, roles: bool) -> None:
    """Look whether NATS, its rights, the clock and Proxmox are as they must be."""
    from agentd import doctor as examination

    if roles:
        app.show(run_async(examination.roles(app.config())), "lines")
        return
    findings = run_async(examination.examine(app.config(), logs.get_logger()))
    app.show(findings, "findings")
    sys.exit(0 if all(each.good for each in findings) else 1)


# -- workflows -----------------------------------------------------------------------------------------------------


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


@cli.command()
@click.argument("workflow_type", metavar="TYPE")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--id", "workflow_id", help="Id of the workflow; sending the same one again is the same request.")
@click.option("--wait", is_flag=True, help="Show the steps and wait; the exit code is the result.")
@click.option("--timeout", type=float, help="Seconds that the workflow may take.")
@click.option("--priority", default=5, show_default=True, help="1 to 10; above 5 its tasks do not wait for others.")
@click.option("--dry-run", is_flag=True, help="Plan only, and show the plan: its graph and what each task gets.")
@passes
def submit(  # noqa: PLR0913, PLR0917 - one parameter for each option
    app: App,
    workflow_type: str,
    pairs: tuple[str, ...],
    workflow_id: str | None,
    timeout: float | None,
    priority: int,
    *,
    wait: bool,
    dry_run: bool,
) -> None:
    """Ask for a workflow: agentd submit vm_deployment name=web1 memory=2048 --wait."""
    from agentd import client

    request = WorkflowRequest(
        workflow_type=workflow_type,
        workflow_id=workflow_id or client.new_id(workflow_type),
        parameters=parameters_of(pairs),
        timeout=timeout,
        priority=priority,
        dry_run=dry_run,
    )
    _submit(app, request, wait=wait)


def _submit(app: App, request: WorkflowRequest, *, wait: bool) -> None:
    from agentd import client

    async def work() -> WorkflowResponse | None:
        async with app.bus() as (bus, config):
            mine = msgspec.structs.replace(request, requester_id=config.principal)
            await client.submit(bus, config.principal, mine)
            if request.dry_run:
                return await _planned(app, bus, request)
            if not wait:
                return None
            return await _follow(app, bus, request.workflow_id, request_digest(request))

    answer = run_async(work())
    if answer is None:
        told = {"workflow_id": request.workflow_id, "watch": f"agentd watch {request.workflow_id}"}
        app.show(told, "submitted")
    else:
        _finish(app, answer)


async def _planned(app: App, bus: Bus, request: WorkflowRequest) -> WorkflowResponse:
    """Wait for the plan of a dry run and show it; nobody is interested in the steps of what is not done."""
    from agentd import client, network
    from agentd.preview import preview

    requested = request_digest(request)
    answer = await client.follow(bus, request.workflow_id, lambda _: None, wait=PLANNED, requested=requested)
    state = await network.state(bus, request.workflow_id)
    if answer.status != "completed" or state is None:
        return answer
    plan = preview(state)
    if app.as_json:
        return msgspec.structs.replace(answer, result=answer.result | {"plan": plain(plan)})
    app.show(plan, "plan")
    return answer


async def _follow(
    app: App, bus: Bus, workflow_id: str, requested: str = "", wait: float | None = None
) -> WorkflowResponse:
    from agentd import client, tables

    show = (lambda _state: None) if app.as_json else tables.Steps().show
    return await client.follow(bus, workflow_id, show, wait=wait, requested=requested)


def _finish(app: App, answer: WorkflowResponse) -> NoReturn:
    app.show(answer, "answer")
    sys.exit(EXIT_CODES.get(answer.status, 1))


@cli.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--timeout", type=float, help="Seconds after which to stop watching; the workflow goes on.")
@passes
def watch(app: App, workflow_id: str, timeout: float | None) -> None:
    """Show the steps of a workflow until it is over; the exit code is its result."""
    from agentd import network

    async def work() -> WorkflowResponse:
        async with app.bus() as (bus, _):
            if await network.state(bus, workflow_id) is None:
                message = f"there is no workflow {workflow_id!r}; `agentd workflows` lists them"
                raise UsageError(message)
            return await _follow(app, bus, workflow_id, wait=timeout)

    _finish(app, run_async(work()))


@cli.group(invoke_without_command=True)
@click.option("--limit", default=20, show_default=True)
@click.option("--status", default="", help="Only those that stand so.")
@click.pass_context
def workflows(context: click.Context, limit: int, status: str) -> None:
    """List workflows: those not over first, then the latest; or see to what can be asked for."""
    from agentd import network

    app: App = context.obj

    async def work() -> object:
        async with app.bus() as (bus, _):
            return await network.workflows(bus, limit, status)

    if context.invoked_subcommand is None:
        app.show(run_async(work()), "workflows")


@workflows.command(name="check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@passes
def check_files(app: App, files: tuple[Path, ...]) -> None:
    """Check workflow files: every fault with its line and column; exit code 65 if there is one."""
    faults = app.reader().check(list(files))
    bad = {each.file for each in faults}
    lines = [*map(str, faults), *(f"{each}: good" for each in files if str(each) not in bad)]
    click.echo(json.dumps(plain(faults), indent=2, ensure_ascii=False) if app.as_json else "\n".join(lines))
    sys.exit(InvalidMessage.exit_code if faults else 0)


@workflows.command()
@passes
def schema(app: App) -> None:
    """Print the JSON Schema of workflow files, for editors."""
    click.echo(json.dumps(app.reader().schema(), indent=2, ensure_ascii=False))


@workflows.command()
@passes
def definitions(app: App) -> None:
    """List what can be asked for on this machine, and where it comes from; exit code 65 if a file is at fault."""
    found = app.reader().listed()
    app.show(found, "definitions")
    sys.exit(InvalidMessage.exit_code if any(each.faults for each in found) else 0)


@cli.command()
@click.argument("workflow_id", metavar="ID")
@passes
def show(app: App, workflow_id: str) -> None:
    """Show a workflow: its tasks, attempts, agents, errors and timeline."""
    from agentd import network

    async def work() -> object:
        async with app.bus() as (bus, _):
            return await (network.state if app.as_json else network.workflow)(bus, workflow_id)

    found = run_async(work())
    if found is None:
        message = f"there is no workflow {workflow_id!r}; `agentd workflows` lists them"
        raise UsageError(message)
    app.show(found, "workflow")


REASON: Final = click.option("--reason", default="", help="Stands in the timeline.")
ID: Final = click.argument("workflow_id", metavar="ID")


def _signal(app: App, workflow_id: str, wanted: WorkflowSignal, *, wait: bool = False) -> None:
    """Send a signal and say what came of it; with `wait` show the steps until the workflow is over."""
    from agentd import client

    async def work() -> tuple[SignalReply, WorkflowResponse | None]:
        async with app.bus() as (bus, config):
            if wanted.action in {"approve", "reject"}:
                reply = await client.decide(bus, config.principal, workflow_id, wanted.task, wanted)
            else:
                reply = await client.signal(bus, config.principal, workflow_id, wanted)
            return reply, await _follow(app, bus, workflow_id) if wait and reply.done else None

    reply, answer = run_async(work())
    if not reply.done:
        raise Rejected(reply.message)
    if answer is not None:
        _finish(app, answer)
    app.show({"workflow_id": workflow_id, "watch": f"agentd watch {workflow_id}"}, "submitted")


@cli.command()
@ID
@REASON
@click.option("--undo", is_flag=True, help="Undo what was done, where the plan says how.")
@click.option("--wait", is_flag=True, help="Wait until it is over; exit code 3 when it was cancelled.")
@passes
def cancel(app: App, workflow_id: str, reason: str, *, undo: bool, wait: bool) -> None:
    """Begin no new task of a workflow and end the running one; what is left is named."""
    _signal(app, workflow_id, WorkflowSignal("cancel", reason, compensate=undo), wait=wait)


@cli.command()
@ID
@REASON
@passes
def pause(app: App, workflow_id: str, reason: str) -> None:
    """Hold a workflow: what runs is finished, nothing new begins, its clock stands still."""
    _signal(app, workflow_id, WorkflowSignal("pause", reason))


@cli.command()
@ID
@REASON
@passes
def resume(app: App, workflow_id: str, reason: str) -> None:
    """Let a paused workflow go on."""
    _signal(app, workflow_id, WorkflowSignal("resume", reason))


@cli.command()
@ID
@click.argument("task", default="")
@REASON
@passes
def approve(app: App, workflow_id: str, task: str, reason: str) -> None:
    """Say yes to what a workflow waits for, just as `agentd show ID` shows it; not to one's own."""
    _signal(app, workflow_id, WorkflowSignal("approve", reason, task=task))


@cli.command()
@ID
@click.argument("task", default="")
@REASON
@passes
def reject(app: App, workflow_id: str, task: str, reason: str) -> None:
    """Say no to what a workflow waits for: it fails, and what was done is undone where the plan says how."""
    _signal(app, workflow_id, WorkflowSignal("reject", reason, task=task))


@cli.command()
@ID
@click.option("--id", "new_id", help="Id of the workflow that carries it on.")
@click.option("--wait", is_flag=True, help="Show the steps and wait; the exit code is the result.")
@passes
def retry(app: App, workflow_id: str, new_id: str | None, *, wait: bool) -> None:
    """Carry on a workflow that failed or was cancelled, under a new id: what was done is not done again."""
    from agentd import client

    subjects.check_id(workflow_id)
    _submit(app, WorkflowRequest("", new_id or client.new_id(workflow_id), retry_of=workflow_id), wait=wait)


@cli.group(invoke_without_command=True)
@click.pass_context
def schedules(context: click.Context) -> None:
    """List schedules: when they come next, and what became of the last run."""
    if context.invoked_subcommand is not None:
        return
    from agentd import schedules as scheduling

    app: App = context.obj

    async def work() -> object:
        async with app.bus() as (bus, config):
            await bus.measure_clock(subjects.WORKFLOWS)
            return await scheduling.schedules(bus, config.schedules)

    app.show(run_async(work()), "schedules")


@schedules.command(name="run")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Show the steps and wait; the exit code is the result.")
@passes
def run_schedule(app: App, name: str, *, wait: bool) -> None:
    """Begin the workflow of the schedule NAME now, once more, in your own name."""
    from agentd import client
    from agentd import schedules as scheduling

    async def work() -> tuple[WorkflowRequest, WorkflowResponse | None]:
        async with app.bus() as (bus, config):
            request = await scheduling.by_hand(bus, name)
            await client.submit(bus, config.principal, request)
            answer = await _follow(app, bus, request.workflow_id, request_digest(request)) if wait else None
            return request, answer

    request, answer = run_async(work())
    if answer is not None:
        _finish(app, answer)
    app.show({"workflow_id": request.workflow_id, "watch": f"agentd watch {request.workflow_id}"}, "submitted")


# -- agents and tools ----------------------------------------------------------------------------------------------


@cli.command()
@passes
def agents(app: App) -> None:
    """List the agents that live."""
    from agentd import network

    async def work() -> object:
        async with app.bus() as (bus, _):
            return await network.agents(bus)

    app.show(run_async(work()), "agents")


@cli.command()
@click.argument("agent_id", metavar="AGENT")
@passes
def drain(app: App, agent_id: str) -> None:
    """Let an agent take no new work and end when what runs is finished (systemd may start it again)."""
    from agentd import client

    async def work() -> object:
        async with app.bus() as (bus, _):
            return await client.control(bus, agent_id, "drain")

    app.show(run_async(work()), "control")


@cli.command()
@passes
def tools(app: App) -> None:
    """List the tools that agents offer now."""
    from agentd import network

    async def work() -> object:
        async with app.bus() as (bus, _):
            return await network.services(bus)

    app.show(run_async(work()), "tools")


@cli.command()
@click.argument("tool")
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--key", default="", help="Repeating a call with its key is the same call: <word>.<word>[.<word>].")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait for the end.")
@passes
def call(app: App, tool: str, pairs: tuple[str, ...], key: str, timeout: float) -> None:
    """Call a tool: agentd call list_vms node=pve1."""
    from agentd import client
    from agentd.policy import Policy

    async def work() -> object:
        async with app.bus() as (bus, config):
            tier = Policy.of(config.policy).tier_of(config.principal, plain=False)
            note = (lambda _text: None) if app.as_json else (lambda text: click.echo(f"  {text}", err=True))
            return await client.call(
                bus, config.principal, tier, tool, parameters_of(pairs), seconds=timeout, key=key, progress=note
            )

    app.show(run_async(work()), "reply")


def main() -> NoReturn:
    """Run a command; every error that was raised on purpose is one line and an exit code."""
    logs.configure("error", "console")
    try:
        cli(standalone_mode=False)
    except AgentdError as error:
        click.echo(f"agentd: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("agentd: interrupted", err=True)
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
