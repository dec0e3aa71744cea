"""Call the Proxmox tools as the worker does, with a call that knows whether it may have been begun before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentd import errors
from agentd.messages import Tier
from agentd.tools import BrokenTool, Found, Tool, Toolbox, by_name
from agentd_proxmox import agentd_tools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from agentd.proxmox import Proxmox


class Doubt:
    """A call that may have been begun before, as the worker's effect record would say."""

    key, principal, tier = "wf.api", "tester", Tier.OPERATE

    def __init__(self, begun: datetime | None = None) -> None:
        """Say since when it may have been begun."""
        self.begun = begun
        self.warnings: list[str] = []
        self.said: list[str] = []
        self.acted = 0

    def left(self) -> float:
        """Return the seconds that are left."""
        return 20.0

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def progress(self, text: str) -> None:
        """Keep what is being done."""
        self.said.append(text)

    async def once(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Look, and act only where nothing can have been begun: as a call that is unsafe to repeat."""
        found = await look()
        if found is not None:
            return found
        if self.begun is not None:
            raise errors.PermanentError("nobody knows how it ended")
        self.begun = datetime.now(UTC)
        self.acted += 1
        return Found(await act() or "", adopted=False)

    async def use(self, *_: Any, **__: Any) -> Any:
        """No tool of this service calls another."""
        raise NotImplementedError


class Bench:
    """The tools by name."""

    def __init__(self, proxmox: Proxmox, folder: Path | None = None) -> None:
        """Collect the tools."""
        found = agentd_tools(Toolbox("pve1", proxmox, None, folder))
        assert not [each for each in found if isinstance(each, BrokenTool)]
        self.tools = by_name(each for each in found if isinstance(each, Tool))

    async def __call__(self, tool: str, call: Doubt | None = None, **parameters: Any) -> Any:
        """Call a tool as the worker does."""
        return await self.tools[tool].run(call or Doubt(), self.tools[tool].parse(parameters))
