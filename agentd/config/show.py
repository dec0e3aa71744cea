"""Show the active configuration as TOML.

Each value has its origin, and secrets are hidden.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from agentd.config.secret_files import is_secret
from agentd.wire.codec import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd.config.explain import Raw
    from agentd.config.load import Config


OF_ONE_NODE: Final = frozenset(
    {"node", "client", "log", "web.host", "web.port", "web.allowed_hosts", "web.allow_remote", "proxmox.host"}
)
"""Tables and settings that may differ from node to node."""
DIGITS: Final = 12
"""Length of a digest of settings."""
_USERINFO: Final = re.compile(r"://[^/@\s]*@")


def show(config: Config) -> str:
    """Return the active configuration as TOML.

    Each value has its origin as a comment, and secrets are hidden.
    """
    lines: list[str] = []
    for table, items in _tables(_values(config), ""):
        lines += ["", f"[{table}]"]
        for key, value in items.items():
            origin = config.origins.get(f"{table}.{key}", "default")
            lines.append(f"{_key(key)} = {_toml(_hidden(key, value))}  # {origin}")
    return "\n".join(lines[1:]) + "\n"


def as_data(config: Config) -> Raw:
    """Return the configuration as JSON, and the origin of values that are no default."""
    return {"settings": _hidden("", _values(config)), "origins": config.origins}


def shared_digest(config: Config) -> str:
    """Return a digest of the settings that all nodes of a cluster share; secrets are not part of it.

    Agents of one role that report different digests have different settings.
    """
    values = _hidden("", _values(config))
    kept = {
        table: {key: value for key, value in items.items() if f"{table}.{key}" not in OF_ONE_NODE}
        if isinstance(items, dict)
        else items
        for table, items in (values.items() if isinstance(values, dict) else ())
        if table not in OF_ONE_NODE
    }
    return digest(kept)[:DIGITS]


def _values(config: Config) -> Raw:
    values = config.model_dump(mode="json")
    return {**values, **values.pop("plugins")}


def _hidden(key: str, value: object) -> object:
    """Return `value` with secrets replaced by ***."""
    if is_secret(key) and value is not None:
        return "***"
    if isinstance(value, (list, tuple)):
        return [_hidden(key, item) for item in value]
    if isinstance(value, dict):
        return {name: _hidden(name, item) for name, item in value.items()}
    return _USERINFO.sub("://***@", value) if isinstance(value, str) else value


def _tables(values: Raw, prefix: str) -> Iterator[tuple[str, Raw]]:
    """Yield each table that has values other than tables, with those values."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    if prefix and plain:
        yield prefix, plain
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _tables(value, f"{prefix}.{_key(key)}" if prefix else _key(key))


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)  # a JSON string is a valid TOML string
    return str(value)
