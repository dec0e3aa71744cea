"""The walk over all tools: one call of each at least, on the simulated cluster.

A step is the name of a tool and its parameters.  The steps are in the lists WALK: those of the folder walks first, then
those of the test files, which a new tool is added to.  Parameters may be computed from the results of the steps
before: by the names of the tools; `upid` is that of the last task.

`make calls` writes from it which API methods each tool calls: plugins/agentd_proxmox/calls.json, from which the
privileges of the tools are computed.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentd_proxmox.api.schema_cache import Schemas
from agentd_proxmox.settings import ToolSettings
from plugins.download_server import serving
from plugins.proxmox.walks.guests import EIGHT
from plugins.proxmox.walks.local import CEPH
from proxmox_access import AsyncPve, connect
from pve.client import FakePve
from tool_bench import Bench, Doubt, MemoryCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.proxmox.client import Proxmox

HERE: Final = Path(__file__).parent
FILE: Final = HERE.parents[2] / "plugins" / "agentd_proxmox" / "calls.json"
ORDER: Final = ("firewall", "guests", "backups", "local", "networks", "nodes", "realms", "users")
"""The files of walks in an order that works: `guests` needs the guests before `backups` rolls one back."""
C = TypeVar("C", bound=MemoryCall)


def _module(file: Path) -> str:
    return ".".join(file.relative_to(HERE).with_suffix("").parts)


WALK = [
    call
    for name in [
        *(f"walks.{name}" for name in ORDER),
        *(_module(file) for file in sorted(HERE.rglob("test_*.py")) if "\nWALK" in file.read_text(encoding="utf-8")),
    ]
    for call in importlib.import_module(f"plugins.proxmox.{name}").WALK
]


def keyed(call: C, tool: str) -> C:
    """Return the call as the tool wants it: discard_guest undoes what this walk made."""
    if tool == "discard_guest":
        call.undoes, call.makes = "wf.api", {"guest/303"}
    return call


async def walk(
    benches: Callable[[str], Bench],
    sim: AsyncPve,
    download_server: str,
    before: Callable[[str, Any], Awaitable[None]] | None = None,
    call: Callable[[str, Any], Awaitable[Any]] | None = None,
) -> dict[str, set[str]]:
    """Call every tool, each at the bench that is given for it or by `call`; return the methods that came for each."""
    proxmox = benches("get_guest").tools["get_guest"].run.__self__.proxmox  # type: ignore[attr-defined]
    catalogue = await Schemas(proxmox, None).catalogue()
    called: dict[str, set[str]] = {}
    results: dict[str, Any] = {"shelf": download_server}
    for tool, given in [*WALK, ("get_task", lambda results: {"upid": results["upid"]}), *CEPH, *EIGHT]:
        if (tool, given) == CEPH[0]:
            await sim.hardware(ceph={}, directories={"corp": "ldap"})
        if (tool, given) == EIGHT[0]:
            await sim.settings(ha_has_groups=1)
            await sim.rule("GET", "/cluster/ha/rules$", {"status": 501, "reason": "Method not implemented"})
        parameters = given(results) if callable(given) else given
        if before is not None:
            await before(tool, parameters)
        seen = max((entry["n"] for entry in await sim.log()), default=0)
        if call is not None:
            results[tool] = await call(tool, parameters)
        else:
            results[tool] = await benches(tool)(tool, keyed(Doubt(), tool), **parameters)
        for entry in await sim.log(since=seen):
            called.setdefault(tool, set()).add(catalogue.resolve(entry["method"], entry["path"]).key)
            results["upid"] = entry.get("upid") or results.get("upid")
    return called


def bench_of(proxmox: Proxmox, folder: Path) -> Bench:
    """Return the tools, which may keep secrets in a folder, and send the files of this one."""
    return Bench(proxmox, ToolSettings(secrets_dir=folder / "secrets", upload_dirs=[HERE]))


async def calls(lab: FakePve, folder: Path, download_server: str) -> dict[str, list[str]]:
    """Return the API methods that each tool calls."""
    lab.reset()
    lab.settings(offline_delay=0.1, auth_delay=0, lock_wait=0.3)
    proxmox = connect(lab)
    bench = bench_of(proxmox, folder)
    called = await walk(lambda _: bench, AsyncPve(lab), download_server)
    await proxmox.close()
    own = {"GET /access/permissions"}  # what any token may read of itself
    return {tool: sorted(keys - own) for tool, keys in sorted(called.items())}


def main() -> None:
    """Write the file."""
    with FakePve(cluster="demo") as lab, serving() as download_server, tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(calls(lab, Path(folder), download_server))
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    sys.stdout.write(f"{FILE.name}: {len(found)} tools\n")


if __name__ == "__main__":
    main()
