"""How the command line shows things to a person; with --json none of this is used."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentd.messages import Preview, plain
from agentd.workflows import TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.messages import AuditRecord, EffectRecord
    from agentd.workflows import Workflow

SYMBOLS = {
    "completed": "[green]✓[/]",
    "completed_with_warnings": "[yellow]![/]",
    "failed": "[red]✗[/]",
    "rejected": "[red]✗[/]",
    "expired": "[red]✗[/]",
    "conflict": "[red]✗[/]",
    "cancelled": "[dim]⊘[/]",
    "cancelling": "[yellow]⊘[/]",
    "assigned": "[blue]▶[/]",
    "running": "[blue]▶[/]",
    "waiting": "[dim]·[/]",
    "waiting_approval": "[yellow]?[/]",
    "paused": "[yellow]=[/]",
    "compensating": "[yellow]<[/]",
    "compensated": "[yellow]<[/]",
    "compensation_failed": "[red]✗[/]",
    "skipped": "[dim]-[/]",
}

console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
"""Lines are not broken where no person reads them on a screen."""


def symbol(status: str) -> str:
    """Return a sign and the word for a status."""
    return f"{SYMBOLS.get(status, '·')} {status}"


def age(when: datetime | None) -> str:
    """Return how long ago something was."""
    if when is None:
        return ""
    seconds = max(0, round((datetime.now(UTC) - when).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


class Steps:
    """Prints what is new in a workflow's timeline."""

    def __init__(self) -> None:
        """Begin with nothing printed."""
        self._printed = 0
        self._begun: datetime | None = None

    def show(self, state: Workflow) -> None:
        """Print the entries that were not printed yet."""
        self._begun = self._begun or state.created
        for entry in state.timeline[self._printed :]:
            seconds = (entry.at - self._begun).total_seconds()
            task = f"[bold]{escape(entry.task)}[/] " if entry.task else ""
            attempt = f"(attempt {entry.attempt}) " if entry.attempt > 1 else ""
            agent = f" [dim]by {escape(entry.agent)}[/]" if entry.agent else ""
            sign = SYMBOLS.get(entry.what, " ")
            console.print(f"  {seconds:7.2f} s  {sign} {task}{attempt}{escape(entry.what)}{agent}")
        self._printed = len(state.timeline)


def show(name: str, value: Any) -> None:  # noqa: ANN401 - each table has its own
    """Print `value` as the table called `name`."""
    TABLES[name](value)


def _rows(columns: list[str], rows: list[list[str]], empty: str) -> None:
    if not rows:
        console.print(empty)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _workflows(found: list[Any]) -> None:
    rows = [
        [each.workflow_id, each.workflow_type, symbol(each.status), f"{each.done}/{each.total}", age(each.updated),
         escape(each.error)]
        for each in found
    ]  # fmt: skip
    _rows(["WORKFLOW", "TYPE", "STATUS", "TASKS", "CHANGED", "ERROR"], rows, "no workflows yet: agentd submit --help")


def _definitions(found: list[Any]) -> None:
    rows = [
        [each.name, each.source, escape(_fault(each.faults) if each.faults else each.description)] for each in found
    ]
    _rows(["DEFINITION", "FROM", "SAYS"], rows, "no workflow can be asked for")


def _fault(faults: list[Any]) -> str:
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"cannot be used, it has {count}: agentd workflows check {faults[0].file}"


def _plan(found: list[Any]) -> None:
    for each in found:
        at_once = f", {each.window} at once" if each.window else ""
        facts = [
            ("after", ", ".join(each.after)),
            ("when", each.when),
            ("each", "" if each.each is None else f"{_json(each.each)}{at_once}"),
            ("approval", each.approval),
            ("with", _json(each.with_) if each.with_ else ""),
            ("undo", f"{each.undo} {_json(each.undo_with)}" if each.undo else ""),
        ]
        console.print(f"[bold]{each.name}[/]  {escape(each.calls)}  [dim]→ {each.queue}[/]")
        for name, text in facts:
            if text:
                console.print(f"  {name:<9} {escape(text)}", soft_wrap=True)
    console.print()


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def _workflow(found: Any) -> None:  # noqa: ANN401
    console.print(f"[bold]{found.workflow_id}[/]  {found.workflow_type}  {symbol(found.status)}  by {found.requester}")
    if found.error:
        console.print(f"[red]{escape(found.error)}[/]")
    console.print()
    rows = [
        [each.name, symbol(each.status), str(each.attempt), each.agent or each.queue, ", ".join(each.after),
         escape(each.asks or each.error or "; ".join(each.warnings))]
        for each in found.tasks
    ]  # fmt: skip
    _rows(["TASK", "STATUS", "ATTEMPT", "AGENT", "AFTER", "SAYS"], rows, "no tasks")
    console.print()
    for entry in found.timeline:
        seconds = (entry.at - found.created).total_seconds()
        console.print(f"  {seconds:8.2f} s  {entry.task:<28} {escape(entry.what)} [dim]{entry.agent}[/]")


