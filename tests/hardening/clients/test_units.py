"""A person reads a size in the unit that suits it, wherever it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from agentd_proxmox.model import units
from tool_bench import Bench, MemoryCall


async def test_delete_volume(tools: Bench) -> None:
    """The preview of a volume's deletion says 1 GiB, and not 1.07e+09 GiB."""
    disk: dict[str, Any] = {"vmid": 101, "storage": "local-lvm", "node": "pve1", "name": "disk-9", "size": 1}
    await tools.call("create_volume", MemoryCall("wf.v"), **disk)
    call = MemoryCall("wf.d")
    await tools.call("delete_volume", call, volid="local-lvm:vm-101-disk-9", node="pve1")

    assert call.targets[0].loses == ["1 GiB of images"]


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (1024, "1 KiB"),
        (4 * 2**20, "4 MiB"),
        (540672, "528 KiB"),
        (2**30, "1 GiB"),
        (3 * 2**29, "1.5 GiB"),
        (200 * 2**30, "200 GiB"),
        (5 * 2**40, "5 TiB"),
        (1.07374e9, "1 GiB"),
    ],
)
def test_size(amount: float, text: str) -> None:
    """Bytes become the largest unit of which there is at least one."""
    assert units.size(amount) == text
    assert units.gib(amount / 2**30) == text
