"""The specialist's tools: against the Proxmox tools themselves on a simulated cluster, and the summary of health."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from agentd.errors import Rejected, TemporaryError
from agentd.plugins.role import Health, Role
from agentd.tools.declaration import by_name
from agentd.tools.definition import BrokenTool, Found, Tool, Toolbox
from agentd.wire.codec import plain
from agentd.wire.messages import Target, Tier
from agentd_proxmox import agentd_tools as proxmox_tools
from agentd_proxmox.settings import ToolSettings
from agentd_specialist import agentd_tools
from agentd_specialist.role import Specialist
from agentd_specialist.settings import SpecialistSettings
from agentd_specialist.summary import GuestState, NodeState, StorageState, summarize
from proxmox_access import AsyncPve, connect
from pve.client import FakePve, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
    from datetime import datetime

R = TypeVar("R")
GIB = 2**30


def named(offered: list[Tool | BrokenTool]) -> dict[str, Tool]:
    """Return tools by name; none may be broken."""
    assert not [tool for tool in offered if isinstance(tool, BrokenTool)]
    return by_name(tool for tool in offered if isinstance(tool, Tool))


class Direct:
    """A call that runs the tools which it uses in this process, and notes the steps."""

    def __init__(self, others: dict[str, Tool], key: str = "w1.task") -> None:
        """Keep the tools that may be used."""
        self.others = others
        self.key = key
        self.principal = "tester"
        self.undo: tuple[str, dict[str, Any]] | None = None
        self.undoes = ""
        self.tier = Tier.OPERATE
        self.begun: datetime | None = None
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def left(self) -> float:
        """Return plenty."""
        return 60.0

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def progress(self, text: str) -> None:
        """Need no progress."""

    def inverse(self, tool: str, parameters: dict[str, Any]) -> None:
        """Keep how it is taken back."""
        self.undo = (tool, parameters)

    def target(self, target: Target) -> None:
        """Need no approval."""

    async def made(self, tools: Collection[str], target: str) -> bool:
        """Undo nothing."""
        raise NotImplementedError(tools, target)

    def allow_stop(self) -> contextlib.AbstractContextManager[None]:
        """It is not stopped."""
        return contextlib.nullcontext()

    async def ensure(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Have an effect, without a record."""
        return await look() or Found(await act() or "", adopted=False)

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """Run the other tool at once."""
        if service == "monitor":
            raise TemporaryError("no monitor has checked the cluster yet")
        assert service == "mcp-proxmox"
        assert step not in self.steps
        self.steps.append(step)
        found = self.others[tool]
        answer = await found.run(Direct(self.others, f"{self.key}.{step}"), found.parse(parameters))
        return msgspec.convert(plain(answer), result)


class Bench:
    """Both services, called as the worker calls them."""

    def __init__(self, proxmox: dict[str, Tool]) -> None:
        """Collect the specialist's tools."""
        self.proxmox = proxmox
        section: Any = SimpleNamespace(settings=SimpleNamespace(vmid_min=500, vmid_max=599))
        self.specialist = named(agentd_tools(Toolbox("pve1", section, SpecialistSettings())))

    async def run(self, tool: str, parameters: dict[str, Any]) -> tuple[Any, Direct]:
        """Run a tool and return its plain result and its call."""
        found = self.specialist.get(tool) or self.proxmox[tool]
        call = Direct(self.proxmox, f"w1.{tool}")
        return plain(await found.run(call, found.parse(parameters))), call


