"""`agentd config`: check configuration and plugins; show the active settings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from agentd import schedules
from agentd.cli.context import App, Group, passes
from agentd.cli.output import tables
from agentd.config.show import as_data
from agentd.config.show import show as as_toml
from agentd.plugins import manager, starts
from agentd.printable import as_json, printable

if TYPE_CHECKING:
    from agentd.config.load import Config


@click.group(cls=Group)
def config() -> None:
    """Check or show the configuration."""


@config.command()
@passes
def check(app: App) -> None:
    """Check the configuration and the plugins.

    Nothing is started. Exit code 78 if the configuration is wrong or a plugin is broken.
    """
    _, plugins = _checked(app)
    app.show(list(plugins.status.values()), tables.plugins)
    if any(plugin.status == manager.BROKEN for plugin in plugins.status.values()):
        sys.exit(78)


@config.command()
@passes
def show(app: App) -> None:
    """Show all settings in use and their origin.

    Prints TOML; a comment names the file or variable that each value comes from. Secrets are hidden.
    """
    found = _checked(app)[0]
    click.echo(as_json(as_data(found), indent=2) if app.as_json else printable(as_toml(found), lines=True))


def _checked(app: App) -> tuple[Config, manager.Plugins]:
    """Return the checked configuration and plugins; also checks the workflows that they start; raises ConfigError."""
    found = app.config()
    plugins = manager.every_plugin(found)
    for name in plugins.loaded():
        plugins.settings(name)
    schedules.check(found, plugins.workflows())
    starts.check(found, plugins)
    return found, plugins
