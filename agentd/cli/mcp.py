"""The command that serves tools to an AI client over stdin and stdout."""

from __future__ import annotations

import click

from agentd.cli.context import App, passes, run_async
from agentd.errors import ConfigError


@click.command()
@click.option("--all-tools", is_flag=True, help="List every tool; default: those of daily use, and find_tools.")
@click.option("--within", multiple=True, metavar="DIR", help="Limit the file tools to this directory; may be repeated.")
@passes
def mcp(app: App, *, all_tools: bool, within: tuple[str, ...]) -> None:
    """Serve the tools of the network over stdin and stdout (MCP).

    An AI client starts this command. It needs a configuration with [bus] servers and credentials, and acts as the
    principal of [client]; every agent applies its policy to that principal. Instead of a file, the environment may
    contain AGENTD_BUS__SERVERS, AGENTD_BUS__NKEY_FILE and AGENTD_CLIENT__PRINCIPAL.
    """
    from agentd.plugins import manager

    config = app.config()
    serve, tools = manager.every_plugin(config).stdio(), manager.known_tools(config)

    async def work() -> None:
        async with app.bus() as (bus, _):
            await serve(bus, config.principal, tools, not all_tools, within)

    try:
        run_async(work())
    except ImportError as error:
        raise ConfigError(f"the MCP SDK is not installed ({error}); install agentd[mcp]") from error
