"""A task that ends with what it restarts says nothing about the service: its state is read afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import errors
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve


@pytest.mark.parametrize("service", ["pvedaemon", "pveproxy"])
async def test_restart_of_the_api(tools: Bench, service: str) -> None:
    """A restart of the API's own service ends its own task, and is done with a warning."""
    call = MemoryCall()
    line = await tools.call("restart_service", call, node="pve1", service=service)

    assert line.state == "running"
    assert "received interrupt" in call.warnings[0]


async def test_other_services(tools: Bench, sim: AsyncPve) -> None:
    """A restart of another service whose task fails has failed."""
    await sim.rule("POST", "/services/pvestatd/restart$", {"task_exit": "received interrupt"}, 1)
    with pytest.raises(errors.TaskFailed, match="received interrupt"):
        await tools.call("restart_service", node="pve1", service="pvestatd")


async def test_another_end(tools: Bench, sim: AsyncPve) -> None:
    """A restart of the API's service that fails for another reason has failed."""
    await sim.rule("POST", "/services/pveproxy/restart$", {"task_exit": "command 'systemctl' failed"}, 1)
    with pytest.raises(errors.TaskFailed, match="systemctl"):
        await tools.call("restart_service", node="pve1", service="pveproxy")
