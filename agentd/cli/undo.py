"""`agentd undo`: undo a workflow, a task or a call by recorded inverse calls.

An agent stores the inverse call in the effect record before it changes something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentd.cli import completion
from agentd.cli.context import App, exit_with_state, passes, run_async
from agentd.cli.output import audit_tables
from agentd.errors import UsageError
from agentd.wire import subjects
from agentd.wire.codec import plain
from agentd.wire.messages import WorkflowRequest
from agentd.wire.names import check_id
from agentd.wire.records import EffectRecord

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus
    from agentd.wire.workflow import Workflow


@click.command()
@click.argument("key", metavar="WORKFLOW[.TASK]", shell_complete=completion.workflow_ids)
@click.option("--dry-run", is_flag=True, help="Only show the calls that would undo it.")
@passes
def undo(app: App, key: str, *, dry_run: bool) -> None:
    """Undo a workflow, one of its tasks or a call.

    Example: agentd undo WORKFLOW.TASK. The latest change is undone first. An inverse call of tier destroy has to be
    approved by a second principal.
    """
    from agentd.client import requests

    async def work() -> Workflow | list[EffectRecord]:
        async with app.bus() as (bus, config):
            found = await undoable(bus, key, config.principal)
            if dry_run:
                return found
            calls = [plain(effect.undo) for effect in found if effect.undo]
            request = WorkflowRequest(requests.UNDO, requests.new_id(requests.UNDO), {"of": key, "calls": calls})
            return await requests.begin(bus, config.principal, request)

    found = run_async(work())
    if isinstance(found, list):
        app.show(found, audit_tables.undoable)
        return
    exit_with_state(app, found)


async def _effects(bus: Bus, key: str) -> list[EffectRecord]:
    """Return the effect records of a workflow, a task or a call."""
    first = key.partition(".")[0]
    for part in first.split("=", 1):
        check_id(part, "key")
    found = await bus.newest_many(subjects.EFFECTS, f"ai.effects.*.{first}.>", EffectRecord)
    records = [entry.value for entry in found.values() if entry.value is not None]
    return [record for record in records if record.key == key or record.key.startswith(f"{key}.")]


async def undoable(bus: Bus, key: str, principal: str) -> list[EffectRecord]:
    """Return the effect records with an inverse call, the latest first.

    The key of a call is `<principal>=<key>`, as `agentd call` prints it; for a call of `principal`, <key> is enough.

    Raises UsageError if there is none.
    """
    records = await _effects(bus, key)
    if not records and "=" not in key:  # a call of `principal` may be named by the value of `agentd call --key`
        records = await _effects(bus, subjects.call_key(principal, key))
    found = sorted(
        (effect for effect in records if effect.undo is not None), key=lambda effect: effect.claimed_at, reverse=True
    )
    if found:
        return found
    done = ", ".join(sorted(f"{effect.key} ({effect.tool})" for effect in records))
    if done:
        raise UsageError(f"{key}: nothing of it can be undone; it did {done}")
    raise UsageError(f"{key}: no change is recorded under this key; `agentd audit list` has the keys")
