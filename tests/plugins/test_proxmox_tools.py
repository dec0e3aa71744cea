"""The Proxmox tools against a server: what they say is what is so, and nothing happens twice."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest

from agentd import errors
from agentd.messages import Tier
from agentd.tools import BrokenTool, Found, Tool, Toolbox, by_name
from agentd_proxmox import agentd_settings, agentd_tools, look
from agentd_proxmox.create import draw
from agentd_proxmox.settings import ToolSettings
from proxmox_access import Steer, connect
from pve.client import FakePve, available

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from agentd.proxmox import Proxmox

R = TypeVar("R")


class MemoryCall:
    """A call whose effect record lies in memory: a UPID on record is adopted, else look, act, remember."""

    def __init__(self, key: str = "wf.create", seconds: float = 20.0) -> None:
        """Start the deadline."""
        self.key = key
        self.principal = "tester"
        self.tier = Tier.OPERATE
        self.until = time.monotonic() + seconds
        self.upid = ""
        self.warnings: list[str] = []
        self.said: list[str] = []
        self.times = 0
        self.adopted = False

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.monotonic()

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def progress(self, text: str) -> None:
        """Keep what is being done."""
        self.said.append(text)

    async def once(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Have the effect once."""
        self.times += 1
        if self.upid:
            return Found(self.upid)
        found = await look()
        if found is not None:
            self.upid, self.adopted = found.upid, True
            return found
        self.upid = await act() or ""
        return Found(self.upid, adopted=False)

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """No tool of this service calls another."""
        raise NotImplementedError(service, tool, parameters, result, step)


class Bench:
    """The tools by name, called as the worker calls them."""

    def __init__(self, proxmox: Proxmox, settings: ToolSettings) -> None:
        """Collect the tools."""
        found = agentd_tools(Toolbox("pve1", proxmox, settings))
        assert not [each for each in found if isinstance(each, BrokenTool)]
        self.tools = by_name(each for each in found if isinstance(each, Tool))

    async def once(self, tool: str, call: MemoryCall | None = None, **parameters: Any) -> Any:
        """Call a tool once."""
        call = call or MemoryCall()
        before = call.times
        result = await self.tools[tool].run(call, self.tools[tool].parse(parameters))

        assert call.times - before == (0 if self.tools[tool].tier is Tier.READ else 1)
        assert msgspec.convert(msgspec.to_builtins(result), type(result)) == result
        return result

    async def until_done(self, tool: str, call: MemoryCall, **parameters: Any) -> Any:
        """Call a tool again after what passes, as the worker does."""
        while True:
            try:
                return await self.tools[tool].run(call, self.tools[tool].parse(parameters))
            except errors.TemporaryError as error:
                if isinstance(error, errors.GuestLocked | errors.NoQuorum):
                    call.upid = ""  # that task is over and did nothing
                if call.left() < 1:
                    raise
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def simulator() -> Iterator[FakePve]:
    """Run one simulator for this file."""
    if not available():
        pytest.skip("the simulator's environment is not there (.venv-pve)")
    with FakePve(cluster="demo") as running:
        yield running


@pytest.fixture
def pve(simulator: FakePve) -> FakePve:
    """Start each test with the cluster as it was at first."""
    simulator.reset()
    simulator.settings(offline_delay=0.1, auth_delay=0, lock_wait=0.3)
    return simulator


@pytest.fixture
def steer(pve: FakePve) -> Steer:
    """Steer the simulator without blocking the loop."""
    return Steer(pve)


@pytest.fixture
async def bench(pve: FakePve) -> AsyncIterator[Bench]:
    """Offer the tools with the token that may do everything."""
    proxmox = connect(pve)
    yield Bench(proxmox, ToolSettings(lock_wait=3, ha_wait=1))
    await proxmox.close()


NEW: dict[str, Any] = {"vmid": 300, "node": "pve2", "name": "app-01", "storage": "local-lvm", "disk": 10}
CLONE: dict[str, Any] = {"vmid": 301, "node": "pve1", "name": "app-02", "template": 9000}


