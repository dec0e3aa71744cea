"""The OpenAPI document of the API, generated from the Structs of its requests and responses."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from agentd.bus.delivery.dead_letters import Letter
from agentd.client.move_plans import MODES, Planning
from agentd.client.views import (
    AlertSummary,
    GuestSummary,
    PluginState,
    Reason,
    TaskView,
    ToolSummary,
    WorkflowDetail,
    WorkflowSummary,
    WorkflowType,
)
from agentd.web.api import actions
from agentd.web.dashboard.rebalance import FLAGS
from agentd.web.overview import Overview
from agentd.web.responses import Problem
from agentd.wire.announcements import (
    AgentRegistration,
    Alert,
    ControlReply,
    MetricReport,
    NetworkReply,
    ServiceRegistration,
)
from agentd.wire.messages import SignalReply
from agentd.wire.records import AuditRecord


class Readiness(msgspec.Struct, frozen=True):
    """Whether this daemon is ready, and if not, why.

    `frozen` describes a freeze of the network.  `unreadable` lists stored records that this daemon has skipped.
    """

    ready: bool
    reasons: list[Reason]
    frozen: str = ""
    unreadable: list[str] = []


Parameter = tuple[str, dict[str, Any]]
_PAGE: Final[tuple[Parameter, ...]] = (
    ("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
    ("offset", {"type": "integer", "minimum": 0, "default": 0}),
)
_TEXT: Final = {"type": "string", "default": ""}
_FILTER: Final[tuple[Parameter, ...]] = (("q", _TEXT), ("sort", _TEXT))
_READS: Final[dict[str, tuple[str, Any, tuple[Parameter, ...]]]] = {
    "/": ("The whole picture; a page, JSON or text by Accept or ?format=", Overview, ()),
    "/readyz": ("200 when ready, 503 with reasons when not", Readiness, ()),
    "/api/agents": ("Agents seen recently", list[AgentRegistration], _PAGE),
    "/api/services": ("Services and their tools", list[ServiceRegistration], _PAGE),
    "/api/guests": ("Guests of the cluster", list[GuestSummary], (*_FILTER, *_PAGE)),
    "/api/workflows": ("Workflows, those not over first", list[WorkflowSummary], (("status", _TEXT), *_PAGE)),
    "/api/workflows/{id}": ("One workflow with tasks and history", WorkflowDetail, ()),
    "/api/workflow-types": ("Workflows that can be submitted, with their parameters", list[WorkflowType], _PAGE),
    "/api/tasks": ("Tasks that are assigned or running", list[TaskView], _PAGE),
    "/api/tools": ("Tools that are installed or offered", list[ToolSummary], (*_FILTER, *_PAGE)),
    "/api/metrics": ("The latest report of each agent", list[MetricReport], _PAGE),
    "/api/alerts": ("Alerts that are firing", list[Alert], _PAGE),
    "/api/alert-history": ("Alerts that were resolved in the last day", list[AlertSummary], (*_FILTER, *_PAGE)),
    "/api/rebalance": (
        "A plan of migrations, or with 202 its progress: ask again; nothing is moved",
        Planning,
        (
            ("mode", {"type": "string", "enum": list(MODES), "default": "rebalance"}),
            ("nodes", {"type": "array", "items": {"type": "string"}, "default": []}),
            *((flag, {"enum": ["0", "1"], "default": "0"}) for flag in FLAGS),
        ),
    ),
    "/api/audit": ("The latest lines of the audit, the newest first", list[AuditRecord], (*_FILTER, *_PAGE)),
    "/api/dead": ("Messages that were given up and wait for a person", list[Letter], _PAGE),
    "/api/plugins": ("Plugins of this daemon", list[PluginState], _PAGE),
}


class Write(NamedTuple):
    """An operation that changes something."""

    summary: str
    body: Any
    answer: Any
    actions: tuple[str, ...] = ()
    code: str = "200"


_ALSO: Final = {
    "/": ("503", "The same, with what cannot be read"),
    "/readyz": ("503", "Not ready"),
    "/api/rebalance": ("202", "The plan is being computed"),
}
"""Statuses besides 200 with the same content."""
_WRITES: Final[dict[str, Write]] = {
    actions.SUBMIT: Write(
        "Submit a workflow as the token's principal", actions.Submission, actions.Submitted, (), "202"
    ),
    actions.PATH: Write(
        "Approve, reject, cancel, pause, resume or retry as the token's principal",
        actions.ActionDetails,
        SignalReply | actions.Submitted,
        (*actions.ACTIONS, actions.RETRY),
    ),
    actions.AGENT: Write(
        "Drain, restart or reload an agent; needs tier operate", actions.NoDetails, ControlReply, actions.AGENT_ACTIONS
    ),
    "/api/freeze": Write(
        "Freeze: no agent changes anything; needs tier operate and a reason", actions.FreezeDetails, NetworkReply
    ),
    "/api/thaw": Write(
        "End a freeze; for the one who froze, or with tier destroy", actions.FreezeDetails, NetworkReply
    ),
}
_REFUSALS: Final = {"401": "No principal is proven", "403": "Not allowed", "409": "Refused, with the reason"}


def describe(version: str) -> dict[str, Any]:
    """Return the OpenAPI document of this server."""
    kinds = [Problem, *(kind for _, kind, _ in _READS.values())]
    kinds += [kind for write in _WRITES.values() for kind in (write.body, *_parts(write.answer))]
    (_, *schemas), components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    rest = iter(schemas)
    paths: dict[str, Any] = {
        path: {"get": _operation(path, summary, next(rest), query)} for path, (summary, _, query) in _READS.items()
    }
    for path, write in _WRITES.items():
        body, answers = next(rest), [next(rest) for _ in _parts(write.answer)]
        answer = answers[0] if len(answers) == 1 else {"anyOf": answers}
        paths.setdefault(path, {})["post"] = _post(path, write, body, answer)
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentd", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _parts(kind: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type, or a union of types
    """Return the types of a union: msgspec describes only unions of tagged Structs."""
    return getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__struct_fields__") else (kind,)


def _operation(path: str, summary: str, schema: dict[str, Any], query: tuple[Parameter, ...]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [{"name": name, "in": "query", "schema": kind} for name, kind in query]
    if "{id}" in path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    content = {"application/json": {"schema": schema}}
    code, text = _ALSO.get(path, ("200", "OK"))
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": content},
            code: {"description": text, "content": content},
            "default": {"description": "Why not", "content": problem},
        },
    }


def _post(path: str, write: Write, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(path, write.summary, answer, ())
    responses = operation["responses"]
    responses[write.code] = responses.pop("200")
    responses |= {code: {**responses["default"], "description": text} for code, text in _REFUSALS.items()}
    if write.actions:
        action = {"type": "string", "enum": list(write.actions)}
        operation["parameters"].append({"name": "action", "in": "path", "required": True, "schema": action})
    operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    return operation | {"security": [{"token": []}]}
