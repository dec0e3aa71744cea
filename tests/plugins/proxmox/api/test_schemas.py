"""Where the schema comes from: of the node itself, else of this machine's disk, and never half of it or another's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd_proxmox.api import schema_cache
from agentd_proxmox.api.schema_cache import Schemas
from proxmox_access import AsyncPve, connect
from tool_bench import Bench

if TYPE_CHECKING:
    from pathlib import Path

    from pve.client import FakePve

SCRIPT = "/apidoc[.]js$"
FAULTS: dict[str, tuple[dict[str, Any], type[errors.AgentdError], str]] = {
    "not served": ({"status": 404, "reason": "Not Found"}, errors.AgentdError, "Not Found"),
    "cut off": ({"cut_after": True}, errors.ProxmoxUnavailable, "apidoc[.]js: the connection was lost"),
    "cut off unseen": ({"text": 'const apiSchema = [\n{"path": "/a", "inf'}, errors.Rejected, "cannot be read"),
    "another page": ({"text": "<html>Log in</html>"}, errors.Rejected, "no constant with the schema"),
    "of another kind": ({"text": 'const apiSchema = [{"path": 7}]\n;'}, errors.Rejected, "cannot be read"),
    "without a method": ({"text": 'const apiSchema = [\n{"path": "/a"}\n]\n;'}, errors.Rejected, "names no method"),
    "huge": ({"endless": True}, errors.PermanentError, "more than 33554432 bytes"),
}
BY_NODE = 'const apiSchema = [\n{"path": "/version", "info": {"GET": {"name": "version"}}}\n]\n;\n'


def names(folder: Path) -> list[str]:
    """Return the files of a folder; one that is not there is empty."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def lay(file: Path, text: str) -> None:
    """Lay a copy of a schema on this machine's disk."""
    file.write_text(text)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this machine would keep its own copy; there is none yet."""
    monkeypatch.setattr(schema_cache, "ON_DISK", tmp_path / "pve-docs" / "apidoc.js")
    (tmp_path / "pve-docs").mkdir()
    return tmp_path / "pve-docs" / "apidoc.js"


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults(lab: FakePve, sim: AsyncPve, tmp_path: Path, disk: Path, fault: str) -> None:
    """A schema that cannot be had is an error that says why, nothing of it is kept, and the next try has all of it."""
    effect, kind, words = FAULTS[fault]
    proxmox, kept = connect(lab), tmp_path / "kept"
    bench = Bench(proxmox, folder=kept)
    await sim.rule("GET", SCRIPT, effect)
    with pytest.raises(kind, match=words):
        await bench("api_find", words="version")
    files = names(kept)
    await sim.clear()
    found = await bench("api_describe", path="/version", method="GET")
    await proxmox.close()

    assert names(disk.parent) == []
    assert files == []
    assert found
    assert len(names(kept)) == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_disk_stands_in(lab: FakePve, sim: AsyncPve, tmp_path: Path, disk: Path, fault: str) -> None:
    """Where the node's own cannot be had or read, this machine's copy is used."""
    lay(disk, BY_NODE)
    proxmox = connect(lab)
    await sim.rule("GET", SCRIPT, FAULTS[fault][0])
    found = await Schemas(proxmox, tmp_path / "kept").catalogue()
    await proxmox.close()

    assert found.keys() == ["GET /version"]


async def test_disk_is_for_the_moment(
    lab: FakePve, sim: AsyncPve, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version may run on this machine: its copy is never kept as the node's, which is asked for again."""
    lay(disk, BY_NODE)
    proxmox = connect(lab)
    own = Schemas(proxmox, tmp_path / "kept")
    await sim.rule("GET", SCRIPT, {"status": 404, "reason": "Not Found"}, 1)
    first = len(await own.catalogue())
    with pytest.raises(errors.NotFound, match="by this machine's copy"):
        (await own.catalogue()).resolve("GET", "/nodes")
    at_once = len(await own.catalogue())
    monkeypatch.setattr(schema_cache, "FRESH", 0.0)
    later = len(await own.catalogue())
    await proxmox.close()

    assert (first, at_once, later) == (1, 1, 680)
    assert len(names(tmp_path / "kept")) == 1


async def test_broken_disk(lab: FakePve, sim: AsyncPve, tmp_path: Path, disk: Path) -> None:
    """Where the copy on disk is broken too, the fault of the node's own is reported."""
    lay(disk, "const apiSchema = [")
    proxmox = connect(lab)
    await sim.rule("GET", SCRIPT, {"status": 404, "reason": "Not Found"})
    with pytest.raises(errors.AgentdError, match="Not Found"):
        await Schemas(proxmox, tmp_path / "kept").catalogue()
    await proxmox.close()


async def test_upgraded(
    lab: FakePve, sim: AsyncPve, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgraded node is asked for its new schema; each version has its own file."""
    proxmox = connect(lab)
    own = Schemas(proxmox, tmp_path / "kept")
    old = await own.catalogue()
    monkeypatch.setattr(schema_cache, "FRESH", 0.0)
    answer = {"status": 200, "reason": "OK", "body": {"data": {"version": "../../9.9/x"}}}
    await sim.rule("GET", "/version$", answer)
    await sim.rule("GET", SCRIPT, {"text": BY_NODE})
    new = await own.catalogue()
    await proxmox.close()

    assert new.keys() == ["GET /version"]
    assert names(tmp_path) == ["kept", disk.parent.name]
    assert names(tmp_path / "kept") == [
        "pve-api-.._.._9.9_x.1.lines",
        f"pve-api-{old.version}.1.lines",
    ]


async def test_at_once(lab: FakePve, tmp_path: Path, disk: Path) -> None:
    """Many readers at once, in two processes, get one complete schema, and no partial file is left."""
    proxmox = connect(lab)
    one, other = Schemas(proxmox, tmp_path / "kept"), Schemas(proxmox, tmp_path / "kept")
    found = await asyncio.gather(*(item.catalogue() for item in (one, other) for _ in range(4)))
    await proxmox.close()

    assert names(disk.parent) == []
    assert {len(item) for item in found} == {680}
    assert len({id(item) for item in found}) == 2
    assert len(names(tmp_path / "kept")) == 1