class TestCreate:
    """create_vm."""

    async def test_new(self, bench: Bench, steer: Steer) -> None:
        """A new VM is as asked for, bears the mark, and is not started."""
        call = MemoryCall("wf-1.create")
        made = await bench.once(
            "create_vm", call, **NEW, cores=4, memory=4096, tags=["web", "prod"], description="shop", pool=None
        )

        real = await steer.found(300)
        assert (made.vmid, made.node, made.name, made.status) == (300, "pve2", "app-01", "stopped")
        assert (made.cores, made.memory, made.disks, made.tags) == (4, 4096, {"scsi0": 10.0}, ["prod", "web"])
        assert made.description == "shop"
        assert "bridge=vmbr0" in made.networks["net0"]
        assert real["description"].split("\n")[-1] == "agentd:wf-1.create"
        assert len(await steer.creates()) == 1
        assert call.upid.startswith("UPID:pve2:")

    async def test_clone(self, bench: Bench, steer: Steer) -> None:
        """A clone of a template may land on another node and bears the mark."""
        made = await bench.once("create_vm", MemoryCall("wf-2.create"), **CLONE | {"node": "pve3"})

        assert (made.vmid, made.node, made.name, made.template) == (301, "pve3", "app-02", False)
        assert made.disks == {"scsi0": 3.0}
        assert "agentd:wf-2.create" in (await steer.found(301))["description"]
        assert len(await steer.tasks("qmclone")) == 1

    async def test_linked_clone(self, bench: Bench, steer: Steer) -> None:
        """A linked clone is made of a template only, on its template's storage."""
        await bench.once("create_vm", **CLONE, full=False)

        assert await steer.found(301) is not None
        with pytest.raises(errors.Rejected, match="no template"):
            await bench.once("create_vm", **CLONE | {"vmid": 302, "template": 100}, full=False)
        with pytest.raises(errors.Rejected, match="linked"):
            await bench.once("create_vm", **CLONE | {"vmid": 302}, full=False, storage="shared")

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    async def test_slow_tasks(self, bench: Bench, steer: Steer, parameters: dict[str, Any]) -> None:
        """The result is there only when the task is over."""
        await steer.durations(default=0.6)
        made = await bench.once("create_vm", **parameters)

        assert made.lock == ""
        assert made.name == parameters["name"]

    async def test_warnings(self, bench: Bench, steer: Steer) -> None:
        """WARNINGS is a success that says what Proxmox warned of."""
        await steer.rule("POST", "/qemu$", {"task_exit": "WARNINGS: 1"})
        call = MemoryCall()
        made = await bench.once("create_vm", call, **NEW)

        assert made.vmid == 300
        assert len(call.warnings) == 1
        assert "simulated warning" in call.warnings[0]

    async def test_taken(self, bench: Bench, steer: Steer) -> None:
        """A stranger's VMID is vmid_taken, named with its node, and nothing is sent."""
        with pytest.raises(errors.VmidTaken, match="VM 104 'nas' on pve3"):
            await bench.once("create_vm", **NEW | {"vmid": 104})
        with pytest.raises(errors.VmidTaken, match="container 200 'dns' on pve1"):
            await bench.once("create_vm", **NEW | {"vmid": 200})
        assert await steer.log("POST") == []

    async def test_taken_between(self, bench: Bench, steer: Steer) -> None:
        """A stranger that comes between look and act is met by Proxmox' own check."""
        await steer.rule("POST", "/qemu$", {"delay": 0.4})
        task = asyncio.ensure_future(bench.once("create_vm", **NEW))
        await asyncio.sleep(0.25)
        await steer.guest(vmid=300, node="pve3", name="stranger", type="qemu")

        with pytest.raises(errors.VmidTaken, match="VM 300 'stranger' on pve3"):
            await task
        assert (await steer.found(300))["name"] == "stranger"

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    @pytest.mark.parametrize("seconds", [0.0, 1.0])
    async def test_answer_cut(self, bench: Bench, steer: Steer, parameters: dict[str, Any], seconds: float) -> None:
        """An answer that is lost after the write: the guest is found and adopted, also while it is being made."""
        await steer.durations(default=seconds)
        await steer.rule("POST", "/(qemu|clone)$", {"cut_after": True}, 1)
        call = MemoryCall()
        made = await bench.until_done("create_vm", call, **parameters)

        assert call.adopted
        assert made.name == parameters["name"]
        assert made.lock == ""
        assert len(await steer.creates()) == 1
        assert len(await steer.tasks("qmcreate")) + len(await steer.tasks("qmclone")) == 1

    @pytest.mark.parametrize("parameters", [NEW, CLONE])
    async def test_write_lost(self, bench: Bench, steer: Steer, parameters: dict[str, Any]) -> None:
        """A write that was lost before Proxmox saw it is sent again, once."""
        await steer.rule("POST", "/(qemu|clone)$", {"lost_before": True}, 1)
        call = MemoryCall()
        await bench.until_done("create_vm", call, **parameters)

        assert not call.adopted
        assert len(await steer.creates()) == 1
        assert len(await steer.log("POST")) == 2

    async def test_late_write(self, bench: Bench, steer: Steer) -> None:
        """Our own request that was thought lost and comes late is adopted, although Proxmox says `already exists`."""
        await steer.rule("POST", "/qemu$", {"delay": 0.5}, 2)
        key = "wf.late"
        first = asyncio.ensure_future(bench.once("create_vm", MemoryCall(key), **NEW))
        await asyncio.sleep(0.2)  # both have looked and found nothing before either is done
        second = await bench.once("create_vm", MemoryCall(key), **NEW)

        assert (await first) == second
        assert len(await steer.creates()) == 1

    async def test_two_workflows_one_vmid(self, bench: Bench, steer: Steer) -> None:
        """Two workflows of one token that drew the same VMID: one gets it, the other hears vmid_taken."""
        await steer.durations(qmcreate=1.0)
        calls = [bench.until_done("create_vm", MemoryCall(f"wf-{n}.create"), **NEW) for n in range(2)]
        results = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(each) for each in results].count(errors.VmidTaken) == 1
        assert len(await steer.creates()) == 1

    async def test_foreign_create(self, bench: Bench, steer: Steer, pve: FakePve) -> None:
        """A guest that another token is making is taken, before it shows whose it is."""
        maker = connect(pve)
        made = await maker.post("/access/users/agentd@pve/token/other", privsep=False)
        other = connect(pve, token_id="agentd@pve!other", secret=made["value"])  # noqa: S106 - a name
        await steer.durations(qmcreate=2)
        await other.post("/nodes/pve2/qemu", vmid=300)

        with pytest.raises(errors.VmidTaken, match="agentd@pve!other is making VM 300"):
            await bench.once("create_vm", **NEW)
        assert len(await steer.creates()) == 1
        await maker.close()
        await other.close()

    async def test_abandoned(self, bench: Bench, steer: Steer) -> None:
        """A half-made guest at which nobody works is a stranger without a mark, a failure with ours."""
        await steer.guest(vmid=300, node="pve2", name="x", type="qemu", lock="create", config={"lock": "create"})
        with pytest.raises(errors.VmidTaken):
            await bench.once("create_vm", **NEW)
        ours = {"lock": "clone", "description": "agentd:wf.create"}
        await steer.guest(vmid=301, node="pve1", name="x", type="qemu", lock="clone", config=ours)
        with pytest.raises(errors.TaskFailed, match="half made"):
            await bench.once("create_vm", **CLONE)

    async def test_failed(self, bench: Bench, steer: Steer) -> None:
        """A create that fails says why, and that nothing was left behind."""
        await steer.rule("POST", "/qemu$", {"task_exit": "lvcreate failed"})

        with pytest.raises(errors.TaskFailed, match=r"lvcreate failed.*no VM 300 was left behind") as caught:
            await bench.once("create_vm", **NEW)
        assert caught.value.log

    async def test_killed(self, bench: Bench, steer: Steer) -> None:
        """A create that was killed names the VM that it left behind, and where."""
        await steer.rule("POST", "/qemu$", {"task_exit": "unexpected status"})

        with pytest.raises(errors.TaskFailed, match=r"VM 300.* on pve2 was left behind"):
            await bench.once("create_vm", **NEW)

    async def test_node_offline(self, bench: Bench, steer: Steer) -> None:
        """A node that is away is unavailable, not an unknown outcome: nothing was sent."""
        await steer.node("pve2", online=False)

        with pytest.raises(errors.ProxmoxUnavailable, match="pve2"):
            await bench.once("create_vm", **NEW)
        await steer.node("pve2", online=True)
        assert await steer.found(300) is None

    async def test_no_quorum(self, bench: Bench, steer: Steer) -> None:
        """Without a quorum nothing is made; it is made when there is one again."""
        await steer.quorum(quorate=False)
        call = MemoryCall()
        task = asyncio.ensure_future(bench.until_done("create_vm", call, **NEW))
        await asyncio.sleep(0.3)
        await steer.quorum(quorate=True)

        assert (await task).vmid == 300
        assert len(await steer.creates()) == 1

    async def test_denied(self, steer: Steer, pve: FakePve) -> None:
        """A token that may not is told which right is missing, and how to grant it."""
        proxmox = connect(pve, "audit")
        bench = Bench(proxmox, ToolSettings())

        with pytest.raises(
            errors.Denied, match=r"VM.Allocate on /vms/300; .*pveum acl modify /vms/300 --tokens 'agentd@pve!audit'"
        ):
            await bench.once("create_vm", **NEW)
        assert await steer.found(300) is None
        await proxmox.close()

    async def test_parameters(self, bench: Bench) -> None:
        """What could become something else on its way is refused."""
        for wrong in ({"node": "pve1/qemu"}, {"bridge": "vmbr0,tag=4"}, {"vmid": 99}, {"name": "a b"}, {"disk": 0}):
            with pytest.raises(errors.InvalidMessage):
                bench.tools["create_vm"].parse(NEW | wrong)
        with pytest.raises(errors.Rejected, match="storage"):
            await bench.once("create_vm", vmid=300, node="pve1", name="x")
        with pytest.raises(errors.Rejected, match="key"):
            await bench.tools["create_vm"].run(MemoryCall(""), bench.tools["create_vm"].parse(NEW))


