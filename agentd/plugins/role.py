"""What a role is, and all that it may touch.

A role is an object with a name and a coroutine `run`.  The supervisor builds its Context, runs it, starts it
again with growing pauses when it fails, and sets `context.stopping` when it is time to go: then a role takes no
new work, finishes or hands back what runs, and returns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from agentd.wire import subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from agentd.bus.jetstream import Bus
    from agentd.config.load import Config
    from agentd.proxmox.client import Proxmox
    from agentd.safety.policy import Policy
    from agentd.telemetry.logs import Logger
    from agentd.telemetry.metrics import Metrics
    from agentd.tools.definition import Tool
    from agentd.tools.worker import Worker
    from agentd.wire.workflow import Definition


class Settings(BaseModel):
    """Base of a plugin's own settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass
class Health:
    """Whether a role is ready to work, and if not, why; shown by /readyz, `agentd agents` and systemd's STATUS.

    warnings  what somebody should see to although it works; shown on the status page
    """

    ready: bool = False
    reason: str = "starting"
    warnings: list[str] = field(default_factory=list)

    def up(self) -> None:
        """Say that the role works."""
        self.ready, self.reason = True, ""

    def down(self, reason: str) -> None:
        """Say why the role does not work now."""
        self.ready, self.reason = False, reason


@dataclass(frozen=True)
class Context:
    """All that a role may touch.

    instance   name of this daemon instance
    node       name of the machine, as Proxmox knows it
    agent_id   `<instance>-<node>`
    settings   the role's own settings, checked
    tools      every tool that the loaded plugins offer, by name
    workflows  every workflow definition that the loaded plugins offer, by name
    worker     runs tools with effect records, policy and audit
    known_tools  returns every tool that an installed plugin defines, to look at: it may run elsewhere
    stopping   set when it is time to go
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
    health: Health = field(default_factory=Health)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def queues(self, service: str) -> list[str]:
        """Return the further queues of `service` that an agent on this node works on: its own, and those of classes."""
        named = [queue.name for queue in self.config.bus.queues if queue.plain == "no"]
        return subjects.queues_of(service, self.node, named)


@runtime_checkable
class Role(Protocol):
    """What a plugin's `agentd_role` hook returns."""

    name: str
    port: int
    """Port of the status page of an instance that plays this role alone."""
    services: tuple[str, ...]
    """Queues of work that this role serves; announced as ServiceRegistration when not empty."""

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Routes that this role adds to the web interface of its daemon."""
        ...

    async def run(self, context: Context) -> None:
        """Work until `context.stopping` is set; call `context.health.up()` once work is being done."""
        ...

    def reload(self, settings: Any) -> None:  # noqa: ANN401 - the role's own Settings
        """Take over new settings (SIGHUP): thresholds and the like, without a restart."""
        ...
