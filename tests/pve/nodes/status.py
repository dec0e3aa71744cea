# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nodes, storages and networks with numbers that add up to what the guests use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fakepve import FakePve, shapes
from fakepve.routing import die
from fakepve.server import USER, ok

if TYPE_CHECKING:
    from pve.foreign import Data, Guest, Request, Response, Routes, Values

MIB = 1024**2
GIB = 1024**3
# What Proxmox VE itself uses on a node, and the share of its memory that a running guest holds.
NODE_MEMORY = 3 * GIB
NODE_DISK = 8 * GIB
GUEST_SHARE = 0.75
GUEST_CPU = 0.03
CONFIGURED = ("id", "type", "node", "vmid", "tags", "lock", "pool", "hastate")
"""What the cluster's list knows of a guest before its node reports; its name and status come from the report."""
DEFAULTS = {"maxcpu": 16, "maxmem": 64 * GIB, "maxdisk": 94 * GIB}


class Nodes(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: what the cluster says of itself."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start the clock that uptimes are read from."""
        self.boots: dict[str, float] = {}
        super().__init__(*args, **kwargs)
        self.booted = time.time() - 86_400

    def _routes_sim_nodes(self) -> Routes:
        return [
            ("GET", "/nodes/{node}/status", self._node_status),
            ("GET", "/nodes/{node}/network", self._network),
        ]

    @property
    def local_node(self) -> str:
        """Name the node whose API this is: the first."""
        return str(min(self.nodes))

    def is_online(self, node: str) -> bool:
        """Say whether the cluster sees the node."""
        return bool(self.nodes[node].get("online", True))

    # -------------------------------------------------------------------- nodes

    def _vm_usage(self, vm: Guest) -> Values:
        """Give a running guest a fixed share of its memory, so that a check of free memory has something to read."""
        use: Values = super()._vm_usage(vm)
        if vm.status == "running":
            use["mem"] = use["memhost"] = int(use["maxmem"] * GUEST_SHARE)
            use["cpu"] = GUEST_CPU
        return use

    def _memory_used(self, node: str) -> int:
        guests = [guest for guest in self._guests() if guest.node == node and guest.status == "running"]
        sizes = (int(str(guest.config.get("memory", 512)).rpartition("=")[2]) for guest in guests)
        return NODE_MEMORY + int(sum(sizes) * MIB * GUEST_SHARE)

    def _stats(self, node: str) -> Values:
        """Return a node's figures; real PVE: an offline node keeps its sizes and has no usage and no uptime."""
        info = self.nodes[node]
        sizes = {key: info.get(key, default) for key, default in DEFAULTS.items()}
        if not self.is_online(node):
            return sizes
        running = sum(guest.status == "running" for guest in self._guests() if guest.node == node)
        usage = {"cpu": round(0.01 + running * GUEST_CPU, 4), "mem": self._memory_used(node), "disk": NODE_DISK}
        return sizes | usage | {"uptime": int(time.time() - self.boots.get(node, self.booted))}

    def _node_item(self, node: str, user: str) -> Values:
        """Return a node's entry; real PVE: without Sys.Audit it is bare."""
        item = {"id": f"node/{node}", "node": node, "type": "node"}
        item["status"] = "online" if self.is_online(node) else "offline"
        if not self.allowed(user, f"/nodes/{node}", "Sys.Audit"):
            return item
        return item | {"level": ""} | self._stats(node)

    async def _nodes(self, request: Request) -> Response:
        extra = {"ssl_fingerprint": shapes.FINGERPRINT}
        return ok([self._node_item(node, request[USER]) | extra for node in self.nodes])

    async def _node_status(self, v: Values, user: str) -> Values:
        self.require(user, f"/nodes/{v['node']}", "Sys.Audit")
        stats = self._stats(v["node"])
        total, used, disk = stats["maxmem"], stats["mem"], stats["maxdisk"]
        cpus = stats["maxcpu"]
        kernel = {"sysname": "Linux", "release": "6.17.2-1-pve", "machine": "x86_64", "version": "#1 SMP"}
        return {
            "uptime": stats["uptime"], "cpu": stats["cpu"], "wait": 0, "idle": 0, "ksm": {"shared": 0},
            "loadavg": ["0.30", "0.25", "0.20"],
            "cpuinfo": {"cpus": cpus, "cores": cpus, "sockets": 1, "model": "Simulated CPU", "mhz": "2600.000"},
            "memory": {"total": total, "used": used, "free": total - used, "available": total - used},
            "swap": {"total": 0, "used": 0, "free": 0},
            "rootfs": {"total": disk, "used": NODE_DISK, "free": disk - NODE_DISK, "avail": disk - NODE_DISK},
            "current-kernel": kernel, "kversion": f"Linux {kernel['release']} {kernel['version']}",
            "boot-info": {"mode": "efi"}, "pveversion": f"pve-manager/{self.version}/0000000000000000",
        }  # fmt: skip

    async def _network(self, v: Values, _user: str) -> list[Values]:
        """List the bridge that each node has, and the port under it."""
        number = list(self.nodes).index(v["node"]) + 11
        common = {"active": 1, "exists": 1, "families": ["inet"], "method6": "manual"}
        bridge = common | {
            "iface": "vmbr0", "type": "bridge", "method": "static", "autostart": 1, "priority": 3,
            "address": f"192.0.2.{number}", "netmask": "24", "cidr": f"192.0.2.{number}/24", "gateway": "192.0.2.1",
            "bridge_ports": "eno1", "bridge_stp": "off", "bridge_fd": "0",
        }  # fmt: skip
        port = common | {"iface": "eno1", "type": "eth", "method": "manual", "priority": 2}
        wanted = v.get("type")
        kinds = {"any_bridge": {"bridge", "OVSBridge"}, "any_local_bridge": {"bridge", "OVSBridge"}}
        return [i for i in (bridge, port) if not wanted or i["type"] in kinds.get(wanted, {wanted})]

    async def _cluster_status(self, request: Request) -> Response:
        """Answer the cluster's state; a node without Sys.Audit is seen all the same."""
        self.require(request[USER], "/", "Sys.Audit")
        cluster = {"type": "cluster", "id": "cluster", "name": self.cluster_name, "nodes": len(self.nodes)}
        data: list[Values] = [cluster | {"quorate": int(self.quorate), "version": len(self.nodes)}]
        for number, node in enumerate(self.nodes, 1):
            # Real PVE: a node that lost its quorum sees itself alone.
            alone = not self.quorate and node != self.local_node
            data.append({
                "type": "node", "id": f"node/{node}", "name": node, "nodeid": number, "level": "",
                "ip": f"192.0.2.{10 + number}", "local": int(node == self.local_node),
                "online": int(self.is_online(node) and not alone),
            })  # fmt: skip
        return ok(data)

    # ----------------------------------------------------------------- resources

    async def _resources(self, request: Request) -> Response:
        """List guests, nodes and storages that the user may see; real PVE: without rights only bare nodes."""
        user, kind = request[USER], request.query.get("type")
        data: list[Values] = []
        if kind in (None, "vm"):
            data += [self._vm_item(vm) for vm in self.vms if self.allowed(user, f"/vms/{vm.vmid}", "VM.Audit")]
            data += self.ct_resources(user, kind)
        if kind in (None, "node"):
            data += [self._node_item(node, user) for node in self.nodes]
        if kind in (None, "storage"):
            seen = [name for name in self.storages if self._can_audit(user, name)]
            for name in seen:
                used = self._used(name)
                items = [self._storage_resource(node, name, used) for node in self.nodes]
                data += [item for item in items if item]
        return ok(data)

    def _unreported(self, guest: Guest) -> bool:
        """Real PVE: until its node reports, up to 10 s after a create or a restart of pvestatd, a guest has no name."""
        since = max(getattr(guest, "born", 0), self.reporting.get(guest.node, 0))
        return time.time() - since < self.stat_lag  # type: ignore[no-any-return]

    def ct_resources(self, user: str, kind: str | None = None) -> list[Values]:
        """List the containers; one that its node has not reported yet is "unknown" too."""
        nodes = {ct.vmid: ct for ct in self.cts}
        return [
            {key: item[key] for key in CONFIGURED if key in item} | {"status": "unknown"}
            if self._unreported(nodes[item["vmid"]])
            else item
            for item in super().ct_resources(user, kind)
        ]

    def _members(self, name: str, kind: str | None) -> list[Values]:
        """List the members of a pool; real PVE: from the same reports as the cluster's list."""
        guests = {guest.vmid: guest for guest in self._guests()}
        members: list[Values] = super()._members(name, kind)
        for member in members:
            if member.get("vmid") in guests and self._unreported(guests[member["vmid"]]):
                member["status"] = "unknown"
                member.pop("name"), member.pop("template", None)
        return members

    def _vm_item(self, vm: Guest) -> Values:
        status = vm.status if self.is_online(vm.node) else "unknown"
        optional = {"tags": vm.config.get("tags"), "lock": vm.lock, "pool": vm.pool, "hastate": vm.ha_state}
        configured = {key: value for key, value in optional.items() if value}  # known before its node reports
        if self._unreported(vm):
            return {"id": vm.guest, "type": "qemu", "node": vm.node, "vmid": vm.vmid, "status": "unknown"} | configured
        item = {
            "id": vm.guest, "type": "qemu", "node": vm.node, "name": vm.name, "vmid": vm.vmid,
            "status": status, "template": int(bool(vm.template)), **self._vm_usage(vm),
        }  # fmt: skip
        return item | configured

    # ------------------------------------------------------------------- storages

    def _on_nodes(self, name: str) -> list[tuple[str, Values, str | None]]:
        """Return a storage's volumes with the node that each is on; None is every node."""
        volumes: dict[str, Values] = self._volumes(name)
        if self.storages[name].get("shared"):
            return [(key, volume, None) for key, volume in volumes.items()]
        homes = {guest.vmid: guest.node for guest in self._guests()}
        return [(key, vol, vol.get("node") or homes.get(vol.get("vmid"))) for key, vol in volumes.items()]

    def _used(self, name: str) -> dict[str | None, int]:
        """Add up a storage's volumes by node."""
        used: dict[str | None, int] = {}
        for _key, volume, home in self._on_nodes(name):
            used[home] = used.get(home, 0) + int(volume.get("size") or 0)
        return used

    def _status_item(
        self,
        name: str,
        node: str,
        formats: bool = False,  # noqa: FBT001, FBT002 - fakepve's own signature
        used: dict[str | None, int] | None = None,
    ) -> Values:
        store, item = self.storages[name], {}
        if used is None:
            item, used = super()._status_item(name, node, formats), self._used(name)
        if store.get("active") and self._storage_enabled(name, node):
            total, taken = store.get("total", 100 * GIB), used.get(None, 0) + used.get(node, 0)
            item |= {"total": total, "used": taken, "avail": max(total - taken, 0)}
        return item

    def _storage_resource(self, node: str, name: str, used: dict[str | None, int] | None = None) -> Values | None:
        item: Values | None = super()._storage_resource(node, name)
        if item is not None:
            status = self._status_item(name, node, used=used)
            item |= {"disk": status.get("used", 0), "maxdisk": status.get("total", 0)}
        return item

    async def _content_list(self, v: Values, user: str) -> list[Values]:
        items: list[Values] = await super()._content_list(v, user)
        volumes = self._on_nodes(v["storage"])
        here = {f"{v['storage']}:{key}" for key, _, home in volumes if home in (None, v["node"])}
        return [item for item in items if item["volid"] in here]

    async def _ns_status(self, v: Values, user: str) -> Values:
        status: Values = await super()._ns_status(v, user)
        if not status["enabled"]:
            raise die(f"storage '{v['storage']}' is not available on node '{v['node']}'")
        return status
