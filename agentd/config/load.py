"""Load the configuration from its sources, merge and validate it.

An error is one line.  The file is the first of: the one given by --config, $AGENTD_CONFIG, the user's own file
($XDG_CONFIG_HOME/agentd/agentd.toml, by default ~/.config/agentd/agentd.toml), /etc/agentd/agentd.toml.  A later source
overrides an earlier one: the file, `conf.d/*.toml` beside it in the order of their names, `AGENTD_<SECTION>__<KEY>`
from the environment.  Secrets are files, by default systemd credentials.  Tables are merged, all other values are
replaced.  An unknown key prevents the start: a misspelt limit that is silently ignored is worse than no daemon.

pydantic-settings could do half of this, but costs 9 MiB and 56 ms, and does not know which file set a value.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from agentd import files
from agentd.config import settings
from agentd.config.explain import Origins, Raw, fault_line, inner_type, is_list_type, origin_of
from agentd.config.policy import Policy
from agentd.config.proxmox import Proxmox
from agentd.config.secret_files import CREDENTIAL
from agentd.config.section import Id, Section
from agentd.errors import ConfigError
from agentd.similar import either, nearest, suggestion

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping


DEFAULT_PATH: Final = Path("/etc/agentd/agentd.toml")
CORE: Final = ("node", "client", "bus", "proxmox", "policy", "web", "log", "drain", "instances", "schedules")
RESERVED: Final = ("AGENTD_CONFIG", "AGENTD_FACTS", "AGENTD_PVE_PYTHON")
"""Variables that are not settings, in addition to AGENTD_TEST_*."""

CREDENTIALS: Final = {
    "bus.nkey_file": "agentd-bus-nkey",
    "bus.creds_file": "agentd-bus-creds",
    "bus.password_file": "agentd-bus-password",
    "bus.admin.nkey_file": "agentd-admin-nkey",
    "bus.admin.creds_file": "agentd-admin-creds",
    "bus.admin.password_file": "agentd-admin-password",
    "proxmox.token_file": "agentd-proxmox-token",
}
"""Secret settings, and the systemd credential that each uses if it is not set."""


B = TypeVar("B", bound=BaseModel)


class Config(Section):
    """The whole configuration, validated; `Config()` has the default of every setting."""

    node: settings.Node = Field(default_factory=settings.Node)
    client: settings.Client = Field(default_factory=settings.Client)
    bus: settings.Bus = Field(default_factory=settings.Bus)
    proxmox: Proxmox | None = None
    policy: Policy = Field(default_factory=Policy)
    web: settings.Web = Field(default_factory=settings.Web)
    log: settings.Log = Field(default_factory=settings.Log)
    drain: settings.Drain = Field(default_factory=settings.Drain)
    instances: dict[Id, settings.InstanceSection] = Field(default={})
    schedules: dict[settings.ScheduleName, settings.Schedule] = Field(default={})
    plugins: dict[str, Raw] = Field(default={}, description="each plugin's section as it was written: plugin_settings")
    known_plugins: tuple[str, ...] = Field(default=(), exclude=True)
    origins: Origins = Field(default={}, exclude=True, repr=False)

    @property
    def principal(self) -> str:
        """The principal of requests from the command line."""
        return self.client.principal

    def instance(self, name: str, roles: Collection[str] = ()) -> Instance:
        """Return the instance `name`.

        Without its own section it has the role (or plugin) of its name.
        """
        section = self.instances.get(name)
        known = sorted({*self.instances, *self.known_plugins, *roles})
        if name not in known:
            raise ConfigError(f"instance {name!r} is not known{suggestion(name, known)}")
        section = section or settings.InstanceSection()
        port = self.web.port if section.port is None else section.port
        return Instance(name, section.roles or (name,), port, section.slots)


@dataclass(frozen=True)
class Instance:
    """One daemon: its roles, the port of its page, its number of parallel tasks.

    `port` None means the default of the role.
    """

    name: str
    roles: tuple[str, ...]
    port: int | None
    slots: int


def load(path: Path | None, env: Mapping[str, str], known_plugins: Collection[str] = ()) -> Config:
    """Return the active configuration.

    A ConfigError says in one line what is wrong and where.

    With `path` None, the file is $AGENTD_CONFIG, the user's own file or the default file; the last two need not exist.
    A top-level table that is not one of the core's must have the name of one of `known_plugins`.
    """
    raw: Raw = {}
    origins: Origins = {}
    for label, layer in _files(path, env):
        merge(raw, layer, label, origins)
    _environment(raw, env, known_plugins, origins)
    _credentials(raw, env, origins)
    plugins = {}
    for name in [section for section in raw if section not in CORE]:
        if name not in known_plugins or not isinstance(raw[name], dict):
            raise ConfigError(f"{origins[name]}: {name}: unknown section{suggestion(name, [*CORE, *known_plugins])}")
        plugins[name] = raw.pop(name)
    checked = _validate(Config, raw, origins, "")
    known = tuple(known_plugins)
    config = checked.model_copy(update={"plugins": plugins, "known_plugins": known, "origins": origins})
    _check_roles(config)
    return config


def plugin_settings(config: Config, name: str, kind: type[B]) -> B:
    """Return the section of plugin `name` as the plugin's settings type.

    Errors are one line, as for the core.

    `enabled = true` in a plugin's section loads the plugin even if no role needs it; it is not one of the plugin's own
    settings.
    """
    own = {key: value for key, value in config.plugins.get(name, {}).items() if key != "enabled"}
    return _validate(kind, own, config.origins, name)


# -- the layers -------------------------------------------------------------------------------------------------------


def _files(path: Path | None, env: Mapping[str, str]) -> Iterator[tuple[str, Raw]]:
    named = path or (Path(env["AGENTD_CONFIG"]) if env.get("AGENTD_CONFIG") else None)
    main = named or user_file(env) or DEFAULT_PATH
    if named or _exists(main):
        yield main.name, _read(main, " (AGENTD_CONFIG names it)" if named and not path else "")
    parts = main.parent / "conf.d"
    for name in sorted(_listed(parts)):
        if name.endswith(".toml"):
            yield f"conf.d/{name}", _read(parts / name)


def user_file(env: Mapping[str, str]) -> Path | None:
    """Return the user's configuration file; None without one, or without a home."""
    home = env.get("HOME", "")
    base = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    path = Path(base, "agentd", "agentd.toml")
    return path if path.is_absolute() and _exists(path) else None


