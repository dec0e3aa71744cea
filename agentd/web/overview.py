"""The overview that the status page, its plain-text form and an event stream show.

`read_overview` reads everything from the view at once; what cannot be read is None, and `problems` has the reason.  The
health level is decided only here, from values alone.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from agentd.client.views import Identity, PluginState, PluginStatus, Reason, TaskView, View, WorkflowSummary
from agentd.errors import AgentdError, BusUnavailable
from agentd.wire.announcements import AgentRegistration, Alert, MetricReport, ServiceRegistration
from agentd.wire.codec import now
from agentd.wire.workflow import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

T = TypeVar("T")

ANSWER_WITHIN: Final = 5.0
"""Seconds that the view may take: a person does not wait longer for a page."""
COUNTED: Final = 200
"""Most workflows that are read; if there are more, the page shows "200 or more"."""
SILENT_AFTER: Final = timedelta(seconds=60)
"""Time without a message after which an agent may be dead.

It is two heartbeats of an external agent.
"""
SERVICE_SILENT_AFTER: Final = timedelta(seconds=150)
"""Time without a message after which a service may be dead.

Services respond to a discovery once a minute; two responses may be missed.
"""
UNTAKEN_AFTER: Final = timedelta(seconds=60)
"""Time after which a task that no agent has taken needs attention."""
RECENT: Final = timedelta(hours=24)
"""Age up to which a failure needs attention; it stays in the list of workflows."""


class Attention(msgspec.Struct, frozen=True):
    """One thing that needs attention: level, subject, text, and a link to details."""

    level: str
    what: str
    text: str
    link: str = ""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole overview; None is what could not be read, `problems` says why."""

    at: datetime
    level: str
    headline: str
    attention: list[Attention]
    identity: Identity
    plugins: list[PluginState]
    agents: list[AgentRegistration] | None
    services: list[ServiceRegistration] | None
    workflows: list[WorkflowSummary] | None
    tasks: list[TaskView] | None
    metrics: list[MetricReport] | None
    alerts: list[Alert] | None
    problems: list[str]


async def read_overview(view: View) -> Overview:
    """Read everything from `view` at once."""
    problems: dict[str, None] = {}  # an ordered set: a dead bus is one problem, not six
    agents, services, workflows, tasks, metrics, alerts = await asyncio.gather(
        _ask(view.agents(), problems),
        _ask(view.services(), problems),
        _ask(view.workflows(COUNTED, ""), problems),
        _ask(view.tasks(), problems),
        _ask(view.metrics(), problems),
        _ask(view.alerts(), problems),
    )
    picture = Overview(
        at=now(),
        level="unknown",
        headline="",
        attention=[],
        identity=view.identity(),
        plugins=view.plugins(),
        agents=agents,
        services=services,
        workflows=workflows,
        tasks=tasks,
        metrics=metrics,
        alerts=alerts,
        problems=list(problems),
    )
    return summarize(picture, view.readiness())


async def read_view(question: Awaitable[T]) -> T:
    """Return the answer of the view; raises BusUnavailable if it takes too long."""
    try:
        return await asyncio.wait_for(question, ANSWER_WITHIN)
    except TimeoutError as error:
        raise BusUnavailable(f"no answer from the network within {ANSWER_WITHIN:.0f} s") from error


async def _ask(question: Awaitable[T], problems: dict[str, None]) -> T | None:
    try:
        return await read_view(question)
    except AgentdError as error:
        problems[str(error)] = None
        return None


def summarize(picture: Overview, readiness: list[Reason]) -> Overview:
    """Return `picture` with its level, its headline and what needs attention.

    The worst comes first.
    """
    attention = sorted(_attention(picture, readiness), key=lambda item: item.level != "bad")
    level = _level(picture, attention)
    return msgspec.structs.replace(picture, level=level, attention=attention, headline=_headline(picture, attention))


def agent_status(agent: AgentRegistration, at: datetime) -> str:
    """Return the status of an agent, or `silent` if it was not heard lately."""
    return _or_silent(agent.status, agent.timestamp, at - SILENT_AFTER)


def service_status(service: ServiceRegistration, at: datetime) -> str:
    """Return the status of a service, or `silent` if it was not heard lately."""
    return _or_silent(service.status, service.timestamp, at - SERVICE_SILENT_AFTER)


def _or_silent(status: str, timestamp: datetime | None, since: datetime) -> str:
    recent = timestamp is not None and timestamp >= since
    return status if recent or status == "offline" else "silent"


