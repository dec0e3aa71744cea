"""A token whose secret was lost with the answer is created again by the call that made it, and by no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd import errors
from agentd_proxmox.settings import ToolSettings
from proxmox_access import AsyncPve, connect
from tool_bench import Bench, MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve


async def test_answer_lost(lab: FakePve, sim: AsyncPve, tmp_path: Path) -> None:
    """The second try revokes its own token, creates it again and keeps the secret; another client's is left alone."""
    proxmox = connect(lab)
    tools = Bench(proxmox, ToolSettings(secrets_dir=tmp_path / "secrets"))
    await sim.rule("POST", "/token/ci$", {"cut_after": True}, 1)
    call = MemoryCall()
    made = await tools.until_done("create_token", call, user="agentd@pve", name="ci")
    with pytest.raises(errors.Rejected, match="there is a token agentd@pve!ci already"):
        await tools.call("create_token", MemoryCall("wf.other"), user="agentd@pve", name="ci")

    assert (tmp_path / "secrets" / "agentd@pve!ci").read_text().strip()
    assert made.secret_file == str(tmp_path / "secrets" / "agentd@pve!ci")
    assert "revoked and recreated" in call.warnings[0]
    assert len(await sim.log("DELETE", "/token/ci$")) == 1
    await proxmox.close()
