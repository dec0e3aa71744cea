"""Put options of a guest back as Proxmox writes them: what undoes each change of a configuration.

It writes the options that other tools of the tier `operate` write, and no others.  It never makes a volume: a disk can
only be one that the guest has already, and a text without a colon after the storage would allocate a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.errors import Rejected
from agentd.messages import Tier
from agentd.tools import Call, Found, Repeat, tool
from agentd_proxmox import fields, look, methods, options, tiers, writing

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls, Needs

Key = Annotated[str, formats.whole("[a-z]+[0-9]{0,3}", "for example net0 or scsi1")]


class SetGuestOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options as guest_config shows them, to be written whole, and options to be removed.

    digest: of get_vm; then nothing is changed if somebody has changed the configuration since
    """

    vmid: fields.Vmid
    options: dict[Key, Annotated[str, Meta(min_length=1)]] = {}
    remove: list[Key] = []
    digest: str = ""


class RawOptions:
    """The tool that writes options of a guest as they are written."""

    calls: ClassVar[Calls] = {
        "set_guest_options": (*methods.WRITE, *writing.SEND, writing.BRIDGES),
    }
    needs: ClassVar[Needs] = {
        "set_guest_options": methods.config("CPU", "Cloudinit", "Disk", "Memory", "Network", "Options")
        | {methods.BRIDGE, methods.SPACE},
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep the inventory of guests."""
        self.inventory = inventory

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", raises=tiers.OPTIONS)
    async def set_guest_options(self, call: Call, p: SetGuestOptions) -> fields.Guest:
        """Write options of a VM or container whole, as guest_config shows them; what undoes a change uses it.

        A disk can only be a volume that the guest keeps already. update_vm, set_guest_network and attach_disk change
        parts of an option.
        """
        _consistent(p)
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        keys = [*p.options, *p.remove]

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            if not (changed := _changes(p, config)):
                return Found()
            writing.unchanged(at, config, p.digest)
            _allowed(at, p, config)
            for name in {options.card(changed[key]).get("bridge") for key in changed if options.NET.match(key)}:
                await writing.bridge(self.inventory, at.node, name)
            await self.inventory.unlocked(call, at)
            known = writing.without(config, writing.keys_of(changed))
            await writing.promise(self.inventory, call, at, dict.fromkeys(known))
            return None

        async def act() -> str | None:
            config = await self.inventory.config(at)
            writing.unchanged(at, config, p.digest)
            changed = _changes(p, config)
            return await writing.send(self.inventory, call, at, config, changed) if changed else None

        await writing.finish(self.inventory, call, at, await call.once(seen, act), keys)
        if late := await writing.waits(self.inventory, at, keys):
            call.warn(f"{at.title} takes {', '.join(late)} on at its next start")
        return await self.inventory.read(at)


def _consistent(p: SetGuestOptions) -> None:
    if both := sorted(set(p.options) & set(p.remove)):
        raise Rejected(f"set_guest_options: {', '.join(both)}: name it in `options` or in `remove`, not in both")
    if not p.options and not p.remove:
        raise Rejected("set_guest_options: name options to write in `options`, or to remove in `remove`")


def _changes(p: SetGuestOptions, config: look.Config) -> look.Config:
    wanted = dict(p.options)
    gone = [key for key in p.remove if key in config]
    if "description" in {*wanted, *gone}:
        # The lines by which agentd knows its own guests stay.
        text = look.redescribe(str(config.get("description") or ""), wanted.pop("description", ""))
        wanted |= {"description": text} if text else {}
        gone = [key for key in gone if key != "description" or not text]
    changed: look.Config = {
        key: value for key, value in wanted.items() if not options.same(key, config.get(key), value)
    }
    return changed | ({"delete": ",".join(gone)} if gone else {})


def _allowed(at: Place, p: SetGuestOptions, config: look.Config) -> None:
    """Refuse options that these tools do not write, and disks that the guest does not have."""
    for key in p.remove:
        if not options.known(at.kind, key):
            raise Rejected(f"remove: {key} is not an option that these tools write; nothing was done")
        if options.MOUNT.match(key) or options.DRIVE.match(key):
            raise Rejected(f"remove: {key} is a disk: detach_disk takes it off; nothing was done")
    for key, value in p.options.items():
        if reason := _refused(at, key, value, config):
            raise Rejected(f"options: {reason}; nothing was done")


def _refused(at: Place, key: str, value: str, config: look.Config) -> str:
    if any(ord(character) < ord(" ") and character != "\n" for character in value):
        return f"{key} has control characters"
    if options.same(key, config.get(key), value):
        return ""
    if reason := options.unwritable(at.kind, key, value):
        return reason
    return _foreign(at, key, value, config) if options.MOUNT.match(key) or options.DRIVE.match(key) else ""


def _foreign(at: Place, key: str, value: str, config: look.Config) -> str:
    """Return why a disk is none of the guest's: only what it keeps unused, or has there already, can be put back."""
    volume = options.volume(value)
    cd = options.drive(value).get("media") == "cdrom" or volume in options.MEDIA
    if at.kind == "qemu" and cd and (volume in options.MEDIA or ":iso/" in volume):
        return ""
    own = {options.volume(text) for name, text in config.items() if name.startswith("unused")}
    if volume and volume in {*own, options.volume(config.get(key, ""))}:
        return ""
    return f"{key}: {at.title} keeps no unused volume {volume}; it has {', '.join(sorted(own)) or 'none'}"
