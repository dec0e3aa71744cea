"""Make output of a guest readable and harmless; pure.

Output of a guest is not trusted: its text is cut to a limit and stripped of characters that control a terminal or are
invisible in a line, and a value that does not have the expected type counts as empty.
"""

from __future__ import annotations

import re
import shlex
from typing import Any, Final

from agentd import one_line

Entry = dict[str, Any]

WORD, LINES = 200, 32
"""Maximum length of a name from a guest, and maximum number of objects that are shown."""
LARGEST: Final = 2**70
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e0fff]"
)


def printable_text(text: str) -> str:
    """Return text without characters that control a terminal or are invisible."""
    return _UNSEEN.sub("", text)


def file_text(content: bytes) -> str | None:
    """Return the content of a file as text, None if it is not text."""
    try:
        return None if b"\x00" in content else content.decode()
    except UnicodeDecodeError as error:
        cut_at_end = error.start >= len(content) - 3 and error.reason == "unexpected end of data"
        return content[: error.start].decode() if cut_at_end else None  # the end of the data cuts a character in two


def decode_latin1(text: str) -> str:
    """Return the original of a text whose UTF-8 Proxmox decoded as Latin-1."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def command(words: list[str]) -> str:
    """Return a command, complete, as it is shown for approval."""
    return one_line(printable_text(shlex.join(words)))


def word(value: object) -> str:
    """Return a name from a guest as one short line."""
    return one_line(printable_text(str("" if value is None else value)))[:WORD]


def record(value: object) -> Entry:
    """Return an object, empty if the value is not an object."""
    return dict(value) if isinstance(value, dict) else {}


def records(value: object) -> list[Entry]:
    """Return the objects among the first values of a list."""
    return [dict(item) for item in value[:LINES] if isinstance(item, dict)] if isinstance(value, list) else []


def size(value: object) -> float:
    """Return a size that a guest reports.

    It is 0 if the value is not a number or not a possible disk size.
    """
    return float(value) if isinstance(value, int | float) and 0 <= value < LARGEST else 0.0


def number(value: object) -> int | None:
    """Return a whole number, None if the value is not one."""
    return int(str(value)) if re.fullmatch(r"-?\d{1,18}", str(value)) else None


def flag(value: object) -> bool:
    """Return whether a flag is set; it may be written as 1 or true."""
    return str(value).lower() in {"1", "true"}
