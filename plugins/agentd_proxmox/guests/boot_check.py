"""Test whether a guest boots, without its networks.

The networks are disconnected first, then the guest has to run.  A guest that was restored for a test must not start
before all its network cables are unplugged: its system is a copy of the original guest and uses the same addresses.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import Call, Repeat, TaskFailed, Tier, tool
from agentd_proxmox import area, guest_writing
from agentd_proxmox.guests.agent.tools import Agent
from agentd_proxmox.inventory import MARGIN
from agentd_proxmox.model import fields, guest_model
from agentd_proxmox.model.fields import RUNNING, GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory

PAUSE: Final = 1.0
_NETWORK: Final = re.compile(r"net\d+\Z")
_DOWN: Final = "link_down=1"


class IsolateGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest.

    digest: from get_guest; if the configuration has changed since, nothing is changed
    """

    vmid: fields.Vmid
    digest: str = ""


class CheckGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guest, and the seconds that it has to run if no guest agent answers before."""

    vmid: fields.Vmid
    seconds: Annotated[int, Meta(ge=1, le=3600)] = 60


class BootCheckResult(msgspec.Struct, frozen=True):
    """The observed state of a running guest; `checked` describes it in sentences."""

    vmid: int
    name: str
    node: str
    uptime: int
    agent: bool
    checked: list[str]


class BootCheckTools(area.Area):
    """Tools that test guests."""

    needs: ClassVar[area.Needs] = {"isolate_guest": area.config_privileges("Network", "Options")}

    def __init__(self, inventory: Inventory) -> None:
        """Use `inventory`."""
        super().__init__(inventory)
        self.agent = Agent(inventory)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def isolate_guest(self, call: Call, p: IsolateGuest) -> fields.Guest:
        """Unplug all network cables of a VM or container and disable its start at boot."""
        at = await self.inventory.find(p.vmid)
        call.target(at.target())
        await guest_writing.update(self.inventory, call, at, p.digest, isolated_options)
        live = await guest_writing.running_config(self.inventory, at)
        if late := guest_model.changes(live, isolated_options(live)):
            raise TaskFailed(f"{at.title} takes this on at its next start: {', '.join(late)}; it is not isolated yet")
        return await self.inventory.read(at)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management", stoppable=True)
    async def check_guest(self, call: Call, p: CheckGuest) -> BootCheckResult:
        """Wait until a guest has booted.

        It has booted when the guest agent of a VM answers, or when the guest has run for `seconds`.
        """
        at = await self.inventory.find(p.vmid)
        while True:
            status = await self.inventory.status(at)
            uptime, state = int(status.get("uptime") or 0), guest_model.state(status)
            if state != RUNNING:
                raise TaskFailed(f"{at.title} is {state}: it did not go on running")
            ping = await self.agent.ping_guest_agent(call, GuestSelector(at.vmid)) if at.kind == "qemu" else None
            if ping is not None and ping.answers:
                observed = [f"it runs for {uptime} s", f"its guest agent {ping.version} answers".replace("  ", " ")]
                return BootCheckResult(at.vmid, at.name, at.node, uptime, agent=True, checked=observed)
            if uptime >= p.seconds:
                none = "a container has no guest agent" if ping is None else f"no guest agent answers: {ping.reason}"
                observed = [f"it runs for {uptime} s", none]
                return BootCheckResult(at.vmid, at.name, at.node, uptime, agent=False, checked=observed)
            if call.left() < MARGIN:
                raise TaskFailed(f"{at.title} runs for {uptime} s, not for {p.seconds}, and the deadline is near")
            call.progress(f"{at.title} runs for {uptime} of {p.seconds} s")
            await asyncio.sleep(PAUSE)


def isolated_options(config: guest_model.Config) -> guest_model.Config:
    """Return the changed options that disconnect a guest from its networks."""
    cut = {key: _shorten(str(value)) for key, value in config.items() if _NETWORK.match(key)}
    return {**cut, "onboot": False}


def _shorten(value: str) -> str:
    parts = [part for part in value.split(",") if not part.startswith("link_down=")]
    return value if _DOWN in value.split(",") else ",".join([*parts, _DOWN])