class TestVmids:
    """next_vmids."""

    async def test_free(self, bench: Bench) -> None:
        """Drawn VMIDs are free, different, in the range and not excluded."""
        found = await bench.once("next_vmids", count=4, vmid_min=100, vmid_max=110, exclude=[110])

        assert sorted(found.vmids) == [106, 107, 108, 109]

    async def test_full(self, bench: Bench) -> None:
        """A range that is too full says how much is free."""
        with pytest.raises(errors.Rejected, match="1 VMIDs are free"):
            await bench.once("next_vmids", count=2, vmid_min=100, vmid_max=106)

    def test_draw(self) -> None:
        """Drawing works in a wide range and in a nearly full one."""
        assert len(set(draw(100, 999_999_999, {100}, 50))) == 50
        assert sorted(draw(1, 10, {1, 2, 3}, 7)) == [4, 5, 6, 7, 8, 9, 10]


class TestLists:
    """What is only looked at."""

    async def test_list(self, bench: Bench, steer: Steer) -> None:
        """One API call gives a tally and a page; the cursor leads through all of them."""
        await steer.call("DELETE", "/log")
        page = await bench.once("list_vms", limit=3)
        rest = await bench.once("list_vms", limit=50, cursor=page.next)

        assert len(await steer.log()) == 2
        assert page.total == rest.total == 8
        assert [each.vmid for each in page.guests + rest.guests] == [100, 101, 102, 103, 104, 105, 200, 201]
        assert page.by_status == {"running": 5, "stopped": 3}
        assert (page.next, rest.next) == ("102", "")

    async def test_filters(self, bench: Bench) -> None:
        """Filters are by node, status, tag, part of the name and type."""
        for filters, vmids in (
            ({"node": "pve1", "type": "qemu"}, [100, 101]),
            ({"status": "stopped", "type": "qemu"}, [101, 105]),
            ({"tag": "web"}, [100, 102, 201]),
            ({"name": "WEB"}, [100, 102]),
            ({"templates": True}, [9000]),
        ):
            assert [each.vmid for each in (await bench.once("list_vms", **filters)).guests] == vmids
        assert [each.vmid for each in (await bench.once("list_templates")).templates] == [9000]

    async def test_many(self, bench: Bench, steer: Steer) -> None:
        """A page of many guests stays small enough for a model to read."""
        for n in range(60):
            await steer.guest(vmid=1000 + n, node="pve1", name=f"machine-{n:03}", type="qemu", status="running")
        page = await bench.once("list_vms")

        assert page.total == 68
        assert len(msgspec.json.encode(page)) < 3000

    async def test_blind(self, pve: FakePve) -> None:
        """A token without rights is called blind, not the cluster empty."""
        proxmox = connect(pve, "blind")
        bench = Bench(proxmox, ToolSettings())

        for tool in ("list_vms", "list_storages", "next_vmids"):
            with pytest.raises(errors.Denied, match=r"has no rights.*PVEAuditor"):
                await bench.once(tool)
        await proxmox.close()

    async def test_get(self, bench: Bench, steer: Steer) -> None:
        """A guest is found by VMID or unique name, VM or container, without control characters."""
        await steer.guest(vmid=500, node="pve3", name="odd", type="qemu", config={"description": "a\x1b[31mb\nc"})

        assert (await bench.once("get_vm", name="nas")).vmid == 104
        assert (await bench.once("get_vm", vmid=200)).type == "lxc"
        assert (await bench.once("get_vm", vmid=100)).status == "running"
        assert (await bench.once("get_vm", vmid=500)).description == "a [31mb\nc"
        with pytest.raises(errors.NotFound, match="777"):
            await bench.once("get_vm", vmid=777)
        await steer.guest(vmid=501, node="pve1", name="nas", type="qemu")
        with pytest.raises(errors.Rejected, match="2 guests are called 'nas'"):
            await bench.once("get_vm", name="nas")
        with pytest.raises(errors.Rejected):
            await bench.once("get_vm")

    async def test_nodes(self, bench: Bench, steer: Steer) -> None:
        """Nodes are listed with their load; one that is offline is not asked."""
        await steer.node("pve3", online=False)
        listed = await bench.once("list_nodes")
        await steer.call("DELETE", "/log")
        away = await bench.once("get_node", node="pve3")

        assert [(each.node, each.status) for each in listed.nodes] == [
            ("pve1", "online"),
            ("pve2", "online"),
            ("pve3", "offline"),
        ]
        assert listed.quorate is True
        assert away.status == "offline"
        assert len(await steer.log()) == 1
        assert (await bench.once("get_node", node="pve1")).memory > 0
        with pytest.raises(errors.NotFound, match="pve1, pve2, pve3"):
            await bench.once("get_node", node="pve9")

    async def test_storages(self, bench: Bench) -> None:
        """Storages are listed by node and content, with free bytes."""
        found = (await bench.once("list_storages", node="pve1", content="images")).storages

        assert [each.storage for each in found] == ["local-lvm", "shared"]
        assert [each.shared for each in found] == [False, True]
        assert all(each.free == each.total - each.used > 0 for each in found)

    async def test_bridges(self, bench: Bench) -> None:
        """The bridges of a node are listed."""
        assert "vmbr0" in [each.bridge for each in (await bench.once("list_bridges", node="pve1")).bridges]

    async def test_tasks(self, bench: Bench, steer: Steer) -> None:
        """Tasks are listed with how they ended, running ones as running; one is shown with its log."""
        await bench.once("create_vm", **NEW)
        await steer.rule("POST", "/start$", {"task_exit": "start failed"})
        with pytest.raises(errors.TaskFailed):
            await bench.once("start_vm", vmid=101)
        await steer.durations(qmstop=5)
        running = MemoryCall(seconds=0.5)
        with pytest.raises(errors.TemporaryError):
            await bench.once("stop_vm", running, vmid=100)

        listed = (await bench.once("list_tasks")).tasks
        assert {(each.type, each.id, each.status) for each in listed} >= {
            ("qmcreate", "300", "OK"),
            ("qmstart", "101", "start failed"),
            ("qmstop", "100", "running"),
        }
        assert all(each.user == "agentd@pve!full" for each in listed)
        assert [each.id for each in (await bench.once("list_tasks", node="pve1", failed=True)).tasks] == ["101"]
        assert [each.upid for each in (await bench.once("list_tasks", node="pve1", running=True)).tasks] == [
            running.upid
        ]
        shown = await bench.once("get_task", upid=listed[-1].upid)
        assert (shown.succeeded, shown.running, shown.log[-1]) == (True, False, "TASK OK")
        with pytest.raises(errors.Rejected):
            await bench.once("get_task", upid="../../version")


