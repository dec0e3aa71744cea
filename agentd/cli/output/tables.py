"""The tables and texts that the command line prints; not used with --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from agentd.cli.output import alert_tables, audit_tables, tool_tables
from agentd.cli.output.console import age, colored_sign, console, json_text, print_rows, safe, safe_lines, symbol
from agentd.wire.workflow import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

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
            console.print(
                f"  {seconds:7.2f} s  {colored_sign(entry.what) or ' '} {task}{attempt}{safe(entry.what)}{agent}"
            )
        self._printed = len(state.timeline)


def show(name: str, value: Any) -> None:  # noqa: ANN401 - each table has its own
    """Print `value` as the table called `name`."""
    TABLES[name](value)


def _workflows(found: list[Any]) -> None:
    rows = [
        [safe(workflow.workflow_id), safe(workflow.workflow_type), symbol(workflow.status),
         f"{workflow.done}/{workflow.total}", age(workflow.updated), safe(workflow.error)]
        for workflow in found
    ]  # fmt: skip
    print_rows(
        ["WORKFLOW", "TYPE", "STATUS", "TASKS", "CHANGED", "ERROR"], rows, "no workflows yet: agentd submit --help"
    )


def _definitions(found: list[Any]) -> None:
    rows = [
        [
            safe(definition.name),
            safe(definition.source),
            safe(_fault(definition.faults) if definition.faults else definition.description),
        ]
        for definition in found
    ]
    print_rows(["DEFINITION", "FROM", "DESCRIPTION"], rows, "no workflow definitions")


def _fault(faults: list[Any]) -> str:
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"cannot be used, it has {count}: agentd workflows check {faults[0].file}"


def _plan(found: list[Any]) -> None:
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
        console.print(f"[bold]{safe(task.name)}[/]  {safe(task.calls)}  [dim]→ {safe(task.queue)}[/]")
        for name, text in facts:
            if text:
                console.print(f"  {name:<9} {safe(text)}", soft_wrap=True)
    console.print()


def _task_note(task: Any) -> str:  # noqa: ANN401
    return "has to be approved, see below" if task.asks else task.error or "; ".join(task.warnings)


def _workflow(found: Any) -> None:  # noqa: ANN401
    of = f"{safe(found.workflow_type)}  {symbol(found.status)}  by {safe(found.requester)}"
    console.print(f"[bold]{safe(found.workflow_id)}[/]  {of}")
    if found.error:
        console.print(f"[red]{safe(found.error)}[/]")
    console.print()
    rows = [
        [safe(task.name), symbol(task.status), str(task.attempt), safe(task.agent or task.queue),
         safe(", ".join(task.after)), safe_lines(_task_note(task))]
        for task in found.tasks
    ]  # fmt: skip
    print_rows(["TASK", "STATUS", "ATTEMPT", "AGENT", "AFTER", "MESSAGE"], rows, "no tasks")
    console.print()
    for task in found.tasks:
        if task.asks:  # the whole text: an approver must see everything that is approved
            console.print(f"[bold]{safe(task.name)}[/] waits for an approval of:")
            console.print(f"  {safe_lines(task.asks)}\n  digest {safe(task.digest)}\n", soft_wrap=True)
    for entry in found.timeline:
        seconds = (entry.at - found.created).total_seconds()
        console.print(f"  {seconds:8.2f} s  {safe(f'{entry.task:<28}')} {safe(entry.what)} [dim]{safe(entry.agent)}[/]")


def _agents(found: list[Any]) -> None:
    rows = [
        [safe(agent.agent_id), safe(agent.role), safe(agent.node), safe(agent.status), f"{agent.load:.0%}",
         safe(agent.version), age(agent.timestamp), safe(agent.url)]
        for agent in found
    ]  # fmt: skip
    columns = ["AGENT", "ROLE", "NODE", "STATUS", "LOAD", "VERSION", "LAST SEEN", "PAGE"]
    print_rows(columns, rows, "no agents: agentd run orchestrator, or systemctl start agentd@orchestrator")


def _schedules(found: list[Any]) -> None:
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
            console.print(f"[red]{safe(schedule.name)}: {safe(schedule.error)}[/]")


def _local_time(moment: datetime | None, zone: str) -> str:
    """Return a time in `zone`, or in the zone of this machine if it is empty."""
    if moment is None:
        return ""
    return f"{moment.astimezone(ZoneInfo(zone) if zone else None):%a %Y-%m-%d %H:%M:%S}"


def _answer(answer: Any) -> None:  # noqa: ANN401
    console.print(f"{symbol(answer.status)}  {safe(answer.workflow_id)}")
    if answer.error:
        console.print(f"[red]{safe(answer.error)}[/]")
    for name, task in answer.result.get("tasks", {}).items():
        for warning in task.get("warnings", []):
            console.print(f"[yellow]{safe(name)}: {safe(warning)}[/]")
    for guest in _guests(answer.result).values():
        where = f"{safe(guest['vmid'])} {safe(guest.get('name', ''))} on {safe(guest.get('node'))}"
        console.print(f"guest {where}: {safe(guest['status'])}")


def _guests(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the guests that the tasks of a workflow returned, each in its last state."""
    results = [task.get("result") for task in result.get("tasks", {}).values()]
    return {
        str(found["vmid"]): found for found in results if isinstance(found, dict) and {"vmid", "status"} <= found.keys()
    }


