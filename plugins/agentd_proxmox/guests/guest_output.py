"""Make something readable and harmless of what a guest says; pure.

A guest is nobody to be trusted: its text is cut to a bound and rid of what steers a terminal or hides in a line, and
what has another shape than it should have counts as nothing.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from agentd.proxmox.responses import one_line

Entry = dict[str, Any]

WORD, LINES = 200, 32
"""How long a name from a guest is at most, and how many of a kind are shown."""
LARGEST = 2**70
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)


def shown(text: str) -> str:
    """Return text of a guest without what steers a terminal or hides in a line."""
    return _UNSEEN.sub("", text)


def file_text(content: bytes) -> str | None:
    """Return what a file says, None if it is no text."""
    try:
        return None if b"\x00" in content else content.decode()
    except UnicodeDecodeError as error:
        whole = error.start >= len(content) - 3 and error.reason == "unexpected end of data"
        return content[: error.start].decode() if whole else None  # a character that was cut in two


def unmangled(text: str) -> str:
    """Return text whose UTF-8 Proxmox took for Latin-1 as it was meant."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def command(words: list[str]) -> str:
    """Return a command as who approves it reads it: all of it."""
    return one_line(shown(shlex.join(words)))


def word(value: object) -> str:
    """Return a name from a guest as one short line."""
    return one_line(shown(str("" if value is None else value)))[:WORD]


def record(value: object) -> Entry:
    """Return an object, empty if it is none."""
    return dict(value) if isinstance(value, dict) else {}


def records(value: object) -> list[Entry]:
    """Return the objects of a list, the first of them."""
    return [dict(each) for each in value[:LINES] if isinstance(each, dict)] if isinstance(value, list) else []


def size(value: object) -> float:
    """Return a size that a guest states; what is no number, or none that a disk can have, counts as none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < LARGEST else 0.0


def number(value: object) -> int | None:
    """Return a whole number, None if it is none."""
    return int(str(value)) if re.fullmatch(r"-?\d{1,18}", str(value)) else None


def flag(value: object) -> bool:
    """Return whether a flag is set, in all the ways in which it is written."""
    return str(value).lower() in {"1", "true"}
