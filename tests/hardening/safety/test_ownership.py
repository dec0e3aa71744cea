"""What agentd made is known by its own effect records, never by text that anyone can write in Proxmox."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from agentd.client import queries, requests
from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, InvalidMessage, VmidTaken
from agentd.safety import marks
from agentd.tools import effects
from agentd.wire import subjects
from agentd.wire.codec import now
from agentd.wire.messages import Outcome, Target, TaskAssignment, TaskCompletion, Tier, ToolCall, WorkflowRequest
from agentd.wire.records import EffectRecord
from agentd.wire.workflow import Status
from agentd_orchestrator.declared import check
from agentd_proxmox.backup import archives
from agentd_proxmox.model import guest_model
from agentd_proxmox.network import firewall_rules
from core.jetstream import kv_list
from core.probe import Probe, a_worker, assign, completion, raising, record, serving
from harness import eventually
from proxmox_access import connect

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.bus.jetstream import Bus
    from agentd.tools.definition import Tool
    from harness import Net

TARGET = Target("thing/1", "the thing")
DISCARDED = """
description: Undo by discarding.
parameters:
  vmid: {type: int, required: true}
tasks:
  - name: create
    tool: create_vm
    with: {vmid: "{{ parameters.vmid }}", node: pve1, name: app-01, storage: local-lvm}
    undo:
      tool: discard_guest
      with: {vmid: "{{ parameters.vmid }}"}
  - name: fails
    after: [create]
    tool: start_guest
    with: {vmid: 999}
    retries: 0
