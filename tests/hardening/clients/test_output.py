"""Nothing that others wrote controls a terminal, reorders or hides text, wherever it is shown."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd import printable, schedules
from agentd.bus.delivery.dead_letters import Letter
from agentd.cli import explain, tools
from agentd.cli.output import alert_tables, audit_tables, tables, tool_tables
from agentd.cli.output.terminal import SafeConsole, console
from agentd.cli.records import audit
from agentd.cli.setup import doctor_bus
from agentd.client.plan_view import PlannedTask
from agentd.client.views import Identity, WorkflowDetail, WorkflowSummary
from agentd.plugins.workflow_files import ListedWorkflow
from agentd.telemetry import logs
from agentd.tools.invocation import Invocation
from agentd.web import plain_text
from agentd.web.page import Frame, Pages
from agentd.wire import messages, records
from agentd.wire.workflow import TaskStatus, Workflow
from agentd_mcp import elicitation, replies
from hardening.hostile import MEMBERS, TEXT, controls, made

if TYPE_CHECKING:
    from collections.abc import Callable

T = TEXT


def _agent() -> SimpleNamespace:
    return SimpleNamespace(
        agent_id=T, role=T, node=T, status=T, load=0.5, version=T, timestamp=None, url=T, service_id=T, tools=[T]
    )


def _plugin() -> SimpleNamespace:
    return SimpleNamespace(name=T, status="broken", reason=T, quarantined=[SimpleNamespace(name=T, reason=T)])


def _schedule() -> Any:
    return msgspec.structs.replace(made(schedules.ScheduleView), timezone="UTC")


def _reply() -> messages.ToolReply:
    return messages.ToolReply(messages.Outcome.COMPLETED, {T: [T]}, warnings=[T], undo=T)


def _looked() -> messages.ToolReply:
    return messages.ToolReply(messages.Outcome.COMPLETED, msgspec.to_builtins(made(messages.Preview)), warnings=[T])


def _waiting() -> Workflow:
    state = made(Workflow)
    name, task = next(iter(state.tasks.items()))
    task = msgspec.structs.replace(task, status=TaskStatus.WAITING_APPROVAL)
    waiting: Workflow = msgspec.structs.replace(state, tasks={name: task})
    return waiting


def _answer() -> SimpleNamespace:
    vm = {"some_task": {"warnings": [T], "result": {"vmid": T, "name": T, "node": T, "status": T}}}
    return SimpleNamespace(status=T, workflow_id=T, error=T, result={"tasks": vm})


def _alert() -> dict[str, Any]:
    return dict.fromkeys(("id", "severity", "state", "name", "text"), T) | {"acknowledged_by": T, "silenced_by": T}


def _silence() -> dict[str, Any]:
    return {"id": T, "matchers": [T], "ends": 1_800_000_000.0, "author": T, "comment": T}


def _finding() -> dict[str, Any]:
    return {"level": T, "check": T, "labels": {T: T}, "text": T, "advice": T}


SHOWN: dict[Callable[[Any], None], Callable[[], Any]] = {
    tables.workflows: lambda: [made(WorkflowSummary)],
    tables.workflow: lambda: made(WorkflowDetail),
    tables.definitions: lambda: [made(ListedWorkflow), ListedWorkflow(T, T, T)],
    tables.plan: lambda: [made(PlannedTask)],
    tables.agents: lambda: [_agent()],
    tool_tables.tools: lambda: [tools.Entry(T, T, T, T, [T])],
    tool_tables.tool: lambda: made(tools.Description),
    tool_tables.explanation: lambda: made(explain.Explanation),
    tool_tables.explanations: lambda: [made(explain.Explanation)],
    tables.schedules: lambda: [_schedule()],
    tables.answer: _answer,
    tool_tables.reply: _reply,
    tool_tables.preview: _looked,
    tables.waiting_approvals: _waiting,
    audit_tables.undoable: lambda: [made(records.EffectRecord)],
    audit_tables.verdicts: lambda: [made(audit.Verdict)],
    audit_tables.audit: lambda: [made(records.AuditRecord)],
    tables.findings: lambda: [doctor_bus.Finding(T, good=False, text=T, advice=T)],
    tables.plugins: lambda: [_plugin()],
    tables.lines: lambda: [T],
    tables.submitted: lambda: {"workflow_id": T, "watch": T},
    tables.control: lambda: SimpleNamespace(agent_id=T, message=T),
    tables.dead_letters: lambda: [made(Letter)],
    alert_tables.alerts: lambda: {"total": 1, "alerts": [_alert()]},
    alert_tables.silences: lambda: {"silences": [_silence()]},
    alert_tables.checks: lambda: {"total": 1, "findings": [_finding()], "counts": {T: 1}, "status": T, "age": 1.0},
    tables.letter: lambda: {"letter": {T: T}, "headers": {T: T}, "note": "", "body": T},
}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Return what a command prints."""
    out = io.StringIO()
    monkeypatch.setattr(console, "_file", out)
    monkeypatch.setattr(console, "_width", 100_000)
    return out


