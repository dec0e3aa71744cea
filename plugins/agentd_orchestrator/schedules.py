"""What a schedule's firing becomes: a request like any other, under an id that is made of the firing.

The order that makes it safe: the run is noted (compare-and-set in the bucket `conf`), the request is stored, the firing
is acknowledged.  A firing that comes again finds its own note and asks again, which is the same request; two
orchestrators that get one firing ask for one workflow.  From the request on everything is as for any other one: who
asks is the schedule's principal, and the policy has the word when the workflow is begun.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec.structs import replace

from agentd import cron, schedules
from agentd.errors import GiveUp, InvalidMessage, StaleWrite, TemporaryError
from agentd.wire import subjects
from agentd.wire.messages import ScheduleDue, ScheduleRun
from agentd.wire.workflow import TERMINAL

if TYPE_CHECKING:
    from agentd.bus.consumer import Job
    from agentd.plugins.role import Context


class _Head(msgspec.Struct):
    """What has to be known of a run, whichever version wrote it."""

    status: str


def is_firing(subject: str) -> bool:
    """Tell whether a timer's message is a schedule's: ai.workflows.due.cron-<name>._.cron."""
    return subject.endswith(f".{subjects.CRON}")


async def fire(context: Context, job: Job) -> None:
    """Ask for the workflow of a firing, unless the one before it still runs and that is not wanted."""
    try:
        schedule = job.decode(ScheduleDue)
        again = await asyncio.to_thread(_comes_again, schedule, job)  # a time zone is a file
    except (InvalidMessage, ValueError) as error:
        raise GiveUp(str(error)) from error
    if again:
        context.log.info("the clock was put back: not begun again", schedule=schedule.name)
        return
    begun = await _noted(context, schedule, job)
    if begun is None:
        return
    waited = (context.bus.server_time() - begun.begun).total_seconds()
    request = schedules.request(schedule, begun.workflow_id, waited)
    await context.bus.store(subjects.request(schedule.principal), request)


async def free(context: Context, workflow_id: str, principal: str) -> str:
    """Return `workflow_id` if `principal` may ask for a workflow of that id, else raise InvalidMessage.

    The next firing of a schedule can be guessed: who takes its id before would keep the schedule from running.
    """
    name = subjects.firing_of(subjects.check_own_id(workflow_id))
    stored = await context.bus.last(subjects.WORKFLOWS, subjects.cron_timer(name)) if name else None
    schedule = None if stored is None else context.bus.read(stored, ScheduleDue)
    if schedule is not None and schedule.principal != principal:
        message = (
            f"workflow_id: {workflow_id!r} is a firing of the schedule {name}, which {schedule.principal} asks for"
        )
        raise InvalidMessage(message)
    return workflow_id


async def asks(context: Context, workflow_id: str) -> bool:
    """Return True if the last firing of a schedule asks for this workflow, as an orchestrator has noted."""
    name = subjects.schedule_of(workflow_id)
    if not name:
        return False
    stored = await context.bus.kv_get(subjects.CONF, subjects.schedule_key(name))
    run = None if stored is None else context.bus.read(stored, ScheduleRun)
    return run is not None and run.workflow_id == workflow_id


def _comes_again(schedule: ScheduleDue, job: Job) -> bool:
    """Tell whether the clock has shown this time of day before; a zone that is not known here is the server's."""
    try:
        zone = ZoneInfo(schedule.timezone)
    except ZoneInfoNotFoundError:
        return False
    return cron.comes_again(cron.parse(schedule.cron), job.stored, zone)


async def _noted(context: Context, schedule: ScheduleDue, job: Job) -> ScheduleRun | None:
    """Note what this firing becomes; return the run whose workflow is to be asked for, None for none."""
    bus, key = context.bus, subjects.schedule_key(schedule.name)
    newest = await bus.kv_read(subjects.CONF, key, ScheduleRun)
    last = newest.value
    if last is not None and last.fired >= job.stored:  # noted before a crash, or a later one came
        return last if last.begun == job.stored else None
    fresh = ScheduleRun(subjects.cron_workflow(schedule.name, job.sequence), begun=job.stored, fired=job.stored)
    note = fresh
    asked: ScheduleRun | None = fresh
    if last is not None and schedule.overlap == "skip":
        found = (await bus.newest(subjects.WORKFLOWS, subjects.event(last.workflow_id), _Head)).value
        if found is None:  # not begun yet; or, long after its time to start, kept no longer
            runs = (job.stored - last.begun).total_seconds() <= schedule.start_by
        else:
            runs = found.status not in TERMINAL
        if runs:
            context.log.warning("not begun: the last one is not over", schedule=schedule.name, last=last.workflow_id)
            note = replace(last, fired=job.stored, skipped=last.skipped + 1)
            asked = last if found is None else None  # who noted it may have died before asking: asked again, it is one
    try:
        await bus.kv_put(subjects.CONF, key, note, expect=newest.seq)
    except StaleWrite as error:
        message = f"{schedule.name}: another orchestrator notes a run of it"
        raise TemporaryError(message, delay=0.2) from error
    return asked
