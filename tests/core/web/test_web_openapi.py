"""The HTTP API against its own OpenAPI document: requests are generated from it, and responses checked with it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.safety import tokens
from agentd.web.api.openapi import describe
from agentd.web.app import build
from core.web_networks import busy_network

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Message

DOCUMENT = describe("1.0")
TOKEN, KEPT = tokens.new_token()
READS = sorted(path for path, item in DOCUMENT["paths"].items() if "get" in item)
WRITES = sorted(path for path, item in DOCUMENT["paths"].items() if "post" in item)
EXPECTED = {200, 202, 400, 404, 409, 413, 429, 503}
TEXT = st.text(max_size=40)
WORD = st.text(min_size=1, max_size=40).filter(lambda text: "/" not in text)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OFTEN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fitting(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that fit a schema."""
    if "$ref" in schema:
        return fitting(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of([fitting(part) for part in schema["anyOf"]])
    kind = schema.get("type")
    return OF_TYPE[kind](schema) if kind in OF_TYPE else ANYTHING


def objects(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Return objects that fit a schema."""
    required = set(schema.get("required", ()))
    fields = {name: fitting(part) for name, part in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: part for name, part in fields.items() if name in required},
        optional={name: part for name, part in fields.items() if name not in required},
    )


OF_TYPE: dict[str, Callable[[Mapping[str, Any]], st.SearchStrategy[Any]]] = {
    "string": lambda _: TEXT,
    "integer": lambda schema: st.integers(schema.get("minimum", -(10**6)), schema.get("maximum", 10**6)),
    "number": lambda _: st.floats(-1e6, 1e6),
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "array": lambda schema: st.lists(fitting(schema.get("items", {})), max_size=3),
    "object": objects,
}


def ask(method: str, path: str, query: str = "", body: bytes = b"", token: str = "") -> tuple[int, str, bytes]:
    """Return status, content type and body of one request to the application."""
    headers = [(b"host", b"localhost"), (b"accept", b"application/json")]
    headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": query.encode(),
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(build(busy_network(), tokens={"bob": KEPT})(scope, receive, send))
    kind = dict(sent[0]["headers"]).get(b"content-type", b"").decode()
    return sent[0]["status"], kind, b"".join(message.get("body", b"") for message in sent[1:])


def check(operation: Mapping[str, Any], code: int, kind: str, body: bytes) -> None:
    """Check a response: its status is described, and its content fits the schema of that status."""
    assert code in EXPECTED, (code, body)
    described = operation["responses"].get(str(code)) or operation["responses"]["default"]
    assert kind in described["content"], (code, kind, body)
    schema = described["content"][kind]["schema"]
    jsonschema.validate(json.loads(body), {**schema, "components": DOCUMENT["components"]})


@pytest.mark.parametrize("path", READS)
@OFTEN
@given(data=st.data())
def test_every_read(path: str, data: st.DataObject) -> None:
    """Whatever a query holds, the response is one that the document describes."""
    operation = DOCUMENT["paths"][path]["get"]
    query: dict[str, Any] = {}
    for parameter in operation["parameters"]:
        value = fitting(parameter["schema"]) | TEXT
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", data.draw(st.sampled_from(["web2-7f31", "none"]) | WORD))
        elif data.draw(st.booleans()):
            query[parameter["name"]] = data.draw(value)
    if data.draw(st.booleans()):
        query |= data.draw(st.dictionaries(TEXT, TEXT, max_size=2))

    check(operation, *ask("GET", path, urlencode(query, doseq=True)))


@pytest.mark.parametrize("path", WRITES)
@OFTEN
@given(data=st.data())
def test_every_write(path: str, data: st.DataObject) -> None:
    """Whatever a body holds, the response is one that the document describes; without a token it is refused."""
    operation = DOCUMENT["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = data.draw(fitting(schema).map(json.dumps) | ANYTHING.map(json.dumps) | TEXT).encode()
    for parameter in operation["parameters"]:
        known = st.sampled_from(["web2-7f31"]) if parameter["name"] == "id" else fitting(parameter["schema"])
        path = path.replace(f"{{{parameter['name']}}}", data.draw(known.filter(bool) | WORD))
    refused, _, answer = ask("POST", path, body=body)

    assert refused in {401, 403}, (refused, answer)
    check(operation, *ask("POST", path, body=body, token=TOKEN))
