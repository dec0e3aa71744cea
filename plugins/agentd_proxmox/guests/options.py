"""Write options of a guest in the form of Proxmox, to undo a change.

This undoes each change of a configuration.  It writes only the options that other tools of the tier `operate` write.
It never creates a volume: a disk must be one that the guest already has, and a text without a colon after the storage
would allocate a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, Tier, formats, tool
from agentd_proxmox import api_tiers, area, changes, guest_writing
from agentd_proxmox.model import fields, guest_model, option_strings

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

Key = Annotated[str, formats.full_match("[a-z]+[0-9]{0,3}", "for example net0 or scsi1")]


class UpdateGuestOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options to write, complete as get_guest_config shows them, and options to remove.

    digest: from get_guest; if the configuration has changed since, nothing is changed
    """

    vmid: fields.Vmid
    options: dict[Key, Annotated[str, Meta(min_length=1)]] = {}
    remove: list[Key] = []
    digest: str = ""


class RawOptions(area.Area):
    """The tool that writes complete options of a guest, in the form of Proxmox."""

    needs: ClassVar[area.Needs] = {
        "update_guest_options": area.config_privileges("CPU", "Cloudinit", "Disk", "Memory", "Network", "Options")
        | {area.BRIDGE, area.SPACE},
    }

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", raises=api_tiers.OPTIONS)
    async def update_guest_options(self, call: Call, p: UpdateGuestOptions) -> fields.Guest:
        """Write complete options of a VM or container, as get_guest_config shows them.

        The undo of a change uses this tool.  A disk must be a volume that the guest already has.  update_vm,
        set_guest_network and attach_disk change parts of an option.
        """
        _consistent(p)
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        keys = [*p.options, *p.remove]

        async def plan() -> changes.Planned:
            config = await self.inventory.config(at)
            if not (changed := _changes(p, config)):
                return Found()
            guest_writing.check_unchanged(at, config, p.digest)
            _allowed(at, p, config)
            for name in {
                option_strings.card(changed[key]).get("bridge") for key in changed if option_strings.NET.match(key)
            }:
                await guest_writing.bridge(self.inventory, at.node, name)
            await self.inventory.unlocked(call, at)
            known = guest_writing.without(config, guest_writing.keys_of(changed))
            await guest_writing.record_undo(self.inventory, call, at, dict.fromkeys(known))
            return send

        async def send() -> str | None:
            config = await self.inventory.config(at)
            guest_writing.check_unchanged(at, config, p.digest)
            changed = _changes(p, config)
            return await guest_writing.send(self.inventory, call, at, config, changed) if changed else None

        await guest_writing.finish(self.inventory, call, at, await changes.change(call, plan), keys)
        if late := await guest_writing.waiting_options(self.inventory, at, keys):
            call.warn(f"{at.title} takes {', '.join(late)} on at its next start")
        return await self.inventory.read(at)


def _consistent(p: UpdateGuestOptions) -> None:
    if both := sorted(set(p.options) & set(p.remove)):
        raise Rejected(f"update_guest_options: {', '.join(both)}: name it in `options` or in `remove`, not in both")
    if not p.options and not p.remove:
        raise Rejected("update_guest_options: name options to write in `options`, or to remove in `remove`")


def _changes(p: UpdateGuestOptions, config: guest_model.Config) -> guest_model.Config:
    wanted = dict(p.options)
    deleted = [key for key in p.remove if key in config]
    if "description" in {*wanted, *deleted}:
        # The lines by which agentd recognizes its own guests stay.
        text = guest_model.redescribe(str(config.get("description") or ""), wanted.pop("description", ""))
        wanted |= {"description": text} if text else {}
        deleted = [key for key in deleted if key != "description" or not text]
    changed: guest_model.Config = {
        key: value for key, value in wanted.items() if not option_strings.same_value(key, config.get(key), value)
    }
    return changed | ({"delete": ",".join(deleted)} if deleted else {})


def _allowed(at: GuestLocation, p: UpdateGuestOptions, config: guest_model.Config) -> None:
    """Raise Rejected for options that are not writable and for foreign disks."""
    for key in p.remove:
        if not option_strings.is_known_option(at.kind, key):
            raise Rejected(f"remove: {key} is not an option that these tools write; nothing was done")
        if option_strings.MOUNT.match(key) or option_strings.DRIVE.match(key):
            raise Rejected(f"remove: {key} is a disk: detach_disk takes it off; nothing was done")
    for key, value in p.options.items():
        if reason := _refused(at, key, value, config):
            raise Rejected(f"options: {reason}; nothing was done")


def _refused(at: GuestLocation, key: str, value: str, config: guest_model.Config) -> str:
    if any(ord(character) < ord(" ") and character != "\n" for character in value):
        return f"{key} has control characters"
    if option_strings.same_value(key, config.get(key), value):
        return ""
    if reason := option_strings.unwritable_reason(at.kind, key, value):
        return reason
    return (
        _foreign(at, key, value, config) if option_strings.MOUNT.match(key) or option_strings.DRIVE.match(key) else ""
    )


def _foreign(at: GuestLocation, key: str, value: str, config: guest_model.Config) -> str:
    """Return why a disk is not a disk of the guest, "" if it is.

    Allowed are its unused volumes, and the volume that this option already has.
    """
    volume = option_strings.volume(value)
    cd = option_strings.drive(value).get("media") == "cdrom" or volume in option_strings.MEDIA
    if at.kind == "qemu" and cd and (volume in option_strings.MEDIA or ":iso/" in volume):
        return ""
    own = {option_strings.volume(text) for name, text in config.items() if name.startswith("unused")}
    if volume and volume in {*own, option_strings.volume(config.get(key, ""))}:
        return ""
    return f"{key}: {at.title} keeps no unused volume {volume}; it has {', '.join(sorted(own)) or 'none'}"