class TestUpdate:
    """update_vm and resize_disk."""

    async def test_update(self, bench: Bench, steer: Steer) -> None:
        """Everything that is asked for is so afterwards; the second time nothing is sent."""
        wanted: dict[str, Any] = {
            "vmid": 101,
            "name": "db-main",
            "cores": 6,
            "memory": 8192,
            "description": "the\ndatabase",
            "tags": ["prod", "db", "gold"],
            "onboot": True,
            "agent": False,
            "ciuser": "admin",
            "sshkeys": "ssh-ed25519 AAAA+/=x one@host\nssh-rsa BBBB two@host",
            "ipconfig0": "ip=192.0.2.5/24,gw=192.0.2.1",
            "nameserver": "192.0.2.53",
            "searchdomain": "example.org",
        }
        changed = await bench.once("update_vm", **wanted)
        config = (await steer.found(101))["config"]
        sent = len(await steer.log("POST"))
        again = MemoryCall()
        await bench.once("update_vm", again, **wanted)

        assert (changed.name, changed.cores, changed.memory) == ("db-main", 6, 8192)
        assert (changed.onboot, changed.agent, changed.tags) == (True, False, ["db", "gold", "prod"])
        assert config["ipconfig0"] == wanted["ipconfig0"]
        assert config["sshkeys"].startswith("ssh-ed25519%20AAAA%2B%2F%3Dx%20one%40host%0A")
        assert changed.description == "the\ndatabase"
        assert (len(await steer.log("POST")), sent) == (1, 1)
        assert again.adopted

    async def test_mark_stays(self, bench: Bench, steer: Steer) -> None:
        """A new description keeps the mark, so that the guest is still known as ours; removing works too."""
        await bench.once("create_vm", MemoryCall("wf.mark"), **NEW, description="old", tags=["x"])
        await bench.once("update_vm", vmid=300, description="new", tags=[])

        real = await steer.found(300)
        assert look.marks(real["description"]) == ["agentd:wf.mark"]
        assert look.text_of(real["description"]) == "new"
        assert "tags" not in real["config"]
        assert (await bench.once("create_vm", MemoryCall("wf.mark"), **NEW)).description == "new"

    async def test_digest(self, bench: Bench, steer: Steer) -> None:
        """With a digest that is old nothing is changed; without one a race is won by looking again."""
        seen = await bench.once("get_vm", vmid=101)
        await bench.once("update_vm", vmid=101, cores=3)

        with pytest.raises(errors.ConfigChanged):
            await bench.once("update_vm", vmid=101, cores=4, digest=seen.digest)
        await steer.rule("POST", "/config$", {"status": 500, "reason": "checksum mismatch (file change)"}, 2)
        assert (await bench.once("update_vm", vmid=101, cores=4)).cores == 4

    async def test_container(self, bench: Bench) -> None:
        """A container is not taken for a VM."""
        with pytest.raises(errors.Rejected, match="not a VM"):
            await bench.once("update_vm", vmid=200, cores=2)

    async def test_resize(self, bench: Bench, steer: Steer) -> None:
        """A disk grows to a size, once; one that is larger is left alone with a warning."""
        grown = await bench.once("resize_disk", vmid=101, size=40)
        await bench.once("resize_disk", vmid=101, size=40)
        call = MemoryCall()
        await bench.once("resize_disk", call, vmid=101, size=20)

        assert grown.disks == {"scsi0": 40.0}
        assert "size=40G" in (await steer.found(101))["config"]["scsi0"]
        assert len(await steer.log("PUT")) == 1
        assert "cannot shrink" in call.warnings[0]
        with pytest.raises(errors.Rejected, match="has no disk scsi7; it has scsi0"):
            await bench.once("resize_disk", vmid=101, size=20, disk="scsi7")

    async def test_resize_cut(self, bench: Bench, steer: Steer) -> None:
        """A resize whose answer is lost is found done, not done again."""
        await steer.rule("PUT", "/resize$", {"cut_after": True}, 1)
        grown = await bench.until_done("resize_disk", MemoryCall(), vmid=101, size=40)

        assert grown.disks == {"scsi0": 40.0}
        assert len(await steer.log("PUT")) == 1


