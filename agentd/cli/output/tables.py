"""The tables and texts that the command line prints; not used with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from agentd.cli.output.console import age, colored_sign, json_text, print_line, print_rows, safe, safe_lines, symbol
from agentd.wire.workflow import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentd.bus.delivery.dead_letters import Letter
    from agentd.cli.setup.doctor_bus import Finding
    from agentd.client.plan_view import PlannedTask
    from agentd.client.views import TaskView, WorkflowDetail, WorkflowSummary
    from agentd.plugins.manager import PluginStatus
    from agentd.plugins.workflow_files import Fault, ListedWorkflow
    from agentd.schedules import ScheduleView
    from agentd.wire.announcements import AgentRegistration, ControlReply, NetworkReply
    from agentd.wire.messages import WorkflowResponse
    from agentd.wire.workflow import Workflow


class Steps:
    """Prints the new entries of a workflow's timeline."""

    def __init__(self) -> None:
        """Start with no entry printed."""
        self._printed = 0
        self._begun: datetime | None = None

    def show(self, state: Workflow) -> None:
        """Print the entries that are not printed yet."""
        self._begun = self._begun or state.created
        for entry in state.timeline[self._printed :]:
            seconds = (entry.at - self._begun).total_seconds()
            task = f"[bold]{safe(entry.task)}[/] " if entry.task else ""
            attempt = f"(attempt {entry.attempt}) " if entry.attempt > 1 else ""
            agent = f" [dim]by {safe(entry.agent)}[/]" if entry.agent else ""
            print_line(
                f"  {seconds:7.2f} s  {colored_sign(entry.what) or ' '} {task}{attempt}{safe(entry.what)}{agent}"
            )
        self._printed = len(state.timeline)


def workflows(found: list[WorkflowSummary]) -> None:
    """Print a list of workflows."""
    rows = [
        [safe(workflow.workflow_id), safe(workflow.workflow_type), symbol(workflow.status),
         f"{workflow.done}/{workflow.total}", age(workflow.updated), safe(workflow.error)]
        for workflow in found
    ]  # fmt: skip
    print_rows(
        ["WORKFLOW", "TYPE", "STATUS", "TASKS", "CHANGED", "ERROR"], rows, "no workflows yet: agentd submit --help"
    )


def definitions(found: list[ListedWorkflow]) -> None:
    """Print the workflow definitions, each with its first fault."""
    rows = [
        [
            safe(definition.name),
            safe(definition.source),
            safe(_fault(definition.faults) if definition.faults else definition.description),
        ]
        for definition in found
    ]
    print_rows(["DEFINITION", "FROM", "DESCRIPTION"], rows, "no workflow definitions")


def _fault(faults: list[Fault]) -> str:
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"cannot be used, it has {count}: agentd workflows check {faults[0].file}"


def plan(found: list[PlannedTask]) -> None:
    """Print the tasks of a dry run."""
    for task in found:
        at_once = f", {task.max_parallel} at once" if task.max_parallel else ""
        facts = [
            ("after", ", ".join(task.after)),
            ("when", task.when),
            ("for_each", "" if task.for_each is None else f"{json_text(task.for_each)}{at_once}"),
            ("approval", task.approval),
            ("with", json_text(task.with_) if task.with_ else ""),
            ("undo", f"{task.undo} {json_text(task.undo_with)}" if task.undo else ""),
        ]
        print_line(f"[bold]{safe(task.name)}[/]  {safe(task.calls)}  [dim]→ {safe(task.queue)}[/]")
        for name, text in facts:
            if text:
                print_line(f"  {name:<9} {safe(text)}", whole=True)
    print_line()


def _task_note(task: TaskView) -> str:
    return "has to be approved, see below" if task.asks else task.error or "; ".join(task.warnings)


def workflow(found: WorkflowDetail) -> None:
    """Print a workflow: its tasks, what waits for an approval, its timeline."""
    of = f"{safe(found.workflow_type)}  {symbol(found.status)}  by {safe(found.requester)}"
    print_line(f"[bold]{safe(found.workflow_id)}[/]  {of}")
    if found.error:
        print_line(f"[red]{safe(found.error)}[/]")
    print_line()
    rows = [
        [safe(task.name), symbol(task.status), str(task.attempt), safe(task.agent or task.queue),
         safe(", ".join(task.after)), safe_lines(_task_note(task))]
        for task in found.tasks
    ]  # fmt: skip
    print_rows(["TASK", "STATUS", "ATTEMPT", "AGENT", "AFTER", "MESSAGE"], rows, "no tasks")
    print_line()
    for task in found.tasks:
        if task.asks:  # the whole text: an approver must see everything that is approved
            print_line(f"[bold]{safe(task.name)}[/] waits for an approval of:")
            print_line(f"  {safe_lines(task.asks)}\n  digest {safe(task.digest)}\n", whole=True)
    for entry in found.timeline:
        seconds = (entry.at - found.created).total_seconds()
        print_line(f"  {seconds:8.2f} s  {safe(f'{entry.task:<28}')} {safe(entry.what)} [dim]{safe(entry.agent)}[/]")


def agents(found: list[AgentRegistration]) -> None:
    """Print the agents that are running."""
    rows = [
        [safe(agent.agent_id), safe(agent.role), safe(agent.node), safe(agent.status), f"{agent.load:.0%}",
         safe(agent.version), age(agent.timestamp), safe(agent.url)]
        for agent in found
    ]  # fmt: skip
    columns = ["AGENT", "ROLE", "NODE", "STATUS", "LOAD", "VERSION", "LAST SEEN", "PAGE"]
    print_rows(columns, rows, "no agents: agentd run orchestrator, or systemctl start agentd@orchestrator")


