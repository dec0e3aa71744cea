"""Turns a schedule's firing into a request, with an id derived from the firing.

The order that makes it safe: record the run (compare-and-set in the bucket `conf`), store the request, acknowledge the
firing.  A redelivered firing finds its own record and stores the same request again; two orchestrators that receive the
same firing request the same workflow.  From there on it is a request like any other: its principal is the schedule's,
and the policy is applied when the workflow starts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.structs import replace

from agentd import TERMINAL, GiveUp, InvalidMessage, StaleWrite, TemporaryError, cron, schedules, subjects
from agentd.wire.messages import ScheduleDue, ScheduleRun
from agentd.wire.names import check_own_id

if TYPE_CHECKING:
    from agentd import Context, Job


class _Head(msgspec.Struct):
    """The part of a workflow state that is needed here, valid for every version."""

    status: str


def is_firing(subject: str) -> bool:
    """Return whether a timer message is from a schedule.

    Its subject is ai.workflows.due.cron-<name>._.cron.
    """
    return subject.endswith(f".{subjects.CRON}")


async def fire(context: Context, job: Job) -> None:
    """Request the workflow of a firing.

    With `overlap = skip` it is not requested while the last run is open.
    """
    try:
        schedule = job.decode(ScheduleDue)
        again = await asyncio.to_thread(_is_repeated, schedule, job)  # a time zone is a file
    except (InvalidMessage, ValueError) as error:
        raise GiveUp(str(error)) from error
    if again:
        context.log.info("the clock was set back: not started again", schedule=schedule.name)
        return
    run = await _record_firing(context, schedule, job)
    if run is None:
        return
    waited = (context.bus.server_time() - run.begun).total_seconds()
    request = schedules.request(schedule, run.workflow_id, waited)
    await context.bus.store(subjects.request(schedule.principal), request)


async def check_id_free(context: Context, workflow_id: str, principal: str) -> str:
    """Return `workflow_id` if `principal` may use that id, else raise InvalidMessage.

    The id of a schedule's next firing can be guessed: another principal that used it first would block the schedule.
    """
    name = subjects.firing_of(check_own_id(workflow_id))
    stored = await context.bus.last(subjects.WORKFLOWS, subjects.cron_timer(name)) if name else None
    schedule = None if stored is None else context.bus.read(stored, ScheduleDue)
    if schedule is not None and schedule.principal != principal:
        raise InvalidMessage(
            f"workflow_id: {workflow_id!r} is a firing of the schedule {name}, which {schedule.principal} requests"
        )
    return workflow_id


async def requests_workflow(context: Context, workflow_id: str) -> bool:
    """Return whether the last recorded firing of a schedule requests this workflow."""
    name = subjects.schedule_of(workflow_id)
    if not name:
        return False
    stored = await context.bus.kv_get(subjects.CONF, subjects.schedule_key(name))
    run = None if stored is None else context.bus.read(stored, ScheduleRun)
    return run is not None and run.workflow_id == workflow_id


def _is_repeated(schedule: ScheduleDue, job: Job) -> bool:
    """Return whether this local time is a repetition, because the clock was put back.

    A time zone that is not known here is left to the server.
    """
    try:
        zone = ZoneInfo(schedule.timezone)
    except ZoneInfoNotFoundError:
        return False
    return cron.is_repeated(cron.parse(schedule.cron), job.stored, zone)


async def _record_firing(context: Context, schedule: ScheduleDue, job: Job) -> ScheduleRun | None:
    """Record this firing; return the run whose workflow must be requested, or None."""
    bus, key = context.bus, subjects.schedule_key(schedule.name)
    newest = await bus.kv_read(subjects.CONF, key, ScheduleRun)
    last = newest.value
    if last is not None and last.fired >= job.stored:  # recorded before a crash, or a later firing was recorded
        return last if last.begun == job.stored else None
    new_run = ScheduleRun(subjects.cron_workflow(schedule.name, job.sequence), begun=job.stored, fired=job.stored)
    record = new_run
    requested: ScheduleRun | None = new_run
    if last is not None and schedule.overlap == "skip":
        state = (await bus.newest(subjects.WORKFLOWS, subjects.event(last.workflow_id), _Head)).value
        if state is None:  # not started yet; or, long after its start limit, already deleted
            is_open = (job.stored - last.begun).total_seconds() <= schedule.start_by
        else:
            is_open = state.status not in TERMINAL
        if is_open:
            context.log.warning(
                "not started: the last run has not ended", schedule=schedule.name, last=last.workflow_id
            )
            record = replace(last, fired=job.stored, skipped=last.skipped + 1)
            # The recording orchestrator may have crashed before the request: sent twice, it is one request.
            requested = last if state is None else None
    try:
        await bus.kv_put(subjects.CONF, key, record, expect=newest.seq)
    except StaleWrite as error:
        raise TemporaryError(f"{schedule.name}: another orchestrator notes a run of it", delay=0.2) from error
    return requested
