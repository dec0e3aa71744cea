# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a node of the simulated cluster is made of: services, DNS, clock, updates, certificates, journal, power.

fakepve answers these with its schema alone.  Parameters, answers and the names of services are the schema's; a
service is started and stopped by a task (`srvstart:pveproxy`), and so are the lists of packages (`aptupdate`).
Orders of certificates are refused as API2/ACME.pm refuses them.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from fakepve import TaskError, schema
from fakepve.routing import die, param_error

from pve.nodes.status import Nodes

if TYPE_CHECKING:
    from pve.foreign import Data, Record, Request, Routes, Values

DESCRIPTIONS = {
    "corosync": "Corosync Cluster Engine",
    "cron": "Regular background program processing daemon",
    "pve-cluster": "The Proxmox VE cluster filesystem",
    "pvedaemon": "PVE API Daemon",
    "pveproxy": "PVE API Proxy Server",
    "pvestatd": "PVE Status Daemon",
    "sshd": "OpenBSD Secure Shell server",
}
PACKAGES = (
    ("libssl3t64", "3.5.1-1", "3.5.4-1", "Debian"),
    ("proxmox-kernel-6.17", "6.17.2-1", "6.17.4-1", "Proxmox"),
    ("pve-manager", "9.2.10", "9.2.11", "Proxmox"),
)


