"""Reach the simulated Proxmox VE with the real client, and control it without blocking the event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

from agentd.proxmox.client import Proxmox

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pve.client import FakePve


@dataclasses.dataclass(frozen=True)
class Access:
    """What the client needs of the section `[proxmox]`."""

    url: str
    token_id: str
    secret: str
    ca_file: Path | str | None = None
    fingerprint: str | None = None
    verify: bool = True
    timeout: float = 35.0
    calls_per_node: int = 2
    pvesh: str | None = None
    vmid_min: int = 100
    vmid_max: int = 999_999

    def token(self) -> str:
        """Return the secret."""
        return self.secret


def access(pve: FakePve, token: str = "full", **changes: Any) -> Access:  # noqa: S107 - the name of a token
    """Return how to reach the simulator with one of its tokens."""
    token_id, _, secret = pve.tokens[token].partition("=")
    return dataclasses.replace(Access(pve.url, token_id, secret, pve.ca), **changes)


def connect(pve: FakePve, token: str = "full", **changes: Any) -> Proxmox:  # noqa: S107
    """Return the real client for the simulator."""
    return Proxmox(access(pve, token, **changes))


class AsyncPve:
    """The simulator's control port for async tests: every method of FakePve, in a thread."""

    def __init__(self, pve: FakePve) -> None:
        """Keep the simulator."""
        self._pve = pve

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return an async version of the method `name`."""
        method = getattr(self._pve, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


async def add_bridge(pve: FakePve, *names: str) -> None:
    """Give each node of the simulator these bridges."""
    proxmox = connect(pve)
    for node in ("pve1", "pve2"):
        for name in names:
            await proxmox.post(f"/nodes/{node}/network", iface=name, type="bridge")
    await proxmox.close()


async def without_hotplug(pve: FakePve, vmid: int) -> None:
    """Let a running VM take changes on at its next start only."""
    proxmox = connect(pve)
    await proxmox.put(f"/nodes/pve1/qemu/{vmid}/config", hotplug="0")
    await proxmox.close()
