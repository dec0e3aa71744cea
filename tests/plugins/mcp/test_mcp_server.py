"""The MCP face of tools, driven by the SDK's own client over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx2
import msgspec
import pytest
import uvicorn
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from agentd.errors import Denied
from agentd.tools.declaration import collect, tool
from agentd.tools.definition import Call, Repeat, Tool
from agentd.wire import codec
from agentd.wire.messages import Outcome, TaskError, Tier, ToolReply
from agentd_mcp import replies
from agentd_mcp import server as mcp_server
from agentd_mcp.transport import http_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PROTOCOLS = ["legacy", "auto"]


class Greet(msgspec.Struct, omit_defaults=True):
    """Who to greet, and how often."""

    name: str
    times: int = 1


class Greeting(msgspec.Struct, omit_defaults=True):
    """The text."""

    text: str
    node: str | None = None


class Desk:
    """A tool of each tier."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="test")
    async def greet(self, call: Call, p: Greet) -> Greeting:
        """Greet a person by name."""
        call.progress("clearing the throat")
        await asyncio.sleep(0)
        call.progress("speaking")
        return Greeting(f"hello {p.name}" * p.times)

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="test")
    async def paint(self, call: Call, p: Greet) -> Greeting:
        """Paint a name on a wall."""
        call.progress("painting")
        await Desk.wet.wait()
        Desk.painted.append(p.name)
        return Greeting(p.name)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="test")
    async def tear_down(self, call: Call, p: Greet) -> Greeting:
        """Tear the wall down."""
        call.warn("it was a nice wall")
        return Greeting(p.name)

    wet = asyncio.Event()
    painted: list[str] = []  # noqa: RUF012 - emptied by the fixture


@dataclass
class _Call:
    """As much of a Call as the tools above touch."""

    note: Callable[[str], None]
    warnings: list[str] = field(default_factory=list)

    def progress(self, text: str) -> None:
        self.note(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


async def run(
    principal: mcp_server.Principal, tool: Tool, arguments: dict[str, Any], note: mcp_server.Progress
) -> ToolReply:
    """Run a tool as the worker does, without a record."""
    if arguments.get("name") == "no-one":
        message = f"{principal.name} may not greet no-one"
        raise Denied(message)
    if arguments.get("name") == "ghost":
        error = TaskError("task_failed", "no ghost answered", retry=True, log=["boo", "TASK ERROR"])
        return ToolReply(status=Outcome.FAILED, error=error)
    call = _Call(note)
    result = await tool.run(cast("Call", call), tool.parse(arguments))
    return ToolReply(status=Outcome.COMPLETED, result=codec.plain(result), warnings=call.warnings)


@dataclass
class Served:
    """A running server."""

    url: str
    principal: mcp_server.Principal


@contextlib.asynccontextmanager
async def serving(tier: Tier = Tier.DESTROY) -> AsyncIterator[Served]:
    """Serve the desk on a free port; no fixture, because the SDK must be entered and left in one task."""
    Desk.wet, Desk.painted = asyncio.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        here = Served(f"http://127.0.0.1:{port}/mcp", mcp_server.Principal("mcp", tier))
        tools = [item for item in collect(Desk(), service="desk") if isinstance(item, Tool)]
        face = http_app.http_server(
            mcp_server.tool_server(tools, run, name="desk", version="1", resolve=lambda _request: here.principal),
            hosts=[f"127.0.0.1:{port}"],
            origins=[f"http://127.0.0.1:{port}"],
        )
        server = uvicorn.Server(uvicorn.Config(face.app, http="h11", ws="none", lifespan="off", log_config=None))
        async with face.lifespan():
            answering = asyncio.create_task(server.serve(sockets=[listening]))
            async with asyncio.timeout(5):
                while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
                    await asyncio.sleep(0.01)
            yield here
            server.should_exit = True
            await answering


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_tools_are_listed_with_schemas_and_hints(protocol: str) -> None:
    """A client of either protocol version sees what a tool takes and gives, and what harm it can do."""
    async with serving() as served, Client(served.url, mode=protocol) as client:
        listed = {item.name: item for item in (await client.list_tools()).tools}

    assert set(listed) == {"greet", "paint", "tear_down"}
    greet = listed["greet"]
    assert greet.description == "Greet a person by name."
    assert greet.input_schema["required"] == ["name"]
    assert greet.output_schema is not None
    assert greet.output_schema["type"] == "object"
    hints = {name: item.annotations for name, item in listed.items()}
    assert [(name, h.read_only_hint, h.destructive_hint, h.idempotent_hint) for name, h in hints.items() if h] == [
        ("greet", True, False, True),
        ("paint", False, False, False),
        ("tear_down", False, True, True),
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_answers_structured_and_as_text(protocol: str) -> None:
    """The result of a tool reaches the client as data, and as the same data in text."""
    async with serving() as served, Client(served.url, mode=protocol) as client:
        answer = await client.call_tool("greet", {"name": "Ada", "times": 2})

    assert not answer.is_error
    assert answer.structured_content == {"text": "hello Adahello Ada"}
    assert _texts(answer) == ['{"text":"hello Adahello Ada"}']


async def test_warnings_stand_beside_the_result() -> None:
    """What succeeded with warnings is a success, and the warnings are reported."""
    async with serving() as served, Client(served.url) as client:
        answer = await client.call_tool("tear_down", {"name": "west"})

    assert not answer.is_error
    assert _texts(answer)[1:] == ["warning: it was a nice wall"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "greet: object missing required field name"),
        ({"name": [3]}, "greet.name: expected str, got array"),
        ({"name": "Ada", "times": "x"}, "greet.times: expected int, got str"),
        ({"name": "Ada", "loud": True}, "greet: unknown parameter 'loud'; there are name, times"),
        ({"name": "no-one"}, "denied: mcp may not greet no-one"),
        ({"name": "ghost"}, "task_failed: no ghost answered\nTrying again may help.\nboo\nTASK ERROR"),
    ],
)
async def test_an_error_is_a_line_that_names_the_fault(protocol: str, arguments: dict[str, Any], line: str) -> None:
    """A refused or failed call is a result that a model can read, never an opaque protocol error."""
    async with serving() as served, Client(served.url, mode=protocol) as client:
        answer = await client.call_tool("greet", arguments)

    assert answer.is_error
    assert _texts(answer) == [line]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_tools_above_the_tier_do_not_exist(protocol: str) -> None:
    """What a principal may not use is neither listed nor distinguishable from what is not there."""
    refused = []
    async with serving(Tier.READ) as served, Client(served.url, mode=protocol) as client:
        listed = [item.name for item in (await client.list_tools()).tools]
        for name in ("tear_down", "no_such"):
            with pytest.raises(MCPError) as caught:
                await client.call_tool(name, {"name": "x"})
            refused.append(caught.value.message.replace(name, "X"))

    assert listed == ["greet"]
    assert refused == ["there is no tool 'X' within tier read; find_tools finds those there are"] * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_progress_reaches_the_client_in_order(protocol: str) -> None:
    """What a tool says on its way comes before its result, in order."""
    received: list[tuple[float, str | None]] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        received.append((progress, message))

    async with serving() as served, Client(served.url, mode=protocol) as client:
        await client.call_tool("greet", {"name": "Ada"}, progress_callback=listen)

    assert received == [(1, "clearing the throat"), (2, "speaking")]