def _agents(found: list[Any]) -> None:
    rows = [
        [each.agent_id, each.role, each.node, each.status, f"{each.load:.0%}", each.version, age(each.timestamp),
         each.url]
        for each in found
    ]  # fmt: skip
    columns = ["AGENT", "ROLE", "NODE", "STATUS", "LOAD", "VERSION", "HEARD", "PAGE"]
    _rows(columns, rows, "no agents: agentd run orchestrator, or systemctl start agentd@orchestrator")


def _tools(found: list[Any]) -> None:
    rows = [[tool, each.service_id] for each in found for tool in each.tools]
    _rows(["TOOL", "SERVICE"], rows, "no tools: no agent that offers some is running")


def _schedules(found: list[Any]) -> None:
    rows = [
        [each.name, each.workflow, each.cron, each.timezone, _when(each.next, each.timezone), _when(each.next, ""),
         f"{symbol(each.status)} {age(each.begun)}" if each.last else "never", each.last, str(each.skipped or ""),
         escape(each.state)]
        for each in found
    ]  # fmt: skip
    columns = ["SCHEDULE", "WORKFLOW", "CRON", "ZONE", "NEXT THERE", "NEXT HERE", "LAST", "AS", "SKIPPED", "STATE"]
    _rows(columns, rows, "no schedules: write [schedules.NAME], then agentd provision")
    for each in found:
        if each.error:
            console.print(f"[red]{each.name}: {escape(each.error)}[/]")


def _when(moment: datetime | None, zone: str) -> str:
    """Return a moment on the clock of `zone`, or of this machine."""
    if moment is None:
        return ""
    return f"{moment.astimezone(ZoneInfo(zone) if zone else None):%a %Y-%m-%d %H:%M:%S}"


def _answer(answer: Any) -> None:  # noqa: ANN401
    console.print(f"{symbol(answer.status)}  {answer.workflow_id}")
    if answer.error:
        console.print(f"[red]{escape(answer.error)}[/]")
    for name, task in answer.result.get("tasks", {}).items():
        for warning in task.get("warnings", []):
            console.print(f"[yellow]{name}: {escape(warning)}[/]")
    vm = answer.result.get("tasks", {}).get("configure_vm", {}).get("result")
    if isinstance(vm, dict) and "vmid" in vm:
        console.print(f"VM {vm['vmid']} {escape(str(vm.get('name', '')))} on {vm.get('node')}: {vm.get('status')}")


def _reply(reply: Any) -> None:  # noqa: ANN401
    console.print(escape(json.dumps(plain(reply.result), indent=2, ensure_ascii=False)))
    for warning in reply.warnings:
        console.print(f"[yellow]{escape(warning)}[/]")
    if reply.undo:
        console.print(f"[dim]taken back by: agentd undo {reply.undo}[/]")


def _looked(reply: Any) -> None:  # noqa: ANN401
    preview = msgspec.convert(reply.result, Preview)
    if preview.already:
        console.print(f"{preview.tool} would do nothing: it is so already")
    for each in preview.targets:
        console.print(f"{preview.tool} would change {escape(each.title)}")
        for line in each.loses:
            console.print(f"  and with it {escape(line)}")
    if preview.undo is not None:
        console.print(f"[dim]agentd undo could take it back by {escape(preview.undo.tool)}[/]")
    elif not preview.already:
        console.print("nothing takes it back")
    if not preview.targets and not preview.already:
        console.print(f"{preview.tool} would act; it does not say on what")
    for warning in reply.warnings:
        console.print(f"[yellow]{escape(warning)}[/]")


