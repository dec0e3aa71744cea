# SPDX-License-Identifier: AGPL-3.0-or-later
"""Mount points of simulated containers: move_volume, which fakepve answers with OK and does not do.

Parameters are the schema's; a container that runs is refused, and the old volume stays as unusedN unless `delete` is
named, as pve-container's API does.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fakepve import FakePve, TaskError
from fakepve.lxc import parse_mount, print_mount
from fakepve.routing import die

from pve.guests.hotplug import BRIDGE, NET
from pve.guests.power import keep_unused

if TYPE_CHECKING:
    from pve.foreign import Guest, Routes, Values

LATE = re.compile(r"net[123]\d\Z")
MOUNT = re.compile(r"(rootfs|mp\d+)\Z")


class Mounts(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: POST /nodes/{node}/lxc/{vmid}/move_volume."""

    def _routes_sim_mounts(self) -> Routes:
        return [("POST", "/nodes/{node}/lxc/{vmid}/move_volume", self._move_volume)]

    async def _move_volume(self, v: Values, user: str) -> str:
        ct = self._find_ct(v["node"], v["vmid"])
        self.require(user, f"/vms/{ct.vmid}", "VM.Config.Disk")
        self._storage_for(v["storage"], user, ct.vmid)
        self._ct_check_lock(ct)
        if ct.status == "running":
            raise die("cannot move volumes of a running container")
        if v.get("digest") and v["digest"] != ct.digest():
            raise die("detected modified configuration - file changed by other user? Try again.")

        async def body() -> str | None:
            if v["volume"] not in ct.config:
                raise TaskError(f"volume '{v['volume']}' does not exist")
            await self.pause(1)
            mount = parse_mount(ct.config[v["volume"]])
            old, mount["volume"] = mount["volume"], self._allocate(ct.vmid, v["storage"], self._taken_volumes())
            ct.config[v["volume"]] = print_mount(mount, v["volume"] == "rootfs")
            if not v.get("delete"):
                keep_unused(ct, old)
            return None

        return str(await self._ct_task(ct, "move_volume", user, body))

    async def _update_config(
        self, ct: Guest, user: str, values: Values, deletes: list[str], reverts: list[str]
    ) -> None:
        """Change a container as pve-container does: nothing is written if a bridge is missing while it runs.

        The deletion of net10 to net31 stays pending, for the code that plugs matches one digit.
        """
        running = ct.status == "running"
        if running:
            bridges = {item["iface"] for item in await self._network({"node": ct.node, "type": "any_bridge"}, user)}
            for key, value in values.items():
                found = BRIDGE.search(str(value))
                if NET.match(key) and found and found[1] not in bridges:
                    raise die(f"bridge '{found[1]}' does not exist")
        late = {key: ct.config[key] for key in deletes if running and LATE.match(key) and key in ct.config}
        before = {key: parse_mount(value)["volume"] for key, value in ct.config.items() if MOUNT.match(key)}
        await super()._update_config(ct, user, values, deletes, reverts)
        for key, value in late.items():
            ct.config[key], ct.pending[key] = value, None
        used = {parse_mount(value)["volume"] for key, value in ct.config.items() if MOUNT.match(key)}
        for key in [key for key in ct.config if key.startswith("unused") and ct.config[key] in used]:
            del ct.config[key]
        kept = {value for key, value in ct.config.items() if key.startswith("unused")}
        for volume in before.values():
            if not volume.startswith("/") and volume not in used | kept:
                keep_unused(ct, volume)
