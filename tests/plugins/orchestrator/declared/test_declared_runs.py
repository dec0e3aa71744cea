"""Declared workflows on real orchestrators: a running one keeps its plan when its file changes."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import agentd_orchestrator
from agentd.client import queries, requests
from agentd.daemon import state
from agentd.wire.messages import TaskAssignment, TaskCompletion, WorkflowRequest, WorkflowResponse
from fake_agent import Agent, completion
from harness import eventually
from plugins.files import HEAD
from plugins.orchestrator.declared.test_library import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentd.bus.jetstream import Bus
    from agentd.daemon.supervisor import Supervisor
    from harness import Net

EXAMPLES = Path(agentd_orchestrator.__file__).parent / "examples"

TWO = """
parameters:
  suffix: {type: string, default: x}
  any: {type: map, default: {}}
tasks:
  - name: first
    tool: validate_vm_parameters
    with: {name: one}
  - name: second
    tool: validate_vm_parameters
    after: [first]
    with: {name: "{{ tasks.first.result.name }}-{{ parameters.suffix }}"}
"""


@contextlib.asynccontextmanager
async def orchestrator(net: Net, directory: Path) -> AsyncIterator[Supervisor]:
    """Run an orchestrator with this directory of workflows."""
    net.settings["orchestrator"] = {"workflows_dir": str(directory)}
    net.settings["instances"] |= {"o": {"roles": ["orchestrator"]}}
    async with net.here("o") as daemon:
        yield daemon


def answering(result: Any) -> Any:
    """Return an agent's way to answer: always with this result."""

    def how(given: TaskAssignment) -> TaskCompletion:
        return msgspec.structs.replace(completion(given), result=result)

    return how


async def ask(bus: Bus, kind: str, name: str, parameters: dict[str, Any] | None = None) -> WorkflowResponse:
    """Ask for a workflow and wait for its end."""
    await requests.submit(bus, "tester", WorkflowRequest(kind, name, parameters or {}, timeout=60.0))
    return await queries.follow(bus, name, lambda _: None, wait=45)


async def test_a_file_that_changes_under_a_running_workflow(bus: Bus, quiet_net: Net, tmp_path: Path) -> None:
    """What runs goes on with the plan that it began with; the next request gets the new one, at once."""
    directory = tmp_path / "workflows"
    directory.mkdir()
    file = write(directory / "two.yaml", HEAD + TWO)
    async with orchestrator(quiet_net, directory), Agent(bus, answering({"name": "n"})).working() as agent:
        agent.hold.add("first")
        await requests.submit(bus, "tester", WorkflowRequest("two", "old", {}, timeout=60.0))

        async def begun() -> bool:
            return bool(agent.given)

        await eventually(begun, "the first task is assigned")
        write(file, HEAD + TWO.replace("-{{ parameters.suffix }}", "!").replace("name: second", "name: other"))
        agent.hold.clear()
        new = await ask(bus, "two", "new")
        agent.release.set()
        old = await queries.follow(bus, "old", lambda _: None, wait=45)
        broken = write(file, "tasks: [")
        refused = await ask(bus, "two", "refused")
        broken.unlink()
        gone = await ask(bus, "two", "gone")

    given = {assignment.task_id: assignment.parameters for assignment in agent.given}
    assert (old.status, list(old.result["tasks"]), given["old.second"]) == (
        "completed",
        ["first", "second"],
        {"name": "n-x"},
    )
    assert (new.status, list(new.result["tasks"]), given["new.other"]) == (
        "completed",
        ["first", "other"],
        {"name": "n!"},
    )
    assert refused.status == "rejected"
    assert refused.error == (
        f"workflow_type: two cannot be used: {file}:1:9: this is not YAML: while parsing a flow node; "
        "expected the node content, but found …"
    )
    assert gone.error.startswith("workflow_type: unknown 'two'; there are backup_verification, guest_update, ")