def _waiting_approvals(state: Workflow) -> None:
    for name, task in state.tasks.items():
        if task.status is TaskStatus.WAITING_APPROVAL and task.approval is not None:
            until = f" until {task.approval.until:%Y-%m-%d %H:%M} UTC" if task.approval.until else ""
            console.print(f"{safe(state.workflow_id)} waits{until} for a second principal to approve {safe(name)}:")
            console.print(f"  {safe_lines(task.approval.text)}\n  digest {safe(task.approval.digest)}", soft_wrap=True)
            console.print(
                f"  agentd approve {safe(state.workflow_id)}    or    agentd reject {safe(state.workflow_id)}"
            )
    if state.over:
        console.print(f"{safe(state.workflow_id)} {state.status}{f': {safe(state.error)}' if state.error else ''}")


def _findings(found: list[Any]) -> None:
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


def _plugins(found: list[Any]) -> None:
    rows = [[safe(plugin.name), plugin.status, safe(plugin.reason)] for plugin in found]
    rows += [
        [safe(f"  {tool.name}"), "quarantined", safe(tool.reason)] for plugin in found for tool in plugin.quarantined
    ]
    print_rows(["PLUGIN", "STATUS", "REASON"], rows, "no plugins")


def _lines(lines: list[str]) -> None:
    for line in lines:
        console.print(safe(line), soft_wrap=True)  # lines may be commands to copy


def _submitted(receipt: dict[str, str]) -> None:
    texts = {"stored": "stored, not yet accepted: no orchestrator has answered", "accepted": "accepted"}
    status = texts.get(receipt.get("status", ""), "requested")
    console.print(f"{safe(receipt['workflow_id'])}: {status}; watch it with [bold]{safe(receipt['watch'])}[/]")


def _control(reply: Any) -> None:  # noqa: ANN401
    console.print(f"{safe(reply.agent_id)}: {safe(reply.message)}")


def _dead(found: list[Any]) -> None:
    rows = [
        [str(letter.number), age(letter.when), safe(letter.stream),
         safe(letter.subject or f"message {letter.sequence}"), safe(letter.agent_id),
         f"{letter.size} B", safe(letter.state), safe(letter.reason[:200])]
        for letter in found
    ]  # fmt: skip
    print_rows(
        ["LETTER", "WHEN", "STREAM", "SUBJECT", "GIVEN UP BY", "SIZE", "STATE", "REASON"], rows, "no dead letters"
    )


def _letter(found: dict[str, Any]) -> None:
    for name, value in found["letter"].items():
        console.print(f"[bold]{safe(f'{name:<12}')}[/] {safe_lines(str(value))}")
    for name, value in found["headers"].items():
        console.print(f"[bold]header[/]       {safe_lines(f'{name}: {value}')}")
    console.print()
    console.print(safe_lines(found["note"] or found["body"]))


TABLES: dict[str, Callable[[Any], None]] = {
    "workflows": _workflows,
    "workflow": _workflow,
    "definitions": _definitions,
    "plan": _plan,
    "agents": _agents,
    "tools": tool_tables.tools,
    "tool": tool_tables.tool,
    "explanation": tool_tables.explanation,
    "explanations": tool_tables.explanations,
    "schedules": _schedules,
    "answer": _answer,
    "reply": tool_tables.reply,
    "preview": tool_tables.preview,
    "asked": _waiting_approvals,
    "undoable": audit_tables.undoable,
    "verdicts": audit_tables.verdicts,
    "audit": audit_tables.audit,
    "findings": _findings,
    "plugins": _plugins,
    "lines": _lines,
    "submitted": _submitted,
    "control": _control,
    "dead": _dead,
    "alerts": alert_tables.alerts,
    "silences": alert_tables.silences,
    "checks": alert_tables.checks,
    "letter": _letter,
}