def _exists(path: Path) -> bool:
    """Return whether there is a file `path`.

    Raises ConfigError if this user cannot find out.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _listed(directory: Path) -> list[str]:
    """Return the names in a directory, [] if there is none.

    Raises ConfigError if it cannot be read.
    """
    try:
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error


def _unreadable(path: Path, error: OSError, reason: str = "") -> ConfigError:
    hint = "; run the command as root, or name a file that you can read: agentd --config FILE"
    denied = hint if isinstance(error, PermissionError) else ""
    return ConfigError(f"{path}: cannot be read: {error.strerror}{reason}{denied}")


def _read(path: Path, reason: str = "") -> Raw:
    try:
        return tomllib.loads(files.read(path).decode("utf-8"))
    except OSError as error:
        raise _unreadable(path, error, reason) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


def merge(into: Raw, layer: Raw, label: str, origins: Origins, prefix: str = "") -> None:
    """Merge `layer` into `into`: tables are merged, all other values are replaced."""
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        origins[dotted] = label
        if not isinstance(value, dict):
            into[key] = value
            continue
        below = into.get(key)
        into[key] = below = below if isinstance(below, dict) else {}
        merge(below, value, label, origins, f"{dotted}.")


def _environment(raw: Raw, env: Mapping[str, str], plugins: Collection[str], origins: Origins) -> None:
    for variable in sorted(env):
        if not variable.startswith("AGENTD_") or variable in RESERVED or variable.startswith("AGENTD_TEST_"):
            continue
        parts = variable.removeprefix("AGENTD_").lower().split("__")
        if len(parts) < 2 or not all(parts):  # noqa: PLR2004 - a section and a key
            meant = nearest(variable, [*RESERVED, *_variables()], cutoff=0.75)
            hint = f"; did you mean {either(meant)}?" if meant else "; settings are AGENTD_<SECTION>__<KEY>"
            raise ConfigError(f"{variable}: unknown variable{hint}")
        layer: Any = env[variable]
        for name in reversed(_names(raw, parts, plugins)):
            layer = {name: layer}
        merge(raw, layer, variable, origins)


def _names(raw: Raw, parts: list[str], plugins: Collection[str]) -> list[str]:
    """Return the parts of a variable's name as files and plugins spell them.

    A variable has no dashes and no case.
    """
    names: list[str] = []
    table: Any = raw
    for part in parts:
        known = [*(table if isinstance(table, dict) else ()), *plugins]
        names.append(next((name for name in known if name.replace("-", "_").lower() == part), part))
        table = table.get(names[-1]) if isinstance(table, dict) else None
    return names


def _variables() -> Iterator[str]:
    """Yield the environment variable of each setting of the core."""
    for section in CORE:
        kind = inner_type(Config, section)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (f"AGENTD_{section}__{key}".upper() for key in kind.model_fields)


def _credentials(raw: Raw, env: Mapping[str, str], origins: Origins) -> None:
    """Resolve `credential:NAME`, and use credentials for unset settings.

    The systemd unit provides the credentials.
    """
    directory = env.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return
    for dotted, name in CREDENTIALS.items():
        *tables, key = dotted.split(".")
        table: Any = raw
        for section in tables:
            table = table.setdefault(section, {}) if section == "bus" else table.get(section)
            if not isinstance(table, dict):
                break
        else:
            value = table.get(key)
            if isinstance(value, str) and value.startswith(CREDENTIAL):
                table[key] = str(Path(directory, value.removeprefix(CREDENTIAL)))
            elif _takes(table, key) and Path(directory, name).exists():
                table[key] = str(Path(directory, name))
                origins[dotted] = f"credential {name}"


def _takes(table: Raw, key: str) -> bool:
    """Return whether a credential may be used for `key`.

    No other proof may be set, and a password needs a user.
    """
    proofs = {"nkey_dir", *(setting.rpartition(".")[2] for setting in CREDENTIALS)}
    return not table.keys() & proofs and (key != "password_file" or "user" in table)


# -- the check --------------------------------------------------------------------------------------------------------


def _check_roles(config: Config) -> None:
    for name, section in config.instances.items():
        for role in section.roles or (name,):
            if role not in config.known_plugins:
                where = f"instances.{name}.roles"
                text = f"no role {role!r} is installed{suggestion(role, config.known_plugins)}"
                raise ConfigError(f"{origin_of(config.origins, where)}: {where}: {text}")


def _validate(kind: type[B], raw: Raw, origins: Origins, prefix: str) -> B:
    try:
        return kind.model_validate(_split(kind, raw, origins, prefix))
    except ValidationError as error:
        # Report an unknown key first: it may be the misspelt name of a missing required one.
        faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
        raise ConfigError(fault_line(kind, faults[0], origins, prefix)) from error


def _split(kind: object, raw: Raw, origins: Origins, prefix: str) -> Raw:
    """Return `raw` with lists from the environment split at commas."""
    found: Raw = {}
    for key, value in raw.items():
        dotted = f"{prefix}.{key}" if prefix else key
        inner = inner_type(kind, key)
        found[key] = value
        if isinstance(value, dict):
            found[key] = _split(inner, value, origins, dotted)
        elif isinstance(value, str) and origins.get(dotted, "").startswith("AGENTD_") and is_list_type(inner):
            found[key] = [item.strip() for item in value.split(",") if item.strip()]
    return found
