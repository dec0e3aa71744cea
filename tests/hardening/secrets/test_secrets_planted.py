"""A secret that someone sends is stored nowhere: not in NATS, not in the logs, not on a page and not in an answer."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from mcp.client import Client

from agentd import errors
from agentd.client import requests
from agentd.wire import secrets as wire_secrets
from agentd.wire import subjects
from agentd.wire.codec import encode
from agentd.wire.messages import WorkflowRequest
from agentd_proxmox.api import answers
from agentd_proxmox.api_tiers import TABLE
from harness import eventually
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net
    from pve.client import FakePve
    from tool_bench import Bench

MARK = "planted{:04d}marker"
TEXTS = (
    "https://root:{}@192.0.2.9/x",
    "-----BEGIN RSA PRIVATE KEY-----{}",
    "password={}",
    "PVEAPIToken=root@pam!x={}",
)


def planted() -> list[tuple[str, str, str, Any]]:
    """Return method, path, parameter and value of every secret of the API, and of texts that hold one."""
    found: list[tuple[str, str, str, Any]] = []
    for key, row in TABLE.items():
        verb, _, path = key.partition(" ")
        where = re.sub(r"\{[^}]+\}", "x1", path)
        found += [(verb, where, name, MARK.format(len(found) + n)) for n, name in enumerate(row.get("secret", ()))]
    where = "/nodes/pve1/qemu/101/config"
    return found + [("PUT", where, "description", text.format(MARK.format(9000 + n))) for n, text in enumerate(TEXTS)]


async def test_every_secret_of_the_api(tools: Bench) -> None:
    """Each secret of the API is refused by each tool before anything is stored, and no refusal repeats it."""
    secrets = planted()
    for verb, path, name, value in secrets:
        for tool in ("api_get", "api_call", "api_destroy", "api_exec"):
            call = {"path": path, "parameters": {name: value}} | ({} if tool == "api_get" else {"method": verb})
            with pytest.raises(errors.InvalidMessage, match="is a secret") as caught:
                tools.tools[tool].parse(call)

            assert re.search(r"planted\d{4}marker", str(caught.value)) is None

    assert len(secrets) > 100


async def test_a_request_that_was_stored_directly(net: Net) -> None:
    """A request that a client of NATS has stored by itself is refused, and its state is kept without the secret."""
    marker = MARK.format(1)
    call = {"path": "/nodes/pve1/certificates/custom", "parameters": {"key": marker, "certificates": "x"}}
    request = WorkflowRequest("tool_call", "planted-1", {"tool": "api_exec", "parameters": call})
    async with net.client() as bus, net.here("all"):
        await bus.store(subjects.request("alice"), encode(request))

        async def over() -> Any:
            state = await requests.state_of(bus, "planted-1")
            return state if state is not None and state.over else None

        state = await eventually(over, "refused")

    assert state.status == "rejected"
    assert "'key'" in state.error
    assert marker not in json.dumps(encode(state).decode())


async def test_the_audit_keeps_digests(net: Net) -> None:
    """Of a call of the API the audit keeps what was named, and of texts a digest."""
    reply = "a text that may say anything"
    call = {"path": "/nodes/pve1/qemu/101/config", "method": "PUT", "parameters": {"description": reply, "cores": 2}}
    kept = answers.audited(call)["parameters"]

    assert kept["cores"] == 2
    assert kept["description"].startswith("sha256:")
    net.settings["policy"]["principals"] = {"mcp": "operate"}
    async with net.client() as bus, net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        done = await client.call_tool("api_call", call)
        last = await bus.last(subjects.AUDIT, "ai.audit.>")

    assert not done.is_error, done.content
    assert last is not None
    assert reply.encode() not in last.data


@pytest.mark.parametrize(
    ("key", "answer", "hidden"),
    [
        ("GET /storage/{storage}", {"storage": "pbs", "encryption-key": "x1", "keyring": "x1", "odd": "x1"}, 3),
        ("GET /access/domains/{realm}", {"type": "openid", "client-key": "x1", "realm": "a"}, 1),
        ("GET /cluster/metrics/server/{id}", {"id": "a", "token": "x1", "otel-headers": "x1"}, 2),
        ("GET /cluster/sdn/ipams/{ipam}", {"ipam": "a", "token": "x1"}, 1),
        ("GET /cluster/acme/plugins", [{"plugin": "a", "data": "x1"}, {"plugin": "b", "data": "x1"}], 2),
        ("GET /nodes/{node}/qemu/{vmid}/config", {"cores": 1, "net0": "virtio", "cipassword": "x1"}, 1),
        ("GET /nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", {"cores": 1, "cipassword": "x1"}, 1),
        ("GET /nodes/{node}/qemu/{vmid}/pending", [{"key": "cipassword", "value": "x1", "pending": "x1"}], 2),
        ("GET /nodes/{node}/subscription", {"status": "active", "key": "x1"}, 1),
        (
            "GET /cluster/notifications/endpoints/webhook",
            [{"name": "a", "secret": "x1", "header": "x1", "body": "x1"}],
            3,
        ),
        ("GET /nodes/{node}/lxc/{vmid}/config", {"hostname": "a", "env": "x1"}, 1),
        ("GET /nodes/{node}/status", {"uptime": 1, "odd": "x1", "nested": {"odd": "x1"}}, 2),
        ("GET /nodes/{node}/qemu", [{"vmid": 1, "name": "a", "odd": "x1"}], 1),
        ("GET /of/a/later/version", {"vmid": 1, "word": "x1", "list": ["x1", 2], "deep": {"word": "x1"}}, 3),
        ("GET /of/a/later/text", "x1", 1),
        ("POST /storage", {"storage": "a", "config": {"encryption-key": "x1"}}, 1),
        ("PUT /of/a/later/version", {"value": "x1"}, 1),
    ],
)
def test_answers_show_listed_fields_only(key: str, answer: Any, hidden: int) -> None:
    """Of a stored object an answer shows what the table lists; a secret and an unknown field are hidden."""
    text = json.dumps(answers.redact(key, answer))

    assert "x1" not in text
    assert text.count(wire_secrets.HIDDEN) == hidden


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/nodes/pve1/qemu/101/vncproxy"),
        ("POST", "/nodes/pve1/qemu/101/termproxy"),
        ("POST", "/nodes/pve1/qemu/101/spiceproxy"),
        ("POST", "/nodes/pve1/lxc/103/vncproxy"),
        ("POST", "/nodes/pve1/vncshell"),
        ("POST", "/nodes/pve1/termproxy"),
        ("POST", "/nodes/pve1/spiceshell"),
        ("POST", "/cluster/config/nodes/pve9"),
        ("POST", "/cluster/sdn/lock"),
        ("POST", "/access/users/root@pam/token/t1"),
    ],
)
async def test_tickets_are_refused(tools: Bench, method: str, path: str) -> None:
    """What answers a ticket, a secret or a key is refused at every tier."""
    for tool in ("api_call", "api_destroy", "api_exec"):
        with pytest.raises(errors.Rejected, match="is kept"):
            await tools(tool, method=method, path=path)


async def test_no_new_secret_of_a_token(tools: Bench) -> None:
    """A new secret of a token would be stored in the answer, for any form of the switch."""
    for value in (True, 1.0, "on"):
        with pytest.raises(errors.Rejected, match="its answer holds a secret"):
            await tools(
                "api_exec", method="PUT", path="/access/users/root@pam/token/t1", parameters={"regenerate": value}
            )


def test_every_answer_with_a_ticket_is_refused(facts: Path) -> None:
    """Each method whose answer names a ticket, a password or another secret is called by no tool, or hides it."""
    methods = json.loads((facts / "pve" / "pve-api-schema-9.2.json").read_text())
    named = {key: _names(method.get("returns") or {}) for key, method in methods.items() if " " in key}
    secret = {key: sorted(filter(wire_secrets.is_secret_name, names)) for key, names in named.items()}
    seen = {key: names for key, names in secret.items() if names}
    for key, names in seen.items():
        if TABLE[key]["tier"] != "refused":
            answer = answers.redact(key, [{name: "x1", "inner": {name: "x1"}} for name in names])
            assert "x1" not in json.dumps(answer), key

    assert sum(TABLE[key]["tier"] == "refused" for key in seen) > 10


def _names(returns: dict[str, Any]) -> set[str]:
    """Return the names of all fields of an answer."""
    fields = returns.get("properties") or {}
    inner = [item for item in (*fields.values(), returns.get("items")) if isinstance(item, dict)]
    return {*fields}.union(*map(_names, inner))


async def test_no_answer_shows_a_secret(tools: Bench, lab: FakePve) -> None:
    """In any answer to a read, a value with the name or form of a secret, or an unknown name, is hidden."""
    marker = MARK.format(1)
    names = ("password", "cipassword", "token", "secret", "ticket", "private-key", "smb_pass", "apiKey", "keyring")
    entry: dict[str, Any] = dict.fromkeys(names, marker)
    entry |= {"url": f"https://u:{marker}@192.0.2.9", "comment": f"password={marker}", "inner": [{"passwd": marker}]}
    reads = [key for key, row in TABLE.items() if key.startswith("GET ") and row["tier"] in {"read", "exec"}]
    for data in (entry, [entry]):
        lab.rule("GET", "^/(?!version|access/permissions)", {"status": 200, "body": {"data": data}})
        for key in reads:
            path = re.sub(r"\{[^}]+\}", "x1", key.partition(" ")[2])
            if re.search(r"access/permissions$|version$", path):
                continue
            tool, more = ("api_get", {}) if TABLE[key]["tier"] == "read" else ("api_exec", {"method": "GET"})
            with contextlib.suppress(errors.Rejected):  # x1 is no value of some variables
                answer = await tools.tools[tool].run(MemoryCall(), tools.tools[tool].parse({"path": path} | more))
                assert marker not in msgspec.json.encode(answer).decode(), key
        lab.reset()
