"""Proxmox answers 403 for what does not exist: the answer says that it does not exist, and what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentd import errors
from agentd.answers import absent, source_of
from proxmox_access import connect
from tool_bench import CONTAINER, NEW, Bench, MemoryCall

if TYPE_CHECKING:
    from pve.client import FakePve


@pytest.mark.parametrize(("tool", "wanted"), [("create_vm", NEW), ("create_container", CONTAINER)])
async def test_pool(tools: Bench, tool: str, wanted: dict[str, Any]) -> None:
    """A guest for a pool that does not exist is refused with that reason, and without advice to grant anything."""
    await tools.once("create_pool", MemoryCall("wf.p"), pool="core")
    with pytest.raises(errors.NotFound, match=r"no pool 'nope' that this token may see; there are core") as found:
        await tools.once(tool, **wanted, pool="nope")

    assert "to grant it" not in str(found.value).partition("(Proxmox")[0]


async def test_denied(lab: FakePve) -> None:
    """What exists and is denied stays denied."""
    proxmox = connect(lab, "audit")
    with pytest.raises(errors.Denied, match="to grant it"):
        await Bench(proxmox).once("create_vm", **NEW)
    await proxmox.close()


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        ("/pool/nope", "pool", "nope"),
        ("/storage/nope", "storage", "nope"),
        ("/nodes/nope", "node", "nope"),
        ("/access/realm/nope", "realm", "nope"),
        ("/access/groups/nope", "group", "nope"),
    ],
)
def test_kinds(path: str, kind: str, name: str) -> None:
    """Each kind of thing that a right is held on is looked up in its list."""
    text = f"POST /x: t lacks A or B on {path}; to grant it: pveum acl modify {path} --roles C"
    source = source_of(text)
    assert source is not None
    assert (source[0], source[3]) == (kind, name)
    error = absent(source, [{source[2]: "Nope"}, {source[2]: "other"}], text)
    assert f"there is no {kind} 'nope'" in str(error)
    assert "there are Nope, other" in str(error)
    assert absent(source, [{source[2]: "nope"}], text) is None


def test_in_words() -> None:
    """A refusal that names the thing in words is looked up too."""
    assert source_of("POST /x: Permission check failed (pool 'nope' does not exist)") == (
        "pool",
        "/pools",
        "poolid",
        "nope",
    )


def test_nothing_to_look_up() -> None:
    """A path that names nothing of its own is not looked up."""
    assert source_of("t lacks Sys.Audit on /; to grant it: x") is None
    assert source_of("t lacks VM.Audit on /vms/100; to grant it: x") is None
