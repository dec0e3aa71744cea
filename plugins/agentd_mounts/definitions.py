"""The definitions of a server's tools, as it sends them, and which of them are accepted; pure but for reading a file.

A definition is pinned as a whole: its digest covers name, description, schemas and annotations.  A model reads the
description, so a server that changes it after the review is as dangerous as one that changes what the tool does.
Nothing is accepted at first use: an administrator has read each definition before any client sees it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import AgentdError, files

if TYPE_CHECKING:
    from pathlib import Path

MOST_TOOLS: Final = 200
MOST_BYTES: Final = 32_768
"""Bytes of one definition."""
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,38}")
_KEPT: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")


@dataclass(frozen=True)
class Definition:
    """A tool as its server describes it.

    name      as the server calls it
    digest    SHA-256 of the whole definition
    """

    name: str
    description: str
    schema: dict[str, Any]
    digest: str


class Malformed(Exception):
    """A definition cannot be a tool; the text is the reason."""


def parse(item: object) -> Definition:
    """Return a definition; raises Malformed."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise Malformed("it has no name")
    kept = {key: item[key] for key in _KEPT if item.get(key) is not None}
    encoded = msgspec.json.encode(kept, order="sorted")
    if not _NAME.fullmatch(kept["name"]):
        raise Malformed("its name is not made of letters, digits and _ . -")
    if len(encoded) > MOST_BYTES:
        raise Malformed(f"it has {len(encoded)} bytes, more than {MOST_BYTES}")
    schema, description = kept.get("inputSchema"), kept.get("description", "")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Malformed("its inputSchema is not that of an object")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(value, dict) for value in properties.values()):
        raise Malformed("the properties of its inputSchema are not schemas")
    if not isinstance(description, str):
        raise Malformed("its description is not a text")
    return Definition(kept["name"], description, schema, hashlib.sha256(encoded).hexdigest())


def tool_name(server: str, name: str) -> str:
    """Return the name of a server's tool in the network."""
    return f"{server}__{re.sub(r'[^a-z0-9_]', '_', name.lower())}"


def read(path: Path) -> dict[str, Definition | str]:
    """Return the accepted definitions by name, or why one of them cannot be a tool.

    Return {} if the file does not exist. Raises AgentdError if another user may have written the file, or if it is not
    what agentd wrote.
    """
    try:
        items = msgspec.json.decode(files.read(path, most=MOST_TOOLS * MOST_BYTES), type=list[Any])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise AgentdError(f"{path}: {error}") from error
    return named(items)


def named(items: list[Any]) -> dict[str, Definition | str]:
    """Return definitions by name, or why one cannot be a tool.

    Two of one name are both left out.
    """
    found: dict[str, Definition | str] = {}
    for number, item in enumerate(items[:MOST_TOOLS]):
        name = item.get("name") if isinstance(item, dict) else None
        name = name[:80] if isinstance(name, str) else f"number {number}"
        try:
            found[name] = parse(item) if name not in found else "the server has two tools of this name"
        except (Malformed, msgspec.MsgspecError, TypeError) as error:
            found[name] = str(error)
    return found


def quarantined(accepted: dict[str, Definition | str], offered: dict[str, Definition | str]) -> dict[str, str]:
    """Return why tools are not called now, by the name of the tool.

    They differ from what was accepted.
    """
    found = {}
    for name in {**accepted, **offered}:
        then, now = accepted.get(name), offered.get(name)
        if isinstance(now, str):
            found[name] = now
        elif then is None:
            found[name] = "it is new, and not accepted"
        elif now is None:
            found[name] = "the server does not offer it now"
        elif isinstance(then, str) or then.digest != now.digest:
            found[name] = "the server has changed its definition since it was accepted"
    return found
