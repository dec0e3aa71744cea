# SPDX-License-Identifier: AGPL-3.0-or-later
"""Power, creation and clones of simulated VMs where fakepve answers otherwise than the real API."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from fakepve import FakeVm, PveError, TaskError
from fakepve.qemu import DRIVE_KEY, drives_of, is_cdrom, join_drive, split_drive, volume_ref
from fakepve.routing import die, param_error
from fakepve.server import USER, ok
from fakepve.storage import _is_file

from pve.guests import hotplug
from pve.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pve.foreign import Data, Guest, Request, Response, Values

# Real PVE: these are accepted for any VM, and what is wrong is reported by the task; the others refuse at once.
LATE_ACTIONS = ("start", "stop", "shutdown", "reboot")
MISSING = "does not exist"
CLOUDINIT = re.compile(r"(^|[:/])vm-\d+-cloudinit(\.|$)")
CLOUDINIT_SIZE = 4 * 1024**2


def set_lock(guest: Guest, lock: str | None) -> None:
    """Set or clear a guest's lock as it is in its configuration."""
    guest.lock = lock
    if lock:
        guest.config["lock"] = lock
    else:
        guest.config.pop("lock", None)


def check_lock(guest: Guest) -> None:
    """Fail the task of a worker that finds its guest locked."""
    if guest.lock:
        kind = "VM" if isinstance(guest, FakeVm) else "CT"
        raise TaskError(f"{kind} is locked ({guest.lock})")


def keep_unused(guest: Guest, volume: str) -> None:
    """Keep a volume that a guest names no longer as its unusedN, as real PVE does."""
    number = next(n for n in range(256) if f"unused{n}" not in guest.config)
    guest.config[f"unused{number}"] = volume


