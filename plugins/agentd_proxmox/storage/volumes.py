"""Volumes of storages: list, download, allocate, delete.

A volume has no place for a mark, so its name is fixed before it is created: a volume of that name is the wanted one.
Proxmox itself checks a download and shows a file only when it is complete and its checksum is correct.  Proxmox also
deletes a disk that a guest uses, so this module finds and names its users first.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, TaskFailed, Tier, formats, one_line, tool
from agentd_proxmox import api_tiers, area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields, pages, units
from agentd_proxmox.model.guest_model import notes_text

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

LENGTHS: Final = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
"""Number of hexadecimal digits of a checksum, by algorithm."""
DISKS: Final = frozenset({"images", "rootdir"})
HELD: Final = frozenset({"iso", "snippets"})
"""Content that any guest may use; only the configuration of the guest shows it."""

Content = Annotated[str, formats.full_match("[a-z-]*", "images, rootdir, iso, vztmpl, backup, import, …")]
# Proxmox replaces any other character by `_`, so the file would not have the requested name.
FileName = Annotated[str, formats.full_match("[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}", "letters, digits and . _ + - only")]


class ListVolumes(pages.Paged, frozen=True, forbid_unknown_fields=True):
    """A storage and the node that reads it, with filters.

    largest: sort by size instead of by name
    """

    storage: fields.Storage
    node: fields.Node
    content: Content = ""
    vmid: fields.Vmid | None = None
    largest: bool = False


class VolumeLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume; sizes in bytes, parent is the base if it is a linked clone."""

    volid: str
    content: str = ""
    size: int = 0
    used: int = 0
    format: str = ""
    vmid: int = 0
    time: datetime | None = None
    parent: str = ""
    protected: bool = False
    notes: str = ""


class ContentPage(msgspec.Struct, frozen=True):
    """Number and size of the volumes, number by content, and one page."""

    total: int
    size: int
    by_content: dict[str, int]
    volumes: list[VolumeLine]
    next: str = ""


class NodeStorageSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A storage on a node."""

    storage: fields.Storage
    node: fields.Node


class StorageStatus(msgspec.Struct, frozen=True):
    """The current state of a storage; sizes in bytes, `full` in percent."""

    storage: str
    node: str
    type: str
    enabled: bool
    active: bool
    shared: bool
    content: list[str]
    total: int
    used: int
    free: int
    full: float


class DownloadUrl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The URL that the node downloads, and the storage for the file.

    checksum: hexadecimal, by `algorithm`
    """

    storage: fields.Storage
    node: fields.Node
    url: Annotated[str, formats.full_match(r"https?://[^\s\x00-\x1f\x7f]+", most=2048)]
    filename: FileName
    content: Literal["iso", "vztmpl", "import"] = "iso"
    checksum: Annotated[str, formats.full_match("[0-9A-Fa-f]*")] = ""
    algorithm: Literal["md5", "sha1", "sha224", "sha256", "sha384", "sha512"] = "sha256"
    verify_certificates: bool = True


class CreateVolume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk for a guest, not attached.

    Without `name`, it is derived from the invocation key.
    """

    storage: fields.Storage
    node: fields.Node
    vmid: fields.Vmid
    size: fields.Gibibytes
    name: Annotated[str, formats.full_match("[a-z0-9][a-z0-9-]{0,39}", "becomes vm-<vmid>-<name>")] = ""
    format: Literal["raw", "qcow2"] = "raw"


class DeleteVolume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A volume, as list_volumes names it, on a node."""

    volid: fields.Volume
    node: fields.Node


