"""The mark on objects that agentd creates; pure.

A mark is `agentd:<workflow>.<task>[.<step>]`, for a call `agentd:<principal>=<key>`.  It is a hint and never a proof:
any user who may edit the text in Proxmox can write one.  It counts only together with the effect record of its key
(`Invocation.ensure` in tools/invocation.py).  Callers may not write marks: `refuse_marks` is applied to every parameter
of every tool.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from agentd.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "agentd:"
_KEY: Final = r"(?:[A-Za-z0-9_-]{1,64}=)?[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){1,2}"
_MARK: Final = re.compile(re.escape(PREFIX) + f"({_KEY})")
_WRITTEN: Final = re.compile(
    re.escape(PREFIX) + r"(?:(?:[A-Za-z0-9_-]+=)?[A-Za-z0-9_-]+\.[A-Za-z0-9_-]|\S*\{\{)|\{\{[^{}]*\}\}[^\s:]*:\S*\.\S"
)
"""Text that callers may not write.

It is a mark, or text that a Proxmox template turns into one: a guest may be named `agentd`, and then
`{{guestname}}:workflow.task` becomes a mark.
"""
_DECODED: Final = 3
"""Times that a value is percent-decoded.

Proxmox stores some texts encoded, and an API path is encoded once more.
"""


def mark(key: str) -> str:
    """Return the mark of `key`."""
    return PREFIX + key


def key_of(text: str) -> str:
    """Return the key if `text` is exactly a mark, else ""."""
    found = _MARK.fullmatch(text)
    return found[1] if found else ""


def refuse_marks(tool: str, parameters: object) -> None:
    """Raise InvalidMessage if a value at any depth contains a mark.

    The error names the field.
    """
    for field, text in _texts(parameters, ""):
        if _contains(text):
            raise InvalidMessage(
                f"{tool}{field}: contains a mark of agentd ({PREFIX}<workflow>.<task>), which callers may not write; "
                "take it out"
            )


def _contains(text: str) -> bool:
    if ":" not in text and "%" not in text:  # a mark has a colon, which may be encoded
        return False
    for _ in range(_DECODED):
        if _WRITTEN.search(text):
            return True
        decoded = unquote(text)
        if decoded == text:
            return False
        text = decoded
    return bool(_WRITTEN.search(text))


def _texts(value: object, field: str) -> Iterator[tuple[str, str]]:
    """Yield every text in `value`, with the field that holds it."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield f"{field}.{key}", str(key)
            yield from _texts(inner, f"{field}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{field}[{index}]")