def schedules(found: list[ScheduleView]) -> None:
    """Print the schedules, each with its next time."""
    rows = [
        [safe(schedule.name), safe(schedule.workflow), safe(schedule.cron), safe(schedule.timezone),
         _local_time(schedule.next, schedule.timezone), _local_time(schedule.next, ""),
         f"{symbol(schedule.status)} {age(schedule.begun)}" if schedule.last else "never", safe(schedule.last),
         str(schedule.skipped or ""), safe(schedule.state)]
        for schedule in found
    ]  # fmt: skip
    columns = [
        "SCHEDULE",
        "WORKFLOW",
        "CRON",
        "ZONE",
        "NEXT",
        "NEXT (LOCAL)",
        "LAST",
        "LAST WORKFLOW",
        "SKIPPED",
        "STATE",
    ]
    print_rows(columns, rows, "no schedules: write [schedules.NAME], then agentd provision")
    for schedule in found:
        if schedule.error:
            print_line(f"[red]{safe(schedule.name)}: {safe(schedule.error)}[/]")


def _local_time(moment: datetime | None, zone: str) -> str:
    """Return a time in `zone`, or in the zone of this machine if it is empty."""
    if moment is None:
        return ""
    return f"{moment.astimezone(ZoneInfo(zone) if zone else None):%a %Y-%m-%d %H:%M:%S}"


def answer(answer: WorkflowResponse) -> None:
    """Print the result of a workflow."""
    print_line(f"{symbol(answer.status)}  {safe(answer.workflow_id)}")
    if answer.error:
        print_line(f"[red]{safe(answer.error)}[/]")
    for name, task in answer.result.get("tasks", {}).items():
        for warning in task.get("warnings", []):
            print_line(f"[yellow]{safe(name)}: {safe(warning)}[/]")
    for guest in _guests(answer.result).values():
        where = f"{safe(guest['vmid'])} {safe(guest.get('name', ''))} on {safe(guest.get('node'))}"
        print_line(f"guest {where}: {safe(guest['status'])}")


def _guests(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the guests that the tasks of a workflow returned, each in its last state."""
    results = [task.get("result") for task in result.get("tasks", {}).values()]
    return {
        str(found["vmid"]): found for found in results if isinstance(found, dict) and {"vmid", "status"} <= found.keys()
    }


def waiting_approvals(state: Workflow) -> None:
    """Print what a workflow waits for, and its end."""
    for name, task in state.tasks.items():
        if task.status is TaskStatus.WAITING_APPROVAL and task.approval is not None:
            until = f" until {task.approval.until:%Y-%m-%d %H:%M} UTC" if task.approval.until else ""
            print_line(f"{safe(state.workflow_id)} waits{until} for a second principal to approve {safe(name)}:")
            print_line(f"  {safe_lines(task.approval.text)}\n  digest {safe(task.approval.digest)}", whole=True)
            print_line(f"  agentd approve {safe(state.workflow_id)}    or    agentd reject {safe(state.workflow_id)}")
    if state.over:
        print_line(f"{safe(state.workflow_id)} {state.status}{f': {safe(state.error)}' if state.error else ''}")


def findings(found: list[Finding]) -> None:
    """Print what was checked, with advice."""
    rows = [
        [
            "[green]✓[/]" if finding.good else "[red]✗[/]",
            safe(finding.what),
            safe(finding.text),
            "" if finding.good else safe(finding.advice),
        ]
        for finding in found
    ]
    print_rows(["", "CHECK", "RESULT", "WHAT TO DO"], rows, "nothing to check")


def plugins(found: list[PluginStatus]) -> None:
    """Print the plugins, and the tools that are disabled."""
    rows = [[safe(plugin.name), plugin.status, safe(plugin.reason)] for plugin in found]
    rows += [
        [safe(f"  {tool.name}"), "quarantined", safe(tool.reason)] for plugin in found for tool in plugin.quarantined
    ]
    print_rows(["PLUGIN", "STATUS", "REASON"], rows, "no plugins")


def lines(lines: Sequence[str]) -> None:
    """Print lines of text."""
    for line in lines:
        print_line(safe(line), whole=True)  # lines may be commands to copy


def submitted(receipt: dict[str, str]) -> None:
    """Print what became of a request."""
    texts = {"stored": "stored, not yet accepted: no orchestrator has answered", "accepted": "accepted"}
    status = texts.get(receipt.get("status", ""), "requested")
    print_line(f"{safe(receipt['workflow_id'])}: {status}; watch it with [bold]{safe(receipt['watch'])}[/]")


def control(reply: ControlReply | NetworkReply) -> None:
    """Print the answer of an agent."""
    print_line(f"{safe(reply.agent_id)}: {safe(reply.message)}")


def dead_letters(found: list[Letter]) -> None:
    """Print a list of dead letters."""
    rows = [
        [str(letter.number), age(letter.when), safe(letter.stream),
         safe(letter.subject or f"message {letter.sequence}"), safe(letter.agent_id),
         f"{letter.size} B", safe(letter.state), safe(letter.reason[:200])]
        for letter in found
    ]  # fmt: skip
    print_rows(
        ["LETTER", "WHEN", "STREAM", "SUBJECT", "GIVEN UP BY", "SIZE", "STATE", "REASON"], rows, "no dead letters"
    )


def letter(found: dict[str, Any]) -> None:
    """Print a dead letter with its content."""
    for name, value in found["letter"].items():
        print_line(f"[bold]{safe(f'{name:<12}')}[/] {safe_lines(str(value))}")
    for name, value in found["headers"].items():
        print_line(f"[bold]header[/]       {safe_lines(f'{name}: {value}')}")
    print_line()
    print_line(safe_lines(found["note"] or found["body"]))
