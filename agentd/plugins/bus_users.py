"""The NATS users of a configuration, by roles, queues and clients of its agents.

The permissions themselves are in `agentd.bus.setup.permissions`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.bus.setup import permissions
from agentd.bus.setup.permissions import Duty, User, Work
from agentd.errors import ConfigError
from agentd.plugins.manager import Plugins, every_plugin, needed_plugins
from agentd.safety.policy import ANONYMOUS
from agentd.safety.signing import Signer, own_seed
from agentd.wire import codec, subjects

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from agentd.config.load import Config
    from agentd.plugins.role import Role

_KEY: Final = re.compile(r"U[A-Z2-7]{55}")


class AgentKey(msgspec.Struct, forbid_unknown_fields=True):
    """An agent: its instance, its node, and the public part of its NKey."""

    instance: str
    node: str
    nkey: str


class Keys(msgspec.Struct, forbid_unknown_fields=True):
    """The users of a cluster with their public NKeys: the content of `--users FILE`."""

    agents: list[AgentKey]
    principals: dict[str, str] = {}
    external: dict[str, str] = {}
    admin: str = ""


def agent(config: Config, instance: str, node: str) -> User:
    """Return the user of an agent; raises ConfigError for an unknown instance."""
    roles = config.instance(instance).roles
    plugins = Plugins(config, needed_plugins(config, roles))
    found = {name: plugins.role(name) for name in roles}
    clients = {
        client
        for name, role in found.items()
        for client in (role.clients(plugins.settings(name)) if Duty.REPRESENT in duties(role) else ())  # type: ignore[attr-defined]
    }
    requesters = {
        requester
        for name, role in found.items()
        for requester in (role.requesters(plugins.settings(name)) if Duty.REQUEST in duties(role) else ())  # type: ignore[attr-defined]
    }
    represented = frozenset(config.web.tokens)
    named = [queue.name for queue in config.bus.queues if queue.external == "no"]
    work = Work(
        queues={
            service: tuple(subjects.worker_queues(service, node, named))
            for role in found.values()
            for service in role.services
        },
        duties=frozenset(duty for role in found.values() for duty in duties(role)),
        principals=represented,
        requesters=frozenset(requesters),
        clients=represented | clients,
    )
    return permissions.agent(subjects.agent_id(instance, node), work)


def instances(config: Config) -> list[str]:
    """Return the configured instances; if there are none, the installed roles."""
    return sorted(config.instances) or roles(config)


def roles(config: Config) -> list[str]:
    """Return the installed roles."""
    return sorted(every_plugin(config).roles())


def duties(role: Role) -> frozenset[Duty]:
    """Return what a role does besides the tasks of its services."""
    found: frozenset[Duty] = getattr(role, "duties", frozenset())
    return found


def external(config: Config, name: str) -> User:
    """Return the user of an external agent that [[bus.queues]] declares."""
    queues = {
        queue.name: queue.external
        for queue in config.bus.queues
        if queue.external != "no" and subjects.service_of(queue.name) == name
    }
    if not queues:
        raise ConfigError(f"{name!r} is no external agent: [[bus.queues]] has no queue of this name with `external`")
    return permissions.external(name, queues, pushed="push" in queues.values())


def principals(config: Config) -> set[str]:
    """Return the principals that the configuration names."""
    return {config.principal, *config.policy.principals, *config.web.tokens} - set(ANONYMOUS)


def every_user(config: Config, instances: Iterable[str]) -> list[User]:
    """Return the users of a node with these instances, and the other configured ones."""
    plain = {subjects.service_of(queue.name) for queue in config.bus.queues if queue.external != "no"}
    return permissions.users(
        [
            *(agent(config, instance, config.node.name) for instance in instances),
            *(permissions.principal(name) for name in {*principals(config), subjects.PLAIN}),
            *(external(config, name) for name in plain),
            permissions.admin(),
        ]
    )


def keyed(config: Config, data: bytes) -> list[tuple[User, str]]:
    """Return the users of a file `--users` with their keys, sorted by name."""
    keys = codec.decode(data, Keys)
    found: list[tuple[User, str]] = [
        *((agent(config, entry.instance, entry.node), entry.nkey) for entry in keys.agents),
        *((permissions.principal(name), key) for name, key in keys.principals.items()),
        *((external(config, name), key) for name, key in keys.external.items()),
        *([(permissions.admin(), keys.admin)] if keys.admin else []),
    ]
    permissions.users(user for user, _ in found)
    _check_keys(found)
    return sorted(found, key=lambda entry: entry[0].name)


def _check_keys(found: list[tuple[User, str]]) -> None:
    holders: dict[str, str] = {}
    for user, key in found:
        if not _KEY.fullmatch(key):
            raise ConfigError(f"{user.name}: {key!r} is not the public NKey of a user: U and 55 letters or digits")
        if key in holders:
            raise ConfigError(f"{user.name} and {holders[key]} have the same NKey: each user needs its own")
        holders[key] = user.name


def with_own_keys(config: Config, instances: Iterable[str], directory: Path) -> str:
    """Return the users for nats-server; each has a seed in `directory`, created once.

    For a nats-server that agentd starts itself.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = every_user(config, instances)
    return permissions.nats_conf((user, Signer(own_seed(directory / f"{user.name}.nk")).public) for user in users)
