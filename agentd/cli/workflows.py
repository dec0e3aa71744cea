"""Commands for workflows and schedules: submit, watch, control, list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click
import msgspec

from agentd.cli import completion
from agentd.cli.context import EXIT_CODES, App, Group, parse_parameters, passes, run_async, warn_if_frozen
from agentd.cli.output import tables
from agentd.client import queries, requests
from agentd.errors import InvalidMessage, Rejected
from agentd.printable import as_json, printable
from agentd.wire import subjects
from agentd.wire.codec import plain
from agentd.wire.messages import WorkflowRequest, WorkflowResponse, WorkflowSignal
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.client.views import WorkflowSummary
    from agentd.schedules import ScheduleView
    from agentd.wire.messages import SignalReply
    from agentd.wire.workflow import Workflow

SHORTEST: Final = 12
"""Smallest number of digits by which a digest may be abbreviated."""
PLANNED: Final = 30.0
"""Seconds to wait for the plan of a dry run; an orchestrator needs almost none of them."""
ID: Final = click.argument("workflow_id", metavar="ID", shell_complete=completion.workflow_ids)
REASON: Final = click.option("--reason", default="", help="Reason; recorded in the timeline of the workflow.")


@click.command()
@click.argument("workflow_type", metavar="TYPE", shell_complete=completion.workflow_types)
@click.argument("pairs", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--id", "workflow_id", help="Id of the workflow; a repeated request with the same id runs only once.")
@click.option("--wait", is_flag=True, help="Show the steps until the workflow ends; the exit code is its result.")
@click.option("--timeout", type=float, help="Seconds after which the workflow fails.")
@click.option(
    "--priority", default=5, show_default=True, help="1 to 10; tasks of workflows above 5 do not wait behind others."
)
@click.option("--dry-run", is_flag=True, help="Only show the plan: its tasks, their order and their parameters.")
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
    """Submit a request for a workflow.

    Example: agentd submit vm_deployment name=web1 memory=2048 --wait

    Without --wait it ends once an orchestrator has accepted the request (exit code 0) or rejected it (65). If none
    answers within 5 s, the request stays stored, and the first orchestrator that starts handles it.
    """
    request = WorkflowRequest(
        workflow_type=workflow_type,
        workflow_id=workflow_id or requests.new_id(workflow_type),
        parameters=parse_parameters(pairs),
        timeout=timeout,
        priority=priority,
        dry_run=dry_run,
    )
    _submit(app, request, wait=wait)


def _submit(app: App, request: WorkflowRequest, *, wait: bool) -> None:

    async def work() -> Workflow | WorkflowResponse | None:
        async with app.bus() as (bus, config):
            own_request = msgspec.structs.replace(request, requester_id=config.principal)
            await requests.submit(bus, config.principal, own_request)
            if request.dry_run:
                return await _planned(app, bus, config.principal, request)
            if not wait:
                return await queries.accepted(bus, config.principal, request)
            return await _follow(app, bus, request.workflow_id, (config.principal, request))

    answer = run_async(work())
    if isinstance(answer, WorkflowResponse) and (wait or request.dry_run or answer.refused):
        _finish(app, answer)
    status = "stored" if answer is None else "accepted"
    receipt = {"workflow_id": request.workflow_id, "status": status, "watch": f"agentd watch {request.workflow_id}"}
    app.show(receipt, tables.submitted)


async def _planned(app: App, bus: Bus, principal: str, request: WorkflowRequest) -> WorkflowResponse:
    """Wait for the plan of a dry run and show it."""
    from agentd.client import queries
    from agentd.client.plan_view import preview

    answer = await queries.follow(
        bus, request.workflow_id, lambda _: None, wait=PLANNED, requested=(principal, request)
    )
    state = await queries.state(bus, request.workflow_id)
    if answer.status != "completed" or state is None:
        return answer
    plan = preview(state)
    if app.as_json:
        return msgspec.structs.replace(answer, result=answer.result | {"plan": plain(plan)})
    app.show(plan, tables.plan)
    return answer


async def _follow(
    app: App,
    bus: Bus,
    workflow_id: str,
    requested: tuple[str, WorkflowRequest] | None = None,
    wait: float | None = None,
) -> WorkflowResponse:
    show = (lambda _state: None) if app.as_json else tables.Steps().show
    return await queries.follow(bus, workflow_id, show, wait=wait, requested=requested)


def _finish(app: App, answer: WorkflowResponse) -> NoReturn:
    app.show(answer, tables.answer)
    sys.exit(EXIT_CODES.get(answer.status, 1))


@click.command()
@ID
@click.option("--timeout", type=float, help="Seconds after which to stop watching; the workflow continues.")
@passes
def watch(app: App, workflow_id: str, timeout: float | None) -> None:
    """Show the steps of a workflow until it is finished.

    The exit code is the result of the workflow.
    """
    from agentd.client import queries

    async def work() -> WorkflowResponse:
        async with app.bus() as (bus, _):
            if await queries.state(bus, workflow_id) is None:
                raise await requests.unknown(bus, workflow_id)
            await warn_if_frozen(app, bus)
            return await _follow(app, bus, workflow_id, wait=timeout)

    _finish(app, run_async(work()))


@click.group(cls=Group, invoke_without_command=True)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Maximum number of workflows to list.",
)
@completion.STATUS
@click.pass_context
def workflows(context: click.Context, limit: int, status: str | None) -> None:
    """List workflows, unfinished ones first.

    Finished workflows follow, the latest first. The subcommands are about workflow files and the available definitions.
    """
    from agentd.client import queries

    app: App = context.obj

    async def work() -> list[WorkflowSummary]:
        async with app.bus() as (bus, _):
            return await queries.workflows(bus, limit, status or "")

    if context.invoked_subcommand is None:
        app.show(run_async(work()), tables.workflows)


@workflows.command(name="check")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@passes
def check_files(app: App, files: tuple[Path, ...]) -> None:
    """Check workflow files and print every fault.

    Each fault has its line and column. Exit code 65 if there is a fault.
    """
    faults = app.reader().check(list(files))
    bad = {fault.file for fault in faults}
    lines = [*map(str, faults), *(f"{file}: good" for file in files if str(file) not in bad)]
    click.echo(as_json(plain(faults), indent=2) if app.as_json else "\n".join(map(printable, lines)))
    sys.exit(InvalidMessage.exit_code if faults else 0)


@workflows.command()
@passes
def schema(app: App) -> None:
    """Print the JSON Schema of workflow files, for editors."""
    click.echo(as_json(app.reader().schema(), indent=2))


@workflows.command()
@passes
def definitions(app: App) -> None:
    """List the workflow types available on this machine.

    Shows where each definition comes from. Exit code 65 if a file has a fault.
    """
    found = app.reader().listed()
    app.show(found, tables.definitions)
    sys.exit(InvalidMessage.exit_code if any(definition.faults for definition in found) else 0)


@click.command()
@ID
@passes
def show(app: App, workflow_id: str) -> None:
    """Show a workflow with its tasks, errors and timeline.

    Also shows attempts and agents, and what waits for an approval.
    """
    from agentd.client import queries

    async def work() -> Workflow:
        async with app.bus() as (bus, _):
            await warn_if_frozen(app, bus)
            found = await queries.state(bus, workflow_id)
            if found is None:
                raise await requests.unknown(bus, workflow_id)
            return found

    state = run_async(work())
    app.show(queries.workflow_detail(state), tables.workflow, state)


def _signal(app: App, workflow_id: str, wanted: WorkflowSignal, *, wait: bool = False) -> None:
    """Send a signal and show its result; with `wait` also the steps to the end."""

    async def work() -> tuple[SignalReply, WorkflowResponse | None]:
        async with app.bus() as (bus, config):
            if wanted.action in {"approve", "reject"}:
                shown = await _shown(app, bus, workflow_id, wanted)
                reply = await requests.send_decision(bus, config.principal, workflow_id, shown.task, shown)
            else:
                reply = await requests.signal(bus, config.principal, workflow_id, wanted)
            return reply, await _follow(app, bus, workflow_id) if wait and reply.done else None

    reply, answer = run_async(work())
    if not reply.done:
        raise Rejected(reply.message)
    if answer is not None:
        _finish(app, answer)
    app.show({"workflow_id": workflow_id, "watch": f"agentd watch {workflow_id}"}, tables.submitted)


async def _shown(app: App, bus: Bus, workflow_id: str, wanted: WorkflowSignal) -> WorkflowSignal:
    """Print what waits for an approval; return the signal with its digest."""
    name, approval = await requests.waiting_approval(bus, workflow_id, wanted.task)
    if wanted.action == "approve" and not app.as_json:
        click.echo(
            printable(f"{workflow_id}, {name}:\n  {approval.text}\n  digest {approval.digest}", lines=True), err=True
        )
    if wanted.digest and not (len(wanted.digest) >= SHORTEST and approval.digest.startswith(wanted.digest)):
        raise Rejected(f"--digest: {name} is not what was shown any more; read it again: agentd show {workflow_id}")
    return msgspec.structs.replace(wanted, task=name, digest=approval.digest)


@click.command()
@ID
@REASON
@click.option("--undo", is_flag=True, help="Undo completed tasks where the plan defines how.")
@click.option("--wait", is_flag=True, help="Wait until the workflow has ended; exit code 3 if it was cancelled.")
@passes
def cancel(app: App, workflow_id: str, reason: str, *, undo: bool, wait: bool) -> None:
    """Cancel a workflow: stop its running task, start no more.

    A task that cannot be stopped cleanly is completed. The changes that remain are listed. With --undo they are undone
    where the plan defines how.
    """
    _signal(app, workflow_id, WorkflowSignal("cancel", reason, undo=undo), wait=wait)


@click.command()
@ID
@REASON
@passes
def pause(app: App, workflow_id: str, reason: str) -> None:
    """Pause a workflow: running tasks finish, none are started.

    The clock of the workflow stops: its time-out does not run while it is paused.
    """
    _signal(app, workflow_id, WorkflowSignal("pause", reason))


@click.command()
@ID
@REASON
@passes
def resume(app: App, workflow_id: str, reason: str) -> None:
    """Continue a paused workflow."""
    _signal(app, workflow_id, WorkflowSignal("resume", reason))


@click.command()
@ID
@click.argument("task", default="")
@REASON
@click.option(
    "--digest",
    default="",
    help="Digest shown by `agentd show ID`; if the task has changed since, the approval is refused.",
)
@passes
def approve(app: App, workflow_id: str, task: str, reason: str, digest: str) -> None:
    """Approve the task of a workflow that waits for approval.

    TASK may be omitted if only one task waits. The approval is valid only for exactly what is shown. Your own request
    has to be approved by a second principal.
    """
    _signal(app, workflow_id, WorkflowSignal("approve", reason, task=task, digest=digest))


@click.command()
@ID
@click.argument("task", default="")
@REASON
@passes
def reject(app: App, workflow_id: str, task: str, reason: str) -> None:
    """Reject the task of a workflow that waits for approval.

    TASK may be omitted if only one task waits. The workflow fails, and completed tasks are undone where the plan
    defines how.
    """
    _signal(app, workflow_id, WorkflowSignal("reject", reason, task=task))


@click.command()
@ID
@click.option("--id", "new_id", help="Id of the new workflow.")
@click.option("--wait", is_flag=True, help="Show the steps until the workflow ends; the exit code is its result.")
@passes
def retry(app: App, workflow_id: str, new_id: str | None, *, wait: bool) -> None:
    """Continue a failed or cancelled workflow under a new id.

    Tasks that were completed are not repeated.
    """
    check_id(workflow_id)
    _submit(app, WorkflowRequest("", new_id or requests.new_id(workflow_id), retry_of=workflow_id), wait=wait)


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def schedules(context: click.Context) -> None:
    """List schedules with their next and last run."""
    if context.invoked_subcommand is not None:
        return
    from agentd import schedules as scheduling

    app: App = context.obj

    async def work() -> list[ScheduleView]:
        async with app.bus() as (bus, config):
            await bus.measure_clock(subjects.WORKFLOWS)
            return await scheduling.schedules(bus, config.schedules)

    app.show(run_async(work()), tables.schedules)


@schedules.command(name="run")
@click.argument("name", shell_complete=completion.schedules)
@click.option("--wait", is_flag=True, help="Show the steps until the workflow ends; the exit code is its result.")
@passes
def run_schedule(app: App, name: str, *, wait: bool) -> None:
    """Run the schedule NAME once more, now.

    The workflow is requested in your name.
    """
    from agentd import schedules as scheduling

    async def work() -> tuple[WorkflowRequest, WorkflowResponse | None]:
        async with app.bus() as (bus, config):
            request = await scheduling.extra_run(bus, name)
            await requests.submit(bus, config.principal, request)
            answer = await _follow(app, bus, request.workflow_id, (config.principal, request)) if wait else None
            return request, answer

    request, answer = run_async(work())
    if answer is not None:
        _finish(app, answer)
    app.show({"workflow_id": request.workflow_id, "watch": f"agentd watch {request.workflow_id}"}, tables.submitted)
