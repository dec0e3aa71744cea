"""The OpenAPI document of the API, generated from the Structs of its responses."""

from __future__ import annotations

from typing import Any

import msgspec

from agentd.bus.delivery.dead_letters import Letter
from agentd.client.views import PluginState, Reason, TaskView, WorkflowDetail, WorkflowSummary
from agentd.web import actions
from agentd.web.overview import Overview
from agentd.wire.announcements import AgentRegistration, Alert, MetricReport, NetworkReply, ServiceRegistration
from agentd.wire.messages import SignalReply


class Problem(msgspec.Struct, frozen=True):
    """The reason why a request is wrong, or why it cannot be answered now."""

    error: str


class Readiness(msgspec.Struct, frozen=True):
    """Whether this daemon is ready, and if not, why.

    `frozen` describes a freeze of the network.  `unreadable` lists stored records that this daemon has skipped.
    """

    ready: bool
    reasons: list[Reason]
    frozen: str = ""
    unreadable: list[str] = []


_LIMIT = ("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50})
_STATUS = ("status", {"type": "string", "default": ""})
_NETWORK = {
    "freeze": "Freeze: no agent changes anything; needs tier operate and a reason",
    "thaw": "End a freeze; for the one who froze, or with tier destroy",
}
_PATHS: dict[str, tuple[str, Any, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "/": ("The whole picture; a page, JSON or text by Accept or ?format=", Overview, ()),
    "/readyz": ("200 when ready, 503 with reasons when not", Readiness, ()),
    "/api/agents": ("Agents seen recently", list[AgentRegistration], ()),
    "/api/services": ("Services and their tools", list[ServiceRegistration], ()),
    "/api/workflows": ("Workflows, those not over first", list[WorkflowSummary], (_LIMIT, _STATUS)),
    "/api/workflows/{id}": ("One workflow with tasks and history", WorkflowDetail, ()),
    "/api/tasks": ("Tasks that are assigned or running", list[TaskView], ()),
    "/api/metrics": ("The latest report of each agent", list[MetricReport], ()),
    "/api/alerts": ("Alerts that are firing", list[Alert], ()),
    "/api/dead": ("Messages that were given up and wait for a person", list[Letter], ()),
    "/api/plugins": ("Plugins of this daemon", list[PluginState], ()),
}


def describe(version: str) -> dict[str, Any]:
    """Return the OpenAPI document of this server."""
    kinds = [
        Problem,
        actions.ActionDetails,
        SignalReply,
        actions.FreezeDetails,
        NetworkReply,
        *(kind for _, kind, _ in _PATHS.values()),
    ]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {
        path: {"get": _operation(path, summary, schema, query)}
        for (path, (summary, _, query)), schema in zip(_PATHS.items(), schemas[5:], strict=True)
    }
    paths[actions.PATH] = {"post": _action_operation(*schemas[1:3])}
    for action, summary in _NETWORK.items():
        path = actions.NETWORK.format(action=action)
        paths[path] = {"post": _post_operation(_operation(path, summary, schemas[4], ()), schemas[3], schemas[4])}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentd", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    path: str, summary: str, schema: dict[str, Any], query: tuple[tuple[str, dict[str, Any]], ...]
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [{"name": name, "in": "query", "schema": kind} for name, kind in query]
    if "{id}" in path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": {"type": "string"}})
    problem = {"$ref": "#/components/schemas/Problem"}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
            "default": {"description": "Why not", "content": {"application/json": {"schema": problem}}},
        },
    }


def _action_operation(body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(
        actions.PATH, "Approve, reject, cancel, pause or resume as the token's principal", answer, ()
    )
    action = {"type": "string", "enum": list(actions.ACTIONS)}
    operation["parameters"].append({"name": "action", "in": "path", "required": True, "schema": action})
    return _post_operation(operation, body, answer)


def _post_operation(operation: dict[str, Any], body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    operation["responses"]["409"] = {
        "description": "The orchestrator refuses it and gives the reason",
        "content": {"application/json": {"schema": answer}},
    }
    return operation | {"security": [{"token": []}]}