async def test_an_effect_outlives_its_client() -> None:
    """A client that goes away in the middle does not cut an effect in half."""
    begun = asyncio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
        begun.set()

    async def paint(url: str) -> None:
        async with Client(url) as client:
            await client.call_tool("paint", {"name": "Ada"}, progress_callback=listen)

    async with serving() as served:
        painting = asyncio.create_task(paint(served.url))
        await begun.wait()
        painting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await painting
        asyncio.get_running_loop().call_later(0.2, Desk.wet.set)
    # Leaving the server waited for the effect.

    assert Desk.painted == ["Ada"]


@pytest.mark.parametrize(
    ("header", "status"), [({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)]
)
async def test_a_foreign_host_or_origin_is_refused(header: dict[str, str], status: int) -> None:
    """A web page that rebinds a name to this address gets nothing, in both versions of the protocol."""
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    plain = {"Accept": "application/json, text/event-stream", **header}
    modern = {**plain, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
    async with serving() as served, httpx2.AsyncClient() as http:
        answers = [await http.post(served.url, json=ask, headers=item) for item in (plain, modern)]

    assert [answer.status_code for answer in answers] == [status, status]


def test_a_call_without_an_end_is_not_a_result() -> None:
    """What still runs, or was cancelled, is reported as such."""
    running = replies.answer(ToolReply(status="running", progress="cloning"))

    assert running.is_error
    assert _texts(running) == ["running: cloning"]
    assert _texts(replies.answer(ToolReply(status=Outcome.CANCELLED))) == ["cancelled: no result yet"]


async def test_one_malformed_tool_is_left_out_alone() -> None:
    """A definition that MCP cannot carry is reported, and the others are served."""
    good, *_ = (item for item in collect(Desk(), service="desk") if isinstance(item, Tool))
    bad = Tool(**{**{n: getattr(good, n) for n in good.__dataclass_fields__}, "name": "odd", "result": list[int]})

    face = mcp_server.tool_server(
        [good, bad],
        run,
        name="desk",
        version="1",
        resolve=lambda _request: mcp_server.Principal("mcp", Tier.READ),
    )

    assert [item.name for item in face.broken] == ["odd"]
    assert "not an object in JSON" in face.broken[0].reason


def _texts(answer: Any) -> list[str]:
    return [volume.text for volume in answer.content]
