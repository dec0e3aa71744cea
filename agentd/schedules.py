"""Schedules: activate them in JetStream and show their state.

A schedule is one message on `ai.workflows.timer.cron-<name>._.cron`, written by `agentd provision`.  When it is due,
the server sends its body to `ai.workflows.due.cron-<name>._.cron`, and an orchestrator requests the workflow.  Only the
server keeps the time, so no daemon has to run when a schedule is due.  A firing replaces the previous one if no
orchestrator has taken it (`Nats-Schedule-Rollup`): so all firings missed while no orchestrator was running become one;
the server does the same for firings that it missed itself.

The active schedules are these messages in the server, not a file.  The next `agentd provision` removes a schedule that
is no longer configured, or not enabled, together with its firing that no orchestrator has taken.
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
from agentd.similar import suggestion
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import fault
from agentd.wire.messages import ScheduleDue, ScheduleRun, WorkflowRequest
from agentd.wire.names import check_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentd.bus.jetstream import Bus
    from agentd.bus.stored import Stored
    from agentd.config import settings
    from agentd.config.load import Config
    from agentd.wire.workflow import Definition

TIME_ZONE: Final = "Nats-Schedule-Time-Zone"
REPLACE: Final = "Nats-Schedule-Rollup"
IN_FORCE: Final = "in force"
OVERWRITTEN: Final = "overwritten by another client, and not fired: run `agentd provision`"


class ScheduleView(msgspec.Struct, frozen=True):
    """A schedule for display.

    `next` is in UTC, `state` says whether the schedule is active and as configured.
    """

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
    """Raise ConfigError for a schedule that can never run.

    Its workflow, its parameters or the permissions of its principal are wrong.
    """
    policy = Policy.of(config.policy)
    for name, schedule in config.schedules.items():
        definition = definitions.get(schedule.workflow)
        if definition is None:
            hint = suggestion(schedule.workflow, sorted(definitions))
            raise ConfigError(f"schedules.{name}.workflow: unknown {schedule.workflow!r}{hint}")
        _check_one(f"schedules.{name}", schedule, definition, policy)


def _check_one(where: str, schedule: settings.Schedule, definition: Definition, policy: Policy) -> None:
    kind = definition.parameters
    unknown = sorted(set(schedule.parameters) - set(kind.__struct_encode_fields__))
    if unknown:
        raise ConfigError(
            f"{where}.parameters.{unknown[0]}: unknown{suggestion(unknown[0], kind.__struct_encode_fields__)}"
        )
    if secret := wire_secrets.refusal(schedule.parameters):
        raise ConfigError(f"{where}.parameters: {secret}")
    try:
        plan = definition.plan(msgspec.convert(schedule.parameters, kind))
    except msgspec.ValidationError as error:
        raise ConfigError(fault(error, f"{where}.parameters")) from error
    except AgentdError as error:
        raise ConfigError(f"{where}.parameters: {error}") from error
    granted = policy.tier_of(schedule.principal, plain=False)
    for task in plan:
        try:
            policy.allow(task.tool, task.tier, granted, principal=schedule.principal)
        except Denied as error:
            raise ConfigError(f"{where}.principal: {error}") from error


def due(name: str, schedule: settings.Schedule) -> ScheduleDue:
    """Return the message that the server sends when the schedule fires."""
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


# -- activation -------------------------------------------------------------------------------------------------------


async def provision(bus: Bus, schedules: Mapping[str, settings.Schedule]) -> list[str]:
    """Activate exactly these schedules; return a line for each change.

    Raises ConfigError.
    """
    stored = await _stored(bus)
    wanted = {name: due(name, schedule) for name, schedule in schedules.items() if schedule.enabled}
    changes = [await _put(bus, schedule, stored.get(name)) for name, schedule in wanted.items()]
    for name in sorted(set(stored) - set(wanted)):
        for subject in (subjects.cron_timer(name), subjects.cron_due(name)):
            await bus.api(f"STREAM.PURGE.{subjects.WORKFLOWS}", {"filter": subject})
        changes.append(f"removed schedule {name}")
    return [change for change in changes if change]


async def _put(bus: Bus, wanted: ScheduleDue, stored: Stored | None) -> str:
    """Store a schedule unless it is stored already; return what was changed.

    "" means no change.
    """
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
        raise ConfigError(f"{where}: another client is provisioning it now; run it again") from error
    except BusError as error:
        field = "timezone" if "time zone" in str(error) else "cron"
        raise ConfigError(f"{where}.{field}: the NATS server does not take it: {error}") from error
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
    return {_name_of(stored.subject): stored for stored in found}


def _name_of(subject: str) -> str:
    return subject.split(".")[3].removeprefix(f"{subjects.CRON}-")


# -- state ------------------------------------------------------------------------------------------------------------


async def schedules(bus: Bus, configured: Mapping[str, settings.Schedule]) -> list[ScheduleView]:
    """Return the active schedules, and the other schedules of this configuration."""
    newest = await bus.newest_many(subjects.WORKFLOWS, subjects.ALL_CRON, ScheduleDue)
    read = {subject: message.value for subject, message in newest.items() if message.value is not None}
    active = {_name_of(subject): schedule for subject, schedule in read.items()}
    lasts = await _stored(bus)
    views = [
        await _view(bus, schedule, _state(schedule, configured.get(name), lasts.get(name)))
        for name, schedule in active.items()
    ]
    for name in set(configured) - set(active):
        state = "not in force: run `agentd provision`" if configured[name].enabled else "disabled"
        views.append(await _view(bus, due(name, configured[name]), state))
    return sorted(views, key=lambda view: view.name)


def _state(active: ScheduleDue, configured: settings.Schedule | None, last: Stored | None) -> str:
    if last is None or SCHEDULE not in last.headers:
        return OVERWRITTEN
    if configured is None:
        return f"{IN_FORCE}; not in this configuration"
    if not configured.enabled or due(active.name, configured) != active:
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
    """Return when it fires next; None if this machine does not know its time zone."""
    try:
        zone = ZoneInfo(schedule.timezone)
    except ZoneInfoNotFoundError:
        return None
    return cron.next_after(cron.parse(schedule.cron), at, zone)


async def extra_run(bus: Bus, name: str) -> WorkflowRequest:
    """Return the request for an additional run of an active schedule.

    Raises UsageError if the schedule is not active.
    """
    subject = subjects.cron_timer(check_id(name, "schedule"))
    schedule = (await bus.newest(subjects.WORKFLOWS, subject, ScheduleDue)).value
    if schedule is None:
        known = map(_name_of, await bus.subjects_of(subjects.WORKFLOWS, subjects.ALL_CRON))
        hint = suggestion(name, sorted(known), listed="`agentd schedules` lists them")
        raise UsageError(f"no schedule {name!r} is in force{hint}")
    return request(schedule, subjects.cron_workflow(name, f"m{secrets.token_hex(4)}"))


def request(schedule: ScheduleDue, workflow_id: str, waited: float = 0.0) -> WorkflowRequest:
    """Return the request for a firing of the schedule.

    `waited` seconds of `start_by` have passed.
    """
    return WorkflowRequest(
        schedule.workflow_type,
        workflow_id,
        parameters=schedule.parameters,
        requester_id=f"schedule {schedule.name}",
        timeout=schedule.timeout,
        start_by=max(0.0, schedule.start_by - waited),
    )
