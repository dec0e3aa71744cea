"""The format of a workflow file, as types that also give its JSON Schema.

The keys are those that users of Ansible, GitHub Actions and Temporal know: `with`, `when`, `for_each`, `max_parallel`,
`timeout`, `heartbeat_timeout`, `on_error`, `retries`.
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


class FileSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of the file."""


class Parameter(FileSection, frozen=True, kw_only=True):
    """A parameter that a request may, or must, give."""

    type: Annotated[TypeName, Meta(description="type of the value")]
    description: Annotated[str, Meta(description="purpose of the parameter")] = ""
    required: Annotated[bool, Meta(description="a request without it is refused")] = False
    default: Annotated[Any, Meta(description="value if the request gives none")] = msgspec.UNSET
    enum: Annotated[list[str | int], Meta(min_length=1, description="allowed values")] | None = None
    minimum: Annotated[float, Meta(description="of a number, or of the items of a list")] | None = None
    maximum: Annotated[float, Meta(description="of a number, or of the items of a list")] | None = None
    pattern: (
        Annotated[str, Meta(description="regular expression; with ^ and $ it must match the whole value")] | None
    ) = None
    items: Annotated[TypeName, Meta(description="type of the items of a list")] | None = None


class Call(FileSection, frozen=True, kw_only=True):
    """The call of a tool: which, where, and with which parameters."""

    tool: Annotated[str, Meta(description="tool to call; `agentd tools` lists them")] = ""
    service: Annotated[str, Meta(description="service that runs it; by default the one that offers the tool")] = ""
    tier: Annotated[Tier, Meta(description="only for a tool that no installed plugin defines")] | None = None
    node: Annotated[QueuePart, Meta(description="run it only on an agent of this node")] = ""
    class_: Annotated[
        QueuePart, Meta(description="concurrency class, such as migration; a queue setting limits it")
    ] = field(default="", name="class")
    with_: Annotated[dict[str, Any] | str, Meta(description="parameters, or an expression that gives them")] = field(
        default_factory=dict, name="with"
    )
    retries: Annotated[int, Meta(ge=0, le=100, description="number of retries after a temporary error")] | None = None
    backoff: Annotated[Duration, Meta(description="pause before the first retry; it doubles, up to 5 minutes")] = 2.0
    timeout: Annotated[Duration, Meta(description="maximum time of one attempt")] = 300.0


class Undo(Call, frozen=True, kw_only=True):
    """Undoes a task if the workflow fails; must succeed also with nothing to undo."""

    always: Annotated[
        bool, Meta(description="run it also if the workflow succeeds, for what is needed only during the workflow")
    ] = False


class Task(Call, frozen=True, kw_only=True):
    """One task: the call of a tool, or a child workflow."""

    name: Annotated[Name, Meta(description="name of the task; its result is {{ tasks.<name>.result }}")]
    workflow: Annotated[str, Meta(description="workflow to start and wait for, instead of a tool")] = ""
    after: Annotated[
        list[Name], Meta(description="tasks that must end first, besides those whose results it uses")
    ] = []
    when: Annotated[str, Meta(description="expression without braces; the task is skipped unless it is true")] = ""
    # Not Template: msgspec 0.22 reads past its memory, whenever Python collects garbage, where a type is a list or map
    # or a string with a pattern [seen: segmentation faults].  typed_yaml.py checks the string.
    for_each: (
        Annotated[list[Any] | AnyText, Meta(description="run once per item of this list: {{ item }}, {{ index }}")]
        | None
    ) = None
    max_parallel: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | Template, Meta(description="maximum of items at once")
    ] = 10
    start_within: Annotated[Duration, Meta(description="maximum time until an agent starts it")] | None = None
    heartbeat_timeout: (
        Annotated[Duration, Meta(description="end an attempt whose agent is silent this long")] | None
    ) = None
    optional: Annotated[bool, Meta(description="a failure is only a warning; the workflow continues")] = False
    approval: Annotated[str, Meta(description="text that another principal than the requester must approve first")] = ""
    undo: Undo | None = None
    on_error: Annotated[
        dict[str, Name],
        Meta(description="{error code: earlier task}: repeat the workflow from that task, up to 5 times"),
    ] = {}


class Workflow(FileSection, frozen=True, kw_only=True):
    """A workflow: its parameters and its tasks."""

    name: Annotated[Name, Meta(description="optional; must be the name of the file without .yaml")] = ""
    description: Annotated[str, Meta(min_length=1, description="purpose, in one sentence")]
    parameters: Annotated[dict[Word, Parameter], Meta(description="parameters of a request, by name")] = {}
    tasks: Annotated[list[Task], Meta(min_length=1, max_length=1000, description="in any order")]


def seconds(value: str | float | None) -> float | None:
    """Return a Duration in seconds."""
    if not isinstance(value, str):
        return value
    return round(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)), 3)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a workflow file."""
    generated = formats.portable_schema(msgspec.json.schema(Workflow, ref_template="#/$defs/{name}"))
    definitions = dict(sorted(generated["$defs"].items()))
    root = definitions.pop("Workflow")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, "title": "agentd workflow"}
    return head | {key: value for key, value in root.items() if key != "title"} | {"$defs": definitions}