class Guests(Tasks):
    """Mixin of the simulator: what happens to VMs."""

    def _vm(self, request: Request, priv: str | None = None) -> Guest:
        """Find the VM of a request; real PVE checks the permission before it looks for the VM."""
        vmid = request.match_info["vmid"]
        if priv and vmid.isdigit():
            self.require(request[USER], f"/vms/{vmid}", priv)
        return super()._vm(request, priv)

    # -------------------------------------------------------------------- power

    async def _status_action(self, request: Request) -> Response:
        action = request.match_info["action"]
        values = self._verify(request, await self.read_params(request))
        user, node, vmid = request[USER], values["node"], values["vmid"]
        self.require(user, f"/vms/{vmid}", "VM.PowerMgmt")
        if values.get("skiplock") and user != "root@pam":
            # Real PVE: not even a token of root@pam may.
            raise param_error(skiplock="Only root may use this option.")
        if action not in LATE_ACTIONS:
            return await super()._status_action(request)
        if action == "start":
            self.need_quorum()
        guest = self.vm(vmid)
        guest = guest if guest is not None and guest.node == node else None

        async def body() -> str | None:
            vm = self.find(node, vmid)
            if (action, vm.lock, vm.status) == ("start", "backup", "running"):
                # Real PVE: the process that the backup has started, or that runs, is let go on (FORMATS.md 6).
                vm.qmpstatus, vm.started_at = "running", time.time()
                return None
            # Real PVE: a VM that was suspended to disk is started, and that lock goes (proxmox.md, Guests).
            if not values.get("skiplock") and (action, vm.lock) != ("start", "suspended"):
                check_lock(vm)
            operation: Callable[[Guest, Values], Awaitable[str | None]] = getattr(self, f"_power_{action}")
            return await operation(vm, values)

        return ok(await self.task(node, f"qm{action}", vmid, user, body, vm=guest))

    async def _power_start(self, vm: Guest, _v: Values) -> str | None:
        if vm.template:
            raise TaskError("you can't start a vm if it's a template")
        if vm.status == "running":
            raise TaskError(f"VM {vm.vmid} already running")
        await self.pause(1)
        if vm.start_error:
            raise TaskError(vm.start_error)
        self._set_running(vm)
        if vm.lock == "suspended":
            set_lock(vm, None)
        return None

    def _set_running(self, vm: Guest) -> None:
        self._take_on(vm)
        vm.status = vm.qmpstatus = "running"
        vm.started_at = time.time()

    async def _power_stop(self, vm: Guest, _v: Values) -> str | None:
        """Stop; real PVE: stop and shutdown of a stopped VM end OK."""
        if vm.status == "running":
            await self.pause(1)
            vm.status = vm.qmpstatus = "stopped"
            self._take_on(vm)
        return None

    async def _power_shutdown(self, vm: Guest, v: Values) -> str | None:
        note = None
        if vm.status == "running":
            await self.pause(1)
            note = await self._powerdown(vm, v)
            self._take_on(vm)
        return note

    async def _power_reboot(self, vm: Guest, v: Values) -> str | None:
        if vm.status != "running":
            raise TaskError(f"VM {vm.vmid} not running")
        await self._power_shutdown(vm, v)
        self._set_running(vm)
        return None

    # -------------------------------------------------------- create, clone, destroy

    async def _qm_create(self, v: Values, user: str) -> str:
        self.need_pool(v.get("pool"))
        if v.get("archive"):
            return await self._restore(v, user)
        upid: str = await super()._qm_create(v, user)
        disks = drives_of(v)
        lines = [f"{key}: successfully created disk '{volume}'" for key, volume, _ in disks if ":" in volume]
        self.tasks[upid]["log"][:0] = lines
        return upid

    def need_pool(self, pool: str | None) -> None:
        """Real PVE: on a pool that does not exist no user has rights: a 403 is all there is (measured on 9.2.11)."""
        if pool and pool not in self.pools:
            raise PveError(403, f"Permission check failed (/pool/{pool}, VM.Allocate)")

    async def _restore(self, v: Values, user: str) -> str:
        """Create a VM from a backup; see backups.py."""
        raise NotImplementedError

    async def _qm_clone(self, v: Values, user: str) -> str:
        self.need_pool(v.get("pool"))
        source, target = self.vm(int(v["vmid"])), v.get("target")
        if source is not None and target in self.nodes and target != v["node"]:
            self._check_shared(source, target, v.get("storage"))
        upid: str = await super()._qm_clone(v, user)
        kind = "full" if v.get("full", not source.template) else "linked"
        drives = drives_of(source.config, skip_cdrom=True)
        self.tasks[upid]["log"][:0] = [f"create {kind} clone of drive {key} ({volume})" for key, volume, _ in drives]
        return upid

    def _qm_new_drive(self, vmid: int, key: str, value: str, default: str | None) -> tuple[str, list[str]]:
        """Allocate a drive; real PVE names the cloud-init drive after its guest."""
        volume, props = split_drive(value)
        if not volume.endswith(":cloudinit"):
            return super()._qm_new_drive(vmid, key, value, default)  # type: ignore[no-any-return]
        sid = volume_ref(volume)[0] or default
        volid = self._cloudinit(sid, vmid)
        return join_drive(volid, {**props, "media": "cdrom", "size": "4M"}), [volid]

    def _cloudinit(self, sid: str | None, vmid: int) -> str:
        """Allocate a guest's cloud-init drive and return its volume."""
        name = f"vm-{vmid}-cloudinit"
        if _is_file(self.storages[sid]):
            name = f"{vmid}/{name}.{self.storages[sid].get('format', 'qcow2')}"
        volume = {"content": "images", "format": "raw", "size": CLOUDINIT_SIZE, "vmid": vmid}
        self.storages[sid].setdefault("volumes", {})[name] = volume
        return f"{sid}:{name}"

    def _adopt_drives(self, vm: Guest) -> None:
        """Give a clone a cloud-init drive of its own, as real PVE does; fakepve leaves it its source's."""
        for key, volume, props in drives_of(vm.config):
            if CLOUDINIT.search(volume):
                vm.config[key] = join_drive(self._cloudinit(volume_ref(volume)[0], vm.vmid), props)

    def _check_shared(self, source: Guest, target: str | None, storage: str | None) -> None:
        """Real PVE: a clone lands on another node only if every drive, CD-ROM and cloud-init too, is on shared storage.

        So has to be the storage that it goes to.
        """
        for _key, volume, _props in drives_of(source.config):
            sid = volume_ref(volume)[0]
            if sid and not self.storages.get(sid, {}).get("shared"):
                raise die(f"can't clone VM to node '{target}' (VM uses local storage)")
        if storage and not self.storages.get(storage, {}).get("shared"):
            raise die(f"can't clone to non-shared storage '{storage}'")

    async def _late(self, ttype: str, v: Values, user: str, call: Callable[..., Awaitable[Data]], *texts: str) -> Data:
        """Run the call, but say in a task what fakepve refuses at once with one of the texts."""
        try:
            return await call(v, user)
        except PveError as error:
            if error.status != 500 or not any(text in error.message for text in texts):
                raise
            return await self.failing(v["node"], ttype, v["vmid"], user, error.message)

    async def _qm_destroy(self, v: Values, user: str) -> Data:
        if not self.quorate:
            return await self.failing(v["node"], "qmdestroy", v["vmid"], user, "cluster not ready - no quorum?")
        return await self._late("qmdestroy", v, user, super()._qm_destroy, MISSING)

    async def _qm_snapshot(self, v: Values, user: str) -> Data:
        return await self._late("qmsnapshot", v, user, super()._qm_snapshot, MISSING, "no quorum")

    async def _qm_snapshot_delete(self, v: Values, user: str) -> Data:
        return await self._late("qmdelsnapshot", v, user, super()._qm_snapshot_delete, MISSING, "no quorum")

    async def _qm_rollback(self, v: Values, user: str) -> Data:
        return await self._late("qmrollback", v, user, super()._qm_rollback, MISSING, "no quorum")

    # ------------------------------------------------------------------- configuration

    async def _config_get(self, request: Request) -> Response:
        """Answer the configuration; real PVE merges what is pending, and shows the live one with current=1."""
        vm = self._vm(request, "VM.Audit")
        values = self._verify(request, await self.read_params(request))
        config = dict(vm.config)
        if not values.get("current"):
            config |= vm.pending
        config = {key: value for key, value in config.items() if value is not None}
        if "memory" in config:
            config["memory"] = str(config["memory"])
        return ok(config | {"digest": vm.digest()})

    async def _changes(self, request: Request) -> tuple[Guest, Values]:
        """Return the VM and the checked changes of a PUT or POST of its configuration."""
        values = self._verify(request, await self.read_params(request))
        options = {key: value for key, value in values.items() if key not in ("node", "vmid")}
        vm = self._vm(request)
        if not {key for key in options if key not in ("digest", "skiplock", "background_delay")}:
            raise die("no options specified")
        for key in str(options.get("delete") or "").replace(";", ",").split(","):
            if key and not self._is_option(key.strip()):
                raise param_error(delete=f"unknown option '{key.strip()}'")
        self._check_lock(vm)
        if options.get("digest") and options["digest"] != vm.digest():
            raise die("checksum mismatch (file change by other user?)")
        return vm, options

    def _is_option(self, key: str) -> bool:
        known = self.config_options
        return key in known or key.rstrip("0123456789") + "[n]" in known

    async def _apply_config(self, vm: Guest, user: str, options: Values) -> None:
        """Change the configuration as the real API does, with new disks really allocated and `revert` understood."""
        changes = {key: value for key, value in options.items() if key != "background_delay"}
        for key in str(changes.pop("revert", "") or "").split(","):
            vm.pending.pop(key, None)
        for key in [key for key in changes if DRIVE_KEY.match(key)]:
            changes[key], _ = self._qm_new_drive(vm.vmid, key, changes[key], None)
        changes = {key: hotplug.written(key, value) for key, value in changes.items()}
        deleted = [key for key in str(changes.get("delete") or "").split(",") if key]
        boot = hotplug.without(vm, deleted) if "boot" not in changes else None
        before = drives_of(vm.config)
        if changes:
            await super()._apply_config(vm, user, changes)
        running = vm.status == "running"
        if boot is not None:
            (vm.pending if running else vm.config)["boot"] = boot
        bridges = {item["iface"] for item in await self._network({"node": vm.node, "type": "any_bridge"}, user)}
        errors = hotplug.plug(vm, bridges) if running else {}
        self._sort_unused(vm, before)
        vm.name = vm.config.get("name") or f"VM {vm.vmid}"
        if errors:
            raise param_error(**errors)

    def _take_on(self, vm: Guest) -> None:
        """Make what is pending the configuration; a volume that is no longer used becomes unusedN."""
        before = drives_of(vm.config)
        vm.apply_pending()
        self._sort_unused(vm, before)

    def _sort_unused(self, vm: Guest, before: list[tuple[str, str, Values]]) -> None:
        """Real PVE: a volume that was taken off becomes unusedN, one that is used again is so no longer.

        The image of a cloud-init drive is freed at once; a device path and a CD have no volume to keep.
        """
        used = {volume for _key, volume, _ in drives_of(vm.config)}
        for key in [key for key in vm.config if key.startswith("unused")]:
            if split_drive(vm.config[key])[0] in used:
                del vm.config[key]
        kept = {split_drive(value)[0] for key, value in vm.config.items() if key.startswith("unused")}
        for _key, volume, props in before:
            if volume in used or volume in kept or volume_ref(volume)[0] is None:
                continue
            if CLOUDINIT.search(volume):
                self._qm_free(volume)
            elif not is_cdrom(volume, props):
                keep_unused(vm, volume)

    async def _config_put(self, request: Request) -> Response:
        vm, options = await self._changes(request)
        if not self.quorate:
            # Real PVE: without a quorum /etc/pve is read-only, and a synchronous change fails on its file.
            path = f"/etc/pve/nodes/{vm.node}/qemu-server/{vm.vmid}.conf.tmp.174"
            raise die(f"unable to open file '{path}' - Permission denied")
        await self._apply_config(vm, request[USER], options)
        return ok()

    async def _config_post(self, request: Request) -> Response:
        vm, options = await self._changes(request)
        user = request[USER]

        async def body() -> str | None:
            try:
                await self._apply_config(vm, user, options)
            except PveError as error:
                # A task ends with the words of the refusal, the named parameters after them.
                named = "".join(f" {key}: {text}" for key, text in (error.errors or {}).items())
                raise TaskError(f"{error.status} {error.message}{named}") from error
            return None

        return ok(await self.task(vm.node, "qmconfig", vm.vmid, user, body))
