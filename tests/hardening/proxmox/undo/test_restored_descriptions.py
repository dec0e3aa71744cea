"""What vzdump writes into a description is not shown, and does not grow from restore to restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd_proxmox.backup.restore import parse_config
from agentd_proxmox.model import guest_model
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from proxmox_access import AsyncPve

NOTE = "qmdump#map:scsi0:drive-scsi0:local-lvm:raw:"


async def test_restore(tools: Bench, sim: AsyncPve) -> None:
    """A restored VM has its description, and none of the lines about its drives."""
    await tools.call("update_vm", MemoryCall("wf.text"), vmid=101, description="the database")
    backup = await tools.call("create_backup", MemoryCall("wf.b"), vmid=101, storage="local")
    restored = await tools.call("restore_backup", MemoryCall("wf.r"), volid=backup.volid, node="pve1", vmid=300)

    assert restored.description == "the database"
    assert "qmdump" not in (await sim.found(300))["description"]


def test_text() -> None:
    """The lines are left out of a description, marks are found beside them, and a changed text loses them."""
    text = f"#{NOTE}\nthe database\n{NOTE}\n#vzdump#x:1\nagentd:wf.task"

    assert guest_model.text_of(text) == "the database"
    assert guest_model.marks(text) == ["agentd:wf.task"]
    assert guest_model.redescribe(text, "new") == "new\n\nagentd:wf.task"
    assert parse_config(f"#web\n#{NOTE}\ncores: 2\n#{NOTE}\n") == {"cores": "2", "description": "web"}
