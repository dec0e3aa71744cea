"""Values that are planted as secrets: calls, requests, inputs and answers that contain one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from agentd_proxmox.api_tiers import TABLE

TOOLS = ("api_get", "api_call", "api_destroy", "api_exec")
NAMED = "VALUE"
"""Represents the planted value in what is sent."""
KEY = {"path": "/nodes/pve1/certificates/custom", "method": "POST", "parameters": {"certificates": "x", "key": NAMED}}
CONFIG = "/nodes/pve1/qemu/101/config"


def _put(**parameters: Any) -> dict[str, Any]:
    return {"path": CONFIG, "method": "PUT", "parameters": parameters}


CALLS: dict[str, dict[str, Any]] = {
    "a path without its slash": KEY | {"path": "nodes/pve1/certificates/custom"},
    "a path with a slash at its end": KEY | {"path": "/nodes/pve1/certificates/custom/"},
    "a path with two slashes": KEY | {"path": "//nodes//pve1/certificates/custom"},
    "a path with a prefix": KEY | {"path": "/api2/json/nodes/pve1/certificates/custom"},
    "a path with an escape": KEY | {"path": "/nodes/pve1/certificates%2Fcustom"},
    "a path with its variable": KEY | {"path": "/nodes/{node}/certificates/custom"},
    "a path in other letters": KEY | {"path": "/Nodes/pve1/Certificates/Custom"},
    "no path": {"method": "POST", "parameters": {"certificates": "x", "key": NAMED}},
    "a path that is none": KEY | {"path": 7},
    "a method that is none": KEY | {"method": "STEAL"},
    "another method": KEY | {"method": "DELETE"},
    "a name in other letters": KEY | {"parameters": {"KEY": NAMED}},
    "a name with blanks": KEY | {"parameters": {" key ": NAMED}},
    "a list": KEY | {"parameters": {"key": [NAMED, {"x": NAMED}]}},
    "parameters as a list": KEY | {"parameters": [{"key": NAMED}]},
    "parameters as a text": KEY | {"parameters": json.dumps({"key": NAMED})},
    "parameters inside parameters": KEY | {"parameters": {"parameters": {"key": NAMED}}},
    "an unknown name": _put(unheard_of=NAMED),
    "a parameter of another method": _put(keyring=NAMED),
    "cloud-init": _put(cipassword=NAMED),
    "a secret with an index": _put(cipassword0=NAMED),
    "camel case": _put(adminPassword=NAMED),
    "an abbreviation": _put(pwd=NAMED),
    "a pass": _put(**{"smb-pass": NAMED}),
    "an API key": _put(apikey=NAMED),
    "an access token": _put(access_token=NAMED),
    "credentials": _put(credentials={"user": "x", "word": NAMED}),
    "a URL": _put(description=f"https://root:{NAMED}@192.0.2.9/x"),
    "a URL without a user": _put(description=f"ftp://:{NAMED}@192.0.2.9/x"),
    "a URL with a token alone": _put(description=f"https://{NAMED}@192.0.2.9/x"),
    "a property string": _put(net0=f"virtio,password={NAMED}"),
    "a quoted property": _put(description=f'{{"password": "{NAMED}"}}'),
    "an authorization": _put(description=f"Authorization: Bearer {NAMED}"),
    "basic authentication": _put(description=f"authorization: basic {NAMED}"),
    "an API token": _put(description=f"PVEAPIToken=root@pam!x={NAMED}"),
    "a cookie": _put(description=f"PVEAuthCookie=PVE:root@pam:{NAMED}"),
    "a private key": _put(description=f"-----BEGIN OPENSSH PRIVATE KEY-----\n{NAMED}\n-----END"),
    "a webhook's header": {
        "path": "/cluster/notifications/endpoints/webhook",
        "method": "POST",
        "parameters": {"name": "x", "url": "https://192.0.2.9", "header": [f"name=X-Key,value={NAMED}"]},
    },
    "a webhook's secret": {
        "path": "/cluster/notifications/endpoints/webhook",
        "method": "POST",
        "parameters": {"name": "x", "url": "https://192.0.2.9", "secret": [f"name=x,value={NAMED}"]},
    },
    "a URL of a metrics server": {
        "path": "/cluster/metrics/server/x",
        "method": "POST",
        "parameters": {"type": "influxdb", "server": f"https://u:{NAMED}@192.0.2.9", "port": 1},
    },
    "an unknown field of the call": KEY | {"password": NAMED},
    "a name that holds it": _put(**{f"password={NAMED}": 1}),
}
"""Calls of tools of the API with a secret in them, by what is special."""

REQUESTS: dict[str, Any] = {
    "an unknown workflow": {"workflow_type": "nonsense", "parameters": {"password": NAMED}},
    "an unknown tool": {
        "workflow_type": "tool_call",
        "parameters": {"tool": "nonsense", "parameters": {"password": NAMED}},
    },
    "an unknown tool, a key": {"workflow_type": "tool_call", "parameters": {"tool": "nonsense", "parameters": KEY}},
    "a named tool": {
        "workflow_type": "tool_call",
        "parameters": {"tool": "update_guest_options", "parameters": {"vmid": 101, "options": {"cipassword": NAMED}}},
    },
    "a description": {
        "workflow_type": "vm_deployment",
        "parameters": {"name": "x", "description": f"password={NAMED}"},
    },
    "an unknown parameter": {"workflow_type": "vm_deployment", "parameters": {"name": "x", "cipassword": NAMED}},
    "a type that is a URL": {"workflow_type": f"https://u:{NAMED}@192.0.2.9/x", "parameters": {}},
    "a requester": {"workflow_type": "health_check", "requester_id": f"password={NAMED}"},
    "a retry of a URL": {"workflow_type": "", "retry_of": f"https://u:{NAMED}@192.0.2.9/x"},
    "an id that is a URL": {"workflow_type": "health_check", "workflow_id": f"https://u:{NAMED}@192.0.2.9/x"},
    "parameters that are a text": {"workflow_type": "health_check", "parameters": f"password={NAMED}"},
    "a priority that is a text": {
        "workflow_type": "health_check",
        "priority": NAMED,
        "parameters": {"password": NAMED},
    },
    "late": {"workflow_type": "tool_call", "start_by": -1, "parameters": {"tool": "api_exec", "parameters": KEY}},
    "a dry run": {"workflow_type": "tool_call", "dry_run": True, "parameters": {"tool": "api_exec", "parameters": KEY}},
    "no JSON": f'{{"workflow_type": "tool_call", "parameters": {{"password": "{NAMED}"}},',
    "a list": [{"password": NAMED}],
    "too large": {"workflow_type": "tool_call", "parameters": {"password": NAMED, "x": "y" * 150_000}},
    "undo": {"workflow_type": "undo", "parameters": {"of": "x", "calls": [{"tool": "api_exec", "parameters": KEY}]}},
}
"""Requests for workflows with a secret in them, by what is special."""

INPUTS: dict[str, tuple[str, Any]] = {
    "a signal that is broken": ("ai.workflows.signal.alice.w1", f'{{"action": "cancel", "reason": "password={NAMED}"'),
    "a signal of another type": ("ai.workflows.signal.alice.w1", {"action": 7, "reason": f"password={NAMED}"}),
    "a signal for nothing": ("ai.workflows.signal.alice.w1", {"action": f"password={NAMED}"}),
    "a completion that is broken": ("ai.tasks.complete.a1.w1.t1", f'{{"result": {{"password": "{NAMED}"}}'),
    "a completion of nothing": ("ai.tasks.complete.a1.w1.t1", {"result": {"password": NAMED}, "status": "odd"}),
    "a plain completion": ("ai.tasks.complete", {"result": {"password": NAMED}, "task_id": "w1.t1"}),
}
"""Other messages that daemons take in, by what is special: subject and message."""


ANSWERS: dict[str, Any] = {
    "/access/domains/corp": {"type": "openid", "client-key": NAMED, "odd": NAMED, "comment": f"password={NAMED}"},
    "/access/domains": [{"realm": "pam", "type": "pam", "password": NAMED, "bind_secret": NAMED, "odd": NAMED}],
    "/cluster/acme/plugins/x1": {"plugin": "x1", "type": "dns", "data": NAMED},
    "/cluster/sdn/ipams/x1": {"ipam": "x1", "type": "netbox", "token": NAMED, "url": f"https://u:{NAMED}@192.0.2.9"},
    "/cluster/sdn/dns/x1": {"dns": "x1", "type": "powerdns", "key": NAMED},
    "/cluster/metrics/server/x1": {"id": "x1", "type": "influxdb", "token": NAMED, "otel-headers": NAMED},
    "/nodes/pve1/qemu/101/snapshot/s1/config": {"name": "x", "cipassword": NAMED, "odd": NAMED},
    "/nodes/pve1/qemu/101/pending": [{"key": "cipassword", "value": NAMED, "pending": NAMED}],
    "/nodes/pve1/qemu/101/cloudinit": [{"key": "cipassword", "old": NAMED, "value": NAMED, "pending": NAMED}],
    "/cluster/notifications/endpoints/webhook/x1": {"name": "x1", "secret": NAMED, "header": NAMED, "body": NAMED},
    "/cluster/notifications/endpoints/gotify/x1": {"name": "x1", "server": f"https://{NAMED}@192.0.2.9", "odd": NAMED},
    "/nodes/pve1/subscription": {"status": "active", "key": NAMED, "odd": NAMED},
    "/storage/x1": {"storage": "x1", "type": "cifs", "password": NAMED, "keyring": NAMED, "encryption-key": NAMED},
    "/access/users/root@pam/token": [{"tokenid": "x", "value": NAMED, "secret": NAMED}],
    "/access/tfa/root@pam": [{"id": "x", "type": "totp", "value": NAMED, "secret": NAMED}],
    "/cluster/options": {"keyboard": "de", "http_proxy": f"http://u:{NAMED}@192.0.2.9:3128"},
    "/nodes/pve1/report": f"storage x1\n  password {NAMED}\n  keyring {NAMED}",
    "/nodes/pve1/qemu/101/cloudinit/dump": f"password: $5$x${NAMED}",
    "/nodes/pve1/ceph/cfg/raw": f"[client.admin]\nkey = {NAMED}",
    "/nodes/pve1/syslog": [{"n": 1, "t": f"login with password={NAMED}"}],
    "/nodes/pve1/status": {"uptime": 1, "odd": NAMED, "nested": {"odd": NAMED, "secret": NAMED}},
    "/cluster/resources": [{"id": "x", "type": "node", "odd": NAMED}],
}
"""What Proxmox answers to reads, by path, with a secret in it."""


@dataclass
class Planted:
    """Every value that was sent, each once, by what was special about it."""

    values: dict[str, str] = field(default_factory=dict)

    def new(self, what: str, thing: Any) -> Any:
        """Return what is to be sent with a value of its own in it, and keep the value."""
        value = f"qz{len(self.values):04d}plantedzq"
        self.values[value] = what
        return (
            json.loads(json.dumps(thing).replace(NAMED, value))
            if not isinstance(thing, str)
            else thing.replace(NAMED, value)
        )

    def found(self, data: bytes | str) -> set[str]:
        """Return what was special about each value in `data`."""
        text = data if isinstance(data, bytes) else data.encode()
        return {self.values[value.decode()] for value in re.findall(rb"qz\d{4}plantedzq", text)}


def of_the_table() -> dict[str, dict[str, Any]]:
    """Return a call for each parameter of the reviewed table that is a secret."""
    calls: dict[str, dict[str, Any]] = {}
    for key, row in TABLE.items():
        verb, _, path = key.partition(" ")
        where = re.sub(r"\{[^}]+\}", "x1", path)
        for name in row.get("secret", ()):
            calls[f"{key} {name}"] = {"path": where, "method": verb, "parameters": {re.sub(r"\[n\]", "0", name): NAMED}}
    return calls
