"""Values of any message type in which every text is hostile: it controls a terminal, reorders or hides text."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

import msgspec

ESC = "\x1b[2J\x1b]0;title\x07\x1b]8;;http://evil\x1b\\"
"""Clear the screen, set the title, and a link."""
MEMBERS = [
    *map(chr, (*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0))),
    *map(chr, (0x00AD, 0x034F, 0x061C, 0x180E, 0x115F, 0x3164, 0xFEFF, 0xFFF9, 0x2060)),
    *map(chr, (*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2061, 0x2070))),
    *map(chr, (0xE0001, 0xE0041, 0xE0100)),
]
"""One of each kind of character that is never shown: C0, C1, bidi, zero-width, tags, separators."""
TEXT = f"a{ESC}b[/red][bold]:skull:\n✓ forged{''.join(MEMBERS)}\\"


def controls(text: str) -> set[str]:
    """Return the characters of `text` that control a terminal, reorder or hide text; line ends are none."""
    return {char for char in text if char in MEMBERS or (char != "\n" and unicodedata.category(char) in {"Cc", "Cf"})}


def made(kind: Any) -> Any:
    """Return a value of a type that msgspec knows, with `TEXT` in the place of every text."""
    return msgspec.convert(_of(msgspec.inspect.type_info(kind)), kind, strict=False)


def _of(kind: msgspec.inspect.Type) -> Any:  # noqa: PLR0911 - one for each kind
    found = _simple(kind)
    if found is not None:
        return found
    if isinstance(kind, msgspec.inspect.StructType):
        return {field.encode_name: _of(field.type) for field in kind.fields}
    if isinstance(kind, msgspec.inspect.DictType):
        return {_of(kind.key_type): _of(kind.value_type)}
    if isinstance(kind, msgspec.inspect.EnumType):
        return next(iter(kind.cls)).value
    if isinstance(kind, msgspec.inspect.UnionType):
        return _of(next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)))
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[0]
    return [_of(kind.item_type)] if hasattr(kind, "item_type") else TEXT


def _simple(kind: msgspec.inspect.Type) -> Any:
    plain = {
        msgspec.inspect.StrType: TEXT,
        msgspec.inspect.IntType: 1,
        msgspec.inspect.FloatType: 1.0,
        msgspec.inspect.BoolType: True,
        msgspec.inspect.DateTimeType: datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
    }
    return plain.get(type(kind))
