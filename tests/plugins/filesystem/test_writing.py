"""Files are replaced in one step, keep what is theirs, and come back by the offered undo."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from agentd.errors import NotFound, Rejected
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from plugins.filesystem.conftest import Files


async def test_create_replace_and_undo(files: Files) -> None:
    """A new file disappears by its undo, a replaced one has its old content again; the same write twice is one."""
    new, path = f"{files.writable}/new.txt", files.writable / "old.txt"
    created, replaced = MemoryCall(key="a.1"), MemoryCall(key="a.2")
    await files("write_file", created, path=new, content="new\n")
    answer = await files("write_file", replaced, path=str(path), content="newer\n")

    assert path.read_text() == "newer\n"
    assert answer.trash
    assert (await files("write_file", MemoryCall(key="a.3"), path=new, content="new\n")).trash == ""
    await files.undo(replaced)
    await files.undo(created)

    assert path.read_text() == "old\n"
    assert not (files.writable / "new.txt").exists()


async def test_an_undo_of_a_file_that_has_changed_since(files: Files) -> None:
    """An undo does not take away what was written after the call that it undoes."""
    path, first, second = files.writable / "old.txt", MemoryCall(key="b.1"), MemoryCall(key="b.2")
    await files("write_file", first, path=str(path), content="first\n")
    path.write_text("another process\n")
    with pytest.raises(Rejected, match="etag"):
        await files.undo(first)
    await files("write_file", second, path=f"{files.writable}/x", content="x")
    (files.writable / "x").write_text("y")
    with pytest.raises(Rejected, match="etag"):
        await files.undo(second)

    assert path.read_text() == "another process\n"


async def test_attributes_that_a_file_keeps(files: Files) -> None:
    """Mode, owner, extended attributes and Windows line ends stay; a reader sees old or new, never a part."""
    path = files.writable / "old.txt"
    path.write_bytes(b"one\r\ntwo\r\n")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"kept")
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    await files("edit_file", path=str(path), edits=[{"oldText": "two\n", "newText": "three\nfour\n"}])
    state = path.stat()

    assert path.read_bytes() == b"one\r\nthree\r\nfour\r\n"
    assert stat.S_IMODE(state.st_mode) == 0o640
    assert os.getxattr(path, "user.note") == b"kept"
    assert os.geteuid() != 0 or (state.st_uid, state.st_gid) == (1234, 4321)


async def test_a_reader_sees_no_part(files: Files) -> None:
    """While a file is replaced 200 times, every read has one whole content."""
    path, seen, stop = files.writable / "old.txt", set(), threading.Event()
    path.write_text("a" * 50_000)

    def reading() -> None:
        while not stop.is_set():
            content = path.read_text()
            seen.add((len(content), content[:1], content == content[:1] * len(content)))

    reader = threading.Thread(target=reading)
    reader.start()
    for number in range(200):
        await files("write_file", MemoryCall(key=f"c.{number}"), path=str(path), content="ab"[number % 2] * 50_000)
    stop.set()
    reader.join()

    assert {(size, whole) for size, _, whole in seen} == {(50_000, True)}


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        ([{"oldText": "e", "newText": "x"}], "occurs 3 times"),
        ([{"oldText": "none", "newText": "x"}], "does not occur"),
        ([{"oldText": "", "newText": "x"}], "empty"),
    ],
)
async def test_edits_that_are_not_clear(files: Files, edits: list[dict[str, str]], error: str) -> None:
    """An edit that fits no place, or several, changes nothing."""
    path = files.writable / "old.txt"
    path.write_text("eee\n")
    with pytest.raises(Rejected, match=error):
        await files("edit_file", path=str(path), edits=edits)

    assert path.read_text() == "eee\n"


async def test_edits(files: Files) -> None:
    """Exact text, lines that differ in white space alone, every occurrence, and a dry run that changes nothing."""
    path = files.writable / "old.py"
    path.write_text("def a():\n        return 1\n\nx = x + x\n")
    name = str(path)
    dry = await files("edit_file", path=name, edits=[{"oldText": "return 1", "newText": "return 2"}], dryRun=True)

    assert "-        return 1\n+        return 2\n" in dry.content
    assert "return 1" in path.read_text()
    await files(
        "edit_file", path=name, edits=[{"oldText": "def a():\n    return 1", "newText": "def a():\n    return 3"}]
    )
    await files("edit_file", path=name, edits=[{"oldText": "x", "newText": "y"}], all=True)

    assert path.read_text() == "def a():\n    return 3\n\ny = y + y\n"


async def test_preconditions(files: Files) -> None:
    """With an etag, only the content that was read is replaced; binary files and FIFOs are not edited."""
    path = files.writable / "old.txt"
    etag = (await files("get_file_info", path=str(path))).etag
    path.write_text("changed\n")
    with pytest.raises(Rejected, match="etag"):
        await files("write_file", path=str(path), content="x", etag=etag)
    with pytest.raises(Rejected, match="etag"):
        await files("delete_file", path=str(path), etag=etag)
    (files.writable / "binary").write_bytes(b"a\0b")
    with pytest.raises(Rejected, match="binary"):
        await files("edit_file", path=f"{files.writable}/binary", edits=[{"oldText": "a", "newText": "b"}])

    assert path.read_text() == "changed\n"


async def test_hard_links_stay_together(files: Files) -> None:
    """A file with two names is not replaced: its names would be separated."""
    os.link(files.writable / "old.txt", files.writable / "second")
    with pytest.raises(Rejected, match="hard links"):
        await files("write_file", path=f"{files.writable}/old.txt", content="x")

    assert (files.writable / "second").read_text() == "old\n"
    assert not [path for path in files.writable.iterdir() if path.name.endswith(".agentd")]


async def test_a_run_after_a_crash(files: Files) -> None:
    """A call killed between keeping and replacing the old file is completed by its next run, and undone once."""
    path, call = files.writable / "old.txt", MemoryCall(key="d.1")
    await files("write_file", call, path=str(path), content="new\n")
    trash = files.writable / ".agentd-trash"
    (entry,) = [found for found in trash.iterdir() if not found.name.endswith(".json")]
    path.unlink()
    os.link(entry, path)  # as it was between the two steps: the old file has both names
    await files("write_file", MemoryCall(key="d.1"), path=str(path), content="new\n")

    assert path.read_text() == "new\n"
    await files.undo(call)
    assert path.read_text() == "old\n"


async def test_append(files: Files) -> None:
    """Text is added at the end, also to a new file; with a size, only to the file as it was."""
    path = files.writable / "log"
    await files("append_file", path=str(path), content="one\n")
    await files("append_file", path=str(path), content="two\n", size=4)
    with pytest.raises(Rejected, match="size"):
        await files("append_file", path=str(path), content="three\n", size=4)

    assert path.read_text() == "one\ntwo\n"


async def test_directories(files: Files) -> None:
    """Missing directories are created once, also those above, and go by the undo; a file in the way is an error."""
    call = MemoryCall(key="e.1")
    await files("create_directory", call, path=f"{files.writable}/a/b/c")
    await files("create_directory", path=f"{files.writable}/a/b/c")

    assert (files.writable / "a/b/c").is_dir()
    await files.undo(call)
    assert not (files.writable / "a").exists()
    with pytest.raises(Rejected):
        await files("create_directory", path=f"{files.writable}/old.txt/a")


async def test_move_copy_mode_and_delete(files: Files) -> None:
    """Each change is made, replaces nothing, and its undo restores what was."""
    old, new = f"{files.writable}/old.txt", f"{files.writable}/new.txt"
    for name, parameters, after in (
        ("move_file", {"source": old, "destination": new}, {"new.txt": "old\n"}),
        ("copy_file", {"source": f"{files.root}/readme.txt", "destination": new}, {"new.txt": "one\ntwo\nthree\n"}),
        ("delete_file", {"path": old}, {}),
        ("set_file_mode", {"path": old, "mode": "600"}, {}),
    ):
        before = {
            path.name: (path.read_text(), path.stat().st_mode) for path in files.writable.iterdir() if path.is_file()
        }
        call = MemoryCall(key=f"f.{name}")
        await files(name, call, **parameters)
        for path, content in after.items():
            assert (files.writable / path).read_text() == content
        if name in {"move_file", "copy_file"}:
            with pytest.raises((Rejected, NotFound)):
                await files(name, **parameters | {"source": f"{files.root}/docs/a.md", "destination": new})
        await files.undo(call)
        now = {
            path.name: (path.read_text(), path.stat().st_mode) for path in files.writable.iterdir() if path.is_file()
        }

        assert now == before, name


async def test_trash(files: Files) -> None:
    """A deleted directory is listed, restored once, and only emptying the trash deletes it for good."""
    (files.writable / "d").mkdir()
    (files.writable / "d" / "x").write_text("x")
    with pytest.raises(Rejected, match="recursive"):
        await files("delete_file", path=f"{files.writable}/d")
    gone = await files("delete_file", MemoryCall(key="g.1"), path=f"{files.writable}/d", recursive=True)
    listed = await files("list_trash")

    assert [(entry.id, entry.path, entry.principal) for entry in listed.entries] == [
        (gone.trash, f"{files.writable}/d", "tester")
    ]
    await files("restore_from_trash", MemoryCall(key="g.2"), id=gone.trash, path=f"{files.writable}/d")
    assert (files.writable / "d" / "x").read_text() == "x"
    with pytest.raises(NotFound):
        await files("restore_from_trash", MemoryCall(key="g.3"), id=gone.trash, path=f"{files.writable}/e")
    await files("delete_file", MemoryCall(key="g.4"), path=f"{files.writable}/d", recursive=True)
    assert (await files("empty_trash", path=str(files.writable))).deleted == 0
    emptied = await files("empty_trash", MemoryCall(key="g.5"), path=str(files.writable), older_than_days=0)

    assert emptied.deleted == 1
    assert (await files("list_trash")).total == 0
