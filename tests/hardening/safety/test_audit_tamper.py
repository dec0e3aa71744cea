"""The audit: any change of an agent's lines is found by verification and by the agent itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio

from agentd.bus.setup.provision import provision, streams
from agentd.cli.records.audit import Export, Network, Verdict, verify_chains
from agentd.client.tool_calls import call_tool
from agentd.errors import AuditBroken, Rejected
from agentd.safety.anchors import Anchors
from agentd.safety.audit_chain import AuditChain, hash_of
from agentd.safety.audit_log import AuditLog
from agentd.safety.policy import Policy
from agentd.safety.signing import Memory, Signer
from agentd.wire import subjects
from agentd.wire.announcements import CriticalError
from agentd.wire.codec import encode
from agentd.wire.messages import Tier, ToolCall
from agentd.wire.records import AuditKey, AuditKeys, AuditRecord
from core.jetstream import Lines, connected
from core.probe import SERVICE, Probe, a_worker, serving
from harness import SCRIPTS, NatsServer, Net, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agentd.bus.jetstream import Bus

LINE: dict[str, Any] = {"principal": "alice", "tool": "stop_guest", "tier": Tier.OPERATE, "phase": "before"}


@dataclass
class Chains:
    """Two agents with six lines each, whose heads are anchored; `a` is the one whose chain is changed."""

    bus: Bus
    directory: Path
    signer: Signer
    a: AuditLog
    b: AuditLog
    anchors: list[Anchors]

    async def again(self) -> AuditLog:
        """Return the audit log of the agent `a` in a new process, opened."""
        memory = await asyncio.to_thread(Memory, self.directory / "a.head")
        audit_log = AuditLog(self.bus, "a", signer=self.signer, memory=memory)
        await audit_log.open()
        return audit_log

    async def lines(self) -> list[AuditRecord]:
        """Return the lines of `a`."""
        return [record.decode(AuditRecord) for record in await self.bus.every(subjects.AUDIT, subjects.audit("a"))]

    async def verdict(self, agent: str = "a") -> Verdict:
        """Return what `agentd audit verify` says of an agent."""
        (found,) = await verify_chains(await Network.of(self.bus), agent, {})
        return found

    async def replace(self, data: list[bytes]) -> None:
        """Create the stream again, as an administrator can, with other lines of `a`, and those of `b`."""
        others = [record.data for record in await self.bus.every(subjects.AUDIT, subjects.audit("b"))]
        await self.bus.api(f"STREAM.DELETE.{subjects.AUDIT}")
        config = next(stream for stream in streams(1) if stream["name"] == subjects.AUDIT)
        await self.bus.api(f"STREAM.CREATE.{subjects.AUDIT}", config)
        for agent, lines in (("b", others), ("a", data)):
            for line in lines:
                await self.bus.store(subjects.audit(agent), line)


@pytest_asyncio.fixture
async def chains(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Chains]:
    """Yield two agents with six lines each, the heads of which are anchored in each other's chain."""
    async with connected(nats_server.url) as bus:
        await provision(bus, [SERVICE])
        signer, other = await asyncio.to_thread(lambda: (Signer.new(), Signer.new()))
        memory = await asyncio.to_thread(Memory, tmp_path / "a.head")
        a, b = AuditLog(bus, "a", signer=signer, memory=memory), AuditLog(bus, "b", signer=other)
        policy = Policy(principals={"olga": Tier.DESTROY})
        anchors = [Anchors(bus, name, item, policy, Lines()) for name, item in (("a", a), ("b", b))]  # type: ignore[arg-type]
        for number in range(6):
            for audit_log in (a, b):
                await audit_log.write(**LINE, key=f"w{number}.t", arguments={"vmid": 100 + number})
        for name in "ab":
            live = {"agent": {"agent_id": name, "version": "1"}}
            await bus.kv_put(subjects.LIVE, name, live, ttl=600)
        for anchor in anchors:
            await anchor.note()
        for anchor in anchors:
            await anchor.anchor()
        yield Chains(bus, tmp_path, signer, a, b, anchors)


