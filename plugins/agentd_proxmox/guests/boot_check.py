"""Try a guest out: cut it off its networks, and see that it runs.

What is restored to be tried is never started before each of its cables is unplugged: it believes that it is the guest
that it was made of, and has its addresses.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd.errors import TaskFailed
from agentd.tools.definition import Call, Found, Repeat, tool
from agentd.wire.messages import Tier
from agentd_proxmox import fields, guest_model, guest_writing, methods
from agentd_proxmox.fields import RUNNING, Which
from agentd_proxmox.guests.guest_agent import Agent
from agentd_proxmox.inventory import MARGIN

if TYPE_CHECKING:
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.methods import Calls, Needs

PAUSE: Final = 1.0
_NETWORK: Final = re.compile(r"net\d+\Z")
_DOWN: Final = "link_down=1"


class Isolate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest; digest: of get_vm, then nothing is changed if somebody has changed the configuration since."""

    vmid: fields.Vmid
    digest: str = ""


class CheckGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which guest, and how many seconds it has to run where no guest agent answers before."""

    vmid: fields.Vmid
    seconds: Annotated[int, Meta(ge=1, le=3600)] = 60


class Checked(msgspec.Struct, frozen=True):
    """What was seen of a guest that runs; `checked` says it in sentences."""

    vmid: int
    name: str
    node: str
    uptime: int
    agent: bool
    checked: list[str]


class Trial:
    """The tools that try guests out."""

    calls: ClassVar[Calls] = {
        "isolate_guest": (
            *methods.WRITE,
            *guest_writing.SEND,
        ),
        "check_guest": (*methods.READ, *Agent.calls["agent_ping"]),
    }
    needs: ClassVar[Needs] = {"isolate_guest": methods.config("Network", "Options")}

    def __init__(self, inventory: Inventory) -> None:
        """Keep where guests are found, and how their agents are asked."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox
        self.agent = Agent(inventory)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def isolate_guest(self, call: Call, p: Isolate) -> fields.Guest:
        """Unplug every network cable of a VM or container, and see to it that it does not start by itself at boot."""
        at = await self.inventory.find(p.vmid)
        call.target(at.target())

        async def seen() -> Found | None:
            config = await self.inventory.config(at)
            if not (changed := guest_model.changes(config, isolated(config))):
                return Found()
            await guest_writing.promise(self.inventory, call, at, guest_writing.keys_of(changed))
            return None

        async def act() -> str | None:
            return await guest_writing.change(self.inventory, call, at, p.digest, isolated)

        found = await call.once(seen, act)
        await guest_writing.finish(self.inventory, call, at, found, isolated(await self.inventory.config(at)))
        live = await guest_writing.live(self.inventory, at)
        if late := guest_model.changes(live, isolated(live)):
            raise TaskFailed(f"{at.title} takes this on at its next start: {', '.join(late)}; it is not isolated yet")
        return await self.inventory.read(at)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management", stoppable=True)
    async def check_guest(self, call: Call, p: CheckGuest) -> Checked:
        """Wait until the guest agent of a VM that runs answers, or until a guest has run for so many seconds."""
        at = await self.inventory.find(p.vmid)
        while True:
            status = await self.inventory.status(at)
            uptime, state = int(status.get("uptime") or 0), guest_model.state(status)
            if state != RUNNING:
                raise TaskFailed(f"{at.title} is {state}: it did not go on running")
            said = await self.agent.agent_ping(call, Which(at.vmid)) if at.kind == "qemu" else None
            if said is not None and said.answers:
                told = [f"it runs for {uptime} s", f"its guest agent {said.version} answers".replace("  ", " ")]
                return Checked(at.vmid, at.name, at.node, uptime, agent=True, checked=told)
            if uptime >= p.seconds:
                none = "a container has no guest agent" if said is None else f"no guest agent answers: {said.reason}"
                told = [f"it runs for {uptime} s", none]
                return Checked(at.vmid, at.name, at.node, uptime, agent=False, checked=told)
            if call.left() < MARGIN:
                raise TaskFailed(f"{at.title} runs for {uptime} s, not for {p.seconds}, and the deadline is near")
            call.progress(f"{at.title} runs for {uptime} of {p.seconds} s")
            await asyncio.sleep(PAUSE)


def isolated(config: guest_model.Config) -> guest_model.Config:
    """Return the options of a guest without network, as Proxmox calls them."""
    cut = {key: _cut(str(value)) for key, value in config.items() if _NETWORK.match(key)}
    return {**cut, "onboot": False}


def _cut(value: str) -> str:
    parts = [each for each in value.split(",") if not each.startswith("link_down=")]
    return value if _DOWN in value.split(",") else ",".join([*parts, _DOWN])
