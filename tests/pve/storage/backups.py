# SPDX-License-Identifier: AGPL-3.0-or-later
"""Backups of simulated guests: vzdump with its log, archives with notes and protection, restore and prune.

What is modelled, and where from: a missing or locked guest is accepted and ends in `job errors` (proxmox.md, Tasks
and 15, recorded task-status-joberrors); parameters are the schema's; an archive's entry is that of the recorded
storage-content-backup.  A storage of files lists the first line of the notes alone and a single archive shows them
whole, as pve-storage does.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fakepve import FakeVm, TaskError
from fakepve.lxc import FakeCt, random_mac
from fakepve.qemu import drives_of, volume_ref
from fakepve.routing import die, param_error, split_list

from pve.guests.power import set_lock
from pve.guests.volumes import Volumes, drive_bytes

if TYPE_CHECKING:
    from pve.foreign import Data, Guest, Routes, Values

# What a compressed backup comes to, as a share of the disks.
BACKUP_SHARE = 8
EXTENSIONS = {"zstd": ".zst", "gzip": ".gz", "1": ".lzo", "lzo": ".lzo", "0": ""}
MAC = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}")
TEMPLATE_KEY = re.compile(r"\{\{([^{}\s]+)\}\}")
# Buckets of prune-backups in the order in which they are filled, by the form of the time that names one.
BUCKETS = {
    "keep-hourly": "%Y%m%d%H", "keep-daily": "%Y%m%d", "keep-weekly": "%G%V", "keep-monthly": "%Y%m",
    "keep-yearly": "%Y",
}  # fmt: skip


def with_new_macs(config: Values) -> Values:
    """Return the interfaces of a restored guest that is to be `unique` (schema: a random ethernet address each)."""
    nets = {key: str(value) for key, value in config.items() if re.fullmatch(r"net\d+", key)}
    return {key: MAC.sub(lambda _: random_mac(), value) for key, value in nets.items()}


def render_notes(template: str, known: dict[str, str]) -> str:
    """Fill in a notes-template: one line, in which backslash-n is a new line and two backslashes are one."""
    filled = TEMPLATE_KEY.sub(lambda found: known[found[1]], template)
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], filled)


def parse_keep(text: str | None) -> dict[str, int]:
    """Read the property string of prune-backups."""
    pairs = (pair.partition("=") for pair in split_list(text))
    return {key: int(value) for key, _, value in pairs}


def mark_for_prune(archives: list[Values], keep: dict[str, int]) -> None:
    """Set `mark` of one guest's archives, newest first: what a rule keeps, what is protected, and the rest."""
    if not keep or keep.get("keep-all"):
        for archive in archives:
            archive.setdefault("mark", "keep")
        return
    free = [archive for archive in archives if "mark" not in archive]
    for item in free[: keep.get("keep-last", 0)]:
        item["mark"] = "keep"
    for rule, form in BUCKETS.items():
        kept = {time.strftime(form, time.gmtime(item["ctime"])) for item in free if item.get("mark") == "keep"}
        chosen: set[str] = set()
        for item in free:
            bucket = time.strftime(form, time.gmtime(item["ctime"]))
            if "mark" not in item and bucket not in kept | chosen and len(chosen) < keep.get(rule, 0):
                chosen.add(bucket)
                item["mark"] = "keep"
    for item in free:
        item.setdefault("mark", "remove")