def forged(record: AuditRecord, signer: Signer | None = None, **fields: Any) -> bytes:
    """Return a line with other fields, a hash that fits, and a signature if there is a key."""
    changed = msgspec.structs.replace(record, signer=signer.public if signer else "", signature="", **fields)
    found = hash_of(changed)
    return encode(msgspec.structs.replace(changed, hash=found, signature=signer.sign(found) if signer else ""))


def rehashed(lines: list[AuditRecord], signer: Signer | None) -> list[bytes]:
    """Return the whole chain with another principal, rewritten so that all hashes match."""
    made: list[AuditRecord] = []
    for line in lines:
        data = forged(line, signer, principal="mallory", previous=made[-1].hash if made else "")
        made.append(msgspec.json.decode(data, type=AuditRecord))
    return [encode(item) for item in made]


def following(lines: list[AuditRecord], **more: Any) -> AuditRecord:
    """Return the line that would follow, unsigned."""
    return AuditChain("a", lines[-1]).next(lines[-1].timestamp, **LINE, **more)


CHANGES: dict[str, tuple[Callable[[list[AuditRecord]], list[bytes]], str]] = {
    "tail cut": (lambda lines: [encode(line) for line in lines[:-3]], "its end was cut off"),
    "head cut": (lambda lines: [encode(line) for line in lines[2:]], "line 1 is missing: 3 is in its place"),
    "one left out": (lambda lines: [encode(item) for item in [*lines[:2], *lines[3:]]], "line 3 is missing"),
    "reordered": (lambda lines: [encode(lines[item]) for item in (0, 2, 1, *range(3, len(lines)))], "is where line"),
    "altered": (
        lambda lines: [encode(item) for item in [msgspec.structs.replace(lines[0], principal="mallory"), *lines[1:]]],
        "line 1 was altered",
    ),
    "altered and hashed": (lambda lines: [forged(lines[0], principal="m"), *map(encode, lines[1:])], "is not signed"),
    "re-hashed": (lambda lines: rehashed(lines, None), "is not signed"),
    "re-hashed with another key": (lambda lines: rehashed(lines, Signer.new()), "is signed with another key"),
    "forged at the end": (lambda lines: [*map(encode, lines), forged(following(lines))], "is not signed"),
    "forged with another key": (
        lambda lines: [*map(encode, lines), forged(following(lines), Signer.new())],
        "is signed with another key",
    ),
    "forged with a signature of another line": (
        lambda lines: [
            *map(encode, lines),
            encode(msgspec.structs.replace(following(lines), signer=lines[0].signer, signature=lines[0].signature)),
        ],
        "its hash does not match",
    ),
    "forged with our name for the key": (
        lambda lines: [*map(encode, lines), _named(lines)],
        "has a wrong signature",
    ),
    "a line of another agent": (
        lambda lines: [*map(encode, lines), forged(following(lines), agent_id="z")],
        "is of z, the chain is of a",
    ),
    "not a line": (lambda lines: [*map(encode, lines), b"not JSON"], "cannot be decoded"),
    "an empty message": (lambda lines: [*map(encode, lines), b""], "cannot be decoded"),
    "repeated": (lambda lines: [encode(item) for item in [*lines, lines[-1]]], "is where line"),
    "emptied": (lambda _: [], "its end was cut off"),
}


def _named(lines: list[AuditRecord]) -> bytes:
    line = msgspec.structs.replace(following(lines), signer=lines[0].signer)
    return encode(msgspec.structs.replace(line, hash=hash_of(line), signature=lines[0].signature))


async def test_an_unchanged_chain(chains: Chains) -> None:
    """An unchanged chain is whole, over restarts, and its heads are in the other's chain."""
    audit_log = await chains.again()
    await audit_log.write(**LINE, key="x.y")
    for agent in "ab":
        found = await chains.verdict(agent)
        assert (found.fault, found.faults, found.keys) == ("", [], "the bucket audit")
    notes = [line for line in await chains.lines() if line.tool == "audit anchor"]
    assert [head["agent"] for head in notes[0].arguments["heads"]] == ["b"]
    assert audit_log.alarm == ""


async def test_unchanged_heads_are_not_written_again(chains: Chains) -> None:
    """Where nothing is done, no head is written again: notes of heads are no news."""
    before = len(await chains.lines())
    for _ in range(3):
        for anchor in chains.anchors:
            await anchor.note()
            await anchor.anchor()
    assert len(await chains.lines()) == before


