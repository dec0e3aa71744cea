"""`agentd dead-letters`, as a person types it, over a network at work."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any

from agentd.wire import subjects
from core.cli.test_cli import agentd
from harness import eventually

if TYPE_CHECKING:
    import subprocess

    from agentd.bus.jetstream import Bus
    from harness import Net


async def listed(net: Net, *arguments: str) -> list[dict[str, Any]]:
    """Return `agentd --json dead-letters list`."""
    done = await run(net, "--json", "dead-letters", "list", *arguments)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


async def run(net: Net, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    return await asyncio.to_thread(agentd, *arguments, config=net.config_file())


def get(url: str) -> Any:
    """Return what a daemon's API answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
        return json.load(answer)


async def given_up(bus: Bus, count: int) -> None:
    """Wait until the orchestrator has given up so many messages."""

    async def there() -> bool:
        return len(await bus.every(subjects.DEAD, subjects.dead("given-up", "*", "*"))) >= count

    await eventually(there, f"{count} dead letters")


async def test_find_and_replay(net: Net) -> None:
    """What was given up is listed, shown, replayed by number or all at once, and closed after a question."""
    async with net.client() as bus, net.here("all") as daemon:
        nothing = await run(net, "dead-letters")
        await bus.store(subjects.complete("plain", "w", "t"), b'{"task_id": 1}', headers={"X-From": "\x1b[2Jme"})
        await bus.store(subjects.complete("bob", "w", "u"), b"melted")
        await given_up(bus, 2)
        completion, other = await listed(net)
        served = await asyncio.to_thread(get, f"{daemon.url}/api/dead")
        shown = await run(net, "dead-letters", "show", str(completion["number"]))
        table = await run(net, "dead-letters")
        replayed = await run(net, "dead-letters", "replay", str(other["number"]), "4711")
        await given_up(bus, 3)
        again = (await listed(net))[-1]
        whole = await run(net, "dead-letters", "replay", "--all")
        await given_up(bus, 4)
        rest = await listed(net)
        refused = await run(net, "dead-letters", "close", str(again["number"]))
        closed = await run(net, "--json", "dead-letters", "close", "--yes", *(str(item["number"]) for item in rest))
        after = await listed(net)
        everything = await listed(net, "--all", "--stream", "AI_INPUT")

    assert [item["number"] for item in served] == [completion["number"], other["number"]]
    assert nothing.stdout == "no dead letters\n"
    assert completion["reason"] == "TaskCompletion.task_id: expected str, got int"
    assert (completion["stream"], completion["agent_id"], completion["size"]) == ("AI_INPUT", "all-pve1", 14)
    assert '{"task_id": 1}' in shown.stdout
    assert "X-From: \ufffd[2Jme" in shown.stdout, "a terminal must not interpret what another client wrote"
    assert "ai.tasks.complete.plain.w.t" in table.stdout
    assert "ai.tasks.complete.bob.w.u" in table.stdout
    assert (replayed.returncode, replayed.stderr) == (1, "")
    assert replayed.stdout.splitlines() == [
        f"letter {other['number']}: published again as 3 on ai.tasks.complete.bob.w.u",
        "there is no dead letter 4711; `agentd dead-letters list --all` lists them, and they stay 30 days",
    ]
    assert (again["subject"], again["replay_of"]) == ("ai.tasks.complete.bob.w.u", other["number"])
    assert whole.stdout.splitlines() == [
        f"letter {completion['number']}: published again as 4 on ai.tasks.complete.plain.w.t"
    ], "a replay that failed is not replayed with all others"
    assert [item["replay_of"] for item in rest] == [other["number"], completion["number"]]
    assert refused.returncode != 0
    assert "close it without replaying?" in refused.stderr + refused.stdout
    assert json.loads(closed.stdout) == [{"letter": item["number"], "closed": True} for item in rest]
    assert after == []
    assert [item["state"] for item in everything] == ["replayed", "replayed", "closed", "closed"]


async def test_wrong_usage(net: Net) -> None:
    """What does not exist is reported in one line."""
    async with net.client():
        neither = await run(net, "dead-letters", "replay")
        unknown = await run(net, "dead-letters", "show", "9")

    assert neither.stderr == "agentd: name the letters to replay, or --all; `agentd dead-letters` lists them\n"
    assert neither.returncode == 2
    assert (
        unknown.stderr
        == "agentd: there is no dead letter 9; `agentd dead-letters list --all` lists them, and they stay 30 days\n"
    )
    assert unknown.returncode == 1