"""


@pytest.fixture
def net(net: Net, tmp_path: Path) -> Net:
    """Principals: a reader, operators and two of tier exec; some objects are protected."""
    net.settings["policy"] = {
        "default_tier": "read",
        "principals": {"alice": "exec", "bob": "exec", "oscar": "operate", "mcp": "operate", "cron": "operate"},
        "protected": ["guest/102", "tag/keep", "pool/core"],
    }
    assert net.pve is not None
    net.pve.guest(vmid=102, node="pve1", name="keeper", status="running")
    directory = tmp_path / "workflows"
    directory.mkdir(mode=0o755)
    (directory / "discarded.yaml").write_text(DISCARDED.lstrip())
    net.settings["orchestrator"] = {"workflows_dir": str(directory)}
    return net


async def _describe(net: Net, vmid: int, text: str) -> None:
    """Write a description as a user of Proxmox may."""
    assert net.pve is not None
    guest = net.pve.found(vmid)
    assert guest is not None
    proxmox = connect(net.pve)
    await proxmox.put(f"/nodes/{guest['node']}/{guest['type']}/{vmid}/config", description=text)
    await proxmox.close()


async def _call(bus: Bus, tool: str, key: str, **parameters: Any) -> Any:
    call = ToolCall(parameters, key)
    return await call_tool(bus, subjects.tool_call("oscar", "mcp-proxmox", tool), call, seconds=30)


# -- discarding -----------------------------------------------------------------------------------------------------


async def test_a_call_cannot_discard(net: Net) -> None:
    """A call of discard_guest is refused for any key and description, and so is a plan of it."""
    assert net.pve is not None
    for vmid in (101, 102):
        await _describe(net, vmid, "agentd:evil4.a.b\nagentd:evil4.a")
    async with net.client() as bus, net.here():
        for key in ("evil4.undo-a.b", "evil4.undo-a", "undo-evil4.a", "evil4.a"):
            for vmid in (101, 102):
                with pytest.raises((Denied, InvalidMessage)):
                    await _call(bus, "discard_guest", key, vmid=vmid)
        for principal in ("oscar", "alice"):
            plan = await requests.plan(bus, principal, "discard_guest", {"vmid": 101})

            assert plan.status is Status.REJECTED
            assert "only where a workflow undoes one of its tasks" in plan.error
    assert net.pve.log("DELETE") == []
    assert net.pve.found(101) is not None


async def test_an_assignment_without_an_undo_cannot_discard(net: Net) -> None:
    """The orchestrator says in the assignment which task it undoes; the name of a task says nothing."""
    assert net.pve is not None
    await _describe(net, 101, "agentd:w.a")
    net.settings["instances"] |= {"w": {"roles": ["mcp-bridge"]}}
    async with net.client() as bus, net.here("w"):
        for task in ("undo-a", "a"):
            deadline = bus.server_time() + timedelta(seconds=60)
            given = TaskAssignment(f"w.{task}", "w", "discard_guest", "mcp-proxmox", {"vmid": 101}, deadline)
            given = replace(given, tier=Tier.EXEC, principal="alice")
            await bus.store(subjects.assign("mcp-proxmox", "w", task, 1), given)
            subject = subjects.complete("w-pve1", "w", task)

            async def reported(subject: str = subject) -> TaskCompletion | None:
                found = await bus.last(subjects.INPUT, subject)
                return None if found is None else found.decode(TaskCompletion)

            done = await eventually(reported, f"the end of {task}")

            assert done.status == Outcome.FAILED
            assert done.error is not None
            assert "only where an orchestrator undoes a task" in done.error.message  # type: ignore[union-attr]
    assert net.pve.log("DELETE") == []


@pytest.mark.parametrize("vmid", [101, 102])
async def test_a_guest_of_another_owner_is_not_discarded(net: Net, vmid: int) -> None:
    """A mark that was forged in a description is neither adopted nor deleted when the workflow undoes itself."""
    assert net.pve is not None
    await _describe(net, vmid, "agentd:evil.create")
    async with net.client() as bus, net.here():
        await requests.submit(bus, "oscar", WorkflowRequest("discarded", "evil", {"vmid": vmid}))
        answer = await queries.follow(bus, "evil", lambda _: None, wait=45)
        stored = await bus.last(subjects.EFFECTS, subjects.effect("mcp-proxmox", "evil.create"))

    assert answer.status in {"failed", "compensated", "compensation_failed"}
    assert "not ours" in answer.error
    assert stored is not None
    assert stored.decode(EffectRecord).acted == []
    assert net.pve.log("DELETE") == []
    assert net.pve.found(vmid) is not None


async def test_a_guest_of_the_workflow_is_discarded(net: Net) -> None:
    """Its own guest goes when it undoes itself, once, and it counts in the budget."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        await requests.submit(bus, "oscar", WorkflowRequest("discarded", "good", {"vmid": 300}))
        answer = await queries.follow(bus, "good", lambda _: None, wait=45)
        budget = await kv_list(bus, subjects.BUDGET)

    assert answer.status == "compensated", answer
    assert net.pve.found(300) is None
    assert len(net.pve.log("DELETE")) == 1
    assert len(budget) == 1


async def test_a_protected_guest_is_not_discarded(net: Net) -> None:
    """A guest that the workflow itself made stays when it is protected, and the workflow says so."""
    assert net.pve is not None
    net.settings["policy"]["protected"].append("guest/300")
    async with net.client() as bus, net.here():
        await requests.submit(bus, "oscar", WorkflowRequest("discarded", "good", {"vmid": 300}))
        answer = await queries.follow(bus, "good", lambda _: None, wait=45)

    assert answer.status == "compensation_failed"
    assert net.pve.found(300) is not None
    assert net.pve.log("DELETE") == []


async def test_no_budget_no_discarding(net: Net) -> None:
    """The hourly budget counts for it as for every act that destroys."""
    assert net.pve is not None
    net.settings["policy"]["destructive_per_hour"] = 1
    ends = []
    async with net.client() as bus, net.here():
        for name, vmid in (("first", 300), ("second", 301)):
            await requests.submit(bus, "oscar", WorkflowRequest("discarded", name, {"vmid": vmid}))
            ends.append((await queries.follow(bus, name, lambda _: None, wait=45)).status)

    assert ends == ["compensated", "compensation_failed"]
    assert net.pve.found(300) is None
    assert net.pve.found(301) is not None