def _level(picture: Overview, attention: list[Attention]) -> str:
    if any(item.level == "bad" for item in attention):
        return "bad"
    if picture.problems:
        return "unknown"
    return "warn" if attention else "ok"


def _headline(picture: Overview, attention: list[Attention]) -> str:
    sentences = [_roles_sentence(picture)]
    if picture.problems:
        return f"{sentences[0]} The network can't be seen."
    if picture.workflows is not None:
        idle = TERMINAL | {"waiting_approval"}
        running = sum(workflow.status not in idle for workflow in picture.workflows)
        more = " or more" if running >= COUNTED else ""
        sentences.append(f"{_counted(running, 'workflow')}{more} running." if running else "Nothing is running.")
    if attention:
        sentences.append(f"{_counted(len(attention), 'thing')} {'needs' if len(attention) == 1 else 'need'} attention.")
    return " ".join(sentences)


def _roles_sentence(picture: Overview) -> str:
    roles = picture.identity.roles
    if not roles:
        return "No role is loaded."
    down = sum(not role.ready for role in roles)
    if len(roles) == 1:
        return f"The {roles[0].name} is {'not ' if down else ''}ready."
    if down:
        return f"{down} of {len(roles)} roles {'is' if down == 1 else 'are'} not ready."
    return "Both roles ready." if len(roles) == 2 else f"All {len(roles)} roles ready."  # noqa: PLR2004


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _attention(picture: Overview, readiness: list[Reason]) -> Iterator[Attention]:
    named = {reason.source for reason in readiness}
    for reason in readiness:
        yield Attention("bad", reason.source, reason.text or "not ready, and no reason is given")
    for role in picture.identity.roles:
        if not role.ready and role.name not in named:
            yield Attention("bad", role.name, role.reason or "not ready, and no reason is given")
    if not picture.identity.roles:
        yield Attention(
            "warn", "roles", "this instance plays no role; name one in agentd.toml, then `agentd config check`"
        )
    yield from _alert_notices(picture)
    yield from _workflow_notices(picture)
    yield from _task_notices(picture)
    yield from _agent_notices(picture)
    yield from _plugin_notices(picture)
    for text in picture.identity.warnings:
        yield Attention("warn", "this daemon", text)


def _alert_notices(picture: Overview) -> Iterator[Attention]:
    for alert in picture.alerts or []:
        if alert.state == "firing":
            level = "bad" if alert.severity == "critical" else "warn"
            yield Attention(level, alert.alert_type, f"{alert.message} ({alert.source})")


def _workflow_notices(picture: Overview) -> Iterator[Attention]:
    for workflow in picture.workflows or []:
        link = f"/workflows/{workflow.workflow_id}"
        recent = picture.at - workflow.updated < RECENT
        if workflow.status == "waiting_approval":
            text = f"waits for a person: `agentd approve {workflow.workflow_id}`"
            yield Attention("warn", workflow.workflow_id, text, link)
        elif workflow.status == "compensation_failed":  # a half-made change: shown at any age
            yield Attention("bad", workflow.workflow_id, workflow.error or "its compensation failed", link)
        elif workflow.status == "failed" and recent:
            yield Attention("warn", workflow.workflow_id, f"failed: {workflow.error or 'no reason is given'}", link)


def _task_notices(picture: Overview) -> Iterator[Attention]:
    for task in picture.tasks or []:
        untaken = task.status == "assigned" and task.started and picture.at - task.started > UNTAKEN_AFTER
        if untaken:
            text = f"{task.name}: no agent has taken it from the queue {task.queue or '?'}; see `agentd agents`"
            yield Attention("warn", task.workflow_id, text, f"/workflows/{task.workflow_id}")


def _agent_notices(picture: Overview) -> Iterator[Attention]:
    for agent in picture.agents or []:
        status = agent_status(agent, picture.at)
        if status == "offline":
            yield Attention("bad", agent.agent_id, f"offline; see `systemctl status agentd@{agent.role or '*'}` there")
        elif status == "silent":
            yield Attention("warn", agent.agent_id, "silent: it is unknown whether it works")


def _plugin_notices(picture: Overview) -> Iterator[Attention]:
    for plugin in picture.plugins:
        if plugin.status is PluginStatus.BROKEN:
            yield Attention("bad", f"plugin {plugin.name}", plugin.reason or "broken, and no reason is given")
        for tool in plugin.quarantined:
            yield Attention("warn", f"tool {tool.name}", f"left out: {tool.reason}")
