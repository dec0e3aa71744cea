"""Read this first: one VM is deployed by four roles, over a real NATS, on a simulated Proxmox.

agentd submit → request stored → an orchestrator plans → a specialist validates → the bridge creates → the
specialist configures through the bridge's tools → the answer; each step is an event that any client may watch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.client import queries, requests
from agentd.wire import subjects
from agentd.wire.messages import WorkflowRequest
from agentd.wire.records import AuditRecord, EffectRecord
from core.chains import verify

if TYPE_CHECKING:
    from agentd.wire.workflow import Workflow
    from harness import Net

REQUEST = {"name": "web1", "template": 9000, "memory": 2048, "disk": 8, "tags": ["web"]}


async def test_one_vm_is_deployed(net: Net) -> None:
    """A request becomes a running VM, made exactly once, and every step can be read afterwards."""
    assert net.pve is not None
    seen: list[Workflow] = []
    async with net.client() as bus, net.here("all"):
        request = WorkflowRequest("vm_deployment", "walk", REQUEST)
        await requests.submit(bus, "tester", request)
        answer = await queries.follow(bus, "walk", seen.append, wait=30)
        state = await queries.state(bus, "walk")
        effects = await bus.last_many(subjects.EFFECTS, "ai.effects.>")
        chain = [record.decode(AuditRecord) for record in await bus.every(subjects.AUDIT, subjects.audit("all-pve1"))]

    # The requester gets, once, what each task did.
    assert answer.status == "completed", answer
    assert list(answer.result["tasks"]) == ["validate_vm_parameters", "create_vm", "configure_vm"]
    vmid = answer.result["tasks"]["create_vm"]["result"]["vmid"]

    # The VM is there as it was wished for; Proxmox was asked once to make it, and it has our mark.
    vm = net.pve.found(vmid)
    assert vm is not None
    assert (vm["name"], vm["status"]) == ("web1", "running")
    assert vm["config"]["memory"] in {2048, "2048"}
    assert "agentd:walk.create_vm" in vm["description"]
    assert len(net.pve.creates()) == 1

    # Every change was seen as it happened, and the timeline has it again.
    assert [item.status for item in seen][-1] == "completed"
    assert state is not None
    assert [(entry.task, entry.agent) for entry in state.timeline if entry.what == "completed" and entry.task] == [
        ("validate_vm_parameters", "all-pve1"),
        ("create_vm", "all-pve1"),
        ("configure_vm", "all-pve1"),
    ]

    # What touched the world was written down before and after: effect records and an unbroken audit chain.
    records = {effect.subject: effect.decode(EffectRecord) for effect in effects}
    made = records["ai.effects.mcp-proxmox.walk.create_vm"]
    assert (made.phase, made.epoch) == ("done", 1)
    assert made.upid.startswith("UPID:")
    assert verify(chain) is None
    assert [(record.tool, record.phase) for record in chain][:2] == [("create_vm", "before"), ("create_vm", "after")]
