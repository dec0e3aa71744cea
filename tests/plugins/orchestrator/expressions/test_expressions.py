"""Expressions of declared workflows: what they give, what they refuse, and that none of them can do harm."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import BadExpression, Rejected, from_code
from agentd_orchestrator.expressions import evaluate as expressions_evaluate
from agentd_orchestrator.expressions.evaluate import (
    evaluate,
    is_true,
    reference,
    referenced_tasks,
    tasks_in_condition,
    uses,
)

GUESTS = [
    {"vmid": 101, "name": "web1", "status": "running", "tags": ["web"]},
    {"vmid": 102, "name": "db1", "status": "stopped", "tags": []},
    {"vmid": 100, "name": "web2", "status": "running", "tags": ["web", "old"]},
]
NAMES: dict[str, Any] = {
    "parameters": {
        "name": "web", "count": 3, "node": None, "on": True, "numbers": [3, 1, 2, 3], "large": "x" * 50_000,
        "text": '{"a": [1, 2.5]}', "evil": "{{ parameters.count }}{% raw %}",
    },
    "tasks": {
        "find": {"result": {"guests": GUESTS, "next": ""}, "status": "completed", "error": "", "warnings": []},
        "big": {"result": {"$stored": "abc", "size": 99_999}, "status": "completed"},
        "a-b": {"result": 7, "status": "failed"},
    },
    "item": {"vmid": 101},
    "index": 0,
    "workflow_id": "w1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("no braces { }", "no braces { }"),
        ("{{ parameters.count }}", 3),
        ("{{ parameters['count'] }}", 3),
        ("{{ parameters.on }}", True),
        ("{{ parameters.node }}", None),
        ("{{ parameters.numbers }}", [3, 1, 2, 3]),
        ("{{ tasks.find.result }}", {"guests": GUESTS, "next": ""}),
        ("{{ tasks['a-b'].result + 1 }}", 8),
        ("{{ parameters.name }}-{{ parameters.count }}", "web-3"),
        (" {{ parameters.count }}", " 3"),
        ("on: {{ parameters.on }} {{ parameters.numbers }}\n", "on: true [3, 1, 2, 3]\n"),
        ("{{ 'a' ~ parameters.count ~ 'b' }}", "a3b"),
        ("{{ parameters.node | default('pve1') }}", "pve1"),
        ("{{ parameters.there.is.none | default(4) }}", 4),
        ("{{ 'many' if parameters.count > 2 else 'few' }}", "many"),
        ("{{ tasks.find.result.guests | selectattr('status', 'eq', 'running') | map(attribute='vmid') }}", [101, 100]),
        ("{{ tasks.find.result.guests | rejectattr('tags', 'contains', 'web') | map(attribute='name') }}", ["db1"]),
        ("{{ tasks.find.result.guests | sort(attribute='vmid') | first }}", GUESTS[2]),
        ("{{ tasks.find.result.guests | map(attribute='name') | join(', ') }}", "web1, db1, web2"),
        ("{{ parameters.numbers | unique | sort(reverse=true) }}", [3, 2, 1]),
        ("{{ parameters.numbers | select('gt', 1) | list | length }}", 3),
        ("{{ [parameters.numbers | min, parameters.numbers | max, parameters.numbers | sum] }}", [1, 3, 9]),
        ("{{ parameters.text | from_json }}", {"a": [1, 2.5]}),
        ("{{ {'b': 1, 'a': parameters.numbers[1:]} | tojson }}", '{"a": [1, 2, 3], "b": 1}'),
        ("{{ {'a': 1} | combine({'b': 2}) }}", {"a": 1, "b": 2}),
        ("{{ 'a,b' | split(',') | map('upper') }}", ["A", "B"]),
        ("{{ '8' | int * 2 + 7 // 2 - 1 }}", 18),
        ("{{ (7 / 2) | round }}", 4),
        ("{{ 'x' | int(5) }}", 5),
        ("{{ 'Web One' | lower | replace(' ', '-') }}", "web-one"),
        ("{{ 'no' | bool }}", False),
        ("{{ workflow_id }}.{{ index }}.{{ item.vmid }}", "w1.0.101"),
        ("{{ '{{' }}", "{{"),
        ("{{ parameters.evil }}", "{{ parameters.count }}{% raw %}"),
        ("<{{ parameters.evil }}>", "<{{ parameters.count }}{% raw %}>"),
    ],
)
def test_the_value_of_a_template(template: str, value: Any) -> None:
    """A lone expression gives its value as it is, everything else a text; what a value holds is never evaluated."""
    found = evaluate(template, NAMES)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("condition", "value"),
    [
        ("parameters.count > 2 and parameters.name == 'web'", True),
        ("tasks.find.result.guests | selectattr('status', 'eq', 'lost')", False),
        ("parameters.node is none", True),
        ("parameters.nothing is defined", False),
        ("'web' in tasks.find.result.guests[0].tags", True),
        ("not parameters.on", False),
        ("tasks['a-b'].status == 'failed'", True),
    ],
)
def test_conditions(condition: str, value: bool) -> None:  # noqa: FBT001 - the answer expected
    """A condition is an expression without braces; empty lists and nothing are false."""
    assert is_true(condition, NAMES) is value


@pytest.mark.parametrize(
    ("template", "problem", "word"),
    [
        # The way to Python's internals.
        ("{{ ''.__class__ }}", "'__class__' is not accessible: only items of maps and lists are", "__class__"),
        ("{{ parameters['__class__'] }}", "'__class__' is not accessible: only items", "__class__"),
        ("{{ [] | map(attribute='__class__') | first }}", "first: the list is empty", None),
        ("{{ [1] | map(attribute='real') }}", "'real' is not in 1", None),
        ("{{ parameters.name.upper }}", "a text has no 'upper'", None),
        ("{{ parameters.items }}", "there is no 'items'; there are count, evil, large, name, ", None),
        ("{{ parameters.name.upper() }}", "calls are not accepted; use a filter: {{ value | filter }}", "upper("),
        ("{{ ''['__cl' ~ 'ass__'] }}", "a text has no '__class__'", None),
        ("{{ cycler }}", "there is no 'cycler'; there are index, item, parameters, tasks, workflow_id", "cycler"),
        ("{{ self }}", "there is no 'self'", "self"),
        ("{{ ''|attr('x') }}", "there is no filter 'attr'", "attr"),
        # What burns.
        ("{% for x in y %}{% endfor %}", "only expressions in {{ … }} are accepted, no statements ({% … %})", "{%"),
        ("{% set x = 1 %}", "only expressions in {{ … }} are accepted", "{%"),
        ("{% include 'x' %}", "only expressions in {{ … }} are accepted", "{%"),
        ("{{ range(10**9) }}", "calls are not accepted", "range("),
        ("{{ 10**10**10 }}", "there is no power in expressions", "**"),
        ("{{ 'x' * 10000000000 }}", "'*' takes numbers, not a text", None),
        ("{{ [1] * 10000000000 }}", "'*' takes numbers, not a list", None),
        ("{{ '%1000000000d' % 1 }}", "'%' takes numbers, not a text", None),
        ("{{ 4611686018427387904 * 2 }}", "it makes a number that is too large", None),
        ("{{ 1.5e308 * 10 }}", "it makes a number that is too large", None),
        ("{{ 'nan' | float }}", "it makes a number that is too large, or none", None),
        ("{{ 5 | round(-1000000000) }}", "round keeps 0 to 15 digits", None),
        ("{{ parameters.large ~ parameters.large ~ parameters.large }}", "it makes a value of 150000 characters", None),
        ("{{ parameters.large }}{{ parameters.large }}{{ parameters.large }}", "a value of 150000 characters", None),
        ("{{ parameters.large + parameters.large + parameters.large }}", "it makes a value of 150000", None),
        ("{{ parameters.large | replace('x', 'yyyyyyyy') }}", "it makes a value of 400000 characters", None),
        ("{{ parameters.large | list | join(parameters.large) }}", "it makes a value of 400000 characters", None),
        ("{{ parameters.large | split('x') }}", "it makes a value of 400008 characters", None),
        ("{{ [parameters.large, parameters.large, parameters.large] }}", "it makes too large a value", None),
        ("{{ 'x' | center(100000000) }}", "there is no filter 'center'", "center"),
        ("{{ 'x' | indent(100000000) }}", "there is no filter 'indent'", "indent"),
        ("{{ " + "(" * 1500 + "1" + ")" * 1500 + " }}", "it is nested too deeply", None),
        ("{{ " + "-" * 200 + "1 }}", "it is nested too deeply", None),
        ("{{ 1" + " + 1" * 300 + " }}", "it is nested too deeply", None),
        ("{{ [" + "1, " * 500 + "] }}", "it has more than 400 parts", None),
        ("x" * 5000 + "{{ 1 }}", "it is 5007 characters long; at most 4000 are taken", None),
        # What is wrong.
        ("{{ parameters.nothere }}", "there is no 'nothere'; there are count, evil, ", None),
        ("{{ parameters.numbers[7] }}", "there is no item 7: there are 4", None),
        ("{{ parameterz.name }}", "there is no 'parameterz'; did you mean parameters?", "parameterz"),
        ("{{ parameters.name | uppeer }}", "there is no filter 'uppeer'; did you mean upper?", "uppeer"),
        ("{{ 1 is equal }}", "there is no test 'equal'; did you mean equalto?", "equal"),
        ("{{ tasks }}", "tasks are named: tasks.<name>.result, or tasks['<name>'].result", "tasks"),
        ("{{ tasks[parameters.name].result }}", "tasks are named: ", "tasks"),
        ("{{ tasks.find.results }}", "a task has result, status, error, code, warnings, and no 'results'", "results"),
        ("{{ tasks.big.result.guests }}", "'guests' cannot be read here: the result is above 16 KiB", None),
        ("{{ parameters.name }", "unexpected '}'", None),
        ("{{ parameters.name", "unexpected end of template, expected }}", None),
        ("web-{{ parameters.node }}", "nothing (null) cannot be part of a text; give a default: | default(", None),
        ("{{ 1 / 0 }}", "it divides by zero", None),
        ("{{ parameters.count > 'a' }}", "it cannot be evaluated: '>' not supported between", None),
        ("{{ parameters.name | int }}", "'web' is not a whole number", None),
        ("{{ [1, 'a'] | sort }}", "sort takes a list of numbers or a list of texts", None),
        ("{{ [*parameters.numbers] }}", "unexpected '*'", None),
        ("{{ {1: 2} }}", "the keys of a map are texts, not a number", None),
    ],
)
def test_refused(template: str, problem: str, word: str | None) -> None:
    """Nothing reaches internals, nothing runs for long or grows, and the error shows the expression and the fault."""
    begun = time.process_time()
    with pytest.raises(BadExpression) as caught:
        evaluate(template, NAMES)

    assert time.process_time() - begun < 2
    text = str(caught.value)
    shown = " ".join(template.split())
    assert text.startswith("expression " + (repr(shown) if len(shown) <= 160 else repr(shown[:159])[:-1])), text
    assert problem in text
    assert len(text) < 700
    assert word is None or (caught.value.word == word and word in template)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("{{ parameters.on }}", "a condition is written without braces"),
        ("parameters.name", "it gives the text 'web', neither true nor false: compare it, or use | bool"),
        ("parameters.on }} and more", "a condition is one expression"),
        ("", "xpected an expression, got"),
        ("parameters.count >", "unexpected }}"),
    ],
)
def test_conditions_that_are_none(condition: str, problem: str) -> None:
    """A text is no condition: "false" would be true."""
    with pytest.raises(BadExpression) as caught:
        is_true(condition, NAMES)

    assert problem in str(caught.value)


def test_faults_that_need_no_values() -> None:
    """Syntax and reach are found when the file is checked, in the line of the template that has them."""
    expressions_evaluate.check("{{ parameters.whatever }}")
    expressions_evaluate.check_condition("item.a > 1")
    with pytest.raises(BadExpression) as caught:
        expressions_evaluate.check("one\ntwo {{ parameters.a | nope }}\n")
    with pytest.raises(BadExpression):
        expressions_evaluate.check_condition("item.a >")

    assert (caught.value.line, caught.value.word) == (2, "nope")


def test_the_references_of_a_template() -> None:
    """Tasks and parameters can be read off a template, because neither can be computed."""
    template = "{{ tasks.a.result.x }} {{ tasks['b-c'].status }} {{ parameters.p ~ item }} {{ parameters['q'] }}"

    assert referenced_tasks(template) == {"a", "b-c"}
    assert uses(template).parameters == {"p", "q"}
    assert uses(template).names == {"tasks", "parameters", "item"}
    assert not uses(template).early
    assert uses("{{ parameters.a }}").early
    assert uses("{{ parameters }}").parameters == {"*"}
    assert tasks_in_condition("tasks.a.status == 'completed' or tasks.b.result") == {"a", "b"}
    assert referenced_tasks("tasks.a.result") == set()


def test_a_result_as_it_is() -> None:
    """A result, or one field of it, is distinguished from what has to be evaluated: it may be large."""
    assert reference("{{ tasks.find.result }}") == ("find", "")
    assert reference("{{tasks.find.result.guests}}") == ("find", "guests")
    assert reference("{{ tasks.find.result.guests[0] }}") is None
    assert reference("x {{ tasks.find.result }}") is None
    assert reference("{{ tasks.find.status }}") is None


def test_markers() -> None:
    """A key by which a plan marks what is to be filled in is found at any depth."""
    assert expressions_evaluate.marker_key({"a": [1, {"$template": "{{ 1 }}"}]}) == "$template"
    assert expressions_evaluate.marker_key({"a": [1, {"b": "$template"}], "price": "5$"}) == ""


def test_the_error_has_a_code() -> None:
    """Other agents and programs know it by its code, and it is a refusal."""
    assert isinstance(from_code("expression", "x"), BadExpression)
    assert issubclass(BadExpression, Rejected)


def test_jinja_is_loaded_with_the_first_expression() -> None:
    """jinja2 is not loaded by the module itself."""
    code = "import sys, agentd_orchestrator.expressions.evaluate; print('jinja2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


WORDS = st.sampled_from(
    [
        "parameters",
        "tasks",
        "item",
        ".",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "|",
        "~",
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        ",",
        ":",
        "'a'",
        "'x'",
        "1",
        "0",
        "2.5",
        "10000000000",
        "numbers",
        "large",
        "name",
        "find",
        "result",
        "guests",
        "if",
        "else",
        "and",
        "or",
        "not",
        "is",
        "in",
        "==",
        "<",
        "default",
        "map",
        "select",
        "sort",
        "join",
        "replace",
        "int",
        "float",
        "round",
        "attribute=",
        "__class__",
        "range",
        "lower",
        "defined",
        "none",
        "for",
        "endfor",
        "set",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, max_size=25).map(" ".join), st.booleans())
def test_any_text_is_a_value_or_an_error(text: str, lone: bool) -> None:  # noqa: FBT001 - drawn
    """Any text either gives a JSON value or a BadExpression, soon, and the same again."""
    template = f"{{{{ {text} }}}}" if lone else text
    begun = time.process_time()

    assert _outcome(template) == _outcome(template)
    assert time.process_time() - begun < 2


def _outcome(template: str) -> tuple[str, Any]:
    try:
        return "value", evaluate(template, NAMES)
    except BadExpression as error:
        return "error", str(error)
