"""The filter `to_toml`: agentd's configuration from the inventory's variables."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def to_toml(value: dict[str, Any], prefix: str = "") -> str:
    """Return a dictionary of tables, texts, numbers, switches and lists as TOML.

    A text of JSON is a text of TOML too, and a list of dictionaries an array of tables.
    """
    plain = {key: item for key, item in value.items() if not _is_table(item)}
    text = "".join(f"{_key(key)} = {json.dumps(item)}\n" for key, item in plain.items() if item is not None)
    for key, item in value.items():
        path = f"{prefix}{_key(key)}"
        if isinstance(item, dict):
            text += f"\n[{path}]\n{to_toml(item, f'{path}.')}"
        elif _is_table(item):
            text += "".join(f"\n[[{path}]]\n{to_toml(table, f'{path}.')}" for table in item)
    return text


def _is_table(item: object) -> bool:
    return isinstance(item, dict) or (isinstance(item, list) and bool(item) and isinstance(item[0], dict))


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else json.dumps(key)


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return each filter by its name."""
        return {"to_toml": to_toml}
