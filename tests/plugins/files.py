"""Workflow files of tests: what they become, and what is wrong with them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.proxmox.vm import VmParameters
from agentd_orchestrator.declared import check
from agentd_orchestrator.state_machine.plan_check import check_plan

if TYPE_CHECKING:
    from agentd.tools.definition import Tool
    from agentd.wire.workflow import Definition, TaskSpec

HEAD = "description: A test's own.\n"
WORKFLOWS: dict[str, type[msgspec.Struct] | None] = {"vm_deployment": VmParameters, "other": None}
ALL = """
parameters:
  tag: {type: string, required: true, pattern: "^[a-z]+$"}
  at_once: {type: int, default: 2, minimum: 1, maximum: 20}
  node: {type: string}
  more: {type: map, default: {}}
  wait: {type: bool, default: true}
tasks:
  - name: stop
    tool: shutdown_guest
    for_each: "{{ tasks.find.result.guests }}"
    max_parallel: "{{ parameters.at_once }}"
    node: "{{ parameters.node | default('') }}"
    class: power
    with: {vmid: "{{ item.vmid }}", patience: 120, force: "{{ parameters.wait }}"}
    timeout: 1h30m
    start_within: 90s
    heartbeat_timeout: 5.5
    retries: 1
    backoff: 500ms
    optional: true
    approval: "Stop what has {{ parameters.tag }}?"
    undo:
      tool: start_guest
      with: {vmid: "{{ item.vmid }}", name: "{{ tasks.stop.result.name }}"}
      retries: 9
  - name: find
    tool: list_guests
    with: {tag: "{{ parameters.tag }}", status: running, node: "{{ parameters.node }}"}
  - name: note
    tool: jot
    service: foreign
    tier: operate
    after: [find]
    when: tasks.find.result.total > 3
    with: {all: "{{ tasks.find.result }}", text: "{{ tasks.find.status }} {{ parameters.tag }}", raw: [1, {a: null}]}
  - name: child
    workflow: vm_deployment
    after: [stop]
    when: not parameters.wait
    with: {name: "{{ parameters.tag }}-1", memory: 512}
"""


def faults(text: str, known: dict[str, Tool], name: str = "f") -> list[str]:
    """Return the faults of a file `f.yaml`."""
    _, report = check.read(textwrap.dedent(text).encode(), "f.yaml", name, check.KnownNames(known, WORKFLOWS))
    return [str(fault) for fault in report.faults]


def definition(text: str, known: dict[str, Tool]) -> Definition:
    """Return the definition of a file without faults."""
    data = (HEAD + textwrap.dedent(text)).encode()
    found, report = check.read(data, "f.yaml", "f", check.KnownNames(known, WORKFLOWS))
    assert found is not None, report.faults
    return found.definition()


def plan(text: str, known: dict[str, Tool], **parameters: Any) -> list[TaskSpec]:
    """Return the checked plan of a request."""
    of = definition(text, known)
    made = of.plan(msgspec.convert(parameters, of.parameters))
    check_plan(made)
    return made
