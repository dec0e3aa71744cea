"""The plugin that is measured: three tools that do nothing, a role that serves them, chains of them.

It comes in by the door of every plugin: the bench writes an entry point beside it (systems.py), so what runs is
`agentd run` as it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentd.plugins.hookspecs import hookimpl
from agentd.tools.declaration import collect, tool
from agentd.tools.definition import Call, Found, Repeat
from agentd.wire.codec import plain
from agentd.wire.messages import Tier
from agentd.wire.workflow import Definition, TaskSpec

if TYPE_CHECKING:
    from agentd.plugins.role import Context, Role
    from agentd.tools.definition import BrokenTool, Tool, Toolbox

SERVICE = "bench"
STEPS = ("validate", "create", "configure")


class Parameters(msgspec.Struct, frozen=True):
    """The floor's parameters, and how long an attempt may take."""

    vmid: int
    cores: int
    memory: int
    template: str
    storage: str
    bridge: str
    deadline: float = 300.0


class Done(msgspec.Struct, frozen=True):
    """The floor's result."""

    task: str


async def _nothing_there() -> Found | None:
    return None


async def _nothing() -> str | None:
    return None


class Steps:
    """Tools without work."""

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="bench")
    async def validate(self, call: Call, p: Parameters) -> Done:
        """Do nothing."""
        del call, p
        return Done("validate")

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="bench")
    async def create(self, call: Call, p: Parameters) -> Done:
        """Do nothing."""
        del call, p
        return Done("create")

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="bench")
    async def configure(self, call: Call, p: Parameters) -> Done:
        """Do nothing."""
        del call, p
        return Done("configure")

    @tool(tier=Tier.OPERATE, repeat=Repeat.IDEMPOTENT, capability="bench")
    async def operate(self, call: Call, p: Parameters) -> Done:
        """Do nothing, once: with a claim, two audit lines and an effect record."""
        del p
        await call.ensure(_nothing_there, _nothing)
        return Done("operate")


def _plan(requested: Parameters, tier: Tier) -> list[TaskSpec]:
    return [
        TaskSpec(
            name=name,
            tool=name if tier is Tier.READ else "operate",
            queue=SERVICE,
            tier=tier,
            parameters=plain(requested),
            after=list(STEPS[:number][-1:]),
            timeout=requested.deadline,
        )
        for number, name in enumerate(STEPS)
    ]


class Worker:
    """Serves the queue `bench`."""

    name = SERVICE
    port = 0
    services: tuple[str, ...] = (SERVICE,)
    routes: tuple[Any, ...] = ()

    async def run(self, context: Context) -> None:
        """Take work until the context says stop."""
        context.health.up()
        await context.worker.serve(SERVICE, context.stopping)

    def reload(self, settings: Any) -> None:
        """Have no settings."""


@hookimpl
def agentd_role() -> Role:
    """Return the role `bench`."""
    return Worker()


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return the tools without work."""
    del toolbox
    return collect(Steps(), service=SERVICE)


@hookimpl
def agentd_workflows() -> list[Definition]:
    """Return the chain of reads, and the same with effects."""
    return [
        Definition("bench_read", "Three reads.", Parameters, lambda requested: _plan(requested, Tier.READ)),
        Definition("bench_operate", "Three effects.", Parameters, lambda requested: _plan(requested, Tier.OPERATE)),
    ]
