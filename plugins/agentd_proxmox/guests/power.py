"""Start, stop and restart guests; the state is read before and after each action.

Proxmox accepts a power task on a locked guest and the task fails, so the tools wait for the lock first.  A guest that
already has the wanted state is not changed: `stop` of a stopped VM would end OK, `start` of a running one would fail
(proxmox.md, Tasks).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from agentd import Call, Found, Rejected, Repeat, TaskFailed, Tier, tool
from agentd_proxmox import area, changes
from agentd_proxmox.model import fields, guest_model
from agentd_proxmox.model.fields import RUNNING, STOPPED, GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation


class ShutdownGuest(GuestSelector, frozen=True, forbid_unknown_fields=True):
    """A guest and its time to shut down (`patience`, s).

    force: stop the guest hard after that time
    """

    patience: fields.Seconds = 60
    force: bool = False


class RebootGuest(GuestSelector, frozen=True, forbid_unknown_fields=True):
    """A guest and its time to shut down (`patience`, s)."""

    patience: fields.Seconds = 60


class Power(area.Area):
    """Tools that start, stop and restart guests."""

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def start_guest(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Start a VM or container and wait until it runs; a running one is not changed."""
        at = await self.inventory.find(p.vmid, p.name)
        if at.template:
            raise Rejected(f"{at.title} is a template: it cannot be started, only cloned")
        # Only a start removes the lock of a suspended VM, so that lock is not waited for.
        return await self._switch(call, at, "start", RUNNING, besides="suspended")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def stop_guest(self, call: Call, p: GuestSelector) -> fields.Guest:
        """Stop a VM or container at once, like pulling the power plug.

        shutdown_guest shuts it down cleanly.
        """
        return await self._switch(call, await self.inventory.find(p.vmid, p.name), "stop", STOPPED)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", stoppable=True)
    async def shutdown_guest(self, call: Call, p: ShutdownGuest) -> fields.Guest:
        """Shut a VM or container down cleanly and wait until it has stopped.

        With `force` it is stopped hard when `patience` has passed.
        """
        at = await self.inventory.find(p.vmid, p.name)
        try:
            return await self._switch(
                call, at, "shutdown", STOPPED, timeout=p.patience, forceStop=True if p.force else None
            )
        except TaskFailed as error:
            hint = "" if p.force else " (force=true stops it after its patience; does it run a guest agent or ACPI?)"
            raise TaskFailed(f"{error}{hint}", log=error.log) from error

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="vm_management")
    async def reboot_guest(self, call: Call, p: RebootGuest) -> fields.Guest:
        """Shut a running guest down and start it again; pending changes take effect.

        Unsafe to repeat: the state of a guest does not show whether it was rebooted, because its uptime may have been
        short before.  If the outcome is unknown, a person has to check.
        """
        at = await self.inventory.find(p.vmid, p.name)
        call.target(at.target())

        async def plan() -> changes.Planned:
            status = await self.inventory.unlocked(call, at)
            if not guest_model.is_powered_on(status):
                raise Rejected(f"{at.title} is {guest_model.state(status)}: only a running guest can be rebooted")
            return lambda: self.proxmox.post(f"{at.path}/status/reboot", timeout=p.patience)

        await self.inventory.finish(call, await changes.change(call, plan))
        return await self._settled(at, RUNNING)

    async def _switch(
        self, call: Call, at: GuestLocation, action: str, wanted: str, *, besides: str = "", **options: int | None
    ) -> fields.Guest:
        call.target(at.target())

        async def plan() -> changes.Planned:
            if _has_state(await self.inventory.status(at), wanted):
                return Found()
            status = await self.inventory.unlocked(call, at, besides=besides)
            if (
                wanted == RUNNING
                and guest_model.is_powered_on(status)
                and (state := guest_model.state(status)) != RUNNING
            ):
                advice = "resume_vm continues it" if state in guest_model.RESUMABLE else "reset_vm, or stop_guest first"
                raise Rejected(f"{at.title} is on and {state}: {advice}; nothing was done")
            if running := await self._under_way(at, action):
                return Found(running)
            call.inverse("shutdown_guest" if wanted == RUNNING else "start_guest", {"vmid": at.vmid})
            return lambda: self.proxmox.post(f"{at.path}/status/{action}", **options)

        found = await changes.change(call, plan)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            # Another client was faster ("already running"): the guest has the wanted state, which is all that counts.
            if not _has_state(await self.inventory.status(at), wanted):
                raise
            call.warn(f"{error}; but {at.title} is {wanted}")
        return await self._settled(at, wanted)

    async def _under_way(self, at: GuestLocation, action: str) -> str:
        """Return the UPID of a running task that does `action` to the guest, or "".

        A caller that did not wait for the answer, or another client, started it: a second task would only fail.
        """
        kinds = {f"{prefix}{action}" for prefix in ("qm", "vz", "ha")}
        entries = await self.proxmox.tasks(at.node, source="active", vmid=at.vmid)
        return next((str(e["upid"]) for e in entries if e.get("type") in kinds and not e.get("endtime")), "")

    async def _settled(self, at: GuestLocation, wanted: str) -> fields.Guest:
        """Return the guest; raise TaskFailed if it does not reach the wanted state.

        The HA manager switches a guest under HA some seconds after the task ended OK, so this waits for it.
        """
        until = time.monotonic() + self.inventory.settings.ha_timeout
        guest = await self.inventory.read(at)
        while guest.ha and guest.status != wanted and time.monotonic() < until:
            await asyncio.sleep(1.0)
            guest = await self.inventory.read(at)
        if guest.status != wanted:
            raise TaskFailed(f"the task succeeded, but {at.title} is {guest.status}, not {wanted}")
        return guest


def _has_state(status: dict[str, Any], wanted: str) -> bool:
    """Return whether a guest has the wanted state.

    A guest that is suspended to disk, or whose process only a backup has started, counts as stopped.
    """
    return (
        guest_model.state(status) == RUNNING
        if wanted == RUNNING
        else guest_model.state(status) in {STOPPED, "suspended"}
    )
