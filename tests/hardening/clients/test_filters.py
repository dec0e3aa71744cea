"""A filter value that does not exist is an error that names what there is, the nearest first, not an empty list."""

from __future__ import annotations

from typing import Any

import pytest

from agentd import errors
from tool_bench import Bench, MemoryCall


@pytest.mark.parametrize(
    ("tool", "given", "text"),
    [
        ("list_guests", {"node": "PVE1"}, "node: there is no node 'PVE1'; there are pve1, "),
        ("list_guests", {"node": "nope"}, "node: there is no node 'nope'; there are pve1, pve2, pve3"),
        ("list_guests", {"status": "Running"}, "status: there is no status 'Running'; there are running, "),
        ("list_templates", {"node": "pve9"}, "no node 'pve9'"),
        ("list_storages", {"content": "image"}, "content: there is no content 'image'; there are images, "),
        ("list_storages", {"node": "PVE2"}, "there are pve2, "),
        ("list_old_snapshots", {"node": "nope"}, "no node 'nope'"),
        ("list_tasks", {"node": "nope"}, "no node 'nope'; there are pve1, pve2, pve3"),
        ("list_tasks", {"node": "PVE1"}, "no node 'PVE1'; there are pve1, "),
        ("list_bridges", {"node": "PVE1"}, "no node 'PVE1'; there are pve1, "),
        ("list_services", {"node": "PVE1"}, "no node 'PVE1'; there are pve1, "),
        ("list_backups", {"storage": "nope"}, "storage nope holds no backups, or does not exist"),
        ("list_users", {"group": "nope"}, "group: there is no group 'nope'"),
        ("list_grants", {"role": "administrator"}, "no role 'administrator'; there are Administrator, "),
        ("list_replications", {"vmid": 999}, "no guest 999"),
        ("get_usage", {"node": "pve1", "points": ["cpus"]}, "points: there is no 'cpus'"),
    ],
)
async def test_unknown(tools: Bench, tool: str, given: dict[str, Any], text: str) -> None:
    """Each filter of each list names what there is."""
    with pytest.raises(errors.PermanentError) as found:
        await tools.call(tool, **given)

    assert text in str(found.value)
    assert not isinstance(found.value, errors.TemporaryError)


async def test_known(tools: Bench) -> None:
    """A value that exists and that nothing has now is an empty list."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("list_guests", {"status": "paused"}),
        ("list_storages", {"content": "import", "node": "pve1"}),
        ("list_templates", {"node": "pve3"}),
    )
    for tool, given in calls:
        assert (await tools.call(tool, **given)).total >= 0


async def test_tags(tools: Bench) -> None:
    """A tag is no error, because a user may give one to a guest later; that nothing has it is a warning."""
    call = MemoryCall()
    found = await tools.call("list_guests", call, tag="pord")

    assert found.total == 0
    assert call.warnings[0].startswith("tag: no guest has the tag 'pord'; there are prod, ")
