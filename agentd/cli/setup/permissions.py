"""`agentd permissions`: rights of NATS users.  `agentd nkey`: a key for a user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentd import files
from agentd.bus.setup import permissions as table
from agentd.cli.context import App, passes
from agentd.cli.output import tables
from agentd.errors import ConfigError, UsageError
from agentd.plugins import bus_users
from agentd.safety.signing import Signer, own_seed

if TYPE_CHECKING:
    from agentd.bus.setup.permissions import User
    from agentd.config.load import Config


@click.command()
@click.option("--role", "instance", help="Only the agent of this role or [instances.NAME]; --node says of which node.")
@click.option("--node", help="Node of the agents. Default: [node] name.")
@click.option("--principal", help="Only this principal.")
@click.option("--external", help="Only this external agent.")
@click.option("--admin", is_flag=True, help="Only the administrator.")
@click.option("--users", type=click.Path(path_type=Path), help="File (JSON) with all users and their public NKeys.")
@click.option("--nats-conf", is_flag=True, help="Print the users as a part of nats-server's configuration.")
@passes
def permissions(  # noqa: PLR0913 - one for each kind of user
    app: App,
    *,
    instance: str | None,
    node: str | None,
    principal: str | None,
    external: str | None,
    users: Path | None,
    admin: bool,
    nats_conf: bool,
) -> None:
    """Show what each NATS user may publish and subscribe.

    Everything else is denied. Without --users: the users that this configuration names. With --nats-conf: for
    `include` in an account of nats-server.
    """
    config = app.config()
    if node:
        config = config.model_copy(update={"node": config.node.model_copy(update={"name": node})})
    if users is not None or nats_conf:
        _with_keys(app, config, users, nats_conf=nats_conf)
        return
    chosen: list[User] = []
    if instance:
        chosen.append(bus_users.agent(config, instance, config.node.name))
    if principal:
        chosen.append(table.principal(principal))
    if external:
        chosen.append(bus_users.external(config, external))
    if admin:
        chosen.append(table.admin())
    _show(app, chosen or bus_users.every_user(config, bus_users.instances(config)))


def _with_keys(app: App, config: Config, file: Path | None, *, nats_conf: bool) -> None:
    if file is None:
        raise UsageError("--nats-conf needs --users FILE: the users and their public NKeys")
    try:
        found = bus_users.keyed(config, files.read(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    if nats_conf:
        sys.stdout.write(table.nats_conf(found))
    else:
        _show(app, [user for user, _ in found])


def _show(app: App, users: list[User]) -> None:
    lines: list[str] = []
    for user in users:
        lines += ["", f"{user.kind} {user.name}"]
        lines += [f"  publish    {subject}" for subject in user.publish]
        lines += [f"  subscribe  {subject}" for subject in user.subscribe]
    app.show(lines[1:], tables.lines, users)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="File to write the seed to; an existing one is kept.")
@passes
def nkey(app: App, out: Path | None) -> None:
    """Create an NKey for a NATS user.

    Prints the public part, which belongs into --users of `agentd permissions`. Without --out the seed is printed too.
    """
    if out is None:
        key = Signer.new()
        found = {"seed": key.seed, "public": key.public}
        app.show([f"seed    {key.seed}", f"public  {key.public}"], tables.lines, found)
        return
    public = Signer(own_seed(out)).public
    app.show([public], tables.lines, {"public": public})
