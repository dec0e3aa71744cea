"""Writes `docs/settings.md`, `docs/cli.md` and `docs/metrics.md` from the product itself: `make docs`."""

from __future__ import annotations

import inspect
import re
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Final, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from agentd.cli.main import cli
from agentd.config import load as configuration
from agentd.plugins.manager import Plugins, installed
from agentd.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

DOCS: Final = Path(__file__).parents[2] / "docs"
SETTINGS: Final = DOCS / "settings.md"
CLI: Final = DOCS / "cli.md"
METRICS: Final = DOCS / "metrics.md"
WIDTH: Final = 100
"""Columns of the help texts."""

SETTINGS_HEAD: Final = """\
# Settings

Generated from the code by `make docs`; a test keeps this page up to date.

Settings are read from `/etc/agentd/agentd.toml`, then from `conf.d/*.toml` beside it in the order of their names, then
from environment variables: `AGENTD_BUS__TIMEOUT=10` sets `timeout` in `[bus]`. A later source replaces the value of an
earlier one; tables are merged. An unknown key is an error. `agentd config check` validates the configuration,
and `agentd config show` prints every value with its source. A number without a unit is a count. `enabled = true` in the
section of a plugin loads that plugin also where no role needs it.
"""
CLI_HEAD: Final = """\
# Commands

Generated from the command line by `make docs`; a test keeps this page up to date. The exit codes are listed in the
[README](../README.md#interfaces), and the [user guide](guide.md) shows how the commands are used together.
"""
METRICS_HEAD: Final = """\
# Metrics

Generated from the code by `make docs`; a test keeps this page up to date. Every daemon serves these metrics at
`/metrics` in the text format of Prometheus, together with the usual `process_…` and `python_…` metrics. A histogram has
the series `…_bucket`, `…_sum` and `…_count`.

| name | type | labels | meaning |
|---|---|---|---|
"""
COMPUTED: Final = {
    "node.name": "the host name without its domain",
    "node.state_dir": "`$STATE_DIRECTORY`, else `~/.local/state/agentd`",
    "client.principal": "name of the user",
}
"""Defaults that depend on the machine."""
TABLE: Final = {"instances": "NAME", "schedules": "NAME"}
"""Tables whose keys are names that the administrator chooses."""


# -- settings ----------------------------------------------------------------------------------------------------------


def tables() -> dict[str, type[BaseModel]]:
    """Return the type of each table of the configuration by its heading, first the tables of the core."""
    found: dict[str, type[BaseModel]] = {}
    for name in configuration.CORE:
        field = configuration.Config.model_fields[name]
        found |= _nested(f"{name}.{TABLE[name]}" if name in TABLE else name, field.annotation, array=False)
    plugins = Plugins(configuration.load(None, {}, installed()), set(installed()))
    for name in sorted(plugins.loaded()):
        found |= _nested(name, type(plugins.settings(name)), array=False)
    return found


def _nested(path: str, annotation: Any, *, array: bool) -> dict[str, type[BaseModel]]:
    """Return the tables at and below `path`; `array` means an array of tables."""
    kind = table_below(annotation)
    if kind is None:
        return {}
    found = {f"[[{path}]]" if array else f"[{path}]": kind}
    for key, field in kind.model_fields.items():
        found |= _nested(f"{path}.{key}", field.annotation, array=get_origin(field.annotation) in {tuple, list})
    return found


def table_below(annotation: Any) -> type[BaseModel] | None:
    """Return the type of the table that a value of this type is or contains, None if it is a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((kind for kind in map(table_below, get_args(annotation)) if kind is not None), None)


def descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """Return the description of each setting of a table; "" if it has none."""
    return {key: field.description or "" for key, field in kind.model_fields.items()}


def settings() -> str:
    """Return the page of the settings."""
    parts = [SETTINGS_HEAD]
    for heading, kind in tables().items():
        path, texts = heading.strip("[]"), descriptions(kind)
        rows = [
            f"| `{key}` | {_type(field.annotation, field.metadata)} | {unit(texts[key]) if _number(field) else ''} "
            f"| {_default(f'{path}.{key}', field)} | {_sentence(texts[key])} |"
            for key, field in kind.model_fields.items()
            if table_below(field.annotation) is None
        ]
        about = inspect.cleandoc(kind.__doc__ or "") if kind.__doc__ else ""
        parts.append(f"## `{heading}`\n\n{about}\n")
        if rows:
            parts.append(
                "| key | type | unit | default | description |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
            )
    return "\n".join(parts)


def unit(text: str) -> str:
    """Return the unit that the description of a number names, "" for a count."""
    found = re.match(r"(?:highest |lowest )?(seconds|days|percent|bytes|MiB|GiB|price)\b", text, re.IGNORECASE)
    return _UNITS.get(found[1], found[1].lower()) if found else ""


def _number(field: FieldInfo) -> bool:
    return _type(field.annotation).startswith(("integer", "number"))


def _default(path: str, field: FieldInfo) -> str:
    if path in COMPUTED:
        return COMPUTED[path]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    credential = configuration.CREDENTIALS.get(path)
    if credential:
        return f"systemd credential `{credential}`, if there is one"
    return "" if value in (None, PydanticUndefined) else f"`{_toml(value)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum | Path):
        return f'"{value}"'
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


_UNITS: Final = {"MiB": "MiB", "GiB": "GiB", "percent": "%", "Percent": "%"}
_NAMES: Final = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "path", Any: "any"}
_LIMITS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type(annotation: Any, metadata: Any = ()) -> str:
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, annotation.__metadata__)
    limits = [
        f"{sign} {_toml(getattr(item, name))}"
        for item in metadata
        for name, sign in _LIMITS.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join([_plain_type(annotation), *limits])


def _plain_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), [arg for arg in get_args(annotation) if arg is not NoneType]
    if origin is Literal:
        return " or ".join(f"`{_toml(argument)}`" for argument in arguments)
    if origin in {Union, UnionType}:
        return " or ".join(map(_type, arguments))
    if origin in {list, tuple, set, frozenset}:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{_toml(item)}`" for item in annotation)
    return _NAMES[annotation]


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()


def _sentence(text: str) -> str:
    """Return a description with a capital letter, unless it begins with a name, and without its full stop."""
    text = _cell(text).removesuffix(".")
    first = text.partition(" ")[0].rstrip(",;:")
    return text[:1].upper() + text[1:] if first.isalpha() else text


# -- commands ----------------------------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """Return every command and group by the words that name it."""
    return dict(_below("agentd", cli))


def _below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _below(f"{path} {name}", found)


HELP: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}
"""Settings that commands inherit from `agentd`; click keeps the help option that it builds from the first context."""


def command_line() -> str:
    """Return the page of the commands."""
    parts = [CLI_HEAD]
    for path, command in commands().items():
        settings = {**HELP, **command.context_settings}
        context = click.Context(command, info_name=path, terminal_width=WIDTH, **settings)
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"## `{path}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics() -> str:
    """Return the page of the metrics."""
    return METRICS_HEAD + "".join(sorted(_metric_rows()))


def _metric_rows() -> Iterator[str]:
    for metric in Metrics()._collectors:  # noqa: SLF001 - the metrics in the order of the file
        (family,) = metric.describe()  # type: ignore[attr-defined]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = " ".join(f"`{label}`" for label in metric._labelnames)  # type: ignore[attr-defined] # noqa: SLF001
        yield f"| `{name}` | {family.type} | {labels} | {_cell(family.documentation)} |\n"
