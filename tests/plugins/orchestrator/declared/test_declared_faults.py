"""Wrong workflow files: every fault with its line and column."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd_orchestrator.declared import check
from plugins.files import ALL, HEAD, WORKFLOWS, faults

if TYPE_CHECKING:
    from agentd.tools.definition import Tool

TASK = "tasks: [{name: a, tool: list_guests}]\n"
A = HEAD + "tasks: [{name: a, tool: list_guests, "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # YAML and its traps.
        ("", ["1:1: the file is empty; it needs a description and tasks"]),
        ("a: [", ["1:5: this is not YAML: while parsing a flow node; expected the node content, but found '"]),
        ("- a", ["1:1: should be a map with name, description, parameters, tasks"]),
        (HEAD + TASK + "---\n", ["3:1: this is not YAML: expected a single document in the stream"]),
        (HEAD + HEAD + TASK, ["2:1: description: is there twice; it is in line 1 already"]),
        (A + "optional: no}]",
         ["2:48: tasks[0].optional: no is false for some and a text for others; write false, or put it in quotes"]),
        (A + "optional: on}]",
         ["2:48: tasks[0].optional: on is true for some and a text for others; write true, or put it in quotes"]),
        (A + "with: {limit: 010}}]",
         ["2:52: tasks[0].with.limit: 010 is octal for some and decimal for others; write it without 0, or put it in"]),
        (A + "timeout: 1:30}]",
         ["2:47: tasks[0].timeout: 1:30 is a number to base 60 for some; put it in quotes"]),
        (A + "retries: 1_0}]",
         ["2:47: tasks[0].retries: 1_0 is a number for some and a text for others; write it without _, or in quotes"]),
        (A + "with: {limit: 99999999999999999999}}]",
         ["2:52: tasks[0].with.limit: 99999999999999999999… is too large a number; put it in quotes if it is a text"]),
        (A + "timeout: .inf}]",
         ["2:47: tasks[0].timeout: .inf is not a finite number; put it in quotes if it is a text"]),
        (A + "with: {tag: {{ parameters.x }}}}]",
         ['2:50: tasks[0].with.tag: an expression must be in quotes: "{{ … }}"']),
        (HEAD + "tasks: !!python/object/apply:os.system ['true']",
         ["2:8: tasks: tags are not accepted: leave !!python/object/apply:os.system out"]),
        (HEAD + "x: &x {tool: list_guests}\ntasks: [{name: a, <<: *x}]",
         ["2:1: x: unknown key; there are description, name, parameters, tasks",
          "3:9: tasks.a: needs either tool or workflow: what it does",
          "3:19: tasks[0]: merge keys (<<) are not accepted; write the values out"]),
        # The form.
        (TASK, ["1:1: description is missing"]),
        (HEAD + "tasks: []", ["2:8: tasks: expected array of length >= 1"]),
        (HEAD + "tasks: {a: 1}", ["2:8: tasks: should be a list: lines that begin with -"]),
        (HEAD + "steps: []\n" + TASK, ["2:1: steps: unknown key; here it is called tasks"]),
        (HEAD + "task: []\n" + TASK, ["2:1: task: unknown key; did you mean tasks?"]),
        ("name: g\n" + HEAD + TASK,
         ["1:7: name: the file is called f, and this is g; leave it out, or rename the file"]),
        (A + "if: x, needs: [], deadline: 3, loop: [], args: {}}]",
         ["2:38: tasks.a.if: unknown key; here it is called when",
              "2:45: tasks.a.needs: unknown key; here it is called after",
          "2:56: tasks.a.deadline: unknown key; here it is called timeout",
          "2:69: tasks.a.loop: unknown key; here it is called for_each",
              "2:79: tasks.a.args: unknown key; here it is called with"]),
        (HEAD + "tasks: [{name: 1a, tool: list_guests, timeout: soon, retries: -1, after: [a b, 3]}]",
         ["2:16: tasks.1a.name: '1a' cannot be that; a letter, then up to 63 of A-Z a-z 0-9 _ and -",
          "2:48: tasks.1a.timeout: 'soon' cannot be that; a number of seconds, or such as 90s, 10m, 1h30m, 2d; at mos",
          "2:63: tasks.1a.retries: expected int >= 0",
          "2:75: tasks.1a.after: 'a b' cannot be that"]),
        (HEAD + "tasks: [{name: undo-a, tool: list_guests}]",
         ["2:16: tasks.undo-a.name: names with undo- are those of what undoes a task"]),
        # Parameters.
        (HEAD + "parameters: {A: {type: text}}\n" + TASK,
         ["2:14: parameters.A: 'A' cannot be a name; a parameter's name is a small letter, then up to 63 of a-z 0-9 an",
          "2:24: parameters.A.type: invalid enum value 'text'"]),
        (HEAD + "parameters: {a: {type: int, default: x}, b: {type: int, minimum: 5, default: 3}}\n" + TASK,
         ["2:38: parameters.a.default: does not fit: Expected int, got str",
          "2:78: parameters.b.default: does not fit: Expected int >= 5"]),
        (HEAD + "parameters: {a: {type: bool, required: true, default: true}, b: {type: string, minimum: 1}}\n" + TASK,
         ["2:55: parameters.a.default: what is required has no default; leave one of the two out",
          "2:89: parameters.b.minimum: only an int or a number has one, or a list whose items are such"]),
        (HEAD + "parameters: {a: {type: string, pattern: '('}, b: {type: int, enum: [a]}, c: {type: int, items: int}}\n"
         + TASK,
         ["2:41: parameters.a.pattern: this is no regular expression: missing ), unterminated subpattern at position 0",
          "2:68: parameters.b.enum: these are not all of type int",
          "2:96: parameters.c.items: only a list has items, and this is of type int"]),
        # Tools.
        (HEAD + "tasks: [{name: a, tool: list_guest}]",
         [("2:25: tasks.a.tool: no installed plugin defines a tool 'list_guest'; did you mean list_guests? (if an "
          "external agent offers it, give service and tier)")]),
        (HEAD + "tasks: [{name: a, tool: qqq, service: mcp-proxmox, tier: read}]",
         ["2:25: tasks.a.tool: no installed plugin defines a tool 'qqq'; `agentd tools` lists them"]),
        (A + "service: specialist, tier: operate}]",
         ["2:47: tasks.a.service: list_guests is a tool of mcp-proxmox, not of specialist; leave service out",
          "2:65: tasks.a.tier: list_guests is of tier read, not operate; leave tier out"]),
        (HEAD + "tasks: [{name: a}, {name: b, tool: list_guests, workflow: other}]",
         ["2:9: tasks.a: needs either tool or workflow: what it does",
              "2:20: tasks.b: needs either tool or workflow: what it does"]),
        (HEAD + "tasks: [{name: a, workflow: othr, node: x}]",
         ["2:29: tasks.a.workflow: there is no workflow 'othr'; did you mean other?",
          "2:41: tasks.a.node: belongs to a tool, and this starts a workflow"]),
        (HEAD + "tasks: [{name: a, workflow: vm_deployment, with: {ram: 1, memory: much}}]",
         ["2:50: tasks.a.with: vm_deployment needs name",
          "2:51: tasks.a.with.ram: vm_deployment takes no 'ram'; there are bridge, ciuser, ",
          "2:67: tasks.a.with.memory: expected int or nothing, got str"]),
        (HEAD + "tasks: [{name: a, tool: create_vm, with: {vmid: 99, node: pve1, tags: [ok, Not], disc: 8}}]",
         ["2:42: tasks.a.with: create_vm needs name", "2:49: tasks.a.with.vmid: expected int >= 100; number of the gue",
              "2:82: tasks.a.with.disc: create_vm takes no 'disc'; did you mean disk?"]),
        (A + "with: {$template: x, '{{ item }}': 1}}]",
         ["2:45: tasks.a.with.$template: keys that begin with $ are agentd's own",
              "2:45: tasks.a.with.$template: list_guests takes no",
          "2:59: tasks.a.with.{{ item }}: a key cannot be an expression",
              "2:59: tasks.a.with.{{ item }}: list_guests takes no"]),
        # The graph.
        (HEAD + "tasks: [{name: a, tool: list_guests}, {name: a, tool: list_nodes}]",
         ["2:46: tasks.a.name: there is a task of this name already, in line 2"]),
        (A + "after: [b, a, lost]}, {name: b, tool: list_guests, after: [a]}]",
         ["2:16: tasks.a: these wait for one another: a → b → a",
          "2:49: tasks.a.after: a task cannot be after itself",
              "2:52: tasks.a.after: there is no task 'lost'; there are a, b"]),
        (A + "with: {tag: '{{ tasks.b.result.x }}'}}, {name: b, tool: list_guests, when: tasks.a.result}]",
         ["2:16: tasks.a: these wait for one another: a → b → a"]),
        (A + "on_error: {vmid_taken: b}}, {name: b, tool: list_guests}]",
         ["2:48: tasks.a.on_error: goes back to 'b', which is not before it; add it under after"]),
        (A + "for_each: [1]}, {name: a-0, tool: list_guests}]",
         ["2:16: tasks.a.name: its items would be called as a-0 is"]),
        # Keys with another name elsewhere.
        (A + "each: [1], window: 2, redo: {x: b}}]",
         ["2:38: tasks.a.each: unknown key; here it is called for_each",
          "2:49: tasks.a.window: unknown key; here it is called max_parallel",
          "2:60: tasks.a.redo: unknown key; here it is called on_error"]),
        (A + "deadline: 5m, heartbeat: 9}]",
         ["2:38: tasks.a.deadline: unknown key; here it is called timeout",
          "2:52: tasks.a.heartbeat: unknown key; here it is called heartbeat_timeout"]),
        (A + "undo: {with: {}}}]",
         ["2:44: tasks.a.undo: tool is missing: what undoes the task"]),
        # Expressions.
        (HEAD + 'parameters: {n: {type: int}}\ntasks:\n  - name: a\n'
         '    tool: list_guests\n    with:\n      tag: "{{ parameters.m }}"\n'
         "      name: |\n        x\n        {{ parameters.n | uppeer }}\n    when: tasks.b.result",
         ["7:27: tasks.a.with.tag: there is no parameter 'm'; there are n",
          "10:27: tasks.a.with.name: expression 'x {{ parameters.n | uppeer }}': there is no filter 'uppeer'; di",
          "11:17: tasks.a.when: there is no task 'b'; there are a"]),
        (A + "with: {tag: '{{ item }}', name: '{{ ''''.__class__ }}', limit: '{{ x'}}]",
         ["2:54: tasks.a.with.tag: 'item' is known only in with and undo, of a task that has for_each",
          "2:79: tasks.a.with.name: expression \"{{ ''.__class__ }}\": '__class__' is not accessible",
          "2:101: tasks.a.with.limit: expression '{{ x': unexpected end of template, expected }}"]),
        (A + "node: '{{ tasks.a.result }}', when: '{{ 1 }}', for_each: '{% for x in y %}{{ x }}'}]",
         ["2:48: tasks.a.node: 'tasks' is not known here, before anything has run; only parameters is",
          "2:75: tasks.a.when: expression '{{ 1 }}': a condition is written without braces",
          "2:96: tasks.a.for_each: expression '{% for x in y %}{{ x }}': only expressions in {{ … }} are accepted"]),
        (A + "with: {tag: '{{ tasks.a.result }}', name: '{{ 2 ** 99999 }}'}}]",
         ["2:50: tasks.a.with.tag: a task cannot use its own result",
          "2:86: tasks.a.with.name: expression '{{ 2 ** 99999 }}': there is no power in expressions"]),
    ],
)  # fmt: skip
def test_faults(known: dict[str, Tool], text: str, expected: list[str]) -> None:
    """Every fault is reported, in the order of the file: where it is, which field, what is wrong, what to do."""
    found = faults(text, known)

    assert len(found) == len(expected), found
    pairs = zip(found, expected, strict=True)
    assert [line for line, wanted in pairs if not line.startswith(f"f.yaml:{wanted}")] == []


def test_sizes(known: dict[str, Tool]) -> None:
    """A bomb of aliases, a tree too deep and a file too large cost nothing and say so."""
    level = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb = level + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    begun = time.process_time()

    assert "this is more than 20000 values: are there aliases (*) of aliases?" in str(faults(bomb, known))
    assert "this is nested more than 32 deep: are there aliases (*) of aliases?" in str(faults("a: &a [*a]", known))
    assert faults("[" * 60_000, known) == ["f.yaml:1:1: it is nested too deeply; at most 32 levels are read"]
    assert faults("#" * 200_000, known) == ["f.yaml:1:1: the file has 200000 bytes; at most 131072 are read"]
    assert (
        check.read(b"a: \xff", "f.yaml", "f", check.KnownNames({}, {}))[1]
        .faults[0]
        .text.startswith("this is not UTF-8")
    )
    assert time.process_time() - begun < 10


# -- whatever is written -----------------------------------------------------------------------------------------------

LINES = HEAD.splitlines() + ALL.strip().splitlines()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_has_faults(known: dict[str, Tool], data: st.DataObject) -> None:
    """A file with lines lost, doubled, swapped or overwritten is either good or has faults; nothing else happens."""
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        junk = st.sampled_from(
            ["  - name: stop", "    with: [1]", "a: b", "    tool: 3", "    after: find", '    x: "{{"', ""]
        )
        change = data.draw(st.one_of(st.sampled_from(["lose", "double", "indent"]), st.text(max_size=20), junk))
        lines[at : at + 1] = {
            "lose": [], "double": [lines[at]] * 2, "indent": [f"  {lines[at]}"]
        }.get(change, [change])  # fmt: skip
    found, report = check.read("\n".join(lines).encode(), "f.yaml", "f", check.KnownNames(known, WORKFLOWS))

    assert (found is None) is bool(report.faults)
    assert all(fault.line >= 1 and fault.column >= 1 and fault.text for fault in report.faults)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Reading any content ends with faults, not with an exception."""
    found, report = check.read(data, "f.yaml", "f", check.KnownNames({}, {}))

    assert found is None
    assert report.faults
