"""The cases: each begins on a cluster as it was at first, with a new server, and ends with a look at the world.

A cell says in a few words what the server said and what is so; `good` is whether the one is the other, and nothing
was done twice or left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.peers.contestants import DONE, FAILED, OURS, UNDER_WAY, Contestant, Ground
from bench.peers.servers import Record, Session, cli, daemon, number_in, session

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

GUESTS: Final = 503
VM: Final = 101
"""A stopped VM of the simulated cluster, on pve1."""
NEW: Final = 4711
LOCKED: Final = 4.0
"""Seconds that a backup holds its lock."""
SETTLE: Final = 3.0
NOT_OFFERED: Final = "no such call"


@dataclass(frozen=True)
class Arena:
    """What a case needs."""

    contestant: Contestant
    binaries: Path
    ground: Ground
    record: Record

    @property
    def pve(self) -> FakePve:
        """The simulated cluster."""
        return self.ground.pve

    def session(self) -> contextlib.AbstractAsyncContextManager[Session]:
        """Start the server and connect."""
        return session(self.contestant, self.binaries, self.ground, self.record)

    def status(self, vmid: int) -> str:
        """Return the status of a guest, or that it is none."""
        found = self.pve.found(vmid)
        return str(found["status"]) if found else "none"

    def named(self, name: str) -> list[int]:
        """Return the guests of a name."""
        return [guest["vmid"] for guest in self.pve.inventory()["guests"] if guest.get("name") == name]


Case = Callable[[Arena], Awaitable[None]]


def tokens(size: int) -> str:
    """Return a size in bytes as tokens."""
    return f"{round(size / 4):,}"


async def tools_list(arena: Arena) -> None:
    """The tools that a client is told of, at once."""
    async with arena.session() as client:
        page = await client.client.list_tools()
    sizes = {tool.name: len(tool.model_dump_json(by_alias=True, exclude_none=True).encode()) for tool in page.tools}
    reads = [tool.name for tool in page.tools if tool.annotations and tool.annotations.read_only_hint]
    arena.record.facts = {"tools": sizes, "read": reads}
    arena.record.cell = f"{len(sizes)} / {tokens(sum(sizes.values()))}"
    if arena.contestant is OURS:
        arena.record.cell += "; the others by find_tools"


async def list_guests(arena: Arena) -> None:
    """A model asks for the guests of a cluster of 503."""
    there = len(arena.pve.inventory()["guests"])
    for n in range(GUESTS - there):
        status = "running" if n % 4 else "stopped"
        config = {"tags": "prod;web"} if n % 3 else {}
        node = f"pve{n % 3 + 1}"
        arena.pve.guest(vmid=1000 + n, node=node, name=f"machine-{n:03}", type="qemu", status=status, config=config)
    async with arena.session() as client:
        arena.pve.call("DELETE", "/log")
        answer = await client.call(arena.contestant.list_guests())
        calls = len(arena.pve.log())
    shown = sum(f"machine-{n:03}" in answer.text for n in range(GUESTS - there)) + sum(
        str(guest["name"]) in answer.text
        for guest in arena.pve.inventory()["guests"]
        if guest["vmid"] < 1000 or guest["vmid"] == 9000
    )
    size = arena.record.calls[-1]["bytes"]
    arena.record.facts = {"bytes": size, "api_calls": calls, "guests_shown": shown}
    arena.record.good = size < 4000 and calls == 1
    arena.record.cell = f"{tokens(size)} / {calls} ({shown} of {GUESTS} shown)"


async def warnings(arena: Arena) -> None:
    """A start ends `WARNINGS: 1`: the VM runs, and that is a success (PVE::Tools)."""
    arena.pve.rule("POST", "/start$", {"task_exit": "WARNINGS: 1"})
    async with arena.session() as client:
        first, last = await client.said(arena.contestant.start(VM))
        await asyncio.sleep(SETTLE)
        told = "WARNINGS" in arena.record.calls[-1]["text"] or "warning" in arena.record.calls[-1]["text"].lower()
    _judge(arena, first, last, arena.status(VM) == "running", f"VM {arena.status(VM)}")
    arena.record.facts |= {"warning_shown": told}
    if last == DONE and not told:
        arena.record.cell += ", warning not shown"


async def locked(arena: Arena) -> None:
    """A start while a backup holds the VM for four more seconds."""
    async with arena.session() as client:
        arena.pve.lock(VM, "backup")
        release = threading.Timer(LOCKED, arena.pve.lock, (VM, None))
        release.start()
        begun = time.monotonic()
        first, last = await client.said(arena.contestant.start(VM))
        seconds = time.monotonic() - begun
        release.join()
        await asyncio.sleep(SETTLE)
    running = arena.status(VM) == "running"
    _judge(arena, first, last, running, f"VM {arena.status(VM)}")
    arena.record.facts |= {"seconds": round(seconds, 1), "lock_named": "backup" in arena.record.calls[-1]["text"]}
    arena.record.cell += f", after {seconds:.0f} s"


async def denied(arena: Arena) -> None:
    """A start with a token that may only look (PVEAuditor)."""
    async with arena.session() as client:
        _, last = await client.said(arena.contestant.start(VM))
    text = arena.record.calls[-1]["text"]
    hints = {"path": f"/vms/{VM}", "privilege": "VM.PowerMgmt", "pveum line": "pveum "}
    named = [name for name, part in hints.items() if part in text]
    arena.record.facts = {"named": named}
    arena.record.good = last == FAILED and {"path", "privilege"} <= set(named)
    arena.record.cell = f"{last}; names {', '.join(named) or 'nothing'}"


async def lost(arena: Arena) -> None:
    """The answer to a create is lost: the VM is made, and the line is cut."""
    arena.pve.rule("POST", "/qemu$", {"cut_after": True}, count=1)
    async with arena.session() as client:
        first, last = await client.said(arena.contestant.create(NEW, "lost-1"))
        await asyncio.sleep(SETTLE)
    there = arena.status(NEW) != "none"
    _judge(arena, first, last, there, "VM exists" if there else "no VM")


async def lost_again(arena: Arena) -> None:
    """The answer to a create is lost, and who did not hear it calls again with the same arguments."""
    arena.pve.rule("POST", "/qemu$", {"cut_after": True}, count=1)
    step = arena.contestant.create(NEW, "lost-1")
    async with arena.session() as client:
        await client.said(step)
        await asyncio.sleep(SETTLE)
        _, again = await client.said(step)
    text, left = arena.record.calls[-1]["text"], arena.named("lost-1")
    why = "exists" if "exist" in text else "taken" if "taken" in text else ""
    arena.record.facts = {"again": again, "creates": len(arena.pve.creates()), "guests": left}
    arena.record.good = len(left) == 1 and (again == DONE or bool(why))
    arena.record.cell = f"{again}{': ' + why if why and again == FAILED else ''}; {_vms(len(left))}"


async def request(arena: Arena) -> None:
    """A request with an id of its own: the answer to its create is lost, and it is sent again under that id."""
    if arena.contestant is not OURS:
        arena.record.cell = NOT_OFFERED
        return
    arena.pve.rule("POST", "/clone$", {"cut_after": True}, count=1)
    words = [
        "submit",
        "vm_deployment",
        "name=lost-2",
        "template=9000",
        "memory=1024",
        "disk=8",
        "--id",
        "lost",
        "--wait",
    ]
    with daemon(arena.binaries, arena.ground):
        first, _ = await _run(arena, *words)
        again, _ = await _run(arena, *words)
    left = arena.named("lost-2")
    said = [DONE if code == 0 else FAILED for code in (first, again)]
    arena.record.facts = {"said": said, "creates": len(arena.pve.creates()), "guests": left}
    arena.record.good = said == [DONE, DONE] and len(left) == 1
    arena.record.cell = f"{said[0]} | {said[1]}, {_vms(len(left))}"


async def four(arena: Arena) -> None:
    """Four clients draw a VMID at once, then create at once; each with a server process of its own, where it is one."""
    start = asyncio.Barrier(4)

    async def one(client: Session, number: int) -> str:
        draw = arena.contestant.draw()
        await start.wait()
        vmid = number_in(await client.call(draw)) if draw else None
        await start.wait()
        return (await client.said(arena.contestant.create(vmid, f"race-{number}")))[1]

    async with contextlib.AsyncExitStack() as stack:
        clients = await _clients(arena, stack)
        ends = await asyncio.gather(*(one(client, n) for n, client in enumerate(clients)))
        await asyncio.sleep(SETTLE)
    made = sum(len(arena.named(f"race-{n}")) for n in range(4))
    arena.record.facts = {"verdicts": ends, "made": made}
    arena.record.good = made == 4
    arena.record.cell = f"{made} of 4 made"


async def _clients(arena: Arena, stack: contextlib.AsyncExitStack) -> list[Session]:
    if arena.contestant is not OURS:
        return [await stack.enter_async_context(arena.session()) for _ in range(4)]
    from mcp.client import Client

    port = stack.enter_context(daemon(arena.binaries, arena.ground))
    addresses = [f"http://127.0.0.1:{port}/mcp"] * 4
    clients = [await stack.enter_async_context(Client(address)) for address in addresses]
    return [Session(client, arena.contestant, arena.record) for client in clients]


async def both(arena: Arena) -> None:
    """One request makes a VM and starts it, and the start fails; then the cause is gone, and it is asked for again."""
    if arena.contestant is OURS:
        await _submitted(arena)
        return
    step = arena.contestant.create_and_start("both-1")
    if step is None:
        arena.record.cell = NOT_OFFERED
        return
    arena.pve.rule("POST", "/start$", {"task_exit": "start failed: exit code 1"})
    async with arena.session() as client:
        first = (await client.said(step))[1]
        await asyncio.sleep(SETTLE)
        left, text = arena.named("both-1"), arena.record.calls[-1]["text"]
        arena.pve.clear()
        await client.said(step)
        await asyncio.sleep(SETTLE)
    _tell(arena, first, left, text)


async def _submitted(arena: Arena) -> None:
    """The same as a workflow, by the command line; `watch` is what waits for a retry."""
    arena.pve.rule("POST", "/start$", {"task_exit": "start failed: exit code 1"})
    requested = ["name=both-1", "template=9000", "memory=1024", "disk=8", "node=pve1"]
    with daemon(arena.binaries, arena.ground):
        code, text = await _run(arena, "submit", "vm_deployment", *requested, "--id", "both", "--wait")
        left = arena.named("both-1")
        arena.pve.clear()
        await _run(arena, "retry", "both", "--id", "both-again")
        await _run(arena, "watch", "both-again")
    _tell(arena, DONE if code == 0 else FAILED, left, text)


async def _run(arena: Arena, *words: str) -> tuple[int, str]:
    begun = time.monotonic()
    code, text = await asyncio.to_thread(cli, arena.binaries, arena.ground, *words)
    seconds = round(time.monotonic() - begun, 2)
    arena.record.calls.append({"tool": "agentd", "arguments": words, "seconds": seconds, "code": code, "text": text})
    return code, text


def _tell(arena: Arena, first: str, left: list[int], text: str) -> None:
    after = arena.named("both-1")
    running = sum(arena.status(vmid) == "running" for vmid in after)
    named = bool(left) and all(str(vmid) in text for vmid in left)
    arena.record.facts = {"first": first, "left": left, "named": named, "after": after, "running": running}
    arena.record.good = len(after) == 1 and running == 1 and (named or not left)
    state = f"{_vms(len(left))} left" + (", named" if named else ", not named" if left else "")
    arena.record.cell = f"{first}, {state} | then {_vms(len(after))}, {running} running"


def _judge(arena: Arena, first: str, last: str, so: bool, inventory: str) -> None:  # noqa: FBT001 - a fact
    said = first if first == last else f"{first}, polled: {last}"
    arena.record.facts = {"first": first, "last": last, "so": so}
    arena.record.good = last != UNDER_WAY and (last == DONE) == so
    arena.record.cell = f"{said}; {inventory}"


def _vms(count: int) -> str:
    return f"{count} VM" if count == 1 else f"{count} VMs"


CASES: Final[dict[str, tuple[str, Case, dict[str, Any]]]] = {
    "tools/list": ("tools / tokens", tools_list, {}),
    "list 503 guests": ("tokens / API calls", list_guests, {}),
    "start ends `WARNINGS: 1`": ("said; so", warnings, {}),
    "start, locked by a backup for 4 s": ("said; so", locked, {}),
    "start, not allowed (403)": ("said; what the text names", denied, {"token": "audit"}),
    "create, answer lost": ("said; so", lost, {}),
    "the same call once more": ("said; so", lost_again, {}),
    "the same as a request with an id, sent twice": ("said, then said, so", request, {}),
    "four draw a VMID at once": ("made", four, {}),
    "create and start, start fails; again": ("said, so, then so", both, {}),
}
"""Each row of the table: what its cells say, how it is measured, and with which token."""