@pytest.mark.parametrize("name", CHANGES)
async def test_every_change_is_found(chains: Chains, name: str) -> None:
    """Each change is named by `audit verify`, by the running agent and by the one that starts again."""
    change, text = CHANGES[name]
    lines = await chains.lines()
    await chains.replace(await asyncio.to_thread(change, lines))
    found = await chains.verdict()
    await chains.a.check_head()

    assert text in " / ".join(found.faults), found.faults
    assert chains.a.alarm
    with pytest.raises(AuditBroken, match="agentd audit accept a --reason"):
        chains.a.check("stop_guest")
    await chains.a.write(**LINE, key="what.runs")
    assert (await chains.again()).alarm, "the alarm outlives the process, though the last line is its own again"


@pytest.mark.parametrize("name", ["tail cut", "re-hashed", "forged at the end", "not a line", "emptied"])
async def test_found_at_the_start(chains: Chains, name: str) -> None:
    """An agent that was not running while its chain was changed finds that at its start."""
    change, _ = CHANGES[name]
    await chains.replace(await asyncio.to_thread(change, await chains.lines()))
    assert (await chains.again()).alarm


async def test_found_without_a_memory(chains: Chains) -> None:
    """An agent that has lost its disk but the key knows from the bucket that its chain was longer."""
    await chains.replace([encode(line) for line in (await chains.lines())[:2]])
    audit_log = AuditLog(chains.bus, "a", signer=chains.signer)
    await audit_log.open()
    assert "the end was cut off" in audit_log.alarm


async def test_rewritten_with_a_new_pin(chains: Chains) -> None:
    """A rewritten chain with another pinned key is found by what other agents have seen of it."""
    key = await asyncio.to_thread(Signer.new)
    lines = await chains.lines()
    await chains.replace(rehashed(lines, key))
    pin = AuditKeys("a", [AuditKey(key.public, 1)])
    await chains.bus.kv_put(subjects.CHAINS, subjects.audit_key("a"), pin)
    await chains.bus.kv_delete(subjects.CHAINS, subjects.audit_head("a"))
    found = await chains.verdict()
    kept = await verify_chains(await Network.of(chains.bus), "a", {"a": [AuditKey(chains.signer.public, 1)]})

    assert "line 6 is not the one that b has seen" in found.fault
    assert "is signed with another key" in kept[0].fault
    assert kept[0].keys == "--keys"
    assert "is not the pinned one" in (await chains.again()).alarm


async def test_a_pin_that_was_deleted(chains: Chains) -> None:
    """Signed lines without a known key are a fault, not a reason to believe them."""
    await chains.bus.kv_delete(subjects.CHAINS, subjects.audit_key("a"))
    assert "no key of this agent is known" in (await chains.verdict()).fault


@pytest.mark.parametrize("same", [True, False], ids=["same key", "another key"])
async def test_a_second_process(chains: Chains, same: bool) -> None:  # noqa: FBT001 - a case
    """Two processes that write one chain are found by both of them, and by verification."""
    signer = chains.signer if same else await asyncio.to_thread(Signer.new)
    second = AuditLog(chains.bus, "a", signer=signer)
    await second.write(**LINE, key="second")
    await chains.a.write(**LINE, key="first")
    found = await chains.verdict()

    assert chains.a.alarm
    assert bool(second.alarm) is not same
    assert ("two ran as a" if same else "is signed with another key") in found.fault


