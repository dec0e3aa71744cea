"""Write the configuration of guests: every tool that changes it uses this file.

* A change is applied to the current configuration.  It contains the digest of that configuration, so Proxmox refuses it
  if another client was faster.
* When the hotplug of a value fails, the change fails, but Proxmox keeps the value as pending: it would take effect at
  the next start.  So after a failed hotplug the sent values are reverted, and the error names those that cannot be.
* Before the change, its undo is recorded: the complete current option strings, because a card or a disk has more
  options than the tools have parameters.  If Proxmox would refuse one of them or change its meaning, no undo is
  recorded, and a warning gives the reason.
* A bridge that the node does not have is refused: Proxmox accepts it for a stopped VM, and then the start fails.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agentd import AgentdError, ConfigChanged, Found, PermanentError, Rejected, TaskFailed, one_line
from agentd_proxmox import changes
from agentd_proxmox.model import guest_model, option_strings
from agentd_proxmox.model.fields import RUNNING
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentd import Call
    from agentd_proxmox.inventory import GuestLocation, Inventory

TRIES: Final = 3
"""Attempts to change a configuration that another client changes at the same time."""
RESTORES: Final = "update_guest_options"
_HOTPLUG: Final = "hotplug problem"


async def change(
    inventory: Inventory,
    call: Call,
    at: GuestLocation,
    digest: str,
    wanted: Callable[[guest_model.Config], guest_model.Config],
) -> str | None:
    """Change the current configuration, and return the task or None.

    None means that nothing had to be changed, or that it is done: the change of a VM is a task, that of a container is
    done at once.  If another client changes the configuration at the same time, there are TRIES attempts in total.

    digest  the digest that the caller expects; "" accepts any configuration
    """
    await inventory.unlocked(call, at)
    for tries in range(1, TRIES + 1):
        config = await inventory.config(at)
        changed = guest_model.changes(config, wanted(config))
        if not changed:
            return None
        check_unchanged(at, config, digest)
        try:
            return await send(inventory, call, at, config, changed)
        except ConfigChanged:
            if tries == TRIES:
                raise
    raise AssertionError("unreachable")


async def update(
    inventory: Inventory,
    call: Call,
    at: GuestLocation,
    digest: str,
    wanted: Callable[[guest_model.Config], guest_model.Config],
) -> None:
    """Change a configuration exactly once, and wait until it is changed.

    digest  the digest that the caller expects; "" accepts any configuration
    wanted  returns the wanted options for the current configuration
    """
    keys: list[str] = []

    async def plan() -> changes.Planned:
        config = await inventory.config(at)
        if not (changed := guest_model.changes(config, wanted(config))):
            return Found()
        keys[:] = keys_of(changed)
        await record_undo(inventory, call, at, keys)
        return lambda: change(inventory, call, at, digest, wanted)

    found = await changes.change(call, plan)
    if found.upid:  # an earlier attempt may have started the task: then the plan was not made again
        await finish(inventory, call, at, found, keys or wanted(await inventory.config(at)))


async def send(
    inventory: Inventory, call: Call, at: GuestLocation, config: guest_model.Config, changed: guest_model.Config
) -> str | None:
    """Send a change of `config`, and return its task."""
    write = inventory.proxmox.post if at.kind == "qemu" else inventory.proxmox.put
    try:
        return upid_of(await write(f"{at.path}/config", digest=config.get("digest") or None, **changed))
    except ConfigChanged:
        raise
    except PermanentError as error:
        left = await _revert_pending(inventory, call, at, str(error), keys_of(changed))
        raise type(error)(f"{error}{left}") if left else error from error


async def finish(inventory: Inventory, call: Call, at: GuestLocation, found: Found, keys: Iterable[str]) -> None:
    """Wait for the task of a change of the options `keys`.

    If the task fails, the values that it left pending are reverted.
    """
    try:
        await inventory.finish(call, found)
    except TaskFailed as error:
        left = await _revert_pending(inventory, call, at, " ".join([str(error), *error.log]), list(keys))
        raise TaskFailed(f"{error}{left}", log=error.log) from error


async def _revert_pending(inventory: Inventory, call: Call, at: GuestLocation, fault: str, keys: list[str]) -> str:
    """Revert what a failed change left pending; return the result as a text, or ""."""
    try:
        waiting = [key for key in await pending(inventory, at) if key in keys]
        if not waiting:
            return ""
        names = ", ".join(waiting)
        if _HOTPLUG not in fault:
            return (
                f"; {names} of {at.title} is pending and takes effect at its next start (get_pending_changes shows it)"
            )
        write = inventory.proxmox.post if at.kind == "qemu" else inventory.proxmox.put
        upid = upid_of(await write(f"{at.path}/config", revert=",".join(waiting)))
        if upid:
            await inventory.proxmox.wait(upid, call.left())
        still = [key for key in await pending(inventory, at) if key in waiting]
    except AgentdError as error:
        return f"; what was sent may be pending and takes effect at the next start of {at.title} ({one_line(error)})"
    if still:
        return f"; {', '.join(still)} of {at.title} stays pending and takes effect at its next start: change it again"
    return f"; {names} of {at.title} is as before: what Proxmox had kept for its next start was reverted"


async def pending(inventory: Inventory, at: GuestLocation) -> dict[str, str]:
    """Return the options that change at the next start, with their live values."""
    entries = await inventory.proxmox.get(f"{at.path}/pending") or []
    return {str(e["key"]): str(e.get("value", "")) for e in entries if "pending" in e or e.get("delete")}


async def running_config(inventory: Inventory, at: GuestLocation) -> guest_model.Config:
    """Return the configuration that a guest runs with, without pending changes."""
    return dict(await inventory.proxmox.get(f"{at.path}/config", current=True))


async def record_undo(inventory: Inventory, call: Call, at: GuestLocation, keys: Iterable[str]) -> None:
    """Record how these options are restored, before they are changed.

    Warns if they cannot be restored.
    """
    config, now = await asyncio.gather(inventory.config(at), running_config(inventory, at))
    was: dict[str, str] = {}
    gone: list[str] = []
    against: list[str] = []
    for key in keys:
        value = _before(call, at, key, config, now)
        if key == "description" and guest_model.marks(str(value or "")):
            # Callers do not send marks: the marks stay in the guest, and only the text is restored.
            value = guest_model.text_of(str(value)) or None
        if value is None:
            gone.append(key)
        elif reason := option_strings.unwritable_reason(at.kind, key, value):
            against.append(reason)
        else:
            was[key] = str(value)
    if against:
        call.warn(f"this cannot be undone: {'; '.join(against)}")
    elif was or gone:
        call.inverse(RESTORES, {"vmid": at.vmid, "options": was, "remove": gone})


def _before(call: Call, at: GuestLocation, key: str, config: guest_model.Config, now: guest_model.Config) -> object:
    """Return the value of an option to restore.

    For a card or a disk it is the live value, because it is changed at once.
    """
    if option_strings.same_value(key, config.get(key), now.get(key)):
        return config.get(key)
    if option_strings.NET.match(key) or option_strings.DRIVE.match(key):
        call.warn(
            f"{key} of {at.title} has a pending change already ({one_line(config.get(key, 'removed'))}), which this "
            "replaces; an undo restores the live value"
        )
        return now.get(key)
    return config.get(key)


def keys_of(changed: guest_model.Config) -> list[str]:
    """Return the options that a change contains, including those that it deletes."""
    deleted = [key for key in str(changed.get("delete") or "").split(",") if key]
    return [*(key for key in changed if key not in {"delete", "digest"}), *deleted]


def without(config: guest_model.Config, keys: Iterable[str]) -> list[str]:
    """Return the options that Proxmox changes when it deletes `keys`.

    A deleted device is also removed from the boot order.
    """
    found = list(keys)
    return [*found, *(["boot"] if set(found) & set(option_strings.boot_order(config)) else [])]


async def bridge(inventory: Inventory, node: str, name: str | None) -> None:
    """Raise Rejected for a bridge that the node does not have.

    A virtual network of the SDN is a bridge, too.
    """
    if name is None:
        return
    entries = await inventory.proxmox.get(f"/nodes/{node}/network", type="any_bridge") or []
    names = sorted(one_line(entry.get("iface") or "") for entry in entries)
    if name not in names:
        raise Rejected(
            f"bridge: there is no bridge {name!r} on {node}, or {inventory.proxmox.user} may not see it (SDN.Use); "
            f"it has {', '.join(names) or 'none'}; nothing was done"
        )


def check_unchanged(at: GuestLocation, config: guest_model.Config, digest: str) -> None:
    """Raise ConfigChanged if the configuration changed since the caller read it.

    Call it only if there is something to change: if the guest is already as wanted, our own change, whose answer was
    lost, may have changed the digest.
    """
    changes.check_unchanged(at.title, digest, str(config.get("digest") or ""))


async def waiting_options(inventory: Inventory, at: GuestLocation, keys: Iterable[str]) -> list[str]:
    """Return which of these options a running guest applies only at its next start."""
    if (await inventory.status(at)).get("status") != RUNNING:
        return []
    waiting = await pending(inventory, at)
    return sorted(set(keys) & set(waiting))
