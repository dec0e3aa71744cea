# SPDX-License-Identifier: AGPL-3.0-or-later
"""Operations that move or change a simulated guest's disks: resize and migrate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fakepve import TaskError
from fakepve.lxc import SIZE_UNITS, format_size
from fakepve.qemu import drives_of, is_cdrom, join_drive, split_drive, volume_ref
from fakepve.routing import die, param_error

from pve.guests.power import Guests, check_lock, keep_unused, set_lock

if TYPE_CHECKING:
    from pve.foreign import Guest, Routes, Values

SIZE = re.compile(r"^(\+?)(\d+(?:\.\d+)?)([KMGT]?)$")


def to_bytes(number: str, unit: str) -> int:
    """Turn the number and unit of a disk size into bytes."""
    return int(float(number) * (SIZE_UNITS[unit] if unit else 1))


def drive_bytes(props: dict[str, str]) -> int:
    """Return the size written in a drive's options."""
    found = SIZE.match(str(props.get("size", "")))
    return to_bytes(found.group(2), found.group(3)) if found else 0


class Volumes(Guests):
    """Mixin of the simulator: what fakepve answers with OK and does not do."""

    def _routes_sim_volumes(self) -> Routes:
        one = "/nodes/{node}/qemu/{vmid}"
        return [
            ("PUT", one + "/resize", self._resize),
            ("POST", one + "/move_disk", self._move_disk),
            ("POST", one + "/migrate", self._migrate),
            ("GET", one + "/migrate", self._migrate_check),
        ]

    # ------------------------------------------------------------------- resize

    async def _resize(self, v: Values, user: str) -> str:
        """Grow a disk; real PVE: this is a task, and even a missing VM is accepted."""
        found = SIZE.match(v["size"])
        if not found:
            raise die("invalid size string")

        async def body() -> str | None:
            vm = self.find(v["node"], v["vmid"])
            check_lock(vm)
            if v.get("digest") and v["digest"] != vm.digest():
                raise TaskError("checksum mismatch (file change by other user?)")
            if v["disk"] not in vm.config:
                raise TaskError(f"disk '{v['disk']}' does not exist")
            self._grow(vm, v["disk"], found)
            return None

        return await self.task(v["node"], "resize", v["vmid"], user, body, vm=self.vm(v["vmid"]))

    def _grow(self, vm: Guest, disk: str, size: re.Match[str]) -> None:
        """Set a disk's new size in the configuration and on its storage."""
        volume, props = split_drive(vm.config[disk])
        if is_cdrom(volume, props):
            raise TaskError("you can't resize a cdrom")
        before = drive_bytes(props)
        wanted = to_bytes(size.group(2), size.group(3)) + (before if size.group(1) else 0)
        if wanted < before:
            raise TaskError("shrinking disks is not supported")
        props = {**props, "size": format_size(wanted)}
        vm.config[disk] = ",".join([volume, *(f"{key}={props[key]}" for key in sorted(props))])
        stored = self._qm_volume(volume)
        if stored is not None:
            stored["size"] = wanted

    # ---------------------------------------------------------------- move_disk

    async def _move_disk(self, v: Values, user: str) -> str:
        """Copy a disk to another storage and keep the old volume as unusedN (schema: delete is off by default)."""
        vm = self.find(v["node"], v["vmid"])
        self.require(user, f"/vms/{vm.vmid}", "VM.Config.Disk")
        self.require(user, f"/storage/{v['storage']}", "Datastore.AllocateSpace")
        self._check_lock(vm)
        if v.get("digest") and v["digest"] != vm.digest():
            raise die("checksum mismatch (file change by other user?)")

        async def body() -> str | None:
            check_lock(vm)
            await self.pause(1)
            volume, props = split_drive(vm.config[v["disk"]])
            made, _ = self._qm_alloc(v["storage"], vm.vmid, "raw", drive_bytes(props))
            vm.config[v["disk"]] = join_drive(made, props)
            keep_unused(vm, volume)
            return None

        return await self.task(v["node"], "qmmove", vm.vmid, user, body, vm=vm)

    # ------------------------------------------------------------------ migrate

    def _local_drives(self, vm: Guest) -> list[tuple[str, str]]:
        """Return the drives on storage that other nodes do not see: (key, volume)."""
        drives = [(key, volume) for key, volume, _ in drives_of(vm.config) if volume_ref(volume)[0]]
        return [(k, volume) for k, volume in drives if not self.storages[volume_ref(volume)[0]].get("shared")]

    async def _migrate_check(self, v: Values, _user: str) -> dict[str, Any]:
        """Answer the conditions; real PVE lists allowed nodes for a stopped VM only, and why others are not."""
        vm = self.find(v["node"], v["vmid"])
        drives = {volume: props for _, volume, props in drives_of(vm.config)}
        local = [
            {"volid": volume, "drivename": key, "cdrom": int(is_cdrom(volume, drives[volume]))}
            for key, volume in self._local_drives(vm)
        ]
        answer: dict[str, Any] = {
            "running": int(vm.status == "running"),
            "local_disks": local,
            "local_resources": [key for key in vm.config if key.startswith(("hostpci", "usb"))],
            "mapped-resources": [],
        }
        if vm.status != "running":
            lacking = {node: self._lacking(vm, node) for node in self.nodes if node != vm.node}
            answer["allowed_nodes"] = [node for node, names in lacking.items() if not names]
            answer["not_allowed_nodes"] = {
                node: {"unavailable_storages": names} if names else {} for node, names in lacking.items()
            }
        return answer

    def _lacking(self, vm: Guest, node: str) -> list[str]:
        """Return the storages of a VM that a node does not have."""
        names = {volume_ref(volume)[0] for _, volume, _ in drives_of(vm.config)} - {None}
        return sorted(name for name in names if not self._storage_enabled(name, node))

    def check_migration(self, v: Values) -> Guest:
        """Refuse what the API itself refuses before a task is begun (proxmox.md, Cluster), and return the VM."""
        node, target = v["node"], v["target"]
        if target == node:
            raise param_error(target="target is local node.")
        if target not in self.nodes:
            raise die(f"no such cluster node '{target}'")
        self.need_quorum()
        vm = self.find(node, v["vmid"])
        self._check_lock(vm)
        if vm.status == "running" and not v.get("online"):
            raise die("can't migrate running VM without --online")
        return vm

    async def _migrate(self, v: Values, user: str) -> str:
        self.check_migration(v)
        return await self.move(v, user)

    async def move(self, v: Values, user: str) -> str:
        """Move a VM by a task; one that is killed tidies up: the VM goes on where it was, without a lock."""
        vm, target = self.find(v["node"], v["vmid"]), v["target"]

        async def body() -> str | None:
            check_lock(vm)
            if not self.nodes[target].get("online", True):
                # Real PVE: a migration to a dead node is accepted; its task finds out.
                raise TaskError("migration aborted")
            if vm.status == "running" and self._local_drives(vm) and not v.get("with-local-disks"):
                raise TaskError("migration aborted")
            if self._bound(vm):
                raise TaskError("migration aborted")
            set_lock(vm, "migrate")
            try:
                await self.pause(1)
                self._map_drives(vm, v.get("targetstorage"))
                vm.node = target
            finally:
                set_lock(vm, None)
            return "migration finished successfully"

        log = [f"starting migration of VM {vm.vmid} to node '{target}'"]
        return await self.task(v["node"], "qmigrate", vm.vmid, user, body, vm=vm, log=log)

    def _bound(self, vm: Guest) -> list[str]:
        """Return what keeps a VM on its node: its CD-ROM drive, a local medium, a device or file without shared=1."""
        local = {volume for _, volume in self._local_drives(vm)}
        found = []
        for key, volume, props in drives_of(vm.config):
            medium = is_cdrom(volume, props) and volume in local and "cloudinit" not in volume
            path = volume.startswith("/") and not int(props.get("shared", 0))
            found += [key] if volume == "cdrom" or medium or path else []
        return found

    def _map_drives(self, vm: Guest, mapping: str | None) -> None:
        """Put local drives on the storages that a list like `fast` or `local-lvm:fast` names."""
        pairs = [part.split(":") for part in str(mapping or "").split(",") if part]
        to = {pair[0]: pair[1] for pair in pairs if len(pair) > 1}
        rest = next((pair[0] for pair in pairs if len(pair) == 1), None)
        for key, volume in self._local_drives(vm):
            source, name = volume.split(":", 1)
            target = to.get(source, rest or source)
            if target != source:
                self.storages[target].setdefault("volumes", {})[name] = self.storages[source]["volumes"].pop(name, {})
                vm.config[key] = vm.config[key].replace(f"{source}:", f"{target}:", 1)
