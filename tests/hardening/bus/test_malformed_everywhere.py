"""A malformed record on every stream subject and bucket key that exists fails no command, no page and no daemon."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentd.bus.setup.provision import streams
from agentd.client import queries, requests
from agentd.config.settings import Schedule
from agentd.daemon import state
from agentd.schedules import provision as put_schedules
from agentd.wire import subjects
from agentd.wire.announcements import Heartbeat
from agentd.wire.codec import encode
from agentd.wire.messages import SignalReply, WorkflowRequest
from agentd.wire.records import DeadLetter
from hardening.safety.test_freeze import agentd
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd.bus.jetstream import Bus
    from agentd.daemon.supervisor import Supervisor
    from harness import Net

ACKNOWLEDGEMENT = b'{"stream":"AI_INPUT","seq":1}'
AT = datetime(2026, 11, 29, tzinfo=UTC)
MALFORMED: list[bytes] = [
    b"",
    b"not JSON",
    b"\xff\xfe",
    b"null",
    b"7",
    b"[]",
    b"{}",
    b'{"v": 1e400, "seq": NaN}',
    b'{"v": 99999999999999999999999999, "seq": 99999999999999999999}',
    b'{"workflow_id": 1e308, "status": "completed", "updated": -1}',
    b"[" * 50_000,
    b'{"a":' * 20_000,
    b'{"text": "' + b"x" * 900_000 + b'"}',
    encode(SignalReply("w1", done=True)),
    encode(Heartbeat("a", AT)),
    ACKNOWLEDGEMENT,
    b'{"type":"io.nats.jetstream.api.v1.stream_info_response","error":{"code":404}}',
]
OWN_KEYS = (f"$KV.{subjects.FREEZE}.", f"$KV.{subjects.CHAINS}.key.")
"""Where nonsense of a client that may write there stops changes on purpose; the server's answers do not."""
READS = [
    ("agents",),
    ("workflows",),
    ("schedules",),
    ("dead-letters",),
    ("tools",),
    ("export",),
    ("audit", "list"),
    ("audit", "verify"),
    ("audit", "export"),
]
PAGES = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    *(f"/api/{name}" for name in ("agents", "services", "workflows", "tasks", "metrics", "alerts", "plugins")),
]


async def _subjects(bus: Bus) -> list[str]:
    found: list[str] = []
    for config in streams(1):
        info = await bus.api(f"STREAM.INFO.{config['name']}", {"subjects_filter": ">"})
        found += info["state"].get("subjects") or {}
    return found


async def _damage(bus: Bus) -> int:
    """Store every malformed record on every subject that holds a message, and on some of the inputs; count them."""
    count = 0
    inputs = [subjects.request("tester"), subjects.signal("tester", "w1"), subjects.complete("a", "w1", "t")]
    for subject in [*await _subjects(bus), *inputs, f"$KV.{subjects.FREEZE}.network"]:
        if subject.startswith("$JS"):
            continue
        kinds = [ACKNOWLEDGEMENT] if subject.startswith(OWN_KEYS) else MALFORMED
        for data in kinds:
            await bus.store(subject, data)
            count += 1
    return count


async def _pages(daemon: Supervisor, paths: Iterable[str]) -> dict[str, int]:
    def get(path: str) -> int:
        try:
            with urllib.request.urlopen(daemon.url + path, timeout=30) as answer:  # noqa: S310 - loopback
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    return {path: await asyncio.to_thread(get, path) for path in paths}


async def test_everything_continues(net: Net) -> None:
    """Each command and each page shows the rest, each daemon starts, and a workflow completes after it as before."""
    net.settings["policy"] = {"principals": {"tester": "operate"}}
    async with net.client("tester") as bus:
        await put_schedules(bus, {"nightly": Schedule(workflow="health_check", cron="0 3 1 1 *", principal="tester")})
        async with net.here():
            await requests.submit(bus, "tester", WorkflowRequest("health_check", "before"))
            await queries.follow(bus, "before", lambda _: None, wait=60)
            started = await agentd(net, "call", "start_guest", "vmid=101", "--key", "a.b")
            assert started[0] == 0, started
        letter = DeadLetter(subjects.INPUT, 1, subjects.signal("tester", "w1"), "no reason", "a", AT)
        await bus.store(
            subjects.dead("given-up", "orch", "1"), b"{}", headers={"Agentd-Letter": encode(letter).decode()}
        )
        damaged = await _damage(bus)
        async with net.here() as daemon:
            pages = await _pages(daemon, [*PAGES, "/workflows/before", "/api/workflows/before", "/api/workflows/none"])
            codes = {words: await agentd(net, *words) for words in [*READS, *(("--json", *words) for words in READS)]}
            for words in (
                ("show", "before"),
                ("watch", "before"),
                ("undo", "--dry-run", "tester=a.b"),
                ("show", "none"),
            ):
                codes[words] = await agentd(net, *words)
            await requests.submit(bus, "tester", WorkflowRequest("health_check", "after"))
            answer = await queries.follow(bus, "after", lambda _: None, wait=60)

            async def counted() -> bool:
                return len(state.identity(daemon).unreadable) > 0

            await eventually(counted, "what cannot be read is shown")
            alarm = daemon.audit_log.alarm

    assert damaged > 15 * len(MALFORMED)
    assert answer.status == "completed"
    assert alarm == ""
    wrong = {path: code for path, code in pages.items() if code != 200}
    assert wrong == {"/api/workflows/none": 404}
    expected = {("show", "none"): 2, ("audit", "verify"): 1, ("--json", "audit", "verify"): 1}
    failed: dict[Any, Any] = {
        words: done for words, done in codes.items() if done[0] != expected.get(words, 0) or "Traceback" in done[2]
    }
    assert failed == {}
    assert "before" in codes["workflows",][1]
    assert "nightly" in codes["schedules",][1]
    assert "before" in codes["export",][1]


async def test_a_retry_of_an_unreadable_workflow(net: Net) -> None:
    """A retry of a workflow of which nothing can be read is refused with a reason that names it."""
    async with net.client("tester") as bus, net.here():
        await bus.store(subjects.event("lost"), b"not JSON")
        await requests.submit(bus, "tester", WorkflowRequest("", "again", retry_of="lost"))
        answer = await queries.follow(bus, "again", lambda _: None, wait=60)
        code, out, reply = await agentd(net, "retry", "lost", "--wait")

    assert answer.status in {"failed", "rejected"}
    assert "lost" in str(answer.error)
    assert "read" in str(answer.error)
    assert code != 0
    assert "lost: no state of it can be read" in out + reply
