"""What agents announce: presence, heartbeat, metrics, alerts, control, freeze."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from agentd.wire.messages import Zoned

ARRIVING: Final = "arriving"
"""Status of an agent that has its lease but does not work yet: it is not listed."""


class AgentRegistration(msgspec.Struct, frozen=True):
    """Registers a running instance; `load` is from 0 (idle) to 1 (full).

    config_digest  of the settings that all nodes share, as it read them last; "" if it reports none
    """

    agent_id: str
    capabilities: list[str] = []
    load: float = 0.0
    status: str = "available"
    node: str = ""
    role: str = ""
    version: str = ""
    state_version: int = 0
    url: str = ""
    timestamp: datetime | None = None
    config_digest: str = ""


class ServiceRegistration(msgspec.Struct, frozen=True):
    """Registers a service and the tools that it offers."""

    service_id: str
    service_type: str
    capabilities: list[str] = []
    endpoint: str = ""
    status: str = "available"
    timestamp: datetime | None = None
    tools: list[str] = []


class Presence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance reports about itself.

    The bucket `live` holds it while the instance runs.

    process  the id of the process (daemon/presence.py): only one process may have the agent's id
    """

    agent: AgentRegistration
    services: list[ServiceRegistration] = []
    metrics: dict[str, float] = {}
    process: str = ""


class ControlRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request to one agent: drain, restart or reload."""

    action: str


class ControlReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of an agent to a ControlRequest."""

    agent_id: str
    done: bool
    message: str = ""


class Freeze(msgspec.Struct, frozen=True, omit_defaults=True):
    """The network is frozen: no changes until `until`, or until a principal thaws it.

    id  id of the request that froze it: two orchestrators receive the same request
    """

    by: str
    since: Zoned
    reason: str
    until: Zoned | None = None
    id: str = ""


class NetworkRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request to freeze or thaw the network; after `seconds` it thaws by itself."""

    action: str
    reason: str = ""
    seconds: float | None = None
    id: str = ""


class NetworkReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of an orchestrator to a NetworkRequest.

    It contains the current state of the network.
    """

    agent_id: str
    done: bool
    message: str = ""
    freeze: Freeze | None = None


class DiscoveryRequest(msgspec.Struct, frozen=True):
    """A request to all agents and services to register again."""

    requester: str
    timestamp: datetime | None = None


class Heartbeat(msgspec.Struct, frozen=True):
    """A sign of life of an agent."""

    agent_id: str
    timestamp: datetime
    status: str = "available"


class MetricReport(msgspec.Struct, frozen=True):
    """Measurements of an agent; percentages are 0 to 100, sizes are in bytes."""

    agent_id: str
    timestamp: datetime
    metrics: dict[str, float]
    tags: dict[str, str] = {}


class Alert(msgspec.Struct, frozen=True):
    """A condition that needs attention, or no longer does."""

    alert_type: str
    message: str
    timestamp: datetime
    source: str
    severity: str = "warning"
    labels: dict[str, str] = {}
    state: str = "firing"


class CriticalError(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error that a service could not handle."""

    service_id: str
    error: str
    timestamp: datetime
