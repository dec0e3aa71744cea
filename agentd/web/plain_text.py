"""The status as plain text, for curl and w3m.

It has short lines, aligned columns, and ASCII marks beside the words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd.printable import printable
from agentd.web import formats, status
from agentd.web.overview import Overview, agent_status, service_status
from agentd.web.status import style_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentd.client.views import Step, TaskView, WorkflowDetail, WorkflowSummary

_UNSEEN: Final = "  ? unknown: the network can't be queried"
_STEPS_SHOWN: Final = 24
_ERROR_SHOWN: Final = 100


def status_page_text(picture: Overview, limit: int) -> str:
    """Return the whole status with at most `limit` workflows."""
    identity = picture.identity
    up = formats.span((picture.at - identity.started).total_seconds())
    lines = [f"agentd {identity.version}  {identity.instance} on {identity.node}  up {up}", picture.headline]
    lines += [f"= THE NETWORK IS {identity.frozen}"] if identity.frozen else []
    lines += [f"? {text}" for text in picture.problems]
    if picture.attention:
        rows = [(f"  {style_of(status.LEVEL, item.level).mark} {item.what}", item.text) for item in picture.attention]
        lines += ["", "NEEDS ATTENTION", *_columns(rows)]
    lines += ["", "ROLES", *_columns(_roles(picture))]
    lines += ["", "WORKFLOWS", *_workflows(picture, limit)]
    lines += ["", "AGENTS", *_agents(picture)]
    lines += ["", "SERVICES", *_services(picture)]
    lines += ["", "PLUGINS", *_columns(_plugins(picture))]
    return _text(lines)


def workflow_text(workflow: WorkflowDetail, frozen: str = "") -> str:
    """Return one workflow with its tasks and its history.

    frozen  describes the freeze of the network, "" if there is none
    """
    style = style_of(status.WORKFLOW, workflow.status)
    head = (
        f"{style.mark} {workflow.workflow_id}  {workflow.workflow_type} {style.word}, "
        f"{workflow.done}/{workflow.total} done"
    )
    lines = [
        *([f"= THE NETWORK IS {frozen}"] if frozen else []),
        head,
        *([f"  {_short(workflow.error)}"] if workflow.error else []),
        "",
        "TASKS",
    ]
    lines += _columns(_task(task) for task in workflow.tasks)
    for task in workflow.tasks:
        if task.asks:  # never shortened: only what was shown can be approved
            lines += ["", f"TO APPROVE: {task.name}", *(f"  {line}" for line in task.asks.splitlines())]
            lines += [f"  digest {task.digest}"]
    lines += ["", "HISTORY"]
    lines += _columns(
        (f"  {formats.exact(entry.at)}", entry.task, f"{entry.what}{_attempt(entry.attempt)}", entry.agent)
        for entry in workflow.timeline
    )
    return _text(lines)


def table_text(title: str, rows: Sequence[Sequence[str]], empty: str, heads: Sequence[str] = ()) -> str:
    """Return a list as plain text: its title, and its rows in columns."""
    cells = [[_short(cell) for cell in row] for row in rows]
    lines = _columns([list(heads), *cells]) if heads and cells else _columns(cells)
    return _text([title, *(f"  {line}" for line in lines or [empty.replace("`", "")])])


def _task(task: TaskView) -> tuple[str, ...]:
    style = style_of(status.TASK, task.status)
    notes = "; ".join(_short(text) for text in (task.error, *task.warnings) if text)
    return (
        f"  {style.mark} {task.name}",
        task.tool,
        f"{style.word}{_attempt(task.attempt)}",
        task.agent or task.queue,
        notes,
    )


def _attempt(attempt: int) -> str:
    return f" (attempt {attempt})" if attempt > 1 else ""


def _roles(picture: Overview) -> Iterator[tuple[str, ...]]:
    for role in picture.identity.roles:
        style = status.ROLE["ready" if role.ready else "not_ready"]
        yield f"  {style.mark} {role.name}", style.word, role.reason


def _workflows(picture: Overview, limit: int) -> list[str]:
    if picture.workflows is None:
        return [_UNSEEN]
    if not picture.workflows:
        return ["  none yet; start one: agentd submit vm_deployment name=web1"]
    lines = _columns(_workflow(workflow, picture) for workflow in picture.workflows[:limit])
    rest = len(picture.workflows) - limit
    return [*lines, f"  … and {rest} more: /api/workflows"] if rest > 0 else lines


def _workflow(workflow: WorkflowSummary, picture: Overview) -> tuple[str, ...]:
    style = style_of(status.WORKFLOW, workflow.status)
    first = f"  {style.mark} {workflow.workflow_id}"
    changed = formats.ago(workflow.updated, picture.at)
    return (
        first,
        workflow.workflow_type,
        style.word,
        f"{_dots(workflow.steps)}{workflow.done}/{workflow.total}",
        changed,
        _short(workflow.error),
    )


def _dots(steps: Sequence[Step]) -> str:
    if not steps or len(steps) > _STEPS_SHOWN:
        return ""
    return f"[{''.join(style_of(status.TASK, step.status).mark for step in steps)}] "


def _agents(picture: Overview) -> list[str]:
    if picture.agents is None:
        return [_UNSEEN]
    if not picture.agents:
        return ["  none has registered; start one: systemctl enable --now agentd@specialist"]
    rows = []
    for agent in picture.agents:
        state = agent_status(agent, picture.at)
        style = style_of(status.AGENT, state)
        load = "load ?" if state in {"silent", "offline"} else f"load {formats.percent(agent.load)}"
        last_heard = f"seen {formats.ago(agent.timestamp, picture.at)}"
        rows.append(
            (
                f"  {style.mark} {agent.agent_id}",
                agent.role or "plain agent",
                style.word,
                load,
                last_heard,
                agent.version,
            )
        )
    return _columns(rows)


def _services(picture: Overview) -> list[str]:
    if picture.services is None:
        return [_UNSEEN]
    if not picture.services:
        return ["  none is offered; see: agentd tools"]
    rows = []
    for service in picture.services:
        style = style_of(status.AGENT, service_status(service, picture.at))
        rows.append(
            (
                f"  {style.mark} {service.service_id}",
                style.word,
                f"{len(service.tools)} tool{'' if len(service.tools) == 1 else 's'}",
            )
        )
    return _columns(rows)


def _plugins(picture: Overview) -> Iterator[tuple[str, ...]]:
    for plugin in picture.plugins:
        style = style_of(status.PLUGIN, plugin.status)
        out = ", ".join(f"{tool.name} left out: {tool.reason}" for tool in plugin.quarantined)
        yield (
            f"  {style.mark} {plugin.name}",
            style.word,
            _short("; ".join(text for text in (plugin.reason, out) if text)),
        )


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_SHOWN else text[: _ERROR_SHOWN - 1] + "…"


def _text(lines: Iterable[str]) -> str:
    """Return `lines` as text without control characters.

    Some texts come from guests, and could control a terminal or hide something.
    """
    return "".join(f"{printable(line)}\n" for line in lines)


def _columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return `rows` as lines; each column is as wide as its widest cell."""
    table = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