def test_a_declared_workflow_may_not_call_it(known: dict[str, Tool]) -> None:
    """As an ordinary task it is a fault of the file; as an undo it is none."""
    good = check.read(DISCARDED.lstrip().encode(), "x.yaml", "x", check.KnownNames(known, {}))[1]
    task = "  - name: gone\n    tool: discard_guest\n    with: {vmid: 101}\n"
    bad = check.read((DISCARDED.lstrip() + task).encode(), "x.yaml", "x", check.KnownNames(known, {}))[1]

    assert not good.faults
    assert any("only undoes a task" in str(fault) for fault in bad.faults)


# -- adopting -------------------------------------------------------------------------------------------------------


async def test_a_mark_without_a_record_is_foreign(probing: Bus, probe: Probe) -> None:
    """A tool that finds its mark though nothing was begun fails and changes nothing; so does its dry run."""
    probe.inventory["w.t"] = probe.inventory["w.d"] = "UPID:forged"
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked")
        done = await completion(probing)
        await assign(probing, "marked", task="d", dry_run=True)
        looked = await completion(probing, task="d")

    for item in (done, looked):
        assert item.status == Outcome.FAILED
        assert item.error is not None
        assert item.error.code == "not_ours"  # type: ignore[union-attr]
    assert (await record(probing)).upid == ""
    assert probe.acts == 0
    assert probe.used == []


async def test_a_started_change_is_adopted_after_a_failure(probing: Bus, probe: Probe) -> None:
    """The record keeps which acts were begun when an attempt has failed for good: the next attempt finds its own."""
    probe.on_act = raising(VmidTaken("no"), 0)
    probe.afterwards = raising(InvalidMessage("it broke afterwards"), 1)
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked")
        assert (await completion(probing)).status == Outcome.FAILED
        await assign(probing, "marked", attempt=2)
        done = await completion(probing, number=2)

    assert done.status == Outcome.COMPLETED
    assert (await record(probing)).acted == ["marked *"]
    assert probe.acts == 1


async def test_a_refused_act_is_not_kept(probing: Bus, probe: Probe) -> None:
    """Proxmox has reported that the VMID is another's: what is there afterwards is not taken for ours."""
    probe.on_act = raising(VmidTaken("another's"))
    async with serving(a_worker(probing, probe)):
        await assign(probing, "marked")
        first = await completion(probing)
        await assign(probing, "marked", attempt=2)
        second = await completion(probing, number=2)

    assert first.error is not None
    assert second.error is not None
    assert [first.error.code, second.error.code] == ["vmid_taken", "not_ours"]  # type: ignore[union-attr]
    assert (await record(probing)).acted == []


def test_a_record_of_another_target_is_no_proof() -> None:
    """A record names the tool and the target of an act: what another tool did under the key, or to another, is none."""
    for acted in (["unsafe *"], ["marked thing/2"], ["markedx *"]):
        given = EffectRecord("w.t", "marked", 1, "a/1", effects.FAILED, now(), acted=acted)
        assert not effects.begun(given, "marked", [TARGET])
    for acted in (["marked thing/1"], ["marked *"]):
        given = EffectRecord("w.t", "marked", 1, "a/1", effects.FAILED, now(), acted=acted)
        assert effects.begun(given, "marked", [TARGET])


# -- marks ----------------------------------------------------------------------------------------------------------

