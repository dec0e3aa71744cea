"""MCP tools that show the network: its agents and what they offer."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Repeat, Tier
from agentd.client import queries
from agentd_mcp.direct_tools.direct import direct

if TYPE_CHECKING:
    from agentd_mcp.direct_tools.direct import Asker, DirectTool


class NoFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No arguments."""


class ServiceFilter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With `service`, the names of its tools are listed too."""

    service: Annotated[str, Meta(max_length=100)] = ""


class AgentLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A running agent; `load` is from 0 (idle) to 1 (full)."""

    agent_id: str
    node: str
    role: str
    status: str
    load: float
    version: str = ""
    seen: datetime | None = None


class AgentList(msgspec.Struct, frozen=True):
    """The running agents, by name."""

    agents: list[AgentLine]


class ServiceLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service, the agents that serve it, and how many tools it has."""

    service: str
    agents: list[str]
    capabilities: list[str]
    total: int
    tools: list[str] = []


class ServiceList(msgspec.Struct, frozen=True):
    """The services, by name."""

    services: list[ServiceLine]


async def list_agents(asker: Asker, _p: NoFilter) -> AgentList:
    """List the running agents of the network: node, role, status and load."""
    return AgentList(
        [
            AgentLine(agent.agent_id, agent.node, agent.role, agent.status, agent.load, agent.version, agent.timestamp)
            for agent in await queries.agents(asker.bus)
        ]
    )


async def list_agent_services(asker: Asker, p: ServiceFilter) -> ServiceList:
    """List the services that the agents of the network offer; find_tools finds their tools."""
    found: dict[str, ServiceLine] = {}
    for presence in await queries.presences(asker.bus):
        for service in presence.services:
            name = service.service_id
            if p.service in {"", name}:
                line = found.setdefault(
                    name,
                    ServiceLine(
                        name, [], service.capabilities, len(service.tools), sorted(service.tools) if p.service else []
                    ),
                )
                line.agents.append(presence.agent.agent_id)
    return ServiceList([found[name] for name in sorted(found)])


def tools() -> list[DirectTool]:
    """Return the tools that show the network."""
    return [
        direct(list_agents, NoFilter, AgentList, Tier.READ, Repeat.IDEMPOTENT),
        direct(list_agent_services, ServiceFilter, ServiceList, Tier.READ, Repeat.IDEMPOTENT),
    ]
