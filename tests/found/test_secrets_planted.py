"""A secret that someone sends is stored nowhere: not in NATS, not in the logs, not on a page and not in an answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from mcp.client import Client

from agentd import asking, errors, secrecy, subjects
from agentd.messages import WorkflowRequest, encode
from agentd_proxmox import api_answers
from agentd_proxmox.tiers import TABLE
from harness import eventually

if TYPE_CHECKING:
    from harness import Net
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
            state = await asking.state_of(bus, "planted-1")
            return state if state is not None and state.over else None

        state = await eventually(over, "refused")

    assert state.status == "rejected"
    assert "'key'" in state.error
    assert marker not in json.dumps(encode(state).decode())


async def test_the_audit_keeps_digests(net: Net) -> None:
    """Of a call of the API the audit keeps what was named, and of texts a digest."""
    said = "a text that may say anything"
    call = {"path": "/nodes/pve1/qemu/101/config", "method": "PUT", "parameters": {"description": said, "cores": 2}}
    kept = api_answers.audited(call)["parameters"]

    assert kept["cores"] == 2
    assert kept["description"].startswith("sha256:")
    net.settings["policy"]["principals"] = {"mcp": "operate"}
    async with net.client() as bus, net.here("all") as daemon, Client(f"{daemon.url}/mcp") as client:
        done = await client.call_tool("api_call", call)
        last = await bus.last(subjects.AUDIT, "ai.audit.>")

    assert not done.is_error, done.content
    assert last is not None
    assert said.encode() not in last.data


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
    ],
)
def test_answers_show_what_is_listed(key: str, answer: Any, hidden: int) -> None:
    """Of a stored object an answer shows what the table lists; a secret and an unknown field are hidden."""
    text = json.dumps(api_answers.shown(key, answer))

    assert "x1" not in text
    assert text.count(secrecy.HIDDEN) == hidden


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
    """A new secret of a token is an answer that would be stored, in whatever form the switch is given."""
    for value in (True, 1.0, "on"):
        with pytest.raises(errors.Rejected, match="its answer holds a secret"):
            await tools(
                "api_exec", method="PUT", path="/access/users/root@pam/token/t1", parameters={"regenerate": value}
            )
