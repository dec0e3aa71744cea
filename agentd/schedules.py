"""Schedules: put in force as messages that JetStream sends by the clock, and what is known of them.

A schedule is one message on `ai.workflows.timer.cron-<name>._.cron`, written by `agentd provision`; the server sends
its body to `ai.workflows.due.cron-<name>._.cron` when it is time, and an orchestrator asks for the workflow.  Nobody
of ours keeps a clock, so nobody has to live when it is time.  A firing replaces the one before it that nobody has taken
(`Nats-Schedule-Rollup`): what was missed while no orchestrator lived is one firing, not many; the server does the same
for what it missed itself.

What is in force is what the server has: these messages, not a file.  A schedule that is no longer configured, or not
enabled, is taken away by the next provision, together with a firing of it that nobody has taken.
"""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from agentd import cron
from agentd.bus.jetstream import ROLLUP, SCHEDULE, SCHEDULE_TARGET
from agentd.client.requests import state_of
from agentd.errors import AgentdError, BusError, ConfigError, Denied, StaleWrite, UsageError
from agentd.safety.policy import Policy
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import fault
from agentd.wire.messages import ScheduleDue, ScheduleRun, WorkflowRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.bus.jetstream import Bus, Stored
    from agentd.config import settings
    from agentd.config.load import Config
    from agentd.wire.workflow import Definition

