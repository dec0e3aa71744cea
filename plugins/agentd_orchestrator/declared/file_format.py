"""The format of a workflow file, as types that also give its JSON Schema.

The keys are those that users of Ansible and GitHub Actions know: `with`, `when`, `after`, `retries`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from agentd import Tier, formats

SCHEMA_ID: Final = "urn:agentd:workflow"
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

Name = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}\Z")]
Word = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
QueuePart = Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-]{1,64}|[^{}]*\{\{.*\}\}[^{}]*)\Z")]
Duration = (
    Annotated[str, Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+\Z", description="such as 90s, 10m, 1h30m, 2d")]
    | Annotated[float, Meta(gt=0, le=30 * 86_400, description="seconds")]
)
Template = Annotated[str, Meta(pattern=r"\{\{", description="an expression, {{ … }}")]
AnyText = Annotated[
    str, Meta(description="an expression, {{ … }}", extra_json_schema={"type": "string", "pattern": r"\{\{"})
]
TypeName = Literal["string", "int", "number", "bool", "list", "map"]


class Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the file."""


class Parameter(Form, frozen=True, kw_only=True):
    """A parameter that a request may, or must, give."""

    type: Annotated[TypeName, Meta(description="what it is")]
    description: Annotated[str, Meta(description="what it is for")] = ""
    required: Annotated[bool, Meta(description="a request without it is refused")] = False
    default: Annotated[Any, Meta(description="what holds if it is not said")] = msgspec.UNSET
    enum: Annotated[list[str | int], Meta(min_length=1, description="the values that it may have")] | None = None
    minimum: Annotated[float, Meta(description="of a number, or of the items of a list")] | None = None
    maximum: Annotated[float, Meta(description="of a number, or of the items of a list")] | None = None
    pattern: Annotated[str, Meta(description="regular expression, with ^ and $ if it is the whole")] | None = None
    items: Annotated[TypeName, Meta(description="what the items of a list are")] | None = None


class Call(Form, frozen=True, kw_only=True):
    """The call of a tool: which, where, and with which parameters."""

    tool: Annotated[str, Meta(description="which tool; `agentd tools` lists them")] = ""
    service: Annotated[str, Meta(description="which service; by default the one that offers the tool")] = ""
    tier: Annotated[Tier, Meta(description="only for a tool that no installed plugin defines")] | None = None
    node: Annotated[QueuePart, Meta(description="only an agent on this node takes it")] = ""
    class_: Annotated[QueuePart, Meta(description="concurrency class, such as migration")] = field(
        default="", name="class"
    )
    with_: Annotated[dict[str, Any] | str, Meta(description="its parameters, or an expression that gives them")] = (
        field(default_factory=dict, name="with")
    )
    retries: Annotated[int, Meta(ge=0, le=100, description="further attempts after an error that may pass")] | None = (
        None
    )
    backoff: Annotated[Duration, Meta(description="pause before the first retry; it doubles, up to 5 minutes")] = 2.0
    deadline: Annotated[Duration, Meta(description="what one attempt may take")] = 300.0


class Undo(Call, frozen=True, kw_only=True):
    """Undoes a task if the workflow fails; must succeed also with nothing to undo."""

    always: Annotated[
        bool, Meta(description="also when all is done: what the task makes is for the workflow alone")
    ] = False


class Task(Call, frozen=True, kw_only=True):
    """One task: the call of a tool, or a child workflow."""

    name: Annotated[Name, Meta(description="what it is called; its result is {{ tasks.<name>.result }}")]
    workflow: Annotated[str, Meta(description="which workflow it starts and waits for, in the place of a tool")] = ""
    after: Annotated[list[Name], Meta(description="tasks that come before, beside those whose results it uses")] = []
    when: Annotated[str, Meta(description="expression without braces; if it is not true, the task is skipped")] = ""
    # Not Template: msgspec 0.22 reads past its memory, whenever Python collects garbage, where a type is a list or map
    # or a string with a pattern [seen: segmentation faults].  typed_yaml.py checks the string.
    each: Annotated[list[Any] | AnyText, Meta(description="one task an item: {{ item }}, {{ index }}")] | None = None
    window: Annotated[Annotated[int, Meta(ge=1, le=1000)] | Template, Meta(description="items at once")] = 10
    start_within: Annotated[Duration, Meta(description="how long it may wait for an agent")] | None = None
    heartbeat: Annotated[Duration, Meta(description="silence after which an attempt is given up")] | None = None
    optional: Annotated[bool, Meta(description="its failure is a warning")] = False
    approval: Annotated[str, Meta(description="what somebody other than the requester has to say yes to")] = ""
    undo: Undo | None = None
    redo: Annotated[dict[str, Name], Meta(description="{error code: earlier task to go back to}")] = {}


class Workflow(Form, frozen=True, kw_only=True):
    """A workflow: its parameters and its tasks."""

    name: Annotated[Name, Meta(description="the name of the file without .yaml, if it is said")] = ""
    description: Annotated[str, Meta(min_length=1, description="what it is for, in a sentence")]
    parameters: Annotated[dict[Word, Parameter], Meta(description="what a request may say, by name")] = {}
    tasks: Annotated[list[Task], Meta(min_length=1, max_length=1000, description="in any order")]


def seconds(value: str | float | None) -> float | None:
    """Return a Duration in seconds."""
    if not isinstance(value, str):
        return value
    return round(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)), 3)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a workflow file."""
    generated = formats.published(msgspec.json.schema(Workflow, ref_template="#/$defs/{name}"))
    definitions = dict(sorted(generated["$defs"].items()))
    root = definitions.pop("Workflow")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, "title": "agentd workflow"}
    return head | {key: value for key, value in root.items() if key != "title"} | {"$defs": definitions}
