"""Text of files: pages of it, edits, and what an edit changes. Pure functions."""

from __future__ import annotations

import codecs
import difflib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from agentd import Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence


class Edit(NamedTuple):
    """Replace `old` by `new`."""

    old: str
    new: str


def etag(data: bytes) -> str:
    """Return the identifier of a content, which a later change may require."""
    return hashlib.sha256(data).hexdigest()[:32]


def decoded(data: bytes, path: str) -> str:
    """Return the text of a file; raises Rejected if it is not UTF-8."""
    if b"\0" in data:
        raise Rejected(f"path: {path} is a binary file (it contains NUL); read_media_file returns its bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Rejected(
            f"path: {path} is not UTF-8 text (byte {error.start}); read_media_file returns its bytes"
        ) from error


def page(data: bytes, most: int, *, last: bool) -> bytes:
    """Return at most `most` bytes of `data`, cut after a line or a character.

    last  `data` is the rest of the file
    """
    if len(data) <= most and last:
        return data
    cut = data[:most]
    line = cut.rfind(b"\n") + 1
    if line:
        return cut[:line]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(cut).encode()  # without a character that is cut off
    except UnicodeDecodeError:
        return cut


def edited(text: str, edits: Sequence[Edit], *, every: bool) -> str:
    """Return `text` with the edits applied in order; newlines are kept.

    Raises Rejected if the old text of an edit does not occur, or occurs more than once and not `every` occurrence is
    to be replaced.
    """
    newline = "\r\n" if "\r\n" in text and "\n" not in text.replace("\r\n", "") else "\n"
    for number, edit in enumerate(edits, start=1):
        old, new = (_with_newlines(part, newline) for part in edit)
        if not old:
            raise Rejected(f"edits[{number}].oldText is empty; write the text that is replaced")
        count = text.count(old)
        if count == 1 or (count and every):
            text = text.replace(old, new)
        elif count:
            raise Rejected(
                f"edits[{number}].oldText occurs {count} times; add lines around it, or set all=true to replace each"
            )
        else:
            text = _by_lines(text, old, new, newline, number)
    return text


def _with_newlines(text: str, newline: str) -> str:
    plain = text.replace("\r\n", "\n")
    return plain.replace("\n", newline) if newline != "\n" else text if "\r" in text else plain


def _by_lines(text: str, old: str, new: str, newline: str, number: int) -> str:
    """Replace lines that equal `old` except for white space at both ends of each line."""
    lines, wanted = text.split(newline), old.strip(newline).split(newline)
    stripped = [line.strip() for line in wanted]
    places = [
        at
        for at in range(len(lines) - len(wanted) + 1)
        if [line.strip() for line in lines[at : at + len(wanted)]] == stripped
    ]
    if len(places) != 1:
        found = f"occurs {len(places)} times, apart from white space" if places else "does not occur in the file"
        raise Rejected(f"edits[{number}].oldText {found}; read the file again and copy its lines exactly")
    at = places[0]
    indent = _indent(lines[at])[: len(_indent(lines[at])) - len(_indent(wanted[0]))]
    replaced = [indent + line if line.strip() else line for line in new.strip(newline).split(newline)]
    return newline.join([*lines[:at], *replaced, *lines[at + len(wanted) :]])


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def difference(before: str, after: str, path: str) -> str:
    """Return what changed, as a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"{path} (before)", f"{path} (after)"
    )
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