class Storage(area.Area):
    """Tools for storages and volumes."""

    shown_to: ClassVar[area.ShownTo] = {"list_volumes": blind_token.STORES}
    needs: ClassVar[area.Needs] = {
        "list_volumes": area.with_path(area.STORAGE, "Datastore.Audit"),
        "get_storage_status": area.with_path(area.STORAGE, "Datastore.Audit"),
        "download_url": area.with_path(area.STORAGE, "Datastore.Audit"),
        "create_volume": area.with_path(area.STORAGE, "Datastore.Audit") | area.with_path(area.VM, "VM.Audit"),
        "delete_volume": area.with_path(area.STORAGE, "Datastore.Allocate", "Datastore.Audit"),
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="storage_management")
    async def list_volumes(self, call: Call, p: ListVolumes) -> ContentPage:
        """List the volumes of a storage: counts of all that match, and one page.

        The page is sorted by name or by size.
        """
        await targets.storage(self.inventory, p.node, p.storage, p.content)
        entries = await self._content(p.node, p.storage, content=p.content or None, vmid=p.vmid)
        lines = [_line(entry) for entry in entries]
        if not lines and (reason := await targets.hidden_reason(self.inventory, p.storage)):
            call.warn(reason)
        by_content = dict(Counter(line.content for line in lines))
        empty = ContentPage(len(lines), sum(line.size for line in lines), by_content, [])
        return pages.fill(empty, "volumes", lines, _largest if p.largest else lambda line: line.volid, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="storage_management")
    async def get_storage_status(self, call: Call, p: NodeStorageSelector) -> StorageStatus:
        """Show the current state of a storage on a node.

        This reads the storage itself, so it takes long if the storage hangs.
        """
        data = await self.proxmox.get(f"/nodes/{p.node}/storage/{p.storage}/status")
        total, used = int(data.get("total") or 0), int(data.get("used") or 0)
        return convert.entry(
            StorageStatus,
            data,
            {"free": "avail"},
            storage=p.storage,
            node=p.node,
            content=convert.names(data.get("content")),
            full=round(100 * used / total, 1) if total else 0.0,
        )

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management", raises=(api_tiers.UNVERIFIED,))
    async def download_url(self, call: Call, p: DownloadUrl) -> VolumeLine:
        """Download a file from a URL to a storage of a node.

        With a checksum, only the correct file is kept.  An existing file is not changed: with a checksum Proxmox
        compares it, without one it is not compared.
        """
        if p.checksum and len(p.checksum) != LENGTHS[p.algorithm]:
            raise Rejected(f"checksum: {p.algorithm} has {LENGTHS[p.algorithm]} digits, this has {len(p.checksum)}")
        await targets.storage(self.inventory, p.node, p.storage, p.content)
        volid = f"{p.storage}:{p.content}/{p.filename}"
        call.target(Target(f"volume/{volid}", f"{volid} on {p.node}", labels=[f"storage/{p.storage}"]))

        sent: Entry = {"url": p.url, "filename": p.filename, "content": p.content}
        sent |= {"checksum": p.checksum.lower(), "checksum-algorithm": p.algorithm} if p.checksum else {}
        sent |= {} if p.verify_certificates else {"verify-certificates": False}
        send = partial(self.proxmox.post, f"/nodes/{p.node}/storage/{p.storage}/download-url", **sent)

        async def plan() -> changes.Planned:
            if ours := await self._fetching(call, p, volid):
                return Found(ours)
            existing = await self._one(p.node, volid)
            if existing is None:
                call.inverse("delete_volume", {"volid": volid, "node": p.node})
            if p.checksum or existing is None:
                return send  # with a checksum, Proxmox itself checks an existing file
            call.warn(f"{volid} was there already and is left as it is; give a checksum to have it compared")
            return Found()

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            left = "nothing was left" if await self._one(p.node, volid) is None else "a file of that name is there"
            raise TaskFailed(f"{error}; {volid}: {left}", log=error.log) from error
        return await self._made(p.node, volid)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def create_volume(self, call: Call, p: CreateVolume) -> VolumeLine:
        """Allocate an empty disk for a guest; it is not attached yet."""
        at = await self.inventory.find(p.vmid)
        entry = await targets.storage(self.inventory, p.node, p.storage, "images")
        name = f"vm-{p.vmid}-{p.name or targets.derived_name(call, 'create_volume')}"
        files = str(entry.get("plugintype")) in {"dir", "nfs", "cifs", "btrfs", "cephfs"}
        if p.format != "raw" and not files:
            raise Rejected(f"format: storage {p.storage} ({entry.get('plugintype')}) holds raw disks only")
        filename = f"{name}.{p.format}" if files else name
        volid = f"{p.storage}:" + (f"{p.vmid}/{filename}" if files else name)
        owner = at.target()
        labels = [f"storage/{p.storage}", owner.name, *owner.labels]
        call.target(Target(f"volume/{volid}", f"a disk of {at.title}", labels=labels))

        async def plan() -> changes.Planned:
            existing = await self._one(p.node, volid)
            if existing is None:
                call.inverse("delete_volume", {"volid": volid, "node": p.node})
                sent = {"vmid": p.vmid, "filename": filename, "size": f"{p.size}G"}
                sent |= {"format": p.format} if files else {}
                return lambda: self.proxmox.post(f"/nodes/{p.node}/storage/{p.storage}/content", **sent)
            if existing.size != p.size * 2**30:
                raise Rejected(
                    f"{volid} is there with {units.size(existing.size)}, not {units.gib(p.size)}: choose another name"
                )
            return Found()

        await changes.change(call, plan)
        return await self._made(p.node, volid)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="storage_management")
    async def delete_volume(self, call: Call, p: DeleteVolume) -> changes.Deleted:
        """Delete a volume that no guest uses; otherwise name its users and do nothing.

        For an ISO image or a snippet this reads each guest that could run on the node, with one request a guest.
        """
        before: list[VolumeLine] = []

        async def plan() -> changes.Planned:
            line = await self._idle(call, p)
            if line is None:
                return Found()
            before.append(line)
            if line.protected:
                raise Rejected(f"{p.volid} is protected: set_backup_protection takes that away; nothing was done")
            users = await self._users(p, line)
            if users:
                raise Rejected(f"{p.volid} is used by {'; '.join(users)}: nothing was done")
            call.target(_target(p, line))
            path = f"/nodes/{p.node}/storage/{p.volid.partition(':')[0]}/content/{formats.path_part(p.volid)}"
            return lambda: self.proxmox.delete(path)

        await self.inventory.finish(call, await changes.change(call, plan))
        if await self._one(p.node, p.volid) is not None:
            raise TaskFailed(f"the task succeeded, but {p.volid} is still there")
        return changes.deleted(p.volid, before[0] if before else None)

    async def _idle(self, call: Call, p: DeleteVolume) -> VolumeLine | None:
        """Return the volume, None if it is gone.

        Wait while a deletion task of our token runs, which may be for this volume.
        """
        storage = p.volid.partition(":")[0]
        while (line := await self._one(p.node, p.volid)) is not None:
            task_ids = {storage, f"{line.vmid}@{storage}"}  # the id of the task has no more (proxmox.md, Tasks)
            active = await self.inventory.active([p.node])
            ours = [e for e in active if e.type == "imgdel" and e.id in task_ids and e.user == self.proxmox.user]
            if not ours:
                break
            await targets.wait_a_moment(
                call, f"a volume of {storage} is being deleted ({ours[0].text}): is it {p.volid}?"
            )
        return line

    async def _fetching(self, call: Call, p: DownloadUrl, volid: str) -> str:
        """Return our task that downloads the file, "" if there is none.

        Wait while there are several.
        """
        while ours := await targets.running_tasks(self.inventory, p.node, {"download"}, p.filename):
            if len(ours) == 1:
                return ours[0].text
            await targets.wait_a_moment(call, f"{volid} is being fetched ({ours[0].text})")
        return ""

    async def _content(self, node: str, storage: str, **filters: str | int | None) -> list[Entry]:
        return await self.proxmox.get(f"/nodes/{node}/storage/{storage}/content", **filters) or []

    async def _one(self, node: str, volid: str) -> VolumeLine | None:
        entries = await self._content(node, volid.partition(":")[0])
        return next((_line(entry) for entry in entries if entry.get("volid") == volid), None)

    async def _made(self, node: str, volid: str) -> VolumeLine:
        line = await self._one(node, volid)
        if line is None:
            raise NotFound(f"Proxmox reports success, but {volid} is not there: another client deleted it")
        return line

    async def _users(self, p: DeleteVolume, line: VolumeLine) -> list[str]:
        """Return the users of the volume: guests with their option, and linked clones."""
        used = [f"its linked clone {clone}" for clone in await self._clones(p)] if line.content in DISKS else []
        places = await self.inventory.places()
        if line.content in DISKS:
            asked = [place for place in places if place.vmid == line.vmid]
        else:
            asked = places if line.content in HELD else []
        for at in asked:
            used += [f"{at.title} ({option})" for option in await self._options(at, p.volid)]
        return used

    async def _clones(self, p: DeleteVolume) -> list[str]:
        name = p.volid.partition(":")[2].rpartition("/")[2]
        if not name.startswith("base"):
            return []
        entries = await self._content(p.node, p.volid.partition(":")[0])
        return [one_line(e["volid"]) for e in entries if re.search(rf"(^|/){re.escape(name)}", str(e.get("parent")))]

    async def _options(self, at: GuestLocation, volid: str) -> list[str]:
        """Return the options of a guest and its snapshots that name the volume."""
        found = [key for key, value in (await self.inventory.config(at)).items() if _names(value, volid)]
        for snapshot in await self.proxmox.get(f"{at.path}/snapshot") or []:
            if snapshot.get("name") == "current":
                continue
            config = await self.proxmox.get(f"{at.path}/snapshot/{snapshot['name']}/config")
            found += [f"snapshot {one_line(snapshot['name'])}: {key}" for key in config if _names(config[key], volid)]
        return found


def _names(value: object, volid: str) -> bool:
    """Return whether an option names a volume, as `volid,size=8G` or `user=volid`."""
    return any(part == volid or part.partition("=")[2] == volid for part in str(value).split(","))


def _line(entry: Entry) -> VolumeLine:
    made = int(entry.get("ctime") or 0)
    return convert.entry(
        VolumeLine,
        entry,
        volid=one_line(entry["volid"]),
        time=datetime.fromtimestamp(made, UTC) if made else None,
        notes=notes_text(str(entry.get("notes") or "")),
    )


def _largest(line: VolumeLine) -> str:
    """Return a text that sorts by size, largest first, then by name."""
    return f"{max(0, 10**18 - line.size):019d} {line.volid}"


def _target(p: DeleteVolume, line: VolumeLine) -> Target:
    """Return the volume as the target of its deletion."""
    owner = [f"guest/{line.vmid}"] if line.vmid else []
    return Target(
        name=f"volume/{p.volid}",
        title=f"{p.volid} on {p.node}",
        state={"size": line.size, "content": line.content},
        labels=[f"storage/{p.volid.partition(':')[0]}", *owner],
        loses=[f"{units.size(line.size)} of {line.content}"],
    )