TABLES = [
    table
    for module in (tables, alert_tables, audit_tables, tool_tables)
    for name, table in vars(module).items()
    if callable(table) and name[0].islower() and not name.startswith("_") and table.__module__ == module.__name__
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_every_table(table: Callable[[Any], None], screen: io.StringIO) -> None:
    """No table prints a character that controls the terminal, takes markup for its own, or is broken by it."""
    table(SHOWN[table]())
    shown = screen.getvalue()

    assert controls(shown) == set()
    assert "[bold]:skull:" in shown


def test_a_timeline_has_no_forged_line(screen: io.StringIO) -> None:
    """A line end in an agent's name does not begin a line of `watch`."""
    state = made(Workflow)
    tables.Steps().show(state)

    assert controls(screen.getvalue()) == set()
    assert len(screen.getvalue().splitlines()) == len(state.timeline)


def test_the_console_alone_is_enough() -> None:
    """A text that is printed without being asked for is harmless all the same."""
    out = io.StringIO()
    SafeConsole(file=out, width=400).print(TEXT, markup=False)

    assert controls(out.getvalue()) == set()


@pytest.mark.parametrize("char", [*MEMBERS, "\ud800"], ids=lambda char: f"U+{ord(char):04X}")
def test_every_character(char: str) -> None:
    """Each one is replaced where it is shown, and kept but escaped in JSON."""
    assert printable.printable(f"a{char}b", lines=True) == "a\ufffdb"
    assert json.loads(printable.as_json({f"k{char}": char})) == {f"k{char}": char}
    assert controls(printable.as_json({f"k{char}": char})) == set()
    assert controls(printable.escaped(json.dumps(char, ensure_ascii=False))) == set()


def test_harmless_characters_stay() -> None:
    """Letters of any language stay as they are, in text and in JSON; a line end is a space where there is one line."""
    text = "Grüße, 你好, שלום, 👍 ✓"

    assert printable.printable(text) == text
    assert printable.as_json(text) == f'"{text}"'
    assert printable.printable("a\nb\tc\xa0d") == "a b c d"


@pytest.mark.parametrize("form", ["console", "json"])
def test_the_log(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of the log controls a terminal, in either form, the traceback neither."""
    out = io.StringIO()
    monkeypatch.setattr(logs, "_sink", logs.Sink())
    logs.configure("debug", form, out, env={})
    log = logs.get_logger(agent=TEXT)
    log.info(TEXT, name=TEXT, more={TEXT: [TEXT]})
    try:
        int(TEXT)
    except ValueError:
        log.exception("failed")

    assert "forged" in out.getvalue()
    assert controls(out.getvalue()) == set()


def test_pages_and_plain_text() -> None:
    """Neither the page nor the text for curl shows characters that control or reorder."""
    detail = made(WorkflowDetail)
    page = Pages().workflow(Frame(made(Identity)), detail)

    assert controls(page) == set()
    assert "<div" in page
    assert controls(plain_text.workflow_text(detail)) == set()


def test_mcp() -> None:
    """What a client shows its user or its model controls nothing; the structured result keeps the data."""
    answer = replies.answer(messages.ToolReply(messages.Outcome.COMPLETED, {"name": TEXT}, warnings=[TEXT]))
    failed = replies.answer(
        messages.ToolReply(messages.Outcome.FAILED, error=messages.TaskError("x", TEXT, log=[TEXT]))
    )
    question = elicitation.Question("k", TEXT, None, None)  # type: ignore[arg-type]  # neither is used

    assert all(controls(part.text) == set() for part in [*answer.content, *failed.content])  # type: ignore[union-attr]
    assert answer.structured_content == {"name": TEXT}
    assert controls(elicitation.form(question).message) == set()


def test_the_question_of_an_approval() -> None:
    """A guest whose name holds bidirectional controls is shown without them in the question."""
    call = Invocation.__new__(Invocation)
    call.targets = []
    Invocation.target(call, messages.Target("guest/1", "VM 1 'db\u202e10'", {}, loses=["its disk \u2066x\u200b"]))

    assert call.targets[0].title == "VM 1 'db\ufffd10'"
    assert call.targets[0].loses == ["its disk \ufffdx\ufffd"]
