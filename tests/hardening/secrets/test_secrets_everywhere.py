"""A secret that is sent in any way is found nowhere: in no stream, bucket, log, page, answer or event."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import nats
import pytest
from httpx2 import AsyncClient
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from agentd.client import requests
from agentd.safety import tokens
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import WorkflowRequest
from hardening.secrets.planted import ANSWERS, CALLS, CONFIG, INPUTS, NAMED, REQUESTS, TOOLS, Planted, of_the_table
from harness import ALL_ROLES, SCRIPTS, eventually, free_port

if TYPE_CHECKING:
    from nats.aio.client import Client as Nats
    from nats.aio.msg import Msg

    from harness import Daemon, Net

pytestmark = pytest.mark.timeout(240)


class Place:
    """A running network with everything that it shows and keeps."""

    def __init__(self, net: Net, daemon: Daemon, raw: Nats) -> None:
        """Keep the places to search, and receive everything that daemons publish."""
        self.net = net
        self.daemon = daemon
        self.raw = raw
        self.planted = Planted()
        self.sent: set[tuple[str, bytes]] = set()
        self.answers: list[tuple[str, str]] = []
        self.received: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{net.settings['web']['port']}"

    async def listen(self) -> None:
        """Keep every message that passes NATS and that the test has not sent."""

        async def on_message(msg: Msg) -> None:
            self.received.append((msg.subject, msg.data + json.dumps(dict(msg.headers or {})).encode()))

        await self.raw.subscribe("ai.>", cb=on_message)
        await self.raw.subscribe("$KV.>", cb=on_message)
        await self.raw.flush()

    async def store(self, subject: str, what: str, message: Any) -> None:
        """Publish a message into a stream, as any client of NATS may."""
        made = self.planted.new(what, message)
        data = made.encode() if isinstance(made, str) else json.dumps(made).encode()
        self.sent.add((subject, data))
        await self.raw.jetstream().publish(subject, data)

    async def ask(self, subject: str, what: str, message: Any) -> None:
        """Publish a message and keep its answer."""
        data = json.dumps(self.planted.new(what, message)).encode()
        self.sent.add((subject, data))
        with contextlib.suppress(nats.errors.Error):
            self.answers.append((what, (await self.raw.request(subject, data, timeout=20)).data.decode()))

    async def http(self, path: str, body: Any = None, token: str = "") -> None:
        """Send a request to the web server and keep its answer."""
        self.answers.append((f"HTTP {path[:30]}", await asyncio.to_thread(_fetched, self.url + path, body, token)))

    async def command(self, *arguments: str) -> str:
        """Run `agentd …` and return everything that it prints."""
        process = await asyncio.create_subprocess_exec(
            *(str(SCRIPTS / "agentd"), "--config", str(self.net.directory / "agentd.toml"), *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode()

    async def shown(self) -> dict[str, bytes]:
        """Return everything that can be read afterwards, by where it is."""
        found = await self._stored()
        found |= {f"file {path.name}": path.read_bytes() for path in self.net.directory.glob("*.log")}
        state = self.net.directory / "state"
        found |= {f"state {path.name}": path.read_bytes() for path in state.rglob("*") if path.is_file()}
        own = {subject: set[bytes]() for subject, _ in self.sent}
        for subject, data in self.sent:
            own[subject].add(data)
        for number, (subject, data) in enumerate(self.received):
            if not any(data.startswith(item) for item in own.get(subject, ())):
                found[f"received {number} {subject}"] = data
        found |= {f"answer {number} {what}": text.encode() for number, (what, text) in enumerate(self.answers)}
        return found | {f"page {path}": text.encode() for path, text in (await self._pages()).items()}

    async def _stored(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        manager = self.raw.jsm()
        for info in await manager.streams_info():
            name, state = str(info.config.name), info.state
            for number in range(max(1, state.first_seq), state.last_seq + 1):
                with contextlib.suppress(nats.js.errors.NotFoundError):
                    message = await manager.get_msg(name, number)
                    data = (message.data or b"") + json.dumps(dict(message.headers or {})).encode()
                    found[f"{name} {number} {message.subject}"] = f"{message.subject} ".encode() + data
        return found

    async def _pages(self) -> dict[str, str]:
        paths = ["/", "/metrics", "/healthz", "/readyz", "/api/openapi.json"]
        paths += [
            f"/api/{item}" for item in ("agents", "services", "workflows", "tasks", "metrics", "alerts", "plugins")
        ]
        pages = {path: await asyncio.to_thread(_fetched, self.url + path) for path in paths}
        ids = {str(load.get("workflow_id")) for load in json.loads(pages["/api/workflows"])}
        for workflow in list(ids)[:40]:
            for path in (f"/workflows/{workflow}", f"/api/workflows/{workflow}"):
                pages[path] = await asyncio.to_thread(_fetched, self.url + path)
        return pages


def _fetched(url: str, body: Any = None, token: str = "") -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers | {"Accept": "text/html, application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())


@contextlib.asynccontextmanager
async def _place(net: Net) -> Any:
    token, digest = tokens.new_token()
    net.settings["web"] = {"port": free_port(), "tokens": {"alice": digest}}
    net.settings["policy"] = {
        "default_tier": "exec",
        "principals": {"alice": "exec", "bob": "exec", "mcp": "operate"},
    }
    net.settings["client"] = {"principal": "alice"}
    async with net.client():
        pass
    daemon = net.daemon("all", ALL_ROLES)
    try:
        daemon.start().ready(90)
        raw = await nats.connect(net.nats_url)
        place = Place(net, daemon, raw)
        await place.listen()
        try:
            yield place, token
        finally:
            await raw.close()
    finally:
        daemon.stop()


async def _by_nats(place: Place) -> None:
    calls = of_the_table() | CALLS
    for number, (what, call) in enumerate(calls.items()):
        tool = TOOLS[1 + number % 3]
        requested = {
            "workflow_type": "tool_call",
            "workflow_id": f"call-{number}",
            "parameters": {"tool": tool, "parameters": call},
        }
        await place.store(subjects.request(f"p{number % 40}"), f"request {what}", requested)
    for what, request in REQUESTS.items():
        await place.store(subjects.request("carol"), f"request {what}", request)
        await place.store(subjects.WORKFLOW_REQUEST, f"plain request {what}", request)
    for what, (subject, message) in INPUTS.items():
        await place.store(subject, what, message)


async def _by_signals(place: Place) -> None:
    """Reject, by well-formed signals, what waits for an approval."""
    shot = {"path": "/nodes/pve1/qemu/102", "method": "DELETE", "parameters": {}}
    for number, action in enumerate(("reject", "cancel")):
        name = f"waits-{number}"
        requested = {
            "workflow_type": "tool_call",
            "workflow_id": name,
            "parameters": {"tool": "api_destroy", "parameters": shot},
        }
        await place.store(subjects.request("alice"), "what waits", requested)

        async def waits(name: str = name) -> Any:
            return "waiting_approval" in await asyncio.to_thread(_fetched, f"{place.url}/api/workflows/{name}") or None

        await eventually(waits, f"{name} waits for an approval")
        signal = {"action": action, "task": "call", "reason": f"password={NAMED}"}
        await place.store(subjects.signal("bob", name), f"the reason of {action}", signal)


async def _by_calls(place: Place) -> None:
    calls = of_the_table() | CALLS
    asked = []
    for number, ((what, call), tool) in enumerate(itertools.product(calls.items(), TOOLS)):
        made = {name: value for name, value in call.items() if tool != "api_get" or name != "method"}
        message = {"parameters": made, "key": f"k{number}"}
        asked.append(
            place.ask(subjects.tool_call(f"p{number % 40}", "mcp-proxmox", tool), f"call {what} by {tool}", message)
        )
    extra = {"parameters": {"vmid": 101, "options": {"cipassword": NAMED}}, "key": "named-1"}
    asked.append(place.ask(subjects.tool_call("alice", "mcp-proxmox", "update_guest_options"), "a named tool", extra))
    for start in range(0, len(asked), 16):
        await asyncio.gather(*asked[start : start + 16])


async def _by_mcp(place: Place, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    calls = of_the_table() | CALLS
    async with (
        AsyncClient(headers=headers) as http,
        Client(streamable_http_client(f"{place.url}/mcp", http_client=http)) as client,
    ):
        for number, (what, call) in enumerate(calls.items()):
            tool = TOOLS[1 + number % 3]
            arguments = place.planted.new(f"MCP {what} by {tool}", call)
            with contextlib.suppress(Exception):
                try:
                    answer = await client.call_tool(tool, arguments)
                except Exception as error:
                    place.answers.append((f"MCP {what}", str(error)))
                    raise
                place.answers.append((f"MCP {what}", str(answer)))


async def _by_hand(place: Place, token: str) -> None:
    arguments = [
        ["call", "api_exec", "path=/nodes/pve1/certificates/custom", "method=POST", f'parameters={{"key":"{NAMED}"}}'],
        ["--json", "call", "api_call", f"path={CONFIG}", "method=PUT", f'parameters={{"cipassword":"{NAMED}"}}'],
        ["submit", "vm_deployment", "name=x", f"password={NAMED}"],
        [
            "submit",
            "tool_call",
            "tool=api_exec",
            f'parameters={{"path":"/storage","parameters":{{"password":"{NAMED}"}}}}',
        ],
    ]
    made = [place.planted.new(f"command {line[0]} {number}", line) for number, line in enumerate(arguments)]
    for line, output in zip(made, await asyncio.gather(*(place.command(*item) for item in made)), strict=True):
        place.answers.append((f"command {line[0]}", output))
    for path in ("/api/workflows/call-1/approve", "/api/workflows/call-1/cancel", "/api/freeze"):
        for body in ({"reason": f"password={NAMED}", "odd": NAMED}, {"digest": f"password={NAMED}"}, [NAMED]):
            await place.http(path, place.planted.new(f"HTTP {path}", body), token)
    await place.http("/api/freeze", place.planted.new("a freeze", {"reason": f"password={NAMED}"}), token)
    await place.http("/api/thaw", {}, token)
    for path in (f"/workflows/{NAMED}", f"/api/{NAMED}", f"/?password={NAMED}"):
        await asyncio.to_thread(_fetched, place.url + place.planted.new("the path of a page", path))


async def _by_answers(place: Place) -> None:
    """Let Proxmox answer secrets to reads; request each by a workflow, by a call and with tier exec."""
    assert place.net.pve is not None
    for number, (path, answer) in enumerate(ANSWERS.items()):
        made = place.planted.new(f"the answer of {path}", answer)
        effect = {"status": 200, "body": {"data": made}}
        await asyncio.to_thread(place.net.pve.rule, "GET", f"^{re.escape(path)}$", effect)
        requested = {"workflow_type": "tool_call", "workflow_id": f"reads-{number}"}
        requested["parameters"] = {"tool": "api_get", "parameters": {"path": path}}  # type: ignore[assignment]
        await place.store(subjects.request("dora"), "a read", requested)
        await place.ask(subjects.tool_call("alice", "mcp-proxmox", "api_get"), "a read", {"parameters": {"path": path}})
    for number in range(len(ANSWERS)):

        async def over(name: str = f"reads-{number}") -> Any:
            state = json.loads(await asyncio.to_thread(_fetched, f"{place.url}/api/workflows/{name}"))
            return state.get("status") in {"completed", "failed", "rejected"} or None

        await eventually(over, f"reads-{number} is over")


async def _settled(place: Place) -> None:
    async def empty() -> Any:
        infos = {str(info.config.name): info.state for info in await place.raw.jsm().streams_info()}
        return all(infos[name].messages == 0 for name in (subjects.REQUESTS, subjects.INPUT)) or None

    await eventually(empty, "every request and input is handled", 60)


def _report(place: Place, shown: dict[str, bytes]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for where, data in shown.items():
        for what in place.planted.found(data):
            places.setdefault(what, []).append(where)
    return places


async def test_no_secret_is_kept_or_shown(net: Net) -> None:
    """Every secret of the API and of every other kind, sent in every way, is found nowhere afterwards."""
    async with _place(net) as (place, token):
        await _by_nats(place)
        await _by_signals(place)
        await _by_calls(place)
        await _by_mcp(place, token)
        await _by_answers(place)
        await _by_hand(place, token)
        await _settled(place)
        shown = await place.shown()

    found = _report(place, shown)
    assert len(place.planted.values) > 900
    assert len(shown) > 500
    assert found == {}, json.dumps(found, indent=1)


async def test_a_request_over_a_limit(quiet_net: Net) -> None:
    """A request that is refused unread, or is unreadable, is kept without its secrets too."""
    quiet_net.settings["orchestrator"] = {"requests_per_minute": 1}
    quiet_net.settings["instances"]["all"] = {"roles": ["orchestrator"]}
    deep: Any = {"password": "qz0001plantedzq"}
    for _ in range(400):
        deep = {"x": deep}
    sent_requests = {
        "over": WorkflowRequest("health_check", "over", {"password": "qz0000plantedzq", "word": "qz0002plantedzq"}),
        "deep": WorkflowRequest("health_check", "deep", deep),
    }
    async with quiet_net.client() as bus, quiet_net.here("all"):
        for name in ("first", "deep", "over"):
            principal = "carol" if name == "over" else name
            await bus.store(subjects.request("carol"), encode(WorkflowRequest("health_check", "first")))
            await bus.store(
                subjects.request(principal), encode(sent_requests.get(name, WorkflowRequest("health_check", name)))
            )
        for name in sent_requests:

            async def over(name: str = name) -> Any:
                state = await requests.state_of(bus, name)
                return state if state is not None and state.over else None

            state = await eventually(over, f"{name} is refused")
            assert state.status == "rejected"
            assert b"plantedzq" not in encode(state)
