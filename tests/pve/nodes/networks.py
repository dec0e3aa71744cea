# SPDX-License-Identifier: AGPL-3.0-or-later
"""Networks of the simulated cluster: interfaces of nodes, and software-defined networks.

fakepve answers these with its schema alone.  Both keep what is changed apart until it is applied: the interfaces of a
node in a file of their own, of which the list has the difference beside its data (`changes`); zones, virtual networks
and subnets in their running state, with `state` and `pending` in the list when that is asked for.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from typing import TYPE_CHECKING

from aiohttp import web
from fakepve.routing import die, param_error, split_list

from pve.nodes.status import Nodes

if TYPE_CHECKING:
    from pve.foreign import Data, Request, Routes, Values

GENERIC_KEYS = ("node", "iface", "delete")


class Networks(Nodes):
    """Mixin of the simulator: /nodes/{node}/network and /cluster/sdn."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start with the bridge that each node has."""
        super().__init__(*args, **kwargs)
        self.reset_networks()

    def reset_networks(self) -> None:
        """Put all networks back as they were at first."""
        self.interfaces: dict[str, dict[str, Values]] = {}
        self.touched: set[str] = set()
        self.applied: dict[str, dict[str, Values]] = {}
        self.sdn: dict[str, dict[str, Values]] = {"zones": {}, "vnets": {}, "subnets": {}}
        self.sdn_running: dict[str, dict[str, Values]] = copy.deepcopy(self.sdn)

    def _routes_sim_networks(self) -> Routes:
        sdn, vnet = "/cluster/sdn", "/cluster/sdn/vnets/{vnet}"
        return [
            ("POST", "/nodes/{node}/network", self._if_add),
            ("PUT", "/nodes/{node}/network/{iface}", self._if_change),
            ("DELETE", "/nodes/{node}/network/{iface}", self._if_remove),
            ("PUT", "/nodes/{node}/network", self._if_apply),
            ("DELETE", "/nodes/{node}/network", self._if_revert),
            ("PUT", sdn, self._sdn_apply),
            *(
                route
                for kind, base, key in (
                    ("zones", f"{sdn}/zones", "zone"),
                    ("vnets", f"{sdn}/vnets", "vnet"),
                    ("subnets", f"{vnet}/subnets", "subnet"),
                )
                for route in (
                    ("GET", base, self._sdn_list(kind)),
                    ("POST", base, self._sdn_add(kind, key)),
                    ("PUT", f"{base}/{{{key}}}", self._sdn_change(kind, key)),
                    ("DELETE", f"{base}/{{{key}}}", self._sdn_remove(kind, key)),
                )
            ),
        ]

    # ------------------------------------------------------------------ interfaces

    async def _network(self, v: Values, user: str) -> list[Values]:
        """List the interfaces as they will be."""
        node = v["node"]
        if node not in self.interfaces:
            first = {item["iface"]: item for item in await super()._network({"node": node}, user)}
            self.interfaces[node], self.applied[node] = first, copy.deepcopy(first)
        wanted = v.get("type")
        kinds = {"any_bridge": {"bridge", "OVSBridge"}, "any_local_bridge": {"bridge", "OVSBridge"}}
        found = [
            interface
            for interface in self.interfaces[node].values()
            if not wanted or interface["type"] in kinds.get(wanted, {wanted})
        ]
        # Virtual networks are bridges of each node once they are applied.
        nets = self.sdn_running["vnets"] if wanted == "any_bridge" else {}
        return [*found, *({"iface": name, "type": "vnet", "active": 1} for name in nets)]

    def beside(self, request: Request, response: web.StreamResponse) -> web.StreamResponse:
        """Put the difference of the two files beside the list of a node's interfaces."""
        found = re.fullmatch(r"/api2/json/nodes/([^/]+)/network", request.path)
        if request.method != "GET" or found is None or response.status != 200:
            return response
        old, new = (
            json.dumps(item.get(found[1], {}), indent=1, sort_keys=True).splitlines()
            for item in (self.applied, self.interfaces)
        )
        names = ("/etc/network/interfaces", "/etc/network/interfaces.new")
        if found[1] in self.touched:  # Real PVE: a file that was rewritten stays until it is applied or dropped
            new = [*new, ""]
        changes = "\n".join(difflib.unified_diff(old, new, *names, lineterm="", n=0))
        return web.json_response(json.loads(response.body) | ({"changes": changes} if changes else {}))

    async def _if_add(self, v: Values, user: str) -> None:
        await self._network({"node": v["node"]}, user)
        if v["iface"] in self.interfaces[v["node"]]:
            raise param_error(iface="interface already exists")
        self.touched.add(v["node"])
        self.interfaces[v["node"]][v["iface"]] = {"iface": v["iface"], "method": "manual", **self._plain(v)}

    async def _if_change(self, v: Values, user: str) -> None:
        """Change an interface; real PVE: what is not given stays, but for addresses, which are given or removed."""
        await self._network({"node": v["node"]}, user)
        if v["iface"] not in self.interfaces[v["node"]]:
            raise param_error(iface="interface does not exist")
        self.touched.add(v["node"])
        gone = [*split_list(v.get("delete")), *(key for key in ("cidr", "cidr6") if key not in v)]
        old = self.interfaces[v["node"]][v["iface"]]
        self.interfaces[v["node"]][v["iface"]] = {k: e for k, e in old.items() if k not in gone} | self._plain(v)

    @staticmethod
    def _plain(v: Values) -> Values:
        return {key: value for key, value in v.items() if key not in GENERIC_KEYS}

    async def _if_remove(self, v: Values, user: str) -> None:
        await self._network({"node": v["node"]}, user)
        self.touched.add(v["node"])
        if self.interfaces[v["node"]].pop(v["iface"], None) is None:
            raise param_error(iface="interface does not exist")

    async def _if_apply(self, v: Values, user: str) -> str:
        node = v["node"]

        async def body() -> str | None:
            await self.pause(1)
            self.touched.discard(node)
            self.applied[node] = copy.deepcopy(self.interfaces.get(node, {}))
            return None

        return str(await self.task(node, "srvreload", "networking", user, body))

    async def _if_revert(self, v: Values, _user: str) -> None:
        self.touched.discard(v["node"])
        self.interfaces[v["node"]] = copy.deepcopy(self.applied.get(v["node"], {}))

    # ------------------------------------------------------------------------- SDN

    def _sdn_list(self, kind: str) -> Data:
        async def listed(v: Values, user: str) -> list[Values]:
            del user
            names = sorted({*self.sdn[kind], *(self.sdn_running[kind] if v.get("pending") else ())})
            found = []
            for name in names:
                now, before = self.sdn[kind].get(name), self.sdn_running[kind].get(name)
                if kind == "subnets" and (now or before or {}).get("vnet") != v["vnet"]:
                    continue
                if not v.get("pending") or now == before:
                    found.append(dict(now or {}))
                elif now is None:
                    found.append({**(before or {}), "state": "deleted", "pending": {}})
                else:
                    old = before or {}
                    waits = {k: now.get(k, "deleted") for k in {*now, *old} if now.get(k) != old.get(k)}
                    found.append({**now, **old, "state": "changed" if before else "new", "pending": waits})
            return found

        return listed

    def _sdn_add(self, kind: str, key: str) -> Data:
        async def add(v: Values, user: str) -> None:
            del user
            name = v[key]
            if kind == "subnets":
                zone = self.sdn["vnets"][v["vnet"]]["zone"]
                v, name = v | {"cidr": v["subnet"]}, f"{zone}-{v['subnet'].replace('/', '-')}"
            if name in self.sdn[kind]:
                raise die(f"sdn {key} object ID '{name}' already defined")
            self.sdn[kind][name] = {**v, key: name}

        return add

    def _sdn_change(self, kind: str, key: str) -> Data:
        async def change(v: Values, user: str) -> None:
            del user
            if v[key] not in self.sdn[kind]:
                raise die(f"sdn {key} object ID '{v[key]}' does not exist")
            gone = split_list(v.get("delete"))
            answer = {k: e for k, e in v.items() if k != "delete"}
            self.sdn[kind][v[key]] = {k: e for k, e in self.sdn[kind][v[key]].items() if k not in gone} | answer

        return change

    def _sdn_remove(self, kind: str, key: str) -> Data:
        async def remove(v: Values, user: str) -> None:
            del user
            if self.sdn[kind].pop(v[key], None) is None:
                raise die(f"sdn {key} object ID '{v[key]}' does not exist")

        return remove

    async def _sdn_apply(self, _v: Values, user: str) -> str:
        """Put it in force; real PVE: the configuration counts as running at once, the nodes take it up in the task."""
        self.sdn_running = copy.deepcopy(self.sdn)

        async def body() -> str | None:
            await self.pause(1)
            return None

        return str(await self.task(self.local_node, "reloadnetworkall", "", user, body))
