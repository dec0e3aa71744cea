"""Start, stop and restart guests; the world is looked at before and after.

A power task on a locked guest is accepted and fails, so the lock is waited for before.  A guest that is as wanted is
left alone: `stop` of a stopped VM would end OK, `start` of a running one would fail (proxmox.md, Tasks).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, ClassVar

from agentd.errors import Rejected, TaskFailed
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, guest_model, methods
from agentd_proxmox.fields import RUNNING, STOPPED, Which
from agentd_proxmox.targets import upid_of

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory, Place
    from agentd_proxmox.methods import Calls


class Shutdown(Which, frozen=True, forbid_unknown_fields=True):
    """Which guest, how long it has (`patience`, s), and whether it is stopped hard after that."""

    patience: fields.Seconds = 60
    force: bool = False


class Reboot(Which, frozen=True, forbid_unknown_fields=True):
    """Which guest, and how long it has to shut down (`patience`, s)."""

    patience: fields.Seconds = 60


class Power:
    """The tools that turn guests on and off."""

    calls: ClassVar[Calls] = {
        "start_vm": (*methods.WRITE, *methods.guest("POST /status/start")),
        "stop_vm": (*methods.WRITE, *methods.guest("POST /status/stop")),
        "shutdown_vm": (*methods.WRITE, *methods.guest("POST /status/shutdown")),
        "reboot_vm": (*methods.WRITE, *methods.guest("POST /status/reboot")),
    }

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def start_vm(self, call: Call, p: Which) -> fields.Guest:
        """Start a VM or container and wait until it runs; one that runs is left alone."""
        at = await self.inventory.find(p.vmid, p.name)
        if at.template:
            raise Rejected(f"{at.title} is a template: it cannot be started, only cloned")
        # A suspended VM is locked until it is started: that lock is no reason to wait.
        return await self._switch(call, at, "start", RUNNING, besides="suspended")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def stop_vm(self, call: Call, p: Which) -> fields.Guest:
        """Stop a VM or container at once, as if its plug were pulled; shutdown_vm is the gentle way."""
        return await self._switch(call, await self.inventory.find(p.vmid, p.name), "stop", STOPPED)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management", stoppable=True)
    async def shutdown_vm(self, call: Call, p: Shutdown) -> fields.Guest:
        """Ask a guest to shut down and wait; with `force` it is stopped when its patience is over."""
        at = await self.inventory.find(p.vmid, p.name)
        try:
            return await self._switch(
                call, at, "shutdown", STOPPED, timeout=p.patience, forceStop=True if p.force else None
            )
        except TaskFailed as error:
            hint = "" if p.force else " (force=true stops it after its patience; does it run a guest agent or ACPI?)"
            raise TaskFailed(f"{error}{hint}", log=error.log) from error

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="vm_management")
    async def reboot_vm(self, call: Call, p: Reboot) -> fields.Guest:
        """Shut a running guest down and start it again; changes that were pending take effect.

        Unsafe to repeat: from outside a guest that was rebooted looks like one that was not, its uptime may have been
        short before.  On doubt a person looks.
        """
        at = await self.inventory.find(p.vmid, p.name)
        call.target(at.target())

        async def seen() -> Found | None:
            status = await self.inventory.unlocked(call, at)
            if not guest_model.runs(status):
                raise Rejected(f"{at.title} is {guest_model.state(status)}: only a running guest can be rebooted")
            return None

        async def act() -> str | None:
            return upid_of(await self.proxmox.post(f"{at.path}/status/reboot", timeout=p.patience))

        await self.inventory.finish(call, await call.once(seen, act))
        return await self._settled(at, RUNNING)

    async def _switch(
        self, call: Call, at: Place, action: str, wanted: str, *, besides: str = "", **options: int | None
    ) -> fields.Guest:
        call.target(at.target())

        async def seen() -> Found | None:
            if _is(await self.inventory.status(at), wanted):
                return Found()
            status = await self.inventory.unlocked(call, at, besides=besides)
            if wanted == RUNNING and guest_model.runs(status) and (state := guest_model.state(status)) != RUNNING:
                advice = "resume_vm lets it go on" if state in guest_model.RESUMABLE else "reset_vm, or stop_vm first"
                raise Rejected(f"{at.title} is on and {state}: {advice}; nothing was done")
            if running := await self._under_way(at, action):
                return Found(running)
            call.inverse("shutdown_vm" if wanted == RUNNING else "start_vm", {"vmid": at.vmid})
            return None

        async def act() -> str | None:
            return upid_of(await self.proxmox.post(f"{at.path}/status/{action}", **options))

        found = await call.once(seen, act)
        try:
            await self.inventory.finish(call, found)
        except TaskFailed as error:
            # Somebody else was faster ("already running"): what was wanted is so, and that is what counts.
            if not _is(await self.inventory.status(at), wanted):
                raise
            call.warn(f"{error}; but {at.title} is {wanted}")
        return await self._settled(at, wanted)

    async def _under_way(self, at: Place, action: str) -> str:
        """Return the UPID of a task that does this to the guest now, "" if there is none.

        A caller that left before the answer, or another one, has begun it: a second task would only fail.
        """
        kinds = {f"{prefix}{action}" for prefix in ("qm", "vz", "ha")}
        entries = await self.proxmox.tasks(at.node, source="active", vmid=at.vmid)
        return next((str(e["upid"]) for e in entries if e.get("type") in kinds and not e.get("endtime")), "")

    async def _settled(self, at: Place, wanted: str) -> fields.Guest:
        """Read the guest; one under HA is switched by the HA manager some seconds after its task ended OK."""
        until = time.monotonic() + self.inventory.settings.ha_wait
        guest = await self.inventory.read(at)
        while guest.ha and guest.status != wanted and time.monotonic() < until:
            await asyncio.sleep(1.0)
            guest = await self.inventory.read(at)
        if guest.status != wanted:
            raise TaskFailed(f"the task ended well, and {at.title} is {guest.status}, not {wanted}")
        return guest


def _is(status: dict[str, Any], wanted: str) -> bool:
    """Tell whether a guest is as wanted; one that is suspended to disk, or only backed up, is off."""
    return (
        guest_model.state(status) == RUNNING
        if wanted == RUNNING
        else guest_model.state(status) in {STOPPED, "suspended"}
    )
