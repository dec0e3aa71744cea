# SPDX-License-Identifier: AGPL-3.0-or-later
"""Disks of the simulated nodes, what is made of them, Ceph, and figures over time.

fakepve answers these with its schema alone.  Fields are the schema's; tasks are those of the real API (`zfscreate`,
`lvmcreate`, `lvmthincreate`, `dircreate`, `auth-realm-sync`).  A cluster without Ceph answers as a
node does on which it is not installed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fakepve.routing import die
from fakepve.server import USER, ok

from pve.nodes.status import GIB, Nodes

if TYPE_CHECKING:
    from pve.foreign import Data, Record, Request, Response, Routes, Values

FLAGS = ("nobackfill", "nodeep-scrub", "nodown", "noin", "noout", "norebalance", "norecover", "noscrub", "pause")
TASKS = {"zfs": "zfscreate", "lvm": "lvmcreate", "lvmthin": "lvmthincreate", "directory": "dircreate"}
POINTS = 70


class Disks(Nodes):
    """Mixin of the simulator: /nodes/{node}/disks, Ceph, rrddata, and the sync of realms."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start with three disks a node."""
        super().__init__(*args, **kwargs)
        self.reset_disks()

    def reset_disks(self) -> None:
        """Put all disks back as they were at first."""
        self.disks: dict[str, list[Record]] = {}
        self.made_of: dict[tuple[str, str], list[Record]] = {}
        self.ceph_state: Record | None = None
        self.ceph_flags: set[str] = set()
        self.osds_out: set[int] = set()
        self.directories: dict[str, str] = {}

    def _routes_sim_disks(self) -> Routes:
        disks = "/nodes/{node}/disks"
        return [
            ("GET", f"{disks}/list", self._disk_list),
            ("GET", f"{disks}/smart", self._disk_smart),
            ("POST", f"{disks}/initgpt", self._disk_gpt),
            *(("GET", f"{disks}/{kind}", self._made_list(kind)) for kind in TASKS),
            *(("POST", f"{disks}/{kind}", self._made_make(kind)) for kind in TASKS),
            ("GET", f"{disks}/zfs/{{name}}", self._zfs_show),
            ("GET", "/cluster/ceph/flags", self._ceph_flag_list),
            ("PUT", "/cluster/ceph/flags/{flag}", self._ceph_flag),
            ("GET", "/nodes/{node}/ceph/osd", self._ceph_osds),
            ("GET", "/nodes/{node}/ceph/pool", self._ceph_pools),
            ("GET", "/nodes/{node}/ceph/mon", self._ceph_mons),
            *(("POST", f"/nodes/{{node}}/ceph/osd/{{osdid}}/{way}", self._ceph_move(way)) for way in ("in", "out")),
            ("GET", "/nodes/{node}/rrddata", self._rrd("node")),
            ("GET", "/nodes/{node}/qemu/{vmid}/rrddata", self._rrd("guest")),
            ("GET", "/nodes/{node}/lxc/{vmid}/rrddata", self._rrd("guest")),
            ("GET", "/nodes/{node}/storage/{storage}/rrddata", self._rrd("storage")),
            ("POST", "/access/domains/{realm}/sync", self._realm_sync),
        ]

    # ----------------------------------------------------------------------- disks

    def _of(self, node: str) -> list[Record]:
        if node not in self.disks:
            self.disks[node] = [
                {
                    "devpath": f"/dev/sd{letter}", "serial": f"{node}-{letter.upper()}", "model": "SIM_DISK",
                    "gpt": int(letter != "c"), "size": 480 * GIB, "health": "PASSED", "wearout": left,
                    "mounted": 0, "type": "ssd",
                    **({"used": used} if used else {}),
                }
                for letter, used, left in (("a", "LVM", 97), ("b", "", 99), ("c", "", 4), ("d", "partitions", "N/A"))
            ]  # fmt: skip
        return self.disks[node]

    def _disk(self, node: str, path: str) -> Record:
        found = next((item for item in self._of(node) if item["devpath"] == path), None)
        if found is None:
            raise die(f"not a valid disk device: {path}")
        return found

    async def _disk_list(self, v: Values, _user: str) -> list[Record]:
        return self._of(v["node"])

    async def _disk_smart(self, v: Values, _user: str) -> Record:
        disk = self._disk(v["node"], v["disk"])
        row = {"id": "  5", "name": "Reallocated_Sector_Ct", "value": "100", "worst": "100", "threshold": "10"}
        row |= {"raw": "0", "fail": "-", "flags": "PO--CK"}
        return {"health": disk["health"], "type": "ata", "attributes": [row]}

    async def _disk_gpt(self, v: Values, user: str) -> str:
        disk = self._disk(v["node"], v["disk"])
        if disk.get("used"):
            raise die(f"device '{v['disk']}' is already in use")

        async def body() -> str | None:
            await self.pause(1)
            disk["gpt"] = 1
            return None

        return str(await self.task(v["node"], "diskinit", v["disk"].rpartition("/")[2], user, body))

    def _made_list(self, kind: str) -> Data:
        async def listed(v: Values, _user: str) -> Data:
            found = self.made_of.get((v["node"], kind), [])
            if kind == "lvm":
                first = {"name": "pve", "size": 480 * GIB, "free": 16 * GIB, "leaf": 0}
                part = {"name": "/dev/sda3", "size": 480 * GIB, "free": 16 * GIB, "leaf": 1}
                children = [first | {"children": [part]}]
                return {"leaf": 0, "children": [*children, *found]}
            if kind == "lvmthin":
                pool = {"lv": "data", "vg": "pve", "lv_size": 400 * GIB, "used": 380 * GIB}
                return [pool | {"metadata_size": 4 * GIB, "metadata_used": GIB}, *found]
            return found

        return listed

    def _made_make(self, kind: str) -> Data:
        async def make(v: Values, user: str) -> str:
            node, name = v["node"], v["name"]
            chosen = [self._disk(node, part) for part in str(v.get("devices") or v.get("device")).split(",")]
            if any(item.get("used") for item in chosen):
                raise die(f"device '{chosen[0]['devpath']}' is already in use")

            async def body() -> str | None:
                await self.pause(1)
                size = sum(item["size"] for item in chosen)
                for item in chosen:
                    item["used"] = "ZFS" if kind == "zfs" else "LVM" if kind.startswith("lvm") else "mounted"
                entries: dict[str, Record] = {
                    "zfs": {"name": name, "size": size, "free": size, "alloc": 0, "frag": 0, "health": "ONLINE"},
                    "lvm": {"name": name, "size": size, "free": size, "leaf": 0, "children": []},
                    "lvmthin": {"lv": name, "vg": name, "lv_size": size, "used": 0, "metadata_size": GIB},
                    "directory": {"path": f"/mnt/pve/{name}", "device": chosen[0]["devpath"], "type": "ext4"},
                }
                self.made_of.setdefault((node, kind), []).append(entries[kind])
                return None

            return str(await self.task(node, TASKS[kind], name, user, body))

        return make

    async def _zfs_show(self, v: Values, _user: str) -> Record:
        pool = next(item for item in self.made_of[v["node"], "zfs"] if item["name"] == v["name"])
        leaf = {"name": "sdb", "state": "ONLINE", "read": 0, "write": 0, "cksum": 0, "leaf": 1}
        bad = {"name": "sdc", "state": "FAULTED", "read": 3, "write": 12, "leaf": 1, "msg": "too many errors"}
        down = pool["health"] != "ONLINE"
        vdev = {"name": "mirror-0", "state": pool["health"], "read": 0, "write": 0, "cksum": 0}
        vdev["children"] = [leaf, bad] if down else [leaf]
        tree = [{"name": v["name"], "state": pool["health"], "children": [vdev]}]
        return {
            "name": v["name"], "state": pool["health"], "errors": "No known data errors", "scan": "none requested",
            **({"status": "One or more devices are faulted.", "action": "Replace the faulted device."} if down else {}),
            "children": tree,
        }  # fmt: skip

    # ------------------------------------------------------------------------ Ceph

    def _need_ceph(self) -> Record:
        if self.ceph_state is None:
            raise die("binary not installed: /usr/bin/ceph-mon")
        return self.ceph_state

    async def _ceph_status(self, request: Request) -> Response:
        self.require(request[USER], "/", "Sys.Audit")
        return ok(self._need_ceph())

    async def _ceph_flag_list(self, _v: Values, _user: str) -> list[Record]:
        self._need_ceph()
        return [{"name": flag, "description": flag, "value": int(flag in self.ceph_flags)} for flag in FLAGS]

    async def _ceph_flag(self, v: Values, _user: str) -> None:
        self._need_ceph()
        (self.ceph_flags.add if v["value"] else self.ceph_flags.discard)(v["flag"])

    async def _ceph_osds(self, _v: Values, _user: str) -> Record:
        self._need_ceph()
        hosts = [
            {
                "name": node, "type": "host",
                "children": [{
                    "id": number, "name": f"osd.{number}", "type": "osd", "device_class": "ssd",
                    "in": int(number not in self.osds_out), "status": "up" if self.is_online(node) else "down",
                    "percent_used": 12.5,
                }],
            }
            for number, node in enumerate(self.nodes)
        ]  # fmt: skip
        tree = {"type": "root", "name": "default", "children": hosts}
        return {"flags": ",".join(sorted(self.ceph_flags)), "root": {"children": [tree]}}

    async def _ceph_pools(self, _v: Values, _user: str) -> list[Record]:
        self._need_ceph()
        pool = {"pool": 2, "pool_name": "vms", "size": 3, "min_size": 2, "pg_num": 32, "crush_rule": 0}
        return [pool | {"percent_used": 0.861, "bytes_used": 3000, "type": "replicated"}]

    async def _ceph_mons(self, _v: Values, _user: str) -> list[Record]:
        self._need_ceph()
        return [
            {"name": node, "host": node, "quorum": int(self.is_online(node)), "addr": f"192.0.2.{number}:6789/0"}
            for number, node in enumerate(self.nodes, 1)
        ]

    def _ceph_move(self, way: str) -> Data:
        async def move(v: Values, _user: str) -> None:
            self._need_ceph()
            (self.osds_out.add if way == "out" else self.osds_out.discard)(int(v["osdid"]))

        return move

    # ---------------------------------------------------------- figures and realms

    def _rrd(self, kind: str) -> Data:
        async def points(v: Values, _user: str) -> list[Record]:
            """Report what is used now, as if it had always been; the first point is empty, as right after a start."""
            if kind == "node":
                now = self._stats(v["node"])
                row = {"cpu": now["cpu"], "memused": now["mem"], "memtotal": now["maxmem"], "netin": 1000.5}
            elif kind == "guest":
                use = self._vm_usage(self.find(v["node"], v["vmid"]))
                row = {key: use.get(key, 0) for key in ("cpu", "mem", "maxmem", "netin", "netout")}
            else:
                use = self._status_item(v["storage"], v["node"])
                row = {"used": use.get("used", 0), "total": use.get("total", 0)}
            step, until = 60, int(time.time()) // 60 * 60
            times = [until - step * (POINTS - 1 - number) for number in range(POINTS)]
            return [{"time": times[0]}, *({"time": time_} | row for time_ in times[1:])]

        return points

    async def _realm_sync(self, v: Values, user: str) -> str:
        async def body() -> str | None:
            await self.pause(1)
            return None

        log = ["got data from server, updating users and groups"]
        return str(await self.task(self.local_node, "auth-realm-sync", v["realm"], user, body, log=log))
