"""Files are read as they are, in parts of any size, and what cannot be shown as text is an error."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import NotFound, Rejected
from agentd_filesystem import text
from plugins.filesystem.conftest import serving

if TYPE_CHECKING:
    from pathlib import Path

    from plugins.filesystem.conftest import Files


async def test_whole_head_and_tail(files: Files) -> None:
    """A file is read whole, or its first or last lines; a relative path belongs to the only root."""
    path = f"{files.root}/readme.txt"

    assert (await files("read_text_file", path=path)).content == "one\ntwo\nthree\n"
    assert (await files("read_file", path="readme.txt", head=2)).content == "one\ntwo\n"
    assert (await files("read_text_file", path=path, tail=1)).content == "three\n"
    assert (await files("read_text_file", path=path, tail=9)).content == "one\ntwo\nthree\n"
    with pytest.raises(Rejected, match="tail"):
        await files("read_text_file", path=path, head=1, tail=1)


async def test_pages_are_the_whole(files: Files) -> None:
    """A long text is cut at line ends; its pages together are the file, for any characters."""
    content = "".join(f"{number} äöü 漢字 😀 {'x' * (number % 90)}\n" for number in range(5000))
    (files.root / "long.txt").write_text(content)
    pages = []
    offset: int | None = 0
    while offset is not None:
        page = await files("read_text_file", path="long.txt", offset=offset)
        pages.append(page.content)
        offset = page.next_offset

    assert "".join(pages) == content
    assert len(pages) > 3
    assert all(page.endswith("\n") for page in pages)


@given(st.text(max_size=300), st.integers(8, 40))
def test_any_text_is_cut_between_characters(content: str, most: int) -> None:
    """Each page is valid UTF-8, and all pages together are the text."""
    data, pages = content.encode("utf-8", "replace"), b""
    while len(pages) < len(data):
        rest = data[len(pages) :]
        page = text.page(rest, most, last=True)
        page.decode()

        assert page
        pages += page
    assert pages == data


async def test_a_huge_file(files: Files) -> None:
    """The ends of a sparse file of 2 GB are read at once, and its whole is refused."""
    with (files.root / "huge").open("wb") as file:
        file.write(b"first\n")
        file.truncate(2 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")

    assert (await files("read_text_file", path="huge", head=1)).content == "first\n"
    assert (await files("read_text_file", path="huge", tail=1)).content == "last\n"
    with pytest.raises(Rejected, match="max_file"):
        await files("read_media_file", path="huge")


async def test_bytes_that_are_no_text(files: Files) -> None:
    """Bytes that are not UTF-8 are an error as text, and come whole in base64."""
    data = b"\xff\xfe\x00binary"
    (files.root / "picture.png").write_bytes(data)
    (files.root / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(Rejected, match="binary"):
        await files("read_text_file", path="picture.png")
    with pytest.raises(Rejected, match="not UTF-8"):
        await files("read_text_file", path="latin1.txt")
    (image,) = (await files("read_media_file", path="picture.png")).content

    assert base64.b64decode(image.data) == data
    assert image.mime_type == "image/png"


async def test_several_files(files: Files) -> None:
    """Each file is shown or its fault, and one fault hides no other file."""
    answer = (await files("read_multiple_files", paths=["readme.txt", "none", "docs/a.md"])).content

    assert "one\ntwo" in answer
    assert "none: Error - path: none does not exist" in answer
    assert "alpha" in answer


async def test_info_and_checksum(files: Files) -> None:
    """Size, mode, times and content identifier; a checksum by each algorithm."""
    (files.root / "readme.txt").chmod(0o640)
    info = await files("get_file_info", path="readme.txt")
    digest = await files("get_checksum", path="readme.txt", algorithm="sha512")

    assert (info.type, info.size, info.mode) == ("file", 14, "0640")
    assert info.etag == (await files("read_text_file", path="readme.txt")).etag
    assert "size: 14" in info.content
    assert digest.checksum == hashlib.sha512(b"one\ntwo\nthree\n").hexdigest()
    with pytest.raises(NotFound):
        await files("get_file_info", path="nothing")


async def test_lists(files: Files, tmp_path: Path) -> None:
    """A directory by name, page by page, and with sizes."""
    assert (await files("list_directory", path=str(files.root))).content == "[DIR] docs\n[FILE] readme.txt\n[DIR] work"
    sized = (await files("list_directory_with_sizes", path=".", sortBy="size")).content

    assert "Total: 1 files, 2 directories" in sized
    assert "14 B" in sized
    many = tmp_path / "many"
    many.mkdir()
    names = [f"{number:03}" for number in range(25)]
    for name in names:
        (many / name).touch()
    small = serving(many, many, files.outside, max_entries=10)
    shown, cursor = [], ""
    while True:
        page = await small("list_directory", path=".", cursor=cursor)
        shown += [line.removeprefix("[FILE] ") for line in page.content.split("\n")]
        cursor = page.next
        if not cursor:
            break
    assert shown == names
    found, cursor = [], ""
    while True:
        page = await small("search_files", path=".", pattern="*", cursor=cursor)
        found += page.content.split("\n")
        cursor = page.next
        if not cursor:
            break
    assert found == [str(many / name) for name in names]


async def test_tree_and_search(files: Files) -> None:
    """The tree as JSON, and paths by patterns; what is excluded is not visited."""
    (files.root / "docs" / "deep").mkdir()
    (files.root / "docs" / "deep" / "b.md").write_text("x")
    tree = (await files("directory_tree", path=".", excludePatterns=["work"])).content

    assert '"name": "deep"' in tree
    assert "old.txt" not in tree
    for pattern, paths in {
        "**/*.md": ["docs/a.md", "docs/deep/b.md"],
        "*.md": [],
        "docs/?.md": ["docs/a.md"],
        "docs/[ab].{md,txt}": ["docs/a.md"],
        "**/deep/**": ["docs/deep", "docs/deep/b.md"],
    }.items():
        found = (await files("search_files", path=".", pattern=pattern)).content

        assert found == ("\n".join(f"{files.root}/{path}" for path in paths) or "No matches found"), pattern


async def test_no_pattern_takes_long(files: Files) -> None:
    """A pattern that would let a regular expression backtrack for years is matched at once."""
    (files.root / ("a" * 200)).touch()
    found = await files("search_files", path=".", pattern="*a" * 100 + "b")

    assert found.content == "No matches found"
    with pytest.raises(Rejected, match="alternatives"):
        await files("search_files", path=".", pattern="{a,b}" * 20)


async def test_text_in_files(files: Files) -> None:
    """Lines literally and by regular expression; a text like an option is a text."""
    (files.root / "docs" / "log").write_text("ERROR 17\nerror 18\n--version\n")

    assert (await files("search_text", path=".", text="error", ignore_case=True)).content.count("\n") == 1
    assert (await files("search_text", path="docs", text=r"ERROR [0-9]+", regex=True)).content == "log:1:ERROR 17"
    assert (await files("search_text", path="docs/log", text="--version")).content == "log:3:--version"
    assert (await files("search_text", path=".", text="beta", files="**/*.txt")).content == "No matches found"
    with pytest.raises(Rejected, match="text"):
        await files("search_text", path=".", text="[", regex=True)
