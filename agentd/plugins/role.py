"""The interface of a role, and the context that it works with.

A role is an object with a name and a coroutine `run`.  The supervisor builds its Context, runs it, restarts it with
growing pauses if it fails, and sets `context.stopping` when the daemon stops: then a role takes no new work, finishes
or hands back its running work, and returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from agentd.bus.jetstream import Bus
    from agentd.config.load import Config
    from agentd.plugins.checks import Check
    from agentd.proxmox.client import Proxmox
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool
    from agentd.tools.worker import Worker
    from agentd.wire.workflow import Definition


class Start(NamedTuple):
    """A workflow that a plugin requests by itself; `where` is the setting that names it."""

    where: str
    workflow: str
    principal: str
    parameters: frozenset[str]


class Settings(BaseModel):
    """Base class of a plugin's own settings: an unknown key is an error.

    The docstring below a setting is its description if it has no `description`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def starts(self) -> list[Start]:
        """Return the workflows that the plugin requests by itself; `agentd config check` validates them."""
        return []


@dataclass
class Health:
    """Whether a role is ready, or why not; for /readyz, `agentd agents`, systemd.

    warnings  problems that need attention although the role works; shown on the status page
    """

    ready: bool = False
    reason: str = "starting"
    warnings: list[str] = field(default_factory=list)

    def up(self) -> None:
        """Set the role to ready."""
        self.ready, self.reason = True, ""

    def down(self, reason: str) -> None:
        """Set the role to not ready, with a reason."""
        self.ready, self.reason = False, reason


@dataclass(frozen=True)
class Context:
    """Everything that a role may use.

    instance   name of this daemon instance
    node       name of the machine in Proxmox
    agent_id   `<instance>-<node>`
    settings   the role's own settings, validated
    tools      every tool that the loaded plugins offer, by name
    workflows  every workflow definition that the loaded plugins offer, by name
    worker     runs tools with effect records, policy and audit
    checks      every check that the loaded plugins add to those of the monitor
    known_tools  returns every tool that an installed plugin defines, for inspection: a tool may run on another node
    stopping   set when the daemon stops
    """

    instance: str
    node: str
    agent_id: str
    config: Config
    settings: Any
    bus: Bus
    tools: dict[str, Tool]
    workflows: dict[str, Definition]
    worker: Worker
    policy: Policy
    metrics: Metrics
    log: Logger
    proxmox: Proxmox | None = None
    known_tools: Callable[[], dict[str, Tool]] = dict
    checks: list[Check] = field(default_factory=list)
    health: Health = field(default_factory=Health)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def queues(self, service: str) -> list[str]:
        """Return the other queues of `service` on this node: its own and the classes'."""
        named = [queue.name for queue in self.config.bus.queues if queue.external == "no"]
        return subjects.queues_of(service, self.node, named)


@runtime_checkable
class Role(Protocol):
    """The object that a plugin's `agentd_role` hook returns.

    It may have a method `configure(settings)`, which is called first if its services depend on its settings.

    It may have two more attributes, which give its users in NATS more permissions: `duties`, a set of `Duty`; and with
    Duty.REPRESENT a method `clients(settings)`, which returns in whose name it sends requests besides the principals of
    `[web.tokens]`; with Duty.REQUEST a method `requesters(settings)`, which returns in whose name it only requests
    workflows.
    """

    name: str
    port: int
    """Port of the status page of an instance whose only role this is."""
    services: tuple[str, ...]
    """Services (task queues) of this role; announced as ServiceRegistration if not empty."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Routes that this role adds to the web interface of its daemon."""
        ...

    async def run(self, context: Context) -> None:
        """Work until `context.stopping` is set; call `context.health.up()` when ready."""
        ...

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Apply new settings (SIGHUP), such as thresholds, without a restart."""
        ...