class TestPower:
    """start, stop, shutdown and reboot."""

    async def test_start_and_stop(self, bench: Bench, steer: Steer) -> None:
        """A guest is as wanted afterwards, and left alone if it is so already."""
        await steer.durations(qmstart=0.3, vzstart=0.1)
        for vmid in (101, 201):
            assert (await bench.once("start_vm", vmid=vmid)).status == "running"
            assert (await bench.once("start_vm", vmid=vmid)).status == "running"
        assert (await bench.once("stop_vm", name="db-01")).status == "stopped"
        assert (await bench.once("stop_vm", vmid=101)).status == "stopped"

        assert (await steer.found(101))["status"] == "stopped"
        assert len(await steer.log("POST")) == 3

    async def test_template(self, bench: Bench) -> None:
        """A template is not started."""
        with pytest.raises(errors.Rejected, match="template"):
            await bench.once("start_vm", vmid=9000)

    async def test_locked_for_a_while(self, bench: Bench, steer: Steer) -> None:
        """A locked guest is waited for before anything is sent, and then started once."""
        await steer.lock(101)
        call = MemoryCall()
        task = asyncio.ensure_future(bench.once("start_vm", call, vmid=101))
        await asyncio.sleep(0.6)
        sent = await steer.log("POST")
        await steer.lock(101, None)

        assert (await task).status == "running"
        assert sent == []
        assert len(await steer.log("POST")) == 1
        assert "locked (backup)" in call.said[0]

    async def test_locked_for_long(self, pve: FakePve, steer: Steer) -> None:
        """A lock that stays is told with its name, and nothing was sent."""
        proxmox = connect(pve)
        bench = Bench(proxmox, ToolSettings(lock_wait=0.2))
        await steer.lock(101, "snapshot")

        tools: dict[str, dict[str, Any]] = {"start_vm": {}, "resize_disk": {"size": 50}, "update_vm": {"cores": 7}}
        for tool, more in tools.items():
            with pytest.raises(errors.GuestLocked, match=r"VM 101 'db-01' on pve1 is locked \(snapshot\)"):
                await bench.once(tool, vmid=101, **more)
        assert await steer.log("POST") + await steer.log("PUT") == []
        await proxmox.close()

    async def test_lock_comes_between(self, bench: Bench, steer: Steer) -> None:
        """A lock that comes after the look fails the task; that may be tried again, and then succeeds."""
        await steer.rule("POST", "/start$", {"task_exit": "VM is locked (backup)"}, 1)

        assert (await bench.until_done("start_vm", MemoryCall(), vmid=101)).status == "running"
        assert len(await steer.tasks("qmstart")) == 2

    async def test_somebody_was_faster(self, bench: Bench, steer: Steer) -> None:
        """A start that fails because the guest runs by now has what it wanted."""
        await steer.rule("POST", "/start$", {"delay": 0.4}, 1)
        task = asyncio.ensure_future(bench.once("start_vm", call := MemoryCall(), vmid=101))
        await asyncio.sleep(0.2)
        await bench.once("start_vm", vmid=101)

        assert (await task).status == "running"
        assert "already running" in call.warnings[0]

    async def test_cut(self, bench: Bench, steer: Steer) -> None:
        """A start whose answer is lost is found done, not done again."""
        await steer.rule("POST", "/start$", {"cut_after": True}, 1)

        assert (await bench.until_done("start_vm", MemoryCall(), vmid=101)).status == "running"
        assert len(await steer.tasks("qmstart")) == 1

    async def test_start_fails(self, bench: Bench, steer: Steer) -> None:
        """A start that fails raises what Proxmox said."""
        await steer.rule("POST", "/start$", {"task_exit": "no such bridge 'vmbr9'"})

        with pytest.raises(errors.TaskFailed, match="vmbr9"):
            await bench.once("start_vm", vmid=101)

    async def test_shutdown(self, bench: Bench, steer: Steer) -> None:
        """A guest is asked to shut down; what to do if it does not is said, `force` is handed on."""
        assert (await bench.once("shutdown_vm", vmid=100, patience=5, force=True)).status == "stopped"
        await steer.rule("POST", "/shutdown$", {"task_exit": "VM quit/powerdown failed - got timeout"})
        with pytest.raises(errors.TaskFailed, match="force=true"):
            await bench.once("shutdown_vm", vmid=102)

        sent = [each["params"] for each in await steer.log("POST", "/shutdown$")]
        assert (int(sent[0]["timeout"]), int(sent[0]["forceStop"])) == (5, 1)
        assert "forceStop" not in sent[1]

    async def test_reboot(self, bench: Bench, steer: Steer) -> None:
        """A running guest is rebooted; a stopped one is not started by it."""
        assert (await bench.once("reboot_vm", vmid=100)).status == "running"
        with pytest.raises(errors.Rejected, match="stopped"):
            await bench.once("reboot_vm", vmid=101)

        assert len(await steer.tasks("qmreboot")) == 1