TIME_ZONE: Final = "Nats-Schedule-Time-Zone"
REPLACE: Final = "Nats-Schedule-Rollup"
IN_FORCE: Final = "in force"
OVERWRITTEN: Final = "overwritten by another client, and not fired: run `agentd provision`"


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule as people see it; `next` is in UTC, `state` says whether it is in force and as configured."""

    name: str
    workflow: str
    cron: str
    timezone: str
    principal: str
    state: str
    next: datetime | None = None
    last: str = ""
    begun: datetime | None = None
    status: str = ""
    error: str = ""
    skipped: int = 0


# -- the configuration ------------------------------------------------------------------------------------------------


def check(config: Config, definitions: Mapping[str, Definition]) -> None:
    """Raise ConfigError for a schedule that can never run: its workflow, its parameters, or what it may do."""
    policy = Policy.of(config.policy)
    for name, schedule in config.schedules.items():
        definition = definitions.get(schedule.workflow)
        if definition is None:
            known = ", ".join(sorted(definitions))
            message = f"schedules.{name}.workflow: unknown {schedule.workflow!r}; there are {known}"
            raise ConfigError(message)
        _check_one(f"schedules.{name}", schedule, definition, policy)


def _check_one(where: str, schedule: settings.Schedule, definition: Definition, policy: Policy) -> None:
    kind = definition.parameters
    unknown = sorted(set(schedule.parameters) - set(kind.__struct_encode_fields__))
    if unknown:
        message = f"{where}.parameters.{unknown[0]}: unknown; there are {', '.join(kind.__struct_encode_fields__)}"
        raise ConfigError(message)
    if secret := wire_secrets.refusal(schedule.parameters):
        raise ConfigError(f"{where}.parameters: {secret}")
    try:
        plan = definition.plan(msgspec.convert(schedule.parameters, kind))
    except msgspec.ValidationError as error:
        raise ConfigError(fault(error, f"{where}.parameters")) from error
    except AgentdError as error:
        message = f"{where}.parameters: {error}"
        raise ConfigError(message) from error
    granted = policy.tier_of(schedule.principal, plain=False)
    for task in plan:
        try:
            policy.allow(task.tool, task.tier, granted, principal=schedule.principal)
        except Denied as error:
            message = f"{where}.principal: {error}"
            raise ConfigError(message) from error


def due(name: str, schedule: settings.Schedule) -> ScheduleDue:
    """Return what the server is to send when it is time."""
    return ScheduleDue(
        name=name,
        workflow_type=schedule.workflow,
        cron=cron.parse(schedule.cron).text,
        timezone=schedule.timezone,
        principal=schedule.principal,
        parameters=schedule.parameters,
        overlap=schedule.overlap,
        start_by=schedule.start_by,
        timeout=schedule.timeout,
    )


# -- what is in force -------------------------------------------------------------------------------------------------


async def provision(bus: Bus, schedules: Mapping[str, settings.Schedule]) -> list[str]:
    """Put exactly these schedules in force; return a line for each that was changed.  Raises ConfigError."""
    there = await _stored(bus)
    wanted = {name: due(name, each) for name, each in schedules.items() if each.enabled}
    changes = [await _put(bus, each, there.get(name)) for name, each in wanted.items()]
    for name in sorted(set(there) - set(wanted)):
        for subject in (subjects.cron_timer(name), subjects.cron_due(name)):
            await bus.api(f"STREAM.PURGE.{subjects.WORKFLOWS}", {"filter": subject})
        changes.append(f"removed schedule {name}")
    return [each for each in changes if each]


async def _put(bus: Bus, wanted: ScheduleDue, stored: Stored | None) -> str:
    """Store a schedule unless it is there; return what was changed."""
    known = None if stored is None or SCHEDULE not in stored.headers else bus.read(stored, ScheduleDue)
    if stored is not None and known == wanted and _headers(wanted).items() <= stored.headers.items():
        return ""
    where = f"schedules.{wanted.name}"
    try:
        await bus.store(
            subjects.cron_timer(wanted.name),
            wanted,
            expect=0 if stored is None else stored.seq,
            headers=_headers(wanted),
        )
    except StaleWrite as error:
        message = f"{where}: somebody else provisions it at this moment; run it again"
        raise ConfigError(message) from error
    except BusError as error:
        field = "timezone" if "time zone" in str(error) else "cron"
        message = f"{where}.{field}: the NATS server does not take it: {error}"
        raise ConfigError(message) from error
    if known is None:
        return f"made schedule {wanted.name}: {wanted.cron} {wanted.timezone}"
    before, after = msgspec.structs.asdict(known), msgspec.structs.asdict(wanted)
    different = [key for key in after if before[key] != after[key]]
    return f"changed schedule {wanted.name}: {', '.join(different) or 'headers'}"


def _headers(wanted: ScheduleDue) -> dict[str, str]:
    return {
        SCHEDULE: wanted.cron,
        SCHEDULE_TARGET: subjects.cron_due(wanted.name),
        TIME_ZONE: wanted.timezone,
        REPLACE: "sub",
        ROLLUP: "sub",
    }


async def _stored(bus: Bus) -> dict[str, Stored]:
    found = await bus.last_many(subjects.WORKFLOWS, subjects.ALL_CRON)
    return {_name_of(each.subject): each for each in found}


def _name_of(subject: str) -> str:
    return subject.split(".")[3].removeprefix(f"{subjects.CRON}-")


# -- what is known ----------------------------------------------------------------------------------------------------


async def schedules(bus: Bus, configured: Mapping[str, settings.Schedule]) -> list[ScheduleView]:
    """Return the schedules that are in force, and those that this configuration has besides."""
    newest = await bus.newest_many(subjects.WORKFLOWS, subjects.ALL_CRON, ScheduleDue)
    read = {subject: each.value for subject, each in newest.items() if each.value is not None}
    there = {_name_of(subject): schedule for subject, schedule in read.items()}
    lasts = await _stored(bus)
    views = [
        await _view(bus, schedule, _state(schedule, configured.get(name), lasts.get(name)))
        for name, schedule in there.items()
    ]
    for name in set(configured) - set(there):
        state = "not in force: run `agentd provision`" if configured[name].enabled else "disabled"
        views.append(await _view(bus, due(name, configured[name]), state))
    return sorted(views, key=lambda each: each.name)


def _state(there: ScheduleDue, configured: settings.Schedule | None, last: Stored | None) -> str:
    if last is None or SCHEDULE not in last.headers:
        return OVERWRITTEN
    if configured is None:
        return f"{IN_FORCE}; not in this configuration"
    if not configured.enabled or due(there.name, configured) != there:
        return f"{IN_FORCE}; configured otherwise: run `agentd provision`"
    return IN_FORCE


async def _view(bus: Bus, schedule: ScheduleDue, state: str) -> ScheduleView:
    view = ScheduleView(
        schedule.name,
        schedule.workflow_type,
        schedule.cron,
        schedule.timezone,
        schedule.principal,
        state,
        next=await asyncio.to_thread(_next, schedule, bus.server_time()) if state.startswith(IN_FORCE) else None,
    )
    last = (await bus.kv_read(subjects.CONF, subjects.schedule_key(schedule.name), ScheduleRun)).value
    if last is None:
        return view
    workflow = await state_of(bus, last.workflow_id)
    return msgspec.structs.replace(
        view,
        last=last.workflow_id,
        begun=last.begun,
        status="" if workflow is None else str(workflow.status),
        error="" if workflow is None else workflow.error,
        skipped=last.skipped,
    )


def _next(schedule: ScheduleDue, at: datetime) -> datetime | None:
    """Return when it comes next; None if this machine does not know its time zone."""
    try:
        zone = ZoneInfo(schedule.timezone)
    except ZoneInfoNotFoundError:
        return None
    return cron.following(cron.parse(schedule.cron), at, zone)


async def by_hand(bus: Bus, name: str) -> WorkflowRequest:
    """Return the request for one more run of a schedule that is in force; raises UsageError if it is not."""
    subject = subjects.cron_timer(subjects.check_id(name, "schedule"))
    schedule = (await bus.newest(subjects.WORKFLOWS, subject, ScheduleDue)).value
    if schedule is None:
        message = f"no schedule {name!r} is in force; `agentd schedules` lists them"
        raise UsageError(message)
    return request(schedule, subjects.cron_workflow(name, f"m{secrets.token_hex(4)}"))


def request(schedule: ScheduleDue, workflow_id: str, waited: float = 0.0) -> WorkflowRequest:
    """Return what is asked for when it is time; `waited` seconds of `start_by` are over."""
    return WorkflowRequest(
        schedule.workflow_type,
        workflow_id,
        parameters=schedule.parameters,
        requester_id=f"schedule {schedule.name}",
        timeout=schedule.timeout,
        start_by=max(0.0, schedule.start_by - waited),
    )
