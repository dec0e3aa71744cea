"""Call Proxmox tools as the worker calls them, with an effect record in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from agentd import errors
from agentd.tools.declaration import by_name
from agentd.tools.definition import BrokenTool, Found, Tool, Toolbox
from agentd.wire.messages import Target, Tier
from agentd_proxmox import agentd_tools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from pathlib import Path

    from agentd.proxmox.client import Proxmox
    from agentd_proxmox.settings import ToolSettings

R = TypeVar("R")
ONLY_READ = {"list_updates", "inspect_backup"}
"""Tools that read what Proxmox shows only to who may change it: they need the rights of the tier `operate`."""
NEW: dict[str, Any] = {"vmid": 300, "node": "pve2", "name": "app-01", "storage": "local-lvm", "disk": 10}
CLONE: dict[str, Any] = {"vmid": 301, "node": "pve1", "name": "app-02", "template": 9000}
CONTAINER: dict[str, Any] = {
    "vmid": 320,
    "node": "pve1",
    "name": "ct-01",
    "ostemplate": "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
    "storage": "local-lvm",
}


class MemoryCall:
    """A call with its effect record in memory: a recorded UPID is adopted, else check, apply, record."""

    def __init__(self, key: str = "wf.task", seconds: float = 20.0) -> None:
        """Start the deadline."""
        self.key = key
        self.principal = "tester"
        self.undo: tuple[str, dict[str, Any]] | None = None
        self.tool: Tool | None = None
        self.tier = Tier.DESTROY
        self.until = time.monotonic() + seconds
        self.upid = ""
        self.warnings: list[str] = []
        self.texts: list[str] = []
        self.targets: list[Target] = []
        self.times = 0
        self.adopted = False
        self.acted = 0
        self.begun: datetime | None = None
        self.undoes = ""
        self.makes: set[str] = set()

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.monotonic()

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)

    def progress(self, text: str) -> None:
        """Keep what is being done."""
        self.texts.append(text)

    def inverse(self, tool: str, parameters: dict[str, Any]) -> None:
        """Keep how it is taken back."""
        self.undo = (tool, parameters)

    def target(self, target: Target) -> None:
        """Keep what is going to be changed."""
        self.targets.append(target)

    async def ensure(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Have the effect once."""
        self.times += 1
        if self.upid:
            return Found(self.upid)
        found = await look()
        if found is not None:
            self.upid, self.adopted = found.upid, True
            return found
        self.check()
        self.acted += 1
        self.begun = datetime.now(UTC)
        self.upid = await act() or ""
        return Found(self.upid, adopted=False)

    async def made(self, tools: Collection[str], target: str) -> bool:
        """Say what the test has put down as made by the task that is undone."""
        return bool(self.undoes and tools) and target in self.makes

    def allow_stop(self) -> contextlib.AbstractContextManager[None]:
        """It is not stopped."""
        return contextlib.nullcontext()

    def check(self) -> None:
        """Fail a tool that changes something and does not say what: a policy may protect it (`protected_min_tier`)."""
        if self.tool is not None and self.tool.tier is not Tier.READ and not self.tool.name.startswith("api_"):
            assert self.targets, f"{self.tool.name} says not what it changes"

    async def use(self, service: str, tool: str, parameters: dict[str, Any], result: type[R], *, step: str) -> R:
        """No tool of this service calls another."""
        raise NotImplementedError(service, tool, parameters, result, step)


class Doubt(MemoryCall):
    """A call that may have been begun before, as the worker's effect record would say."""

    def __init__(self, begun: datetime | None = None) -> None:
        """Say since when it may have been begun."""
        super().__init__("wf.api")
        self.tier = Tier.OPERATE
        self.begun = begun

    async def ensure(
        self, look: Callable[[], Awaitable[Found | None]], act: Callable[[], Awaitable[str | None]]
    ) -> Found:
        """Check, and apply only if nothing can have started: as a call that is unsafe to repeat."""
        found = await look()
        if found is not None:
            return found
        self.check()
        if self.begun is not None:
            raise errors.PermanentError("its result is not known")
        self.begun = datetime.now(UTC)
        self.acted += 1
        return Found(await act() or "", adopted=False)


class Bench:
    """The tools by name, called as the worker calls them."""

    def __init__(self, proxmox: Proxmox, settings: ToolSettings | None = None, folder: Path | None = None) -> None:
        """Collect the tools."""
        found = agentd_tools(Toolbox("pve1", proxmox, settings, folder))
        assert not [item for item in found if isinstance(item, BrokenTool)]
        self.tools = by_name(item for item in found if isinstance(item, Tool))

    async def __call__(self, tool: str, call: Doubt | None = None, **parameters: Any) -> Any:
        """Call a tool as the worker does."""
        call = call or Doubt()
        call.tool = self.tools[tool]
        return await call.tool.run(call, call.tool.parse(parameters))

    async def call(self, tool: str, call: MemoryCall | None = None, **parameters: Any) -> Any:
        """Call a tool once."""
        call = call or MemoryCall()
        before, call.tool = call.times, self.tools[tool]
        result = await self.tools[tool].run(call, self.tools[tool].parse(parameters))

        assert call.times - before == (0 if self.tools[tool].tier is Tier.READ or tool in ONLY_READ else 1)
        assert msgspec.convert(msgspec.to_builtins(result), type(result)) == result
        return result

    async def until_done(self, tool: str, call: MemoryCall, **parameters: Any) -> Any:
        """Call a tool again after what passes, as the worker does."""
        while True:
            try:
                return await self.tools[tool].run(call, self.tools[tool].parse(parameters))
            except errors.TemporaryError as error:
                if isinstance(error, errors.GuestLocked | errors.NoQuorum):
                    call.upid = ""  # that task is over and did nothing
                if call.left() < 1:
                    raise
                await asyncio.sleep(0.1)


def size(result: Any) -> int:
    """Return how many tokens a result costs at most: three bytes of JSON are one or less."""
    return len(msgspec.json.encode(result)) // 3


async def until(what: Callable[[], Awaitable[Any]]) -> Any:
    """Ask the simulator until the answer is true, and return it."""
    for _ in range(400):
        if found := await what():
            return found
        await asyncio.sleep(0.025)
    raise TimeoutError
