"""`agentd audit`: what was done can be read, and a changed line is found."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from agentd.safety.audit_log import AuditLog
from agentd.wire.codec import decode
from agentd.wire.messages import Tier
from agentd.wire.records import AuditRecord
from agentd.wire.subjects import AUDIT, audit
from harness import SCRIPTS, NatsServer, Net

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentd.bus.jetstream import Bus


@pytest.fixture
def net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return a network without a Proxmox: nothing of it is needed."""
    return Net(tmp_path, nats_server.url)


async def agentd(net: Net, *arguments: str) -> tuple[int, str, str]:
    """Run one command to its end; return exit code, output and errors."""
    command = [str(SCRIPTS / "agentd"), "--config", str(net.config_file()), *arguments]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    return done.returncode, done.stdout, done.stderr


async def written(bus: Bus, agent: str, count: int) -> None:
    """Let an agent write lines as the tool runner does: before and after an act."""
    audit_log = AuditLog(bus, agent)
    for number in range(count):
        given = {"principal": "alice", "tool": "stop_guest", "tier": Tier.OPERATE, "key": f"w{number // 2}.stop"}
        phase = "after" if number % 2 else "before"
        await audit_log.write(**given, phase=phase, approved_by="bob", arguments={"vmid": 100})  # type: ignore[arg-type]


async def test_changes_are_listed_and_verified(net: Net) -> None:
    """Each agent has a line with its verdict; the list names requester, approver and change."""
    async with net.client() as bus:
        await written(bus, "a1", 4)
        await written(bus, "a2", 2)
        verified = await agentd(net, "audit", "verify")
        listed = await agentd(net, "--json", "audit", "list", "a1", "--key", "w1", "--principal", "bob")
        shown = await agentd(net, "audit", "list", "a2")
        missing = await agentd(net, "audit", "verify", "a3")

    assert verified[0] == 0
    assert [line.split() for line in verified[1].splitlines()[1:3]] == [
        ["✓", "a1", "4", "lines", "1", "to", "4"],
        ["✓", "a2", "2", "lines", "1", "to", "2"],
    ]
    assert verified[1].splitlines()[3] == "keys of a1, a2: the bucket audit"
    assert [(load["seq"], load["phase"]) for load in json.loads(listed[1])] == [(3, "before"), (4, "after")]
    assert "alice (approved by bob)" in shown[1]
    assert missing == (2, "", "agentd: agent 'a3' has written nothing; chains: a1, a2\n")


async def test_a_line_in_the_stream_that_does_not_belong(net: Net) -> None:
    """A line that another client writes in an agent's chain is found."""
    async with net.client() as bus:
        await written(bus, "a1", 2)
        forged = AuditRecord(3, "0" * 64, bus.server_time(), "a1", "eve", "start_guest", Tier.OPERATE, "before")
        await bus.store(audit("a1"), forged)
        code, output, _ = await agentd(net, "audit", "verify", "a1")

    assert code == 1
    assert "line 3 was altered" in output


async def test_a_chain_of_another_signer(net: Net) -> None:
    """A whole chain that was written under another agent's name is not believed, however well it fits together."""
    async with net.client() as bus:
        await written(bus, "a1", 2)
        for record in await bus.every(AUDIT, audit("a1")):
            await bus.store(audit("a2"), record.data)
        code, output, _ = await agentd(net, "audit", "verify", "a2")

    assert code == 1
    assert "line 1 is of a1, the chain is of a2" in output


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"vmid":100', b'"vmid":999'), lines[3]], "line 3 was altered"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 is missing"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "line 2 is where line 4 should be"),
        (lambda lines: lines, ""),
        (lambda lines: lines[2:], "line 1 is missing: 3 is in its place"),
    ],
    ids=["altered", "missing", "reordered", "whole", "trimmed"],
)
async def test_an_export_is_judged_without_nats(
    net: Net, tmp_path: Path, tamper: Callable[[list[bytes]], list[bytes]], line: str
) -> None:
    """The lines of a file say by themselves whether one was altered, left out or moved, and which."""
    file = tmp_path / "audit.jsonl"
    async with net.client() as bus:
        await written(bus, "a1", 4)
        exported = await agentd(net, "audit", "export", "-o", str(file))
    top, *lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([top, *tamper(lines)]))
    net.settings["bus"]["servers"] = ["nats://127.0.0.1:9"]
    code, output, _ = await agentd(net, "audit", "verify", "--file", str(file))

    assert exported == (0, "", f"4 lines written to {file}\n")
    assert [decode(item, AuditRecord).seq for item in lines] == [1, 2, 3, 4]
    assert code == (1 if line else 0)
    assert line in output
    assert "expired" not in output


async def test_a_file_that_is_no_export(net: Net, tmp_path: Path) -> None:
    """The line that cannot be read is named."""
    file = tmp_path / "audit.jsonl"
    file.write_text('{"seq": 1}\n')
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    broken, nothing = [await agentd(net, "audit", "verify", "--file", str(item)) for item in (file, empty)]

    assert (broken[0], broken[2].count("\n")) == (65, 1)
    assert broken[2].startswith(f"agentd: {file}:1: AuditRecord: ")
    assert nothing == (2, "", f"agentd: {empty}: no line in it\n")