@pytest.fixture(scope="module")
def simulator() -> Iterator[FakePve]:
    """Run one simulator for this file."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo") as running:
        yield running


@pytest.fixture
async def bench(simulator: FakePve) -> AsyncIterator[Bench]:
    """Offer both services on a cluster as it was at first."""
    await AsyncPve(simulator).reset()
    proxmox = connect(simulator)
    yield Bench(named(proxmox_tools(Toolbox("pve1", proxmox, ToolSettings(lock_timeout=3, ha_timeout=1)))))
    await proxmox.close()


async def test_a_request_becomes_a_running_vm(bench: Bench) -> None:
    """What validate_vm_parameters returns is what the other two take, and the VM is as it was wished."""
    requested = {"name": "shop", "template": "debian-12", "cores": 3, "memory": 1536, "disk": 5, "tags": ["shop"]}
    valid, _ = await bench.run("validate_vm_parameters", requested | {"ipconfig0": "ip=dhcp"})
    created, _ = await bench.run("create_vm", valid["create"])
    ready, call = await bench.run("configure_vm", valid["configure"])
    guest, _ = await bench.run("get_guest", {"vmid": valid["vmid"]})

    assert 500 <= valid["vmid"] <= 599
    assert valid["reasons"]
    assert created["vmid"] == valid["vmid"]
    assert call.steps == ["update", "resize", "start"]
    assert ready == {
        "vmid": valid["vmid"],
        "node": valid["node"],
        "name": "shop",
        "status": "running",
        "done": ["set cores, memory, tags, ipconfig0", "scsi0 has 5 GiB", "started"],
    }
    assert (guest["cores"], guest["memory"], guest["tags"], guest["disks"]["scsi0"]) == (3, 1536, ["shop"], 5)


async def test_an_empty_vm_is_made_and_left_off(bench: Bench) -> None:
    """Without a template and without start there is a VM, and it is not changed again."""
    valid, call = await bench.run("validate_vm_parameters", {"name": "bare", "node": "pve2", "start": False})
    await bench.run("create_vm", valid["create"])
    ready, second = await bench.run("configure_vm", valid["configure"])

    assert call.warnings == ["the VM is empty: it has no system until one is installed or a template is named"]
    assert second.steps == ["look"]
    assert (ready["node"], ready["status"], ready["done"]) == ("pve2", "stopped", [])


async def test_a_second_configuration_changes_nothing(bench: Bench) -> None:
    """A task that is run again finds everything done."""
    valid, _ = await bench.run("validate_vm_parameters", {"name": "twice", "template": 9000, "memory": 512})
    await bench.run("create_vm", valid["create"])
    first, _ = await bench.run("configure_vm", valid["configure"])
    second, call = await bench.run("configure_vm", valid["configure"])

    assert first == second
    assert call.warnings == []


async def test_an_impossible_request_lists_every_reason(bench: Bench) -> None:
    """The error is one line for each thing, from the cluster as it is."""
    requested = {"name": "web-01", "vmid": 100, "node": "pve1", "bridge": "vmbr9", "memory": 10_000_000}
    with pytest.raises(Rejected) as caught:
        await bench.run("validate_vm_parameters", requested)

    lines = str(caught.value).splitlines()
    assert lines[0] == "the VM cannot be made so:"
    assert {line.partition(":")[0] for line in lines[1:]} == {"name", "vmid", "memory", "bridge"}


async def test_a_missing_bridge_is_named_with_those_there_are(bench: Bench) -> None:
    """Bridges are asked of the nodes that could take the VM otherwise."""
    with pytest.raises(Rejected, match="bridge: pve1 has no vmbr9; it has vmbr0"):
        await bench.run("validate_vm_parameters", {"name": "x", "node": "pve1", "bridge": "vmbr9"})


async def test_health_is_summed_up_from_the_lists(bench: Bench) -> None:
    """The results of the three lists are what summarize_health takes."""
    nodes, _ = await bench.run("list_nodes", {})
    storages, _ = await bench.run("list_storages", {})
    vms, _ = await bench.run("list_guests", {"limit": 2})
    found, call = await bench.run("summarize_health", {"nodes": nodes, "storages": storages, "vms": vms})

    assert len(call.steps) == 1
    assert (found["nodes"], found["guests"]) == (3, vms["total"])
    assert found["status"] in {"ok", "warning"}


async def test_health_follows_every_list_to_its_end(bench: Bench) -> None:
    """Lists that come in pages are judged whole, whichever of them is cut."""
    names = {"nodes": "list_nodes", "storages": "list_storages", "vms": "list_guests"}
    lists = {name: (await bench.run(tool, {"limit": 1}))[0] for name, tool in names.items()}
    found, call = await bench.run("summarize_health", lists)

    assert len(call.steps) == 3
    assert (found["nodes"], found["guests"]) == (lists["nodes"]["total"], lists["vms"]["total"])
    assert found["storages"] == 7  # six of one node each, and a shared one


async def test_health_of_one_node_leaves_the_others_out(bench: Bench) -> None:
    """With a node only that one is judged; one that does not exist is an error."""
    nodes, _ = await bench.run("list_nodes", {})
    storages, _ = await bench.run("list_storages", {"node": "pve1"})
    vms, _ = await bench.run("list_guests", {"node": "pve1", "limit": 500})
    lists = {"nodes": nodes, "storages": storages, "vms": vms}
    found, _ = await bench.run("summarize_health", {**lists, "node": "pve1"})

    assert found["nodes"] == 1
    with pytest.raises(Rejected, match="no node 'pve9'"):
        await bench.run("summarize_health", {**lists, "node": "pve9"})


async def test_the_role_serves_its_queue_until_the_stop() -> None:
    """The worker does the work; the role is ready once it serves."""
    served: list[tuple[str, list[str], float]] = []

    async def serve(
        service: str, stopping: asyncio.Event, *, queues: list[str], drain: float, ready: Callable[[], None]
    ) -> None:
        served.append((service, queues, drain))
        ready()
        await stopping.wait()

    context: Any = SimpleNamespace(
        worker=SimpleNamespace(serve=serve),
        config=SimpleNamespace(drain=SimpleNamespace(timeout=7.0)),
        queues=lambda service: [f"{service}+disk"],
        health=Health(),
        stopping=asyncio.Event(),
    )
    running = asyncio.create_task(Specialist().run(context))
    await asyncio.sleep(0)
    context.stopping.set()
    await running

    assert isinstance(Specialist(), Role)
    assert context.health.ready
    assert served == [("specialist", ["specialist+disk"], 7.0)]


def test_a_healthy_cluster_is_called_so() -> None:
    """Without findings one line counts what was checked."""
    found = summarize(
        [NodeState("pve1", "online", 10.0, 64 * GIB, 54 * GIB)],
        [StorageState("shared", item, "available", shared=True, total=100, used=85) for item in ("pve1", "pve2")],
        [GuestState(100, "web", "pve1", "running")],
    )

    assert (found.status, found.verdict, found.findings) == ("ok", "all well: 1 nodes, 1 storages, 1 guests", [])


def test_findings_are_ordered_by_severity() -> None:
    """Each check of the health, at its limit, and none that follows from another."""
    found = summarize(
        [
            NodeState("pve1", "online", 86.0, 100 * GIB, 86 * GIB),
            NodeState("pve2", "offline", 0.0, 64 * GIB),
        ],
        [
            StorageState("local", "pve1", "available", total=100, used=86),
            StorageState("tank", "pve1", "available", total=100, used=96),
            StorageState("nfs", "pve1", "unknown", shared=True),
            StorageState("local", "pve2", "unknown"),
        ],
        [
            GuestState(100, "web", "pve1", "stopped", onboot=True),
            GuestState(101, "db", "pve1", "running", lock="backup"),
            GuestState(102, "far", "pve2", "stopped", onboot=True),
        ],
        quorate=False,
    )

    assert [(finding.severity, finding.text) for finding in found.findings] == [
        ("critical", "not quorate: nothing can be changed"),
        ("critical", "node pve2 is offline"),
        ("critical", "storage pve1/tank: 96 % full"),
        ("critical", "storage nfs on pve1 is not active (unknown)"),
        ("warning", "node pve1: memory at 86 %"),
        ("warning", "node pve1: CPU at 86 %"),
        ("warning", "storage pve1/local: 86 % full"),
        ("warning", "guest 100 'web' on pve1 is stopped, and starts at boot"),
        ("warning", "guest 101 'db' on pve1 is locked (backup)"),
    ]
    assert found.status == "critical"
    assert found.verdict == "4 critical, 5 warning: not quorate: nothing can be changed"