class TestLook:
    """Judging without a server."""

    @pytest.mark.parametrize(
        ("config", "seat"),
        [
            (None, look.Seat.FREE),
            ({}, look.Seat.STRANGER),
            ({"description": "x\nagentd:k.t\n"}, look.Seat.OURS),
            ({"description": "agentd:k.t", "lock": "clone"}, look.Seat.OURS),
            ({"description": "agentd:k.t2"}, look.Seat.STRANGER),
            ({"description": "see agentd:k.t"}, look.Seat.STRANGER),
            ({"lock": "create"}, look.Seat.UNDECIDED),
            ({"lock": "clone", "description": " qmclone temporary file"}, look.Seat.UNDECIDED),
            ({"lock": "clone", "description": "agentd:other"}, look.Seat.STRANGER),
            ({"lock": "backup"}, look.Seat.STRANGER),
        ],
    )
    def test_judge(self, config: dict[str, Any] | None, seat: look.Seat) -> None:
        """Who sits on a VMID is told by the mark and the lock."""
        assert look.judge(config, "k.t") is seat

    def test_changes(self) -> None:
        """Only what differs is changed, in all the ways in which Proxmox writes it."""
        config = {"memory": "current=2048", "tags": "b;a", "onboot": 1, "agent": "enabled=1,type=virtio", "cores": 1}

        assert look.changes(config, {"memory": 2048, "tags": ["a", "b"], "onboot": True, "agent": True}) == {}
        assert look.changes(config, {"cores": 1, "name": None, "ciuser": ""}) == {}
        assert look.changes(config, {"tags": [], "agent": False, "cores": 2}) == {
            "agent": False,
            "cores": 2,
            "delete": "tags",
        }

    def test_sizes(self) -> None:
        """Sizes are read in every unit."""
        sizes = {"a,size=1G": 1, "a,size=512M": 0.5, "a,size=2T": 2048, "size=1048576K": 1, "a": 0}

        assert {drive: look.disk_size(drive) for drive in sizes} == sizes


def test_face() -> None:
    """Without a Proxmox there are no tools; the settings say what is wrong."""
    assert agentd_tools(Toolbox("n", None, None)) == []
    assert agentd_settings() is ToolSettings
    with pytest.raises(ValueError, match="lock_wait"):
        ToolSettings(lock_wait=-1)
