"""The sanitizer for all text that is shown to a person.

That is text on a terminal, on a page, in a log line or in a prompt.  Names, errors and results come from guests,
clients and other agents.  A control character in them is a command to the terminal; a bidirectional override displays a
different text than the real one; a zero-width or tag character is invisible.  Each is replaced by U+FFFD, so that the
reader sees that there was a character.  JSON keeps the data: the same characters are written as escapes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, Final

INSTEAD: Final = "\ufffd"
_UNSEEN: Final = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0"  # invisible letters and marks
)
_CHEAP: Final = re.compile(f"[{_UNSEEN}\U000e0000-\U000e0fff]")
"""Characters that are invisible but printable for Python; str.isprintable() finds all others."""
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    f"{_UNSEEN}\ufeff\ufff0-\ufffb\ud800-\udfff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` with all characters that can deceive the reader replaced.

    These are characters that control a terminal, or reorder or hide text.  The result is one line unless `lines`.
    """
    if text.isprintable() and not _CHEAP.search(text):
        return text
    return "".join(char if lines and char == "\n" else _visible(char) for char in text)


def _visible(char: str) -> str:
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    return char if char.isprintable() and not _CHEAP.match(char) else INSTEAD


def cleaned(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with every text in it made printable, including keys."""
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_json(value: Any, **options: Any) -> str:  # noqa: ANN401 - JSON, and what json.dumps takes
    """Return a value as JSON for display.

    Letters stay readable, characters that `printable` replaces are escaped.
    """
    return escaped(json.dumps(value, ensure_ascii=False, **options))


def escaped(text: str) -> str:
    """Return a JSON text with the characters that `printable` replaces escaped.

    A parser still reads the same data.
    """
    return _UNSAFE.sub(_escape, text)


def escaped_bytes(data: bytes) -> bytes:
    """Return encoded JSON as `escaped` does.

    Most JSON has no character to escape and is returned unchanged.
    """
    return data if data.isascii() and b"\x7f" not in data else escaped(data.decode()).encode()


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]
