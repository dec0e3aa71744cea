"""`agentd export`: every workflow on a line, however many there are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import Tier, WorkflowRequest
from agentd.wire.workflow import Entry, Status, Workflow
from core.cli.test_cli import agentd
from harness import SCRIPTS, Net

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from harness import NatsServer

MANY = 3000
DAY = timedelta(days=1)
START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def quiet_net(tmp_path: Path, nats_server: NatsServer) -> Net:
    """Return the configuration of a network without Proxmox."""
    return Net(tmp_path, nats_server.url)


def state(number: int, **more: object) -> Workflow:
    """Return a workflow that was over on day `number`."""
    at = START + number * DAY
    made = Workflow(f"w{number}", "test", Status.COMPLETED, "me", "me", Tier.READ, "d", at, at)
    return msgspec.structs.replace(made, timeline=[Entry(at, "completed ✓ " * 100)], **more)


async def store(bus: Bus, *found: Workflow) -> None:
    """Store events."""
    for item in found:
        await bus.store(subjects.event(item.workflow_id), encode(item))


def lines(text: str) -> list[str]:
    """Return the ids of exported workflows."""
    return [json.loads(line)["workflow_id"] for line in text.splitlines()]


async def test_filters_of_an_export(quiet_net: Net, tmp_path: Path) -> None:
    """Time, type and status choose; a workflow that changed is one line, its latest; results stand in their place."""
    file = quiet_net.config_file()
    async with quiet_net.client() as bus:
        await store(bus, *(state(number) for number in range(4)))
        await store(bus, state(4, workflow_type="other"), state(5, status=Status.FAILED, error="no"))
        await bus.kv_put(subjects.RESULTS, "w1.t", {"text": "long"})
        await store(bus, state(1, parameters={"result": {"$stored": "w1.t", "bytes": 15}}))
        await store(bus, state(2, parameters={"result": {"$stored": "gone.t", "bytes": 9}}))

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return agentd("export", *arguments, config=file)

        everything = await asyncio.to_thread(run)
        some = await asyncio.to_thread(run, "--since", "2026-11-02", "--until", "2026-11-04T00:00Z")
        kind = await asyncio.to_thread(run, "--type", "other")
        failed = await asyncio.to_thread(run, "--status", "failed", "-o", str(tmp_path / "out.jsonl"))
        none = await asyncio.to_thread(run, "--since", "1d", "--type", "ghost")
        bad = [await asyncio.to_thread(run, *item) for item in (("--since", "May"), ("--status", "odd"))]
        away = await asyncio.to_thread(run, "-o", str(tmp_path / "no" / "out"))

    whole = {line["workflow_id"]: line for line in map(json.loads, everything.stdout.splitlines())}
    assert sorted(whole) == ["w0", "w1", "w2", "w3", "w4", "w5"]
    assert everything.stderr == "6 workflows written\n"
    assert whole["w0"]["timeline"][0]["what"].startswith("completed ✓")
    assert whole["w1"]["parameters"]["result"] == {"text": "long"}
    assert whole["w2"]["parameters"]["result"] == {"$stored": "gone.t", "bytes": 9}, "gone by now, and named"
    assert sorted(lines(some.stdout)) == ["w1", "w2"]
    assert lines(kind.stdout) == ["w4"]
    assert lines((tmp_path / "out.jsonl").read_text()) == ["w5"]
    assert failed.stderr == f"1 workflows written to {tmp_path / 'out.jsonl'}\n"
    assert (none.stdout, none.stderr, none.returncode) == ("", "0 workflows written\n", 0)
    assert [(item.returncode, item.stderr[:45]) for item in bad] == [
        (2, "agentd: --since: 'May' is no time; write 2026"),
        (2, "agentd: --status: unknown 'odd'; there are pl"),
    ]
    assert away.stderr.startswith(f"agentd: cannot write {tmp_path / 'no' / 'out.part'}: No such file")


async def test_thousands_in_little_memory(quiet_net: Net, tmp_path: Path) -> None:
    """The memory that an export takes does not grow with what it exports; each workflow is there once."""
    file = quiet_net.config_file()
    out = tmp_path / "out.jsonl"
    big = {"text": "x" * 20_000}
    async with quiet_net.client() as bus:
        await store(bus, state(0, parameters=big))
        few = await asyncio.to_thread(_measured, file, out)
        for begin in range(0, MANY, 100):
            await asyncio.gather(
                *(
                    store(bus, state(number % 28, workflow_id=f"m{number}", parameters=big))
                    for number in range(begin, begin + 100)
                )
            )
        many = await asyncio.to_thread(_measured, file, out)
    found = lines(out.read_text())

    assert len(found) == len(set(found)) == MANY + 1
    assert out.stat().st_size > 60_000_000
    assert many - few < 24_000, f"{few} KiB for one, {many} KiB for {MANY} workflows of 22 KB"


def _measured(config: Path, out: Path) -> int:
    """Export; return the most memory that the process had, in KiB."""
    command = [str(SCRIPTS / "agentd"), "--config", str(config), "export", "-o", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return usage.ru_maxrss


async def test_interrupted(quiet_net: Net, tmp_path: Path, nats_server: NatsServer) -> None:
    """Ctrl-C and a killed NATS report the progress and the partial file; no partial file has the name."""
    config = quiet_net.config_file()
    out = tmp_path / "out.jsonl"
    async with quiet_net.client() as bus:
        big = {"text": "x" * 200_000}
        for number in range(600):
            await store(bus, state(0, workflow_id=f"m{number}", parameters=big))
    reported = {}
    for name in ("ctrl-c", "nats"):
        command = [str(SCRIPTS / "agentd"), "--config", str(config), "export"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        assert process.stdout is not None
        process.stdout.readline()  # and no further: the export waits for its reader
        if name == "ctrl-c":
            process.send_signal(signal.SIGINT)
        else:
            nats_server.kill()
        _, stderr = await asyncio.to_thread(process.communicate, timeout=60)
        reported[name] = (process.returncode, stderr.splitlines()[-1])
    cut = await asyncio.to_thread(agentd, "export", "-o", str(out), config=config)

    assert reported["ctrl-c"][0] == 130
    assert reported["ctrl-c"][1].startswith("agentd: interrupted after ")
    assert reported["ctrl-c"][1].endswith("(Ctrl-C); what was written is not all; run it again")
    assert reported["nats"][0] == 69
    assert "NATS" in reported["nats"][1]
    assert "what was written is not all; run it again" in reported["nats"][1]
    assert cut.returncode == 69
    assert not out.exists()


async def test_finished_workflows_go_when_keep_is_over(quiet_net: Net) -> None:
    """`[orchestrator] retention_days` says how many days a finished workflow and its answer are kept; at most 30."""
    quiet_net.settings["orchestrator"] = {"retention_days": 2}
    quiet_net.settings["instances"]["o"] = {"roles": ["orchestrator"]}
    async with quiet_net.client() as bus, quiet_net.here("o"):
        await requests.submit(bus, "me", WorkflowRequest("make_coffee", "w1"))
        await queries.follow(bus, "w1", lambda _: None, wait=20)
        kept = [await bus.last(subjects.WORKFLOWS, item) for item in (subjects.event("w1"), subjects.response("w1"))]
    quiet_net.settings["orchestrator"] = {"retention_days": 31}
    refused = await asyncio.to_thread(agentd, "config", "check", config=quiet_net.config_file())

    assert [item and item.headers["Nats-TTL"] for item in kept] == ["172800s", "172800s"]
    assert refused.returncode == 78
    assert "orchestrator.retention_days" in refused.stderr + refused.stdout