class System(Nodes):
    """Mixin of the simulator: what is under /nodes/{node} beside guests and storages."""

    served = b""
    """The certificate of our own web server, DER."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start with every service running."""
        super().__init__(*args, **kwargs)
        self.reset_system()

    def reset_system(self) -> None:
        """Put services, settings and packages back as they were at first; a rebooted node is away `boot_lag` s."""
        self.services: dict[tuple[str, str], str] = {}
        self.name_servers: dict[str, Values] = {}
        self.timezones: dict[str, str] = {}
        self.updates: dict[str, list[Record]] = {}
        self.clock_skew = 0.0
        self.boot_lag = 0.0
        self.boots.clear()
        self.node_configs: dict[str, Values] = {"pve2": {"acmedomain0": "pve2.example.com"}}
        self.issued: dict[str, tuple[float, float]] = {}  # by node: since when and until when its own certificate holds
        self.acme_days = 90.0
        self.journal_step, self.journal_end = 1.0, time.time()  # seconds between lines, and when the last was written
        self.journal = [f"Nov 23 10:00:{second:02d} pve1 pvedaemon[1000]: line {second}" for second in range(60)]

    def reset_firewall(self) -> None:
        """Forget every rule, which fakepve keeps for as long as it lives."""
        self.__dict__.pop("_fw_state", None)

    def resolve(self, request: Request, prefix: str) -> Data:
        """Find a request's method; a network's slash arrives encoded and is part of its name, where fakepve splits."""
        found = super().resolve(request, prefix)
        head, _, last = request.rel_url.raw_path.rpartition("/ipset/")
        name, _, cidr = last.partition("/")
        if found is not None or not head or "%2F" not in cidr.upper():
            return found
        found = schema.load().match(f"{head[len(prefix) :]}/ipset/{name}/network")
        found.params["cidr"] = unquote(cidr)
        return found

    def _routes_sim_system(self) -> Routes:
        service = "/nodes/{node}/services/{service}"
        return [
            ("GET", "/nodes/{node}/services", self._services),
            *(
                ("POST", f"{service}/{verb}", self._check_action(verb))
                for verb in ("start", "stop", "restart", "reload")
            ),
            ("GET", "/nodes/{node}/dns", self._dns),
            ("PUT", "/nodes/{node}/dns", self._set_dns),
            ("GET", "/nodes/{node}/time", self._time),
            ("PUT", "/nodes/{node}/time", self._set_time),
            ("GET", "/nodes/{node}/apt/update", self._update_list),
            ("POST", "/nodes/{node}/apt/update", self._update_refresh),
            ("GET", "/nodes/{node}/config", self._node_config),
            ("PUT", "/nodes/{node}/config", self._set_node_config),
            ("GET", "/nodes/{node}/certificates/info", self._certificates),
            ("POST", "/nodes/{node}/certificates/acme/certificate", self._order("acmenewcert")),
            ("PUT", "/nodes/{node}/certificates/acme/certificate", self._order("acmerenew")),
            ("GET", "/nodes/{node}/journal", self._journal),
            ("POST", "/nodes/{node}/status", self._node_power),
            ("POST", "/nodes/{node}/wakeonlan", self._wake),
        ]

    def _service(self, node: str, name: str) -> Values:
        state = self.services.get((node, name), "running")
        return {
            "service": name, "name": name, "desc": DESCRIPTIONS[name], "state": state,
            "active-state": "active" if state == "running" else "inactive", "unit-state": "enabled",
        }  # fmt: skip

    async def _services(self, v: Values, _user: str) -> list[Values]:
        return [self._service(v["node"], name) for name in DESCRIPTIONS]

    def _check_action(self, verb: str) -> Data:
        async def control_service(v: Values, user: str) -> str:
            if v["service"] not in DESCRIPTIONS:
                raise die(f"service '{v['service']}' is not installed")

            async def body() -> str | None:
                await self.pause(1)
                self.services[v["node"], v["service"]] = "dead" if verb == "stop" else "running"
                if v["service"] == "pvestatd":
                    self.reporting[v["node"]] = time.time()
                if verb == "restart" and v["service"] in ("pvedaemon", "pveproxy"):
                    # Real PVE: the worker is a child of what it restarts, and is ended by it (measured on 9.2.11).
                    raise TaskError("received interrupt")
                return None

            return str(await self.task(v["node"], f"srv{verb}", v["service"], user, body))

        return control_service

    async def _dns(self, v: Values, _user: str) -> Values:
        return self.name_servers.get(v["node"], {"search": "example.com", "dns1": "192.0.2.53"})

    async def _set_dns(self, v: Values, _user: str) -> None:
        self.name_servers[v["node"]] = {key: v[key] for key in ("search", "dns1", "dns2", "dns3") if key in v}

    async def _time(self, v: Values, _user: str) -> Values:
        now = int(time.time() + self.clock_skew)
        return {"timezone": self.timezones.get(v["node"], "Etc/UTC"), "time": now, "localtime": now}

    async def _set_time(self, v: Values, _user: str) -> None:
        if v["timezone"] not in {"Etc/UTC", "UTC", "Europe/Berlin", "Europe/Vienna"}:
            raise die("timezone: value does not exist in zoneinfo")
        self.timezones[v["node"]] = v["timezone"]

    async def _update_list(self, v: Values, _user: str) -> list[Record]:
        return self.updates.get(v["node"], [])

    async def _update_refresh(self, v: Values, user: str) -> str:
        async def body() -> str | None:
            await self.pause(1)
            self.updates[v["node"]] = [
                {"Package": name, "OldVersion": old, "Version": new, "Origin": origin, "Priority": "optional"}
                for name, old, new, origin in PACKAGES
            ]
            return None

        return str(await self.task(v["node"], "aptupdate", "", user, body))

    async def _node_config(self, v: Values, _user: str) -> Values:
        return self.node_configs.get(v["node"], {})

    async def _set_node_config(self, v: Values, _user: str) -> None:
        answer = {key: value for key, value in v.items() if key not in {"node", "delete", "digest"}}
        self.node_configs[v["node"]] = self.node_configs.get(v["node"], {}) | answer

    async def _certificates(self, v: Values, _user: str) -> list[Record]:
        """List the CA's, the one that it gave the node, and the one that a provider gave it."""
        node, begun, year = v["node"], self.journal_end, 365 * 86_400
        made = {"pve-root-ca.pem": (begun, begun + 10 * year), "pve-ssl.pem": (begun, begun + 2 * year)}
        made |= {"pveproxy-ssl.pem": self.issued[node]} if node in self.issued else {}

        def print_of(name: str, since: float) -> str:
            own = self.served if (node, name) == (self.local_node, "pve-ssl.pem") else b""
            digest = hashlib.sha256(own or f"{node}{name}{since}".encode()).hexdigest().upper()
            return ":".join(re.findall("..", digest))

        return [
            {
                "filename": name, "subject": f"/CN={node}.example.com", "issuer": "/CN=Proxmox Virtual Environment",
                "san": [node, f"{node}.example.com"], "notbefore": int(since), "notafter": int(until),
                "fingerprint": print_of(name, since),
            }
            for name, (since, until) in made.items()
        ]  # fmt: skip

    def _order(self, kind: str) -> Data:
        async def order(v: Values, user: str) -> str:
            node = v["node"]
            if not any(key.startswith("acme") for key in self.node_configs.get(node, {})):
                raise die("ACME domain list in node configuration is missing!")
            if kind == "acmenewcert" and node in self.issued and not v.get("force"):
                raise param_error(force="Custom certificate exists but 'force' is not set.")
            if kind == "acmerenew" and node not in self.issued:
                raise die("No current (custom) certificate found, please order a new certificate!")
            if kind == "acmerenew" and self.issued[node][1] - time.time() > 30 * 86_400 and not v.get("force"):
                raise param_error(force="Certificate does not expire within the next 30 days, and 'force' is not set.")

            async def body() -> str | None:
                await self.pause(1)
                since = time.time() - 3600
                self.issued[node] = (since, since + self.acme_days * 86_400)
                return None

            return str(await self.task(node, kind, "", user, body))

        return order

    async def _journal(self, v: Values, _user: str) -> list[str]:
        """Answer the last lines or all of a time, between the places to go on from."""
        ages = ((len(self.journal) - 1 - number) * self.journal_step for number in range(len(self.journal)))
        since, until = int(v.get("since") or 0), int(v.get("until") or 2**40)
        shown = [line for line, age in zip(self.journal, ages, strict=True) if since <= self.journal_end - age <= until]
        shown = shown[-int(v.get("lastentries") or len(self.journal)) :]
        return ["s=0a;i=1;b=0b;m=1;t=1;x=1", *shown, "s=0a;i=9;b=0b;m=9;t=9;x=9"]

    async def _node_power(self, v: Values, _user: str) -> None:
        """Stop the guests and go away; after a reboot the node comes back."""
        node = v["node"]
        for guest in self._guests():
            if guest.node == node:
                guest.status = "stopped"
        self.nodes[node]["online"] = False
        if v["command"] == "reboot":

            def back() -> None:
                self.nodes[node]["online"] = True
                self.boots[node] = time.time()

            asyncio.get_running_loop().call_later(self.boot_lag, back)

    async def _wake(self, v: Values, _user: str) -> str:
        """Wake a node; real PVE: the call goes to another node, and answers the MAC address."""
        self.nodes[v["node"]]["online"] = True
        return "02:00:00:00:00:01"