class Backups(Volumes):
    """Mixin of the simulator: vzdump, what becomes of archives, and restore."""

    def _routes_sim_backups(self) -> Routes:
        prune = "/nodes/{node}/storage/{storage}/prunebackups"
        return [
            ("POST", "/nodes/{node}/vzdump", self._vzdump),
            ("GET", "/nodes/{node}/vzdump/extractconfig", self._extract_config),
            ("GET", prune, self._prune_list),
            ("DELETE", prune, self._prune),
        ]

    async def ceph_io(self, vm: Guest, keys: Data = None) -> None:
        """Take a snapshot task's time where fakepve asks the disks, while the guest is locked (proxmox.md, Guests)."""
        await self.pause(1)
        await super().ceph_io(vm, keys)

    # ------------------------------------------------------------------- vzdump

    async def _vzdump(self, v: Values, user: str) -> str:
        """Back up guests; real PVE: even a missing guest is accepted, and the job ends with 'job errors'."""
        node, storage = v["node"], v.get("storage") or "local"
        here = [guest for guest in self._guests() if guest.node == node]
        ids = [g.vmid for g in here] if v.get("all") else [int(x) for x in split_list(v.get("vmid"))]
        if not ids:
            raise param_error(vmid="property is missing and it is not optional")
        for vmid in ids:
            self.require(user, f"/vms/{vmid}", "VM.Backup")
        self.require(user, f"/storage/{storage}", "Datastore.AllocateSpace")
        if "backup" not in split_list(self._active_store(storage, node).get("content")):
            raise die(f"storage '{storage}' does not support backups")
        log = [f"INFO: starting new backup job: vzdump {' '.join(map(str, ids))} --storage {storage} --node {node}"]

        async def body() -> str | None:
            failed = [vmid for vmid in ids if not await self._back_up(vmid, node, storage, v)]
            if failed:
                raise TaskError("job errors")
            return "INFO: Backup job finished successfully"

        # Real PVE: the id of a task for several guests is empty (proxmox.md, Tasks).
        return await self.task(node, "vzdump", ids[0] if len(ids) == 1 else "", user, body, log=log)

    async def _back_up(self, vmid: int, node: str, storage: str, v: Values) -> bool:
        guest = self.guest(vmid)
        if guest is None or guest.node != node or guest.lock:
            locked = guest is not None and guest.node == node and guest.lock
            reason = f"VM is locked ({guest.lock})" if locked else f"unable to find VM '{vmid}'"
            self.say(f"ERROR: Backup of VM {vmid} failed - {reason}")
            return False
        kind = "qemu" if isinstance(guest, FakeVm) else "lxc"
        self.say(f"INFO: Starting Backup of VM {vmid} ({kind})")
        self.say(f"INFO: backup mode: {v.get('mode') or 'snapshot'}")
        config, name = dict(guest.config), str(guest.name)
        set_lock(guest, "backup")
        self._prelaunch(guest)
        await self.pause(1)
        if getattr(guest, "qmpstatus", "") == "prelaunch":
            guest.status = guest.qmpstatus = "stopped"
        set_lock(guest, None)
        self._archive(guest, config, storage, node, v, name)
        self.say(f"INFO: Finished Backup of VM {vmid} (00:00:01)")
        return True

    @staticmethod
    def _prelaunch(guest: Guest) -> None:
        """Real PVE: a backup starts a stopped VM without letting it run, and stops it if it is still so at its end."""
        if isinstance(guest, FakeVm) and guest.status == "stopped":
            guest.status, guest.qmpstatus = "running", "prelaunch"

    def _archive(self, guest: Guest, config: Values, storage: str, node: str, v: Values, name: str) -> None:
        """Put an archive on the storage, with its notes."""
        kind = "qemu" if isinstance(guest, FakeVm) else "lxc"
        volumes, at = self.storages[storage].setdefault("volumes", {}), time.time()
        suffix = ("vma" if kind == "qemu" else "tar") + EXTENSIONS[str(v.get("compress") or "0")]
        while True:  # two backups of a guest cannot have the same second
            archive = f"backup/vzdump-{kind}-{guest.vmid}-{time.strftime('%Y_%m_%d-%H_%M_%S', time.gmtime(at))}"
            if not any(volume.startswith(archive + ".") for volume in volumes):
                break
            at += 1
        known = {"guestname": name, "vmid": str(guest.vmid), "node": node, "cluster": self.cluster_name}
        size = sum(drive_bytes(props) for _, _, props in drives_of(config)) // BACKUP_SHARE
        self.say(f"INFO: creating vzdump archive '/var/lib/vz/dump/{archive.partition('/')[2]}.{suffix}'")
        volumes[f"{archive}.{suffix}"] = {
            "content": "backup", "format": suffix, "size": size, "vmid": guest.vmid, "ctime": int(at),
            "subtype": kind, "node": None if self.storages[storage].get("shared") else node, "config": config,
            "protected": bool(v.get("protected")), "snapshots": {},
        } | ({"notes": render_notes(v["notes-template"], known)} if v.get("notes-template") else {})  # fmt: skip

    def _item(self, name: str, volname: str, vol: Values) -> Values:
        """Return an entry of a content list, as recorded: subtype, verification, the first line of the notes."""
        item: Values = super()._item(name, volname, vol)
        if vol["content"] == "backup":
            item |= {key: vol[key] for key in ("subtype", "verification", "encrypted") if vol.get(key)}
            item["notes"] = str(vol.get("notes") or "").partition("\n")[0]
            item = {key: value for key, value in item.items() if (key, value) not in (("notes", ""), ("protected", 0))}
        return item

    async def _extract_config(self, v: Values, user: str) -> str:
        """Answer the configuration in an archive as the text of its file: a comment is the description."""
        sid, name = volume_ref(v["volume"])
        self.require(user, f"/storage/{sid}", "Datastore.AllocateSpace")
        volume = self._volumes(sid).get(name) if sid in self.storages else None
        if volume is None or "config" not in volume:
            raise die(f"unable to extract configuration: volume '{v['volume']}' does not exist")
        self.require(user, f"/vms/{volume['vmid']}", "VM.Backup")
        config = dict(volume["config"])
        lines = str(config.pop("description", "")).splitlines()
        text = [f"#{quote(line, safe=' /:.,-_()')}" for line in lines]
        if ".vma" in name:  # Real PVE: vzdump notes where each drive was (measured on 9.2.11)
            drives = drives_of(volume["config"], skip_cdrom=True)
            at_end = [f"#qmdump#map:{key}:drive-{key}:{volume_ref(vol)[0]}:raw:" for key, vol, _ in drives]
            return "\n".join(text + [f"{key}: {config[key]}" for key in sorted(config)] + at_end) + "\n"
        return "\n".join(text + [f"{key}: {config[key]}" for key in sorted(config)]) + "\n"

    # ------------------------------------------------------------------ restore

    def _archive_of(self, v: Values, volid: str) -> Values:
        sid, name = volume_ref(volid)
        volume = self._volumes(sid).get(name) if sid in self.storages else None
        if volume is None or "config" not in volume:
            raise die(f"unable to restore VM {v['vmid']} - volume '{volid}' does not exist")
        self._active_store(sid, v["node"])
        return dict(volume)

    def _free_for(self, v: Values) -> Guest:
        """Return the guest that a forced restore overwrites; real PVE: it must be stopped and unprotected."""
        vmid = int(v["vmid"])
        old = self.guest(vmid)
        if old is None:
            return None
        if not v.get("force") or old.node != v["node"]:
            raise die(f"unable to restore VM {vmid} - VM {vmid} already exists on node '{old.node}'")
        if str(old.config.get("protection") or 0) == "1":
            raise die(f"unable to restore VM {vmid} - protection mode enabled")
        if old.status == "running":
            raise die(f"unable to restore VM {vmid} - vm is running")
        return old

    async def _restore(self, v: Values, user: str) -> str:
        """Create a VM from a backup that vzdump made here: its configuration, then what the request says."""
        node, vmid = v["node"], int(v["vmid"])
        self.need_quorum()
        self._qm_perm(user, vmid, v.get("pool"), "VM.Allocate")
        volume = self._archive_of(v, v["archive"])
        old = self._free_for(v)
        vm = old or FakeVm(vmid, f"VM {vmid}", node=node)
        if old is None:
            vm.config = {}
            self.vms.append(vm)
        set_lock(vm, "create")
        more = {key: v[key] for key in ("name", "description", "tags") if v.get(key)}

        async def body() -> str | None:
            vm.config = {key: x for key, x in volume["config"].items() if key not in ("lock", "template", "parent")}
            vm.snapshots, vm.pending = {}, {}
            for key, value, _props in drives_of(vm.config, skip_cdrom=True):
                sid, _ = volume_ref(value)
                size = int((self._qm_volume(value) or {}).get("size") or drive_bytes(_props))
                volid, _ = self._qm_alloc(v.get("storage") or sid, vmid, None, size)
                vm.config[key] = vm.config[key].replace(value, volid, 1)
            vm.config |= more | (with_new_macs(vm.config) if v.get("unique") else {})
            vm.name = vm.config.get("name") or f"VM {vmid}"
            vm.lock = None
            if v.get("start"):
                self._set_running(vm)
            return f"restored from '{v['archive']}'"

        return await self.task(node, "qmrestore", vmid, user, body, vm=vm if old is None else None)

    async def _lxc_create(self, user: str, v: Values) -> str:
        """Create a container; from an archive it has the archive's configuration, then what the request says."""
        self.need_pool(v.get("pool"))
        if not v.get("restore"):
            return await super()._lxc_create(user, v)  # type: ignore[no-any-return]
        node, vmid = v["node"], int(v["vmid"])
        self.need_quorum()
        self._qm_perm(user, vmid, v.get("pool"), "VM.Allocate")
        volume = self._archive_of(v, v["ostemplate"])
        old = self._free_for(v)
        ct = old or FakeCt(vmid, node=node, defaults=False, config={"lock": "create"})
        if old is None:
            self.cts.append(ct)
        ct.config["lock"] = "create"
        more = {key: v[key] for key in ("hostname", "description", "tags") if v.get(key)}

        async def body() -> str | None:
            storage = v.get("storage") or "local-lvm"
            config = {key: x for key, x in volume["config"].items() if key not in ("lock", "template", "parent")}
            config["rootfs"] = re.sub(r"^[^,]*", f"{storage}:vm-{vmid}-disk-0", str(config.get("rootfs", "")))
            ct.config, ct.snapshots = config | more | (with_new_macs(config) if v.get("unique") else {}), {}
            return f"restored from '{v['ostemplate']}'"

        return await self.task(node, "vzrestore", vmid, user, body, vm=ct if old is None else None)

    # -------------------------------------------------------------------- prune

    def _pruned(self, v: Values) -> list[Values]:
        store = self._active_store(v["storage"], v["node"])
        keep = parse_keep(v.get("prune-backups") or store.get("prune-backups"))
        groups: dict[tuple[str, int], list[Values]] = {}
        for name, volume, home in self._on_nodes(v["storage"]):
            found = re.fullmatch(r"backup/vzdump-(qemu|lxc)-(\d+)-\d{4}_.*", name)
            kind, vmid = (found[1], int(found[2])) if found else ("", 0)
            wanted = home in (None, v["node"]) and v.get("type") in (None, kind) and v.get("vmid") in (None, vmid)
            if not found or not wanted:
                continue
            entry = {"volid": f"{v['storage']}:{name}", "ctime": volume["ctime"], "type": kind, "vmid": vmid}
            groups.setdefault((kind, vmid), []).append(
                entry | ({"mark": "protected"} if volume.get("protected") else {})
            )
        for group in groups.values():
            group.sort(key=lambda item: -item["ctime"])
            mark_for_prune(group, keep)
        return [item for group in groups.values() for item in group]

    async def _prune_list(self, v: Values, _user: str) -> list[Values]:
        return self._pruned(v)

    async def _prune(self, v: Values, user: str) -> str:
        if v.get("vmid"):
            self.require(user, f"/storage/{v['storage']}", "Datastore.AllocateSpace")
            self.require(user, f"/vms/{v['vmid']}", "VM.Backup")
        else:
            self.require(user, f"/storage/{v['storage']}", "Datastore.Allocate")

        async def body() -> str | None:
            volumes: dict[str, Any] = self.storages[v["storage"]]["volumes"]
            for item in self._pruned(v):
                if item["mark"] == "remove":
                    self.say(f"removing backup '{item['volid']}'")
                    del volumes[item["volid"].partition(":")[2]]
            return None

        return await self.task(v["node"], "prunebackups", v["storage"], user, body)
