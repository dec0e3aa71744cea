"""List, read and change guests."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, TaskFailed, Tier, formats, known_names, tool
from agentd_proxmox import api_tiers, area, blind_token, changes, guest_writing, targets
from agentd_proxmox.model import fields, filter_values, guest_model, option_strings, pages, units
from agentd_proxmox.model.fields import GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

GUEST_STATES: Final = ("running", "stopped", "paused", "suspended", "prelaunch", "unknown")


class ListGuests(pages.PagedByVmid, frozen=True, forbid_unknown_fields=True):
    """Filters: `name` matches a part of the name, `tag` a whole tag.

    `cursor` is `next` of the previous page.
    """

    node: fields.Node | None = None
    status: str = ""
    tag: str = ""
    name: str = ""
    type: Annotated[str, formats.full_match("(?:qemu|lxc)?", "qemu (VM), lxc (container) or both")] = ""
    templates: bool = False


class GuestPage(msgspec.Struct, frozen=True):
    """Number of matching guests (total, by status, by node) and one page by VMID.

    `next` is "" on the last page.
    """

    total: int
    by_status: dict[str, int]
    by_node: dict[str, int]
    guests: list[fields.GuestLine] = []
    next: str = ""


class ListTemplates(pages.PagedByVmid, frozen=True, forbid_unknown_fields=True):
    """A node (default: all); `cursor` is `next` of the previous page."""

    node: fields.Node | None = None


class TemplatePage(msgspec.Struct, frozen=True):
    """Templates that guests can be cloned from: total, by node, and one page.

    `next` is "" on the last page.
    """

    total: int
    by_node: dict[str, int]
    templates: list[fields.GuestLine] = []
    next: str = ""


class UpdateVm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change: an omitted option stays, an empty text or list removes it.

    Most changes need a restart.

    cores: per socket, as get_guest shows them: a VM has sockets times cores CPUs
    balloon: MiB that the VM keeps when its node has too little memory; 0: no balloon device
    protection: neither the guest nor its disks can be removed; startup: its position in the start order at boot
    digest: from get_guest; if the configuration has changed since, nothing is changed
    sshkeys: public keys, one a line; ipconfig0: for example ip=dhcp or ip=192.0.2.5/24,gw=192.0.2.1
    """

    vmid: fields.Vmid
    name: fields.Name | None = None
    cores: fields.Cores | None = None
    sockets: fields.Sockets | None = None
    memory: fields.Mebibytes | None = None
    balloon: Annotated[int, Meta(ge=0, le=4_194_304)] | None = None
    cpulimit: Annotated[float, Meta(ge=0, le=128, description="CPUs' time that it may take; 0: no limit")] | None = None
    cpuunits: fields.CpuUnits | None = None
    description: str | None = None
    tags: list[fields.Tag] | None = None
    onboot: bool | None = None
    startup: fields.Startup | None = None
    protection: bool | None = None
    agent: bool | None = None
    ciuser: str | None = None
    sshkeys: str | None = None
    ipconfig0: str | None = None
    nameserver: str | None = None
    searchdomain: str | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        """Raise for a change that removes the protection."""
        fields.check_protection("protection", on=self.protection)


class ResizeDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk and its new size in GiB, never less than its present size.

    disk: the boot disk if it is omitted
    """

    vmid: fields.Vmid
    size: fields.Gibibytes
    disk: fields.Disk | None = None


class Guests(area.Area):
    """Tools that list, read and change existing guests."""

    shown_to: ClassVar[area.ShownTo] = {"list_guests": blind_token.VMS, "list_templates": blind_token.VMS}
    needs: ClassVar[area.Needs] = {
        "list_guests": area.with_path(area.VM, "VM.Audit"),
        "list_templates": area.with_path(area.VM, "VM.Audit"),
        "update_vm": area.config_privileges("CPU", "Cloudinit", "Memory", "Network", "Options"),
        "resize_disk": {area.SPACE},
    }

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def list_guests(self, call: Call, p: ListGuests) -> GuestPage:
        """List VMs and containers: counts of all that match, and one page.

        The status may be 10 s old, and a guest that was just created is `unknown` without a name; get_guest shows the
        present state.
        """
        places = await self.inventory.now(await self.inventory.places())
        filter_values.check_exists("node", p.node, await self.inventory.node_names() if p.node else ())
        filter_values.check_exists("status", p.status, {*GUEST_STATES, *(at.status for at in places)})
        tags = {tag for at in places for tag in at.tags}
        if p.tag and p.tag not in tags:
            call.warn(f"tag: no guest has the tag {p.tag!r}; {known_names(p.tag, tags)}")
        found = [at.line() for at in places if _matches(at, p)]
        by_status, by_node = (dict(Counter(getattr(line, of) for line in found)) for of in ("status", "node"))
        return pages.fill(GuestPage(len(found), by_status, by_node), "guests", found, _by_vmid, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def list_templates(self, call: Call, p: ListTemplates) -> TemplatePage:
        """List the templates that create_vm and clone_container can clone.

        The result has counts of all that match, and one page.
        """
        filter_values.check_exists("node", p.node, await self.inventory.node_names() if p.node else ())
        places = [place for place in await self.inventory.places() if place.template and p.node in {None, place.node}]
        found = [place.line() for place in places]
        tally = TemplatePage(len(found), dict(Counter(line.node for line in found)))
        return pages.fill(tally, "templates", found, _by_vmid, p)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_guest(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Show the current state of a VM or container.

        The result has its node, status, size, disks, networks, tags and lock.
        """
        return await self.inventory.read(await self.inventory.find(p.vmid, p.name))

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", raises=api_tiers.LOGIN)
    async def update_vm(self, call: Call, p: UpdateVm) -> fields.Guest:
        """Change the configuration of a VM.

        It can change size, name, tags, description, cloud-init, start at boot and guest agent.  Nothing is done if the
        configuration is already as wanted.  Several changes are sent in one request.  The line by which agentd
        recognizes its own guests stays in the description.
        """
        at = await self.inventory.find(p.vmid, vm=True)
        call.target(at.target())

        def wanted(config: guest_model.Config) -> guest_model.Config:
            options = _wanted(p, config)
            if guest_model.changes(config, options):
                _balloon_fits(p, config)
            return options

        await guest_writing.update(self.inventory, call, at, p.digest, wanted)
        return await self.inventory.read(at)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="storage_management")
    async def resize_disk(self, call: Call, p: ResizeDisk) -> fields.Guest:
        """Resize a disk of a VM or container to a larger size.

        A disk that already has this size or more is not changed.  A VM still has to grow its partition and file
        system; most cloud images do so by themselves at boot.
        """
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        disk = p.disk or ""

        async def plan() -> changes.Planned:
            nonlocal disk
            if ours := await targets.running_tasks(self.inventory, at.node, {"resize"}, str(at.vmid)):
                return Found(ours[0].text)
            config = await self.inventory.config(at)
            disk = disk or _boot_disk(at, config)
            if not _too_small(call, at, disk, p.size, guest_model.disks(config)):
                return Found()
            await self.inventory.unlocked(call, at)
            # With the digest, Proxmox refuses a request that was delayed on its way and arrives late.
            sent = {"disk": disk, "size": f"{p.size}G", "digest": str(config.get("digest") or "") or None}
            return lambda: self.proxmox.put(f"{at.path}/resize", **sent)

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed:
            config = await self.inventory.config(at)
            if guest_model.disks(config).get(disk or _boot_disk(at, config), 0) < p.size:
                raise
        return await self.inventory.read(at)


def _boot_disk(at: GuestLocation, config: guest_model.Config) -> str:
    """Return the disk that a guest boots from.

    Raise Rejected if its configuration does not name it.
    """
    if found := option_strings.boot_disk(config):
        return found
    have = ", ".join(guest_model.disks(config)) or "none"
    raise Rejected(f"disk: {at.title} does not define which disk it boots from; name one of {have}; nothing was done")


def _too_small(call: Call, at: GuestLocation, disk: str, size: int, disks: dict[str, float]) -> bool:
    """Return whether the disk has to grow.

    Raise Rejected if the guest has no disk of that name.
    """
    if disk not in disks:
        raise Rejected(f"{at.title} has no disk {disk}; it has {', '.join(disks) or 'none'}")
    if disks[disk] > size:
        call.warn(f"{disk} of {at.title} has {units.gib(disks[disk])} and a disk cannot shrink: left as it is")
    return disks[disk] < size


def _balloon_fits(p: UpdateVm, config: guest_model.Config) -> None:
    """Raise Rejected if the balloon is larger than the memory: the VM would not start."""
    if p.balloon is None and p.memory is None:
        return
    memory = p.memory if p.memory is not None else guest_model.memory(config)
    balloon = p.balloon if p.balloon is not None else int(config.get("balloon") or 0)
    if balloon > memory:
        raise Rejected(f"balloon: {balloon} MiB are more than the memory ({memory} MiB); nothing was done")


def _by_vmid(line: fields.GuestLine) -> str:
    return f"{line.vmid:09d}"


def _matches(place: GuestLocation, p: ListGuests) -> bool:
    return (
        place.template == p.templates
        and p.node in {None, place.node}
        and p.status in {"", place.status}
        and p.type in {"", place.kind}
        and (not p.tag or p.tag in place.tags)
        and p.name.lower() in place.name.lower()
    )


def _wanted(p: UpdateVm, config: guest_model.Config) -> guest_model.Config:
    """Return the requested options under the names of Proxmox."""
    wanted = {key: value for key, value in msgspec.structs.asdict(p).items() if key not in {"vmid", "digest"}}
    if p.description is not None:
        wanted["description"] = guest_model.redescribe(str(config.get("description") or ""), p.description)
    if p.sshkeys:
        wanted["sshkeys"] = guest_model.sshkeys(p.sshkeys)
    if p.agent is not None and "," in str(config.get("agent") or ""):
        rest = [part for part in str(config["agent"]).split(",") if "=" in part and not part.startswith("enabled=")]
        wanted["agent"] = ",".join([f"enabled={int(p.agent)}", *rest])  # the other parts stay
    return wanted