def _verdicts(found: list[Any]) -> None:
    rows = [
        [
            "[red]✗[/]" if each.fault else "[green]✓[/]",
            escape(each.agent_id),
            f"{each.lines} lines",
            f"{each.first} to {each.last}{', older ones have expired' if each.trimmed else ''}" if each.lines else "",
            escape(each.fault),
        ]
        for each in found
    ]
    _rows(["", "AGENT", "CHAIN", "", "FAULT"], rows, "no agent has written anything yet")


def _audit(found: list[AuditRecord]) -> None:
    rows = [
        [
            f"{each.timestamp:%Y-%m-%d %H:%M:%S}",
            escape(each.principal + (f" (yes by {each.approved_by})" if each.approved_by else "")),
            each.tool,
            each.outcome or each.phase,
            escape(each.key),
            escape(_json(each.arguments) if each.arguments else ""),
        ]
        for each in found
    ]
    _rows(["TIME", "WHO", "TOOL", "WHAT", "KEY", "WITH"], rows, "nothing was done")


def _undoable(found: list[EffectRecord]) -> None:
    rows = [[each.key, each.tool, each.undo.tool, escape(_json(each.undo.parameters))] for each in found if each.undo]
    _rows(["EFFECT", "DID", "TAKEN BACK BY", "WITH"], rows, "nothing can be taken back")


def _asked(state: Workflow) -> None:
    for name, task in state.tasks.items():
        if task.status is TaskStatus.WAITING_APPROVAL and task.approval is not None:
            until = f" until {task.approval.until:%Y-%m-%d %H:%M} UTC" if task.approval.until else ""
            console.print(f"{state.workflow_id} waits{until} for somebody else to approve {name}:")
            console.print(f"  {escape(task.approval.text)}")
            console.print(f"  agentd approve {state.workflow_id}    or    agentd reject {state.workflow_id}")
    if state.over:
        console.print(f"{state.workflow_id} {state.status}{f': {escape(state.error)}' if state.error else ''}")


def _findings(found: list[Any]) -> None:
    rows = [
        ["[green]✓[/]" if each.good else "[red]✗[/]", each.what, escape(each.text), "" if each.good else each.advice]
        for each in found
    ]
    _rows(["", "WHAT", "FOUND", "DO"], rows, "nothing to look at")


def _plugins(found: list[Any]) -> None:
    rows = [[each.name, each.status, escape(each.reason)] for each in found]
    rows += [[f"  {tool.name}", "quarantined", escape(tool.reason)] for each in found for tool in each.quarantined]
    _rows(["PLUGIN", "STATUS", "REASON"], rows, "no plugins")


def _lines(lines: list[str]) -> None:
    for line in lines:
        console.print(escape(line), soft_wrap=True)  # commands are among them


def _submitted(told: dict[str, str]) -> None:
    console.print(f"{told['workflow_id']}: asked for; watch it with [bold]{told['watch']}[/]")


def _control(reply: Any) -> None:  # noqa: ANN401
    console.print(f"{reply.agent_id}: {escape(reply.message)}")


def _dead(found: list[Any]) -> None:
    rows = [
        [str(each.number), age(each.when), each.stream, each.subject or f"message {each.sequence}", each.agent_id,
         f"{each.size} B", each.state, _harmless(each.reason[:200])]
        for each in found
    ]  # fmt: skip
    _rows(["LETTER", "WHEN", "STREAM", "SUBJECT", "GIVEN UP BY", "SIZE", "STATE", "REASON"], rows, "no dead letters")


def _letter(found: dict[str, Any]) -> None:
    for name, value in found["letter"].items():
        console.print(f"[bold]{name:<12}[/] {_harmless(str(value))}")
    for name, value in found["headers"].items():
        console.print(f"[bold]header[/]       {_harmless(f'{name}: {value}')}")
    console.print()
    console.print(_harmless(found["note"] or found["body"]))


def _harmless(text: str) -> str:
    """Return what a stranger wrote without characters that a terminal obeys."""
    return escape("".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text))


TABLES: dict[str, Callable[[Any], None]] = {
    "workflows": _workflows,
    "workflow": _workflow,
    "definitions": _definitions,
    "plan": _plan,
    "agents": _agents,
    "tools": _tools,
    "schedules": _schedules,
    "answer": _answer,
    "reply": _reply,
    "looked": _looked,
    "asked": _asked,
    "undoable": _undoable,
    "verdicts": _verdicts,
    "audit": _audit,
    "findings": _findings,
    "plugins": _plugins,
    "lines": _lines,
    "submitted": _submitted,
    "control": _control,
    "dead": _dead,
    "letter": _letter,
}