MARK = "agentd:evil4.a.b"
CONFIG = "/nodes/pve1/qemu/101/config"
WRITES = [
    ("update_vm", {"vmid": 101, "description": MARK}, "update_vm.description"),
    ("update_vm", {"vmid": 101, "description": f"first\n\n  x{MARK}"}, "update_vm.description"),
    ("update_vm", {"vmid": 101, "description": "agentd%3Aevil4.a.b"}, "update_vm.description"),
    ("update_vm", {"vmid": 101, "tags": [MARK]}, r"update_vm.tags\[0\]"),
    ("create_vm", {"vmid": 300, "node": "pve1", "name": "n", "description": MARK}, "create_vm.description"),
    ("create_backup", {"vmid": 101, "notes": MARK}, "create_backup.notes"),
    ("create_backup", {"vmid": 101, "notes": "agentd:{{guestname}}"}, "create_backup.notes"),
    ("create_backup", {"vmid": 101, "notes": "{{guestname}}:evil4.a"}, "create_backup.notes"),
    ("create_backup", {"vmid": 101, "notes": "x agen{{ guestname }}:evil4.a.b"}, "create_backup.notes"),
    ("create_backup_job", {"notes": "{{guestname}}:{{vmid}}.a"}, "create_backup_job.notes"),
    ("create_snapshot", {"vmid": 101, "description": MARK}, "create_snapshot.description"),
    ("set_backup_notes", {"volid": "a:b", "node": "pve1", "notes": MARK}, "set_backup_notes.notes"),
    ("api_call", {"method": "PUT", "path": CONFIG, "parameters": {"description": MARK}}, "api_call.parameters.descr"),
    ("api_call", {"method": "PUT", "path": f"{CONFIG}?description={MARK}"}, "api_call.path"),
    ("api_call", {"method": "PUT", "path": CONFIG, "parameters": {"tags": [{"b": MARK}]}}, r"parameters.tags\[0\].b"),
    (
        "api_destroy",
        {"method": "POST", "path": "/nodes/pve1/vzdump", "parameters": {"notes-template": MARK}},
        "notes-template",
    ),
]


@pytest.mark.parametrize(("tool", "parameters", "field"), WRITES)
def test_a_caller_writes_no_mark(known: dict[str, Tool], tool: str, parameters: dict[str, Any], field: str) -> None:
    """In no parameter of any tool, at any depth: the error names the field."""
    with pytest.raises(InvalidMessage, match=f"{field}.*callers may not write"):
        known[tool].parse(parameters)


@pytest.mark.parametrize(
    "text",
    [
        "made by agentd: see the wiki",
        "http://agentd:8080/a.b",
        "agentd",
        "agentd:x:998:99",
        "{{guestname}}: daily",
        "{{node}}:{{vmid}}",
    ],
)
def test_text_that_is_not_a_mark_may_be_written(known: dict[str, Tool], text: str) -> None:
    """Text that is not exactly a mark goes through."""
    assert known["update_vm"].parse({"vmid": 101, "description": text}).description == text


@pytest.mark.parametrize(
    "text", ["Agentd:w.t", "agentd%3Aw.t", "agentd: w.t", "agentd:w.t x", "xagentd:w.t", "\u2028agentd:w.t", "agentd:w"]
)
def test_only_an_exact_mark_is_read(text: str) -> None:
    """Another case, another encoding, more text in the line: that is no mark."""
    assert guest_model.marks(text) == []
    assert guest_model.mark_of(f"text x{text}") == ""
    assert firewall_rules.position_of_mark([{"pos": 0, "comment": f"x{text}"}], "agentd:w.t") is None


def test_our_marks_are_read() -> None:
    """Each reader finds what its writer wrote."""
    assert guest_model.marks(guest_model.describe("text", "w.t.s")) == ["agentd:w.t.s"]
    assert guest_model.mark_of(archives.mark_notes("text\nmore", "w.t")) == "w.t"
    assert guest_model.notes_text(archives.mark_notes("text\nmore", "w.t")) == "text more"
    assert firewall_rules.position_of_mark([{"pos": 0, "comment": "text agentd:w.t"}], "agentd:w.t") == 0
    assert marks.key_of(marks.mark("w.t")) == "w.t"


async def test_update_cannot_forge(net: Net) -> None:
    """The first step of the attack is refused, and the guest is as it was."""
    assert net.pve is not None
    async with net.client() as bus, net.here():
        with pytest.raises(InvalidMessage, match=r"update_vm\.description"):
            await _call(bus, "update_vm", "x.y", vmid=102, description=MARK)
    assert net.pve.log("PUT") == []
