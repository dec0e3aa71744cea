"""A caller limits a call to some directories (`within`); it never reaches more than what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentd.errors import AgentdError, NotFound, Rejected
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from plugins.filesystem.conftest import Files


async def test_nothing_outside_is_reached(files: Files) -> None:
    """Within a directory, no path, parent or link leads to the rest of what is served, for reading and for changes."""
    docs, work = f"{files.root}/docs", str(files.writable)
    (files.root / "docs" / "link").symlink_to(files.root / "readme.txt")
    (files.writable / "inner").mkdir()
    (files.writable / "inner" / "up").symlink_to("../old.txt")

    assert (await files("read_text_file", path=f"{docs}/a.md", within=[docs])).content == "alpha\nbeta\n"
    assert (await files("read_text_file", path=f"{docs}/a.md", within=[docs, work])).content == "alpha\nbeta\n"
    for path in (f"{files.root}/readme.txt", f"{docs}/../readme.txt", f"{docs}/link", str(files.root)):
        for tool in ("read_text_file", "get_file_info", "list_directory", "get_checksum"):
            with pytest.raises(AgentdError):
                await files(tool, path=path, within=[docs])
    for path in (f"{work}/old.txt", f"{work}/inner/../old.txt", f"{work}/inner/up"):
        with pytest.raises(AgentdError):
            await files("edit_file", path=path, edits=[{"oldText": "old", "newText": "new"}], within=[f"{work}/inner"])
    with pytest.raises(Rejected, match="within"):
        await files("delete_file", path=f"{work}/inner", recursive=True, within=[f"{work}/inner"])
    with pytest.raises(Rejected, match="within"):
        await files("move_file", source=f"{work}/old.txt", destination=f"{work}/inner/x", within=[f"{work}/inner"])

    assert (files.writable / "old.txt").read_text() == "old\n"
    assert sorted(path.name for path in files.writable.iterdir()) == ["inner", "old.txt"]


async def test_it_adds_nothing(files: Files) -> None:
    """A limit that contains what is served, or has nothing to do with it, adds no directory."""
    for within in (["/"], [str(files.outside)], [str(files.outside), str(files.root)]):
        with pytest.raises(Rejected):
            await files("read_text_file", path=f"{files.outside}/secret", within=within)
    with pytest.raises(Rejected):
        await files("read_text_file", path=f"{files.root}/readme.txt", within=[str(files.outside)])

    assert (await files("read_text_file", path=f"{files.root}/readme.txt", within=["/"])).content
    with pytest.raises(Rejected):
        await files("write_file", path=f"{files.root}/readme.txt", content="x", within=[str(files.root)])


async def test_the_list_of_directories(files: Files) -> None:
    """It shows what is left, so that a model learns where it may work."""
    docs = f"{files.root}/docs"
    everything = await files("list_allowed_directories")
    left = await files("list_allowed_directories", within=[docs, "/etc"])

    assert everything.content == f"Allowed directories:\n{files.root}"
    assert (left.roots, left.writable_roots) == ([docs], [])
    assert left.content == f"Allowed directories:\n{docs}"


async def test_the_trash(files: Files) -> None:
    """The trash shows and restores only what was removed from there."""
    inner = files.writable / "inner"
    inner.mkdir()
    (inner / "mine").write_text("mine\n")
    await files("delete_file", MemoryCall(key="a.1"), path=f"{inner}/mine")
    await files("delete_file", MemoryCall(key="a.2"), path=f"{files.writable}/old.txt")
    shown = (await files("list_trash", within=[str(inner)])).entries
    other = next(entry for entry in (await files("list_trash")).entries if entry.path.endswith("old.txt"))

    assert [entry.path for entry in shown] == [f"{inner}/mine"]
    with pytest.raises(NotFound):
        await files("restore_from_trash", id=other.id, path=f"{inner}/stolen", within=[str(inner)])
    await files("restore_from_trash", id=shown[0].id, path=f"{inner}/mine", within=[str(inner)])
    assert (inner / "mine").read_text() == "mine\n"