async def test_refused_until_accepted(chains: Chains) -> None:
    """With the alarm nothing is changed and reads go on; a principal ends it by a line; the fault stays reported."""
    probe, criticals = Probe(), []

    async def on_error(received: Any) -> None:
        criticals.append(received.decode(CriticalError))

    await chains.bus.subscribe("ai.critical_errors.*", on_error)
    worker = a_worker(chains.bus, probe)
    worker.runner.audit_log = chains.a
    lines = await chains.lines()
    await chains.bus.store(subjects.audit("a"), forged(following(lines)))
    async with serving(worker):
        with pytest.raises(AuditBroken, match="the last line is not one that this agent wrote"):
            await call_tool(chains.bus, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.1"), seconds=5)
        read = await call_tool(chains.bus, subjects.tool_call("tester", SERVICE, "read_it"), ToolCall({}), seconds=5)
        assert probe.acts == 0
        await chains.a.accept("olga", "restored from a backup")
        await call_tool(chains.bus, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.2"), seconds=5)
    found = await chains.verdict()

    assert read.status == "completed"
    assert probe.acts == 1
    assert [message.service_id for message in criticals] == ["a"]
    assert found.fault == ""
    assert found.accepted == [
        f"line {len(lines) + 1} is not signed: a did not write it (accepted by olga: restored from a backup)"
    ]
    with pytest.raises(Rejected, match="nothing to accept"):
        await chains.a.accept("olga", "again")


async def test_removed_lines_stay_missing(chains: Chains) -> None:
    """After an accepted cut the chain goes on behind its own last line, so that the hole is never filled."""
    lines = await chains.lines()
    await chains.replace([encode(line) for line in lines[:3]])
    await chains.a.check_head()
    await chains.a.accept("olga", "the disk was lost")
    await chains.a.write(**LINE, key="after")
    found = await chains.verdict()

    assert (await chains.lines())[3].seq == len(lines) + 1
    assert found.fault == ""
    assert "line 4 is missing" in found.accepted[0]
    assert not (await chains.again()).alarm


async def test_an_export_is_verified_without_nats(chains: Chains, tmp_path: Path) -> None:
    """An export carries signatures, keys, heads and strays; what was done to the lines is found without NATS."""
    lines = await chains.lines()
    others = [record.data for record in await chains.bus.every(subjects.AUDIT, subjects.audit("b"))]
    top = encode((await Network.of(chains.bus)).top)

    async def answer(mine: list[bytes]) -> Verdict:
        file = tmp_path / "export"
        file.write_bytes(b"\n".join([top, *mine, *others]) + b"\n")
        return (await verify_chains(await asyncio.to_thread(Export, file), "a", {}))[0]

    whole = await answer([encode(line) for line in lines])
    assert whole.fault == ""
    for name in ("tail cut", "head cut", "altered", "re-hashed", "re-hashed with another key", "forged at the end"):
        change, text = CHANGES[name]
        assert text in " / ".join((await answer(await asyncio.to_thread(change, lines))).faults), name


@pytest.mark.system
async def test_a_daemon(net: Net) -> None:
    """A daemon whose chain was changed says so on /readyz, refuses changes over restarts, and acts once accepted."""
    net.settings["policy"]["principals"] = {"olga": "destroy"}
    async with net.client("tester") as bus:
        with net.daemon("mcp-bridge") as daemon:
            agent = "mcp-bridge-pve1"

            async def run(*arguments: str, **env: str) -> tuple[int, str, str]:
                done = await asyncio.to_thread(
                    subprocess.run,
                    [str(SCRIPTS / "agentd"), "--config", str(daemon.config_file), *arguments],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                    env=os.environ | env,
                )
                return done.returncode, done.stdout, done.stderr

            first = await run("call", "update_tags", "vmid=100", 'add=["x"]')
            stored = await bus.last(subjects.AUDIT, subjects.audit(agent))
            assert stored is not None
            await bus.store(subjects.audit(agent), forged(stored.decode(AuditRecord), seq=3))
            refused = await run("call", "update_tags", "vmid=100", 'add=["y"]')
            daemon.kill()
            daemon.start()

            async def refuses() -> bool:
                return (await run("call", "update_tags", "vmid=100", 'add=["z"]'))[0] == 75

            await eventually(refuses, "it refuses again", 60)
            denied = await run("audit", "accept", agent, "--reason", "x")
            accepted = await run("audit", "accept", agent, "--reason", "we forged it", AGENTD_CLIENT__PRINCIPAL="olga")
            again = await run("call", "update_tags", "vmid=100", 'add=["w"]')
            verified = await run("--json", "audit", "verify")

    assert first[0] == 0, first
    assert refused[0] == 75
    assert "the audit of mcp-bridge-pve1 is not as the agent wrote it" in refused[2]
    assert denied[0] == 77
    assert "needs tier destroy" in denied[1]
    assert accepted[0] == 0, accepted
    assert again[0] == 0, again
    assert verified[0] == 0
    assert "accepted by olga: we forged it" in json.loads(verified[1])[0]["accepted"][0]
