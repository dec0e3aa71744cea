"""Print the configuration in force as TOML, with the origin of each value and without secrets."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from agentd.config import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.config.explain import Raw
    from agentd.config.load import Config


_USERINFO: Final = re.compile(r"://[^/@\s]*@")


def show(config: Config) -> str:
    """Return what is in force as TOML, each value with where it came from; secrets are hidden."""
    values = config.model_dump(mode="json")
    values |= values.pop("plugins")
    lines: list[str] = []
    for table, items in _tables(values, ""):
        lines += ["", f"[{table}]"]
        for key, value in items.items():
            origin = config.origins.get(f"{table}.{key}", "default")
            lines.append(f"{_key(key)} = {_toml(_hidden(key, value))}  # {origin}")
    return "\n".join(lines[1:]) + "\n"


def _hidden(key: str, value: object) -> object:
    """Return `value` without what nobody should read."""
    if settings.is_secret(key) and value is not None:
        return "***"
    if isinstance(value, (list, tuple)):
        return [_hidden(key, each) for each in value]
    if isinstance(value, dict):
        return {name: _hidden(name, each) for name, each in value.items()}
    return _USERINFO.sub("://***@", value) if isinstance(value, str) else value


def _tables(values: Raw, prefix: str) -> Iterator[tuple[str, Raw]]:
    """Yield each table that holds more than tables, with what it holds."""
    plain = {key: each for key, each in values.items() if not isinstance(each, dict) and each is not None}
    if prefix and plain:
        yield prefix, plain
    for key, each in values.items():
        if isinstance(each, dict):
            yield from _tables(each, f"{prefix}.{_key(key)}" if prefix else _key(key))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a JSON text is a TOML text
    return str(value)