async def test_a_file_at_fault_is_seen(bus: Bus, quiet_net: Net, tmp_path: Path) -> None:
    """A broken file is shown on the status page and in the log; the daemon is ready and its other workflows work."""
    directory = tmp_path / "workflows"
    directory.mkdir()
    write(directory / "two.yaml", HEAD + TWO)
    bad = write(directory / "bad.yaml", HEAD)
    async with orchestrator(quiet_net, directory) as daemon, Agent(bus, answering({"name": "n"})).working():
        warnings = state.identity(daemon).warnings
        ready = state.readiness(daemon)
        answer = await ask(bus, "two", "w")
        write(bad, HEAD + TWO)

        async def corrected() -> bool:
            return not state.identity(daemon).warnings

        await eventually(corrected, "the fault is gone from the page")
        again = await ask(bus, "bad", "b")

    assert warnings == [f"orchestrator: {bad}:1:1: tasks is missing"]
    assert ready == []
    assert (answer.status, again.status) == ("completed", "completed")


async def test_values_of_a_requester_are_never_evaluated(bus: Bus, quiet_net: Net, tmp_path: Path) -> None:
    """Braces in a parameter arrive at the tool as they were sent; keys with $ are refused by name."""
    directory = tmp_path / "workflows"
    directory.mkdir()
    write(directory / "two.yaml", HEAD + TWO)
    async with orchestrator(quiet_net, directory), Agent(bus, answering({"name": "{{ 7 * 7 }}"})).working() as agent:
        answer = await ask(bus, "two", "w", {"suffix": "{{ tasks.first.status }}"})
        refused = await ask(bus, "two", "r", {"any": {"a": [{"$template": "{{ 1 }}"}]}})
        state = await queries.state(bus, "w")

    assert answer.status == "completed", answer
    assert {assignment.task_id: assignment.parameters for assignment in agent.given}["w.second"] == {
        "name": "{{ 7 * 7 }}-{{ tasks.first.status }}"
    }
    assert refused.error == "parameters.any: the key '$template' is not accepted: keys with $ are agentd's own"
    assert state is not None
    assert state.parameters == {"suffix": "{{ tasks.first.status }}", "any": {}}


async def test_the_plan_of_a_dry_run(bus: Bus, quiet_net: Net, tmp_path: Path) -> None:
    """A dry run holds the plan: what the parameters decide is filled in, what needs results stays as it is written."""
    directory = tmp_path / "workflows"
    directory.mkdir()
    shutil.copy(EXAMPLES / "restart_tagged.yaml", directory)
    async with orchestrator(quiet_net, directory):
        request = WorkflowRequest("restart_tagged", "d", {"tag": "web"}, dry_run=True)
        await requests.submit(bus, "tester", request)
        answer = await queries.follow(bus, "d", lambda _: None, wait=45)
        state = await queries.state(bus, "d")

    assert answer.status == "completed", answer
    assert state is not None
    find, restart = (task.spec for task in state.tasks.values())
    assert find is not None
    assert restart is not None
    assert find.parameters == {"tag": "web", "status": "running", "type": "qemu", "limit": 100}
    assert (restart.for_each, restart.max_parallel) == ({"$result": "find", "field": "guests"}, 2)


async def test_the_examples_work(net: Net, tmp_path: Path) -> None:
    """VMs are deployed from a list, two at a time, and those that bear a tag are restarted one at a time."""
    assert net.pve is not None
    shutil.copytree(EXAMPLES, tmp_path / "workflows")
    net.settings["orchestrator"] = {"workflows_dir": str(tmp_path / "workflows")}
    async with net.client() as bus, net.here("all"):
        requested = {"names": ["web1", "web2", "web3"], "node": "pve1", "template": 9000, "tags": ["fresh"]}
        made = await ask(bus, "deploy_many", "make", requested)
        restarted = await ask(bus, "restart_tagged", "restart", {"tag": "fresh", "at_once": 1})
        none = await ask(bus, "restart_tagged", "none", {"tag": "none"})

    assert made.status == "completed", json.dumps(msgspec.to_builtins(made), indent=1)
    vmids = made.result["tasks"]["draw"]["result"]["vmids"]
    vms = [net.pve.found(vmid) for vmid in vmids]
    assert [(vm["name"], vm["status"], vm["tags"]) for vm in vms if vm] == [
        ("web1", "running", "fresh"), ("web2", "running", "fresh"), ("web3", "running", "fresh")
    ]  # fmt: skip
    assert len(net.pve.creates()) == 3
    assert restarted.status == "completed", json.dumps(msgspec.to_builtins(restarted), indent=1)
    assert restarted.result["tasks"]["restart"]["items"] == 3
    assert len(net.pve.log("POST", "status/reboot")) == 3
    assert none.result["tasks"]["restart"]["status"] == "completed"
