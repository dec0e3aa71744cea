"""Workflow files: what they become, and every fault of them at its line and column."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import agentd_orchestrator
from agentd.errors import AgentdError, BadExpression, InvalidMessage, Rejected
from agentd.wire.messages import Tier
from agentd.wire.workflow import Compensation, TaskSpec, result_of, template
from agentd_orchestrator.builtin_workflows.deploy_vm import FILES
from agentd_orchestrator.declared import check, file_format
from agentd_orchestrator.expressions.evaluate import marker_key
from agentd_orchestrator.state_machine.planner import Planner
from plugins.files import ALL, HEAD, definition, faults, plan

if TYPE_CHECKING:
    from agentd.tools.definition import Tool

HERE = Path(agentd_orchestrator.__file__).parent
EXAMPLES = sorted((HERE / "examples").glob("*.yaml"))


def test_every_field_of_a_file(known: dict[str, Tool]) -> None:
    """Each field becomes what the engine knows; what the parameters decide is decided, the rest stays to be filled in.

    The tasks come in the order of the file, and after those whose results they use.
    """
    stop, find, note, child = plan(ALL, known, tag="web", more={"a": 1})

    assert stop == TaskSpec(
        name="stop",
        tool="shutdown_guest",
        queue="mcp-proxmox+power",
        tier=Tier.OPERATE,
        parameters={"vmid": template("{{ item.vmid }}"), "patience": 120, "force": True},
        after=["find"],
        timeout=5400.0,
        start_within=90.0,
        heartbeat_timeout=5.5,
        retries=1,
        backoff=0.5,
        for_each=result_of("find", "guests"),
        max_parallel=2,
        optional=True,
        approval="Stop what has web?",
        compensation=Compensation(
            tool="start_guest",
            queue="mcp-proxmox",
            tier=Tier.OPERATE,
            parameters={"vmid": template("{{ item.vmid }}"), "name": result_of("stop", "name")},
            retries=9,
        ),
    )
    assert find.parameters == {"tag": "web", "status": "running"}
    assert (find.queue, find.tier, find.after, find.retries, find.timeout) == ("mcp-proxmox", Tier.READ, [], 2, 300.0)
    assert note.parameters == {
        "all": result_of("find"),
        "text": template("{{ tasks.find.status }} {{ parameters.tag }}"),
        "raw": [1, {"a": None}],
    }
    assert (note.queue, note.tier, note.condition) == ("foreign", Tier.OPERATE, "tasks.find.result.total > 3")
    assert (child.workflow, child.tool, child.queue, child.condition) == ("vm_deployment", "", "orchestrator", "false")
    assert child.parameters == {"name": "web-1", "memory": 512}


def test_a_task_on_a_node(known: dict[str, Tool]) -> None:
    """A parameter may say which node's queue a task goes to; one that is no node's name is refused by name."""
    assert plan(ALL, known, tag="web", node="pve2")[0].queue == "mcp-proxmox@pve2+power"
    with pytest.raises(Rejected, match=r"^task stop: queue: 'mcp-proxmox@a b\+power' is not <service>"):
        plan(ALL, known, tag="web", node="a b")


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({}, "parameters: object missing required field tag"),
        ({"tag": "WEB"}, "parameters.tag: expected str matching regex '^[a-z]+$'"),
        ({"tag": "a", "at_once": 21}, "parameters.at_once: expected int <= 20"),
        ({"tag": "a", "wait": "no"}, "parameters.wait: expected bool, got str"),
        ({"tag": "a", "tagg": 1}, "parameters: unknown 'tagg'; did you mean tag?"),
        (
            {"tag": "a", "more": {"x": [{"$template": "{{ 1 }}"}]}},
            "parameters.more: the key '$template' is not accepted",
        ),
        ({"tag": "a", "more": {"$result": "find"}}, "parameters.more: the key '$result' is not accepted: keys with $"),
        ({"tag": "a", "more": {"$stored": "x"}}, "parameters.more: the key '$stored' is not accepted"),
    ],
)
def test_a_wrong_request(known: dict[str, Tool], parameters: dict[str, Any], problem: str) -> None:
    """A request is refused with the parameter and what is wrong with it, as for a workflow in Python."""
    from agentd.safety.policy import Policy
    from agentd.wire.messages import WorkflowRequest

    planner = Planner({"f": definition(ALL, known)}, Policy(Tier.OPERATE))
    begin = planner.begin(WorkflowRequest("f", "w", parameters), "alice", Tier.OPERATE, plain=False)

    assert begin.refused.startswith(problem), begin.refused
    assert begin.plan == []


def test_values_of_a_request_stay_text(known: dict[str, Tool]) -> None:
    """Braces in a parameter are text: they are not evaluated, neither when planning nor later."""
    text = """
        parameters: {name: {type: string}, more: {type: map}}
        tasks: [{name: a, tool: get_guest, with: {name: "{{ parameters.name }}"}},
                {name: b, tool: x, service: s, tier: read, with: {m: "{{ parameters.more }}"}}]
    """
    a, b = plan(text, known, name="{{ 7 * 7 }}", more={"k": "{{ tasks.a.result }}"})

    assert (a.parameters, b.parameters) == ({"name": "{{ 7 * 7 }}"}, {"m": {"k": "{{ tasks.a.result }}"}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | st.sampled_from(["{{ 7 * 7 }}", "{% raw %}", "{{ tasks.a.result }}", "$template"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.sampled_from(["$template", "$result", "$stored"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_any_value_of_a_request(known: dict[str, Tool], value: dict[str, Any]) -> None:
    """A value reaches the plan as it was sent, or it is refused because of a key with $: nothing in between."""
    text = """
        parameters: {m: {type: map}}
        tasks: [{name: a, tool: x, service: s, tier: read, with: {m: "{{ parameters.m }}"}}]
    """
    if marker_key(value):
        with pytest.raises(InvalidMessage, match=r"^parameters\.m: the key '\$"):
            plan(text, known, m=value)
    else:
        assert plan(text, known, m=value)[0].parameters == {"m": value}


def test_parameters_passed_on_as_they_are(known: dict[str, Tool]) -> None:
    """All parameters can be handed on at once; what was not given is not given to the tool either."""
    text = """
        parameters: {vmid: {type: int}, name: {type: string}}
        tasks: [{name: a, tool: start_guest, with: "{{ parameters }}"}]
    """

    assert plan(text, known, vmid=100)[0].parameters == {"vmid": 100}


@pytest.mark.parametrize("made", ["{{ {parameters.k: 'x'} }}", "{{ parameters.k | from_json }}"])
def test_an_expression_makes_no_marker(known: dict[str, Tool], made: str) -> None:
    """Not even an expression can turn a text of the requester into what a plan fills in."""
    text = f"""
        parameters: {{k: {{type: string}}}}
        tasks: [{{name: a, tool: x, service: s, tier: read, with: {{m: "{made}"}}}}]
    """
    key = "$template" if "from_json" not in made else '{"$template": "{{ 1 }}"}'
    with pytest.raises(
        BadExpression, match=r"^task a: with\.m: .* makes the key '\$template', and \$ is agentd's own$"
    ):
        plan(text, known, k=key)


@pytest.mark.parametrize(
    ("task", "parameters", "problem"),
    [
        ("tool: list_guests, with: {limit: '{{ parameters.p }}'}", {"p": 501}, "task a: list_guests.limit: expect"),
        ("tool: list_guests, with: '{{ parameters.p }}'", {"p": 1}, "task a: with: {{ parameters.p }} gives 1, and a"),
        ("tool: list_guests, for_each: '{{ parameters.p }}'", {"p": "x"}, "task a: for_each: {{ parameters.p }} gives"),
        ("tool: list_guests, max_parallel: '{{ parameters.p }}'", {"p": 0}, "task a: max_parallel: 0 is no whole"),
        ("tool: list_guests, with: {tag: '{{ parameters.p.x }}'}", {"p": "y"}, "task a: with.tag: expression '{{ par"),
        ("tool: list_guests, when: parameters.p", {"p": "no"}, "task a: when: expression 'parameters.p': it gives"),
    ],
)  # fmt: skip
def test_parameters_that_make_a_plan_wrong(
    known: dict[str, Tool], task: str, parameters: dict[str, Any], problem: str
) -> None:
    """What only the parameters of a request make wrong is refused before anything runs, with the task and the field."""
    text = f"""
        parameters: {{p: {{type: map}}}}
        tasks: [{{name: a, {task}}}]
    """
    of = definition(text, known)
    requested = of.parameters(**{f"p_{key}": value for key, value in parameters.items()})
    with pytest.raises(AgentdError) as caught:
        of.plan(requested)

    assert str(caught.value).startswith(problem)
    assert isinstance(caught.value, (Rejected, InvalidMessage))


def test_aliases(known: dict[str, Tool]) -> None:
    """What is written once may be used twice."""
    text = "tasks: [{name: a, tool: list_guests, with: &w {status: running}}, {name: b, tool: list_guests, with: *w}]"

    assert [task.parameters for task in plan(text, known)] == [{"status": "running"}] * 2


# -- what is published -------------------------------------------------------------------------------------------------


def test_the_schema_is_in_step() -> None:
    """The published JSON Schema is the one that the code has."""
    assert json.loads((HERE / "workflow.schema.json").read_text()) == file_format.schema()


@pytest.mark.parametrize("file", [*EXAMPLES, *FILES.glob("*.yaml")], ids=lambda item: item.stem)
def test_the_shipped_files_are_correct(known: dict[str, Tool], file: Path) -> None:
    """Each file that comes with agentd has no fault, and fits the published schema."""
    others = {other.stem: None for other in FILES.glob("*.yaml")}
    found, report = check.read(file.read_bytes(), file.name, file.stem, check.KnownNames(known, others))

    assert report.faults == []
    assert found is not None
    jsonschema.Draft202012Validator(file_format.schema()).validate(yaml.safe_load(file.read_text()))


def test_the_schema_refuses(known: dict[str, Tool]) -> None:
    """An editor with the schema marks what agentd would refuse for its form."""
    validator = jsonschema.Draft202012Validator(file_format.schema())
    jsonschema.Draft202012Validator.check_schema(file_format.schema())
    good = yaml.safe_load(HEAD + textwrap.dedent(ALL))
    wrong: list[dict[str, Any]] = [
        {"tasks": []}, {"task": 1}, {"description": ""}, {"tasks": [{"name": "a b"}]},
        {"parameters": {"a": {"type": "x"}}}, {"tasks": [{"name": "a", "deadline": "soon"}]},
        {"tasks": [{"name": "a", "retries": -1}]},
    ]  # fmt: skip

    assert validator.is_valid(good)
    assert [validator.is_valid(good | text) for text in wrong] == [False] * len(wrong)
    assert all(faults(yaml.safe_dump(good | text), known) for text in wrong)
