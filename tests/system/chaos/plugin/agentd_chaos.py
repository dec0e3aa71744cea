"""A plugin for chaos runs: graphs of tasks with everything that a plan may ask for, and what undoes them.

It is foreign to agentd as a user's own plugin would be: found by an entry point, in a folder on PYTHONPATH.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import hookimpl
from agentd.errors import Rejected
from agentd.tools.declaration import collect, tool
from agentd.tools.definition import Call, Found, Repeat
from agentd.wire.messages import Tier
from agentd.wire.workflow import Compensation, Definition, TaskSpec, result_of, template

if TYPE_CHECKING:
    from agentd.proxmox.client import Proxmox
    from agentd.tools.definition import BrokenTool, Tool, Toolbox

SPECIALIST: Final = "specialist"
PROXMOX: Final = "mcp-proxmox"


class Remove(msgspec.Struct, frozen=True):
    """Which VM is to go, and the key that its mark must name."""

    vmid: int
    key: str


class Nap(msgspec.Struct, frozen=True):
    """How long a nap takes."""

    seconds: float


class Nothing(msgspec.Struct, frozen=True):
    """No parameters."""


class Done(msgspec.Struct, frozen=True):
    """It is done."""

    text: str = ""


class Tools:
    """Tools of the service mcp-proxmox."""

    def __init__(self, proxmox: Proxmox) -> None:
        """Keep where Proxmox is."""
        self.proxmox = proxmox

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="vm_management")
    async def remove_vm(self, call: Call, p: Remove) -> Done:
        """Remove the VM that has the mark of `key`; none is none to remove."""
        guests = await self.proxmox.get("/cluster/resources", type="vm") or []
        at = next((f"/nodes/{guest['node']}/qemu/{p.vmid}" for guest in guests if int(guest["vmid"]) == p.vmid), "")

        async def check() -> Found | None:
            if not at:
                return Found()
            config = await self.proxmox.get(f"{at}/config")
            ours = f"agentd:{p.key}" in str(config.get("description") or "").splitlines()
            return None if ours else Found()

        async def apply() -> str | None:
            return str(await self.proxmox.delete(at))

        found = await call.ensure(check, apply)
        if found.upid:
            await self.proxmox.wait(found.upid, call.left())
        return Done(f"VM {p.vmid} is gone")

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="chaos")
    async def refuse(self, call: Call, p: Nothing) -> Done:  # noqa: ARG002 - every tool has both
        """Fail for good."""
        raise Rejected("it was meant to fail here")

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="chaos")
    async def nap(self, call: Call, p: Nap) -> Done:
        """Do nothing for some seconds."""
        await asyncio.sleep(p.seconds)
        return Done("slept")


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two VMs `<name>-a` and `<name>-b`; `looks` previews, an approval, and a failure at the end."""

    name: str
    looks: int = 4
    approval: bool = False
    fail: bool = False


class Sleep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A nap and how long an attempt at it may take."""

    seconds: float
    deadline: float


def _vm(name: str, letter: str) -> list[TaskSpec]:
    validate, create = f"validate-{letter}", f"create-{letter}"
    vmid = template("{{ tasks['" + validate + "'].result.create.vmid }}")
    key = template("{{ workflow_id }}." + create)
    requested = {"name": f"{name}-{letter}", "memory": 64, "disk": 1}
    return [
        TaskSpec(validate, "validate_vm_parameters", SPECIALIST, Tier.READ, requested, timeout=120, retries=5),
        TaskSpec(
            create,
            "create_vm",
            PROXMOX,
            Tier.OPERATE,
            result_of(validate, "create"),
            after=[validate],
            timeout=300,
            on_error={"vmid_taken": validate},
            compensation=Compensation("remove_vm", PROXMOX, Tier.OPERATE, {"vmid": vmid, "key": key}, timeout=300),
        ),
    ]


def graph(requested: Graph) -> list[TaskSpec]:
    """Return eight tasks and their items: two VMs, one started, previewed, approved, perhaps failed."""
    vmids = ["create-a", "create-b"]
    items = [result_of(vmids[number % 2], "vmid") for number in range(requested.looks)]
    started: dict[str, Any] = {"vmid": result_of("create-a", "vmid")}
    off = Compensation("stop_guest", PROXMOX, Tier.OPERATE, started, timeout=300)
    return [
        *_vm(requested.name, "a"),
        *_vm(requested.name, "b"),
        TaskSpec("start", "start_guest", PROXMOX, Tier.OPERATE, started, after=["create-a"], compensation=off),
        TaskSpec(
            "look",
            "get_guest",
            PROXMOX,
            Tier.READ,
            {"vmid": template("{{ item }}")},
            after=vmids,
            for_each=items,
            max_parallel=2,
            retries=5,
        ),
        TaskSpec(
            "gate",
            "list_nodes",
            PROXMOX,
            Tier.READ,
            after=["look", "start"],
            retries=5,
            approval="may it go on?" if requested.approval else "",
        ),
        TaskSpec("end", "refuse", PROXMOX, Tier.READ, after=["gate"], condition="parameters.fail"),
    ]


def sleep(requested: Sleep) -> list[TaskSpec]:
    """Return one task that sleeps."""
    return [
        TaskSpec(
            "nap",
            "nap",
            PROXMOX,
            Tier.READ,
            {"seconds": requested.seconds},
            timeout=requested.deadline,
            start_within=3.0,  # so that agents say that they begin, and what a stopped one holds goes to another
            retries=6,
            backoff=0.5,
        )
    ]


class Fan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many naps are taken at once, and how long each is."""

    naps: int
    seconds: float = 0.0


def fan(requested: Fan) -> list[TaskSpec]:
    """Return one task with many items, all at once: their ends meet at several orchestrators."""
    nap = {"seconds": requested.seconds}
    return [
        TaskSpec(
            "nap", "nap", PROXMOX, Tier.READ, nap, for_each=list(range(requested.naps)), max_parallel=requested.naps
        )
    ]


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools where there is a Proxmox."""
    return [] if toolbox.proxmox is None else collect(Tools(toolbox.proxmox), service=PROXMOX)


@hookimpl
def agentd_workflows() -> list[Definition]:
    """Return the workflows."""
    return [
        Definition("chaos_graph", "Make two VMs, start one, look, ask, and fail if wished.", Graph, graph),
        Definition("chaos_fan", "Take many naps at once.", Fan, fan),
        Definition("chaos_sleep", "Sleep.", Sleep, sleep),
    ]
