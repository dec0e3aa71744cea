"""The plugin with the tools of Proxmox VE, as the service `mcp-proxmox`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentd import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd import BrokenTool, Right, Settings, Tool, Toolbox

SERVICE: Final = "mcp-proxmox"


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings type of the Proxmox tools."""
    from agentd_proxmox.settings import ToolSettings

    return ToolSettings


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return all tools, or none if the configuration names no Proxmox."""
    if toolbox.proxmox is None:
        return []
    from agentd import Tool, collect
    from agentd_proxmox.api.schema_cache import Schemas
    from agentd_proxmox.api.tools import Api
    from agentd_proxmox.areas import AREAS
    from agentd_proxmox.blind_token import check_empty_lists
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.settings import ToolSettings

    settings = toolbox.settings or ToolSettings()
    inventory = Inventory(toolbox.proxmox, settings)
    api = Api(inventory, Schemas(toolbox.proxmox, toolbox.state_dir))
    found = collect(api, service=SERVICE, halt=toolbox.proxmox.halt)
    for area in AREAS:
        for tool in collect(area(inventory), service=SERVICE, halt=toolbox.proxmox.halt):
            found.append(check_empty_lists(tool, toolbox.proxmox, area.shown_to) if isinstance(tool, Tool) else tool)
    return found


@hookimpl
def agentd_rights(toolbox: Toolbox) -> Callable[[], Awaitable[list[Right]]] | None:
    """Return a function that reads the rights that the tools need.

    It is None if the configuration names no Proxmox.
    """
    if toolbox.proxmox is None:
        return None
    from agentd import Denied
    from agentd_proxmox.api import rights
    from agentd_proxmox.api.schema_cache import Schemas
    from agentd_proxmox.areas import declared

    proxmox, schemas = toolbox.proxmox, Schemas(toolbox.proxmox, toolbox.state_dir)

    async def ask() -> list[Right]:
        try:
            roles = await proxmox.get("/access/roles") or []
        except Denied:  # the token does not work yet: accept all named privileges as known
            roles = []
        known = {name for role in roles for name in str(role.get("privs") or "").split(",") if name}
        return rights.needed_rights(await schemas.catalogue(), declared(), known)

    return ask
