"""Suspend, resume and reset VMs, make templates, set tags, show pending changes."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, TaskFailed, Tier, one_line, tool
from agentd_proxmox import area, changes, guest_writing, targets
from agentd_proxmox.model import fields, guest_model, option_strings
from agentd_proxmox.model.fields import RUNNING, STOPPED, GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

PAUSED, SUSPENDED = "paused", "suspended"
DRIVE: Final = re.compile(r"(scsi|virtio|sata|ide)\d+\Z")
SECRET: Final = frozenset({"cipassword"})
FROZEN: Final = (
    "Proxmox suspends containers only as an experiment (CRIU), and shows one that is suspended as stopped; "
    "use shutdown_guest and start_guest"
)


class SuspendVm(GuestSelector, frozen=True, forbid_unknown_fields=True):
    """A VM.

    todisk: write its memory to its storage and stop it, else pause it in memory
    """

    todisk: bool = False


class ConvertToTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The guest, by VMID and name."""

    vmid: fields.Vmid
    name: Annotated[str, Meta(max_length=255, description="as the guest is called now")]


class UpdateTags(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tags to add and to remove, or the complete new list (`tags`, empty for none).

    digest: from get_guest; if the configuration has changed since, nothing is changed
    """

    vmid: fields.Vmid
    add: list[fields.Tag] = []
    remove: list[fields.Tag] = []
    tags: list[fields.Tag] | None = None
    digest: str = ""


class PendingOption(msgspec.Struct, frozen=True, omit_defaults=True):
    """An option that changes at the next start, from `now` to `then`, or is deleted."""

    option: str
    now: str = ""
    then: str = ""
    deleted: bool = False


class Pending(msgspec.Struct, frozen=True):
    """Changes of a guest's configuration that wait for its next start."""

    vmid: int
    name: str
    node: str
    pending: list[PendingOption]


class Console(msgspec.Struct, frozen=True):
    """Ways to the console of a guest: a web page and a command on its node.

    The page asks for its own login.
    """

    vmid: int
    node: str
    url: str
    command: str


class SuspendTools(area.Area):
    """Tools for the states of a guest other than running or stopped."""

    needs: ClassVar[area.Needs] = {
        "suspend_vm": area.with_path(area.VM, "VM.Config.Disk") | {area.SPACE},
        "update_tags": area.with_path(area.VM, "VM.Config.Options"),
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def suspend_vm(self, call: Call, p: SuspendVm) -> fields.Guest:
        """Pause a running VM in memory, or hibernate it to disk; resume_vm continues it."""
        at = await self._vm(p, FROZEN)
        wanted = SUSPENDED if p.todisk else PAUSED

        async def plan() -> changes.Planned:
            if guest_model.state(await self.inventory.status(at)) == wanted:
                return Found()
            state = guest_model.state(await self.inventory.unlocked(call, at, besides=SUSPENDED))
            if state != RUNNING:
                raise Rejected(f"{at.title} is {state}: only a running VM can be suspended; nothing was done")
            call.inverse("resume_vm", {"vmid": at.vmid})
            return lambda: self.proxmox.post(f"{at.path}/status/suspend", todisk=p.todisk or None)

        return await self._switch(call, at, plan, wanted)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def resume_vm(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Resume a VM that is suspended in memory or to disk; a running VM is not changed."""
        at = await self._vm(p, FROZEN)
        # A VM that is suspended to disk is resumed by a start, which reads the saved memory.
        asleep = guest_model.state(await self.inventory.status(at)) == SUSPENDED

        async def plan() -> changes.Planned:
            if guest_model.state(await self.inventory.status(at)) == RUNNING:
                return Found()
            state = guest_model.state(await self.inventory.unlocked(call, at, besides=SUSPENDED))
            if state not in {*guest_model.RESUMABLE, SUSPENDED}:
                raise Rejected(f"{at.title} is {state}, not suspended: start_guest starts it; nothing was done")
            call.inverse("suspend_vm", {"vmid": at.vmid, "todisk": asleep})
            return lambda: self.proxmox.post(f"{at.path}/status/{'start' if asleep else 'resume'}")

        return await self._switch(call, at, plan, RUNNING)

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="vm_management")
    async def reset_vm(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Reset a running VM, like pressing its reset button.

        reboot_guest restarts it cleanly.

        Unsafe to repeat: the state of a VM does not show whether it was reset.
        """
        at = await self._vm(p)

        async def plan() -> changes.Planned:
            state = guest_model.state(await self.inventory.unlocked(call, at))
            if state != RUNNING:
                raise Rejected(f"{at.title} is {state}: only a running VM can be reset; nothing was done")
            return lambda: self.proxmox.post(f"{at.path}/status/reset")

        return await self._switch(call, at, plan, RUNNING)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="vm_management")
    async def convert_to_template(self, call: Call, p: ConvertToTemplate) -> fields.Guest:
        """Turn a stopped VM or container into a template.

        This cannot be undone, and the guest can never be started again.
        """
        at = await self.inventory.find(p.vmid)
        targets.check_name(at, p.name)

        async def plan() -> changes.Planned:
            if (await self.inventory.config(at)).get("template"):
                return Found()
            status = await self.inventory.unlocked(call, at)
            if (state := guest_model.state(status)) != STOPPED:
                raise Rejected(f"{at.title} is {state}: shutdown_guest first; nothing was done")
            names = [one_line(e["name"]) for e in await self.proxmox.get(f"{at.path}/snapshot") or []]
            names = [name for name in names if name != "current"]
            if names:
                raise Rejected(
                    f"{at.title} has snapshots ({', '.join(names)}): delete_snapshot first; nothing was done"
                )
            call.target(await targets.guest_target(self.inventory, at, "it can never be started again", volumes=True))
            return lambda: self.proxmox.post(f"{at.path}/template")

        await self.inventory.finish(call, await changes.change(call, plan))
        guest = await self.inventory.read(at)
        if not guest.template:
            raise TaskFailed(f"the task succeeded, but {at.title} is no template")
        return guest

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def update_tags(self, call: Call, p: UpdateTags) -> fields.Guest:
        """Add tags to a VM or container, remove tags, or replace all of them."""
        if p.tags is not None and (p.add or p.remove):
            raise Rejected("update_tags: give `tags` (all that it should have), or `add` and `remove`, not both")
        if p.tags is None and not p.add and not p.remove:
            raise Rejected("update_tags: give `tags`, or `add` and `remove`")
        if both := sorted(
            set(option_strings.comparable_tags(";".join(p.add)))
            & set(option_strings.comparable_tags(";".join(p.remove)))
        ):
            raise Rejected(f"update_tags: {', '.join(both)} is in `add` and in `remove`")
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        await guest_writing.update(self.inventory, call, at, p.digest, partial(_wanted_tags, p))
        return await self.inventory.read(at)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_pending_changes(self, call: Call, p: GuestSelector) -> Pending:
        """Show changes of a VM or container that take effect only at its next start."""
        at = await self.inventory.find(p.vmid, p.name)
        entries = await self.proxmox.get(f"{at.path}/pending") or []
        changed = [entry for entry in entries if "pending" in entry or entry.get("delete")]
        lines = sorted(map(_option, changed), key=lambda line: line.option)
        return Pending(at.vmid, at.name, at.node, lines)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_console(self, call: Call, p: GuestSelector) -> Console:
        """Show how a person opens the console of a guest.

        Opening it needs a login, no ticket is made.
        """
        at = await self.inventory.find(p.vmid, p.name)
        kind, command = ("kvm", "qm terminal") if at.kind == "qemu" else ("lxc", "pct console")
        where = urlencode({"console": kind, "novnc": 1, "vmid": at.vmid, "vmname": at.name, "node": at.node})
        return Console(at.vmid, at.node, f"{self.proxmox.settings.url}/?{where}", f"{command} {at.vmid}")

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def regenerate_cloudinit(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Regenerate the cloud-init drive of a VM from its configuration.

        The guest reads it at its next boot.
        """
        at = await self._vm(p)
        call.target(at.target())

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if not any(
                "cloudinit" in str(value).partition(",")[0] for key, value in config.items() if DRIVE.match(key)
            ):
                raise Rejected(f"{at.title} has no cloud-init drive; nothing was done")
            await self.inventory.unlocked(call, at)
            return lambda: self.proxmox.put(f"{at.path}/cloudinit")

        await changes.change(call, plan)
        return await self.inventory.read(at)

    async def _vm(self, p: GuestSelector, why: str = "") -> GuestLocation:
        at = await self.inventory.find(p.vmid, p.name)
        if at.kind != "qemu":
            raise Rejected(f"{at.title} is not a VM" + (f": {why}" if why else ""))
        if at.template:
            raise Rejected(f"{at.title} is a template: it never runs")
        return at

    async def _switch(self, call: Call, at: GuestLocation, plan: changes.Plan, wanted: str) -> fields.Guest:
        call.target(at.target())
        await self.inventory.finish(call, await changes.change(call, plan))
        state = guest_model.state(await self.inventory.status(at))
        if state != wanted:
            raise TaskFailed(f"the task succeeded, but {at.title} is {state}, not {wanted}")
        return await self.inventory.read(at)


def _wanted_tags(p: UpdateTags, config: guest_model.Config) -> guest_model.Config:
    """Return the wanted tags.

    They are compared without regard to case, and their case stays as it is.
    """
    if p.tags is not None:
        return {"tags": sorted(set(p.tags))}
    gone, have = set(option_strings.comparable_tags(";".join(p.remove))), guest_model.split_tags(config.get("tags"))
    added = [tag for tag in p.add if tag.casefold() not in option_strings.comparable_tags(";".join(have))]
    return {"tags": sorted({tag for tag in [*have, *added] if tag.casefold() not in gone})}


def _option(entry: Entry) -> PendingOption:
    name = one_line(entry.get("key") or "")
    texts = ["***" if name in SECRET and key in entry else one_line(entry.get(key, "")) for key in ("value", "pending")]
    return PendingOption(name, texts[0], texts[1], deleted=bool(entry.get("delete")))
