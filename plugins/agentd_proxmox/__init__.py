"""The tools of Proxmox VE: guests, nodes, storages and tasks, as the service `mcp-proxmox`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentd.role import Settings
    from agentd.tools import BrokenTool, Right, Tool, Toolbox

SERVICE = "mcp-proxmox"


@hookimpl
def agentd_settings() -> type[Settings]:
    """Return the settings of the tools."""
    from agentd_proxmox.settings import ToolSettings

    return ToolSettings


@hookimpl
def agentd_tools(toolbox: Toolbox) -> list[Tool | BrokenTool]:
    """Return every tool, or none where the configuration names no Proxmox."""
    if toolbox.proxmox is None:
        return []
    from agentd.tools import collect
    from agentd_proxmox.access import Access
    from agentd_proxmox.agent import Agent
    from agentd_proxmox.api import Api
    from agentd_proxmox.backups import Backups
    from agentd_proxmox.cluster import Cluster
    from agentd_proxmox.containers import Containers
    from agentd_proxmox.create import Creation
    from agentd_proxmox.disks import Disks
    from agentd_proxmox.guests import Guests
    from agentd_proxmox.ha import Ha
    from agentd_proxmox.ha_rules import HaRules
    from agentd_proxmox.inventory import Inventory
    from agentd_proxmox.jobs import Jobs
    from agentd_proxmox.migrate import Migration
    from agentd_proxmox.pools import Pools
    from agentd_proxmox.power import Power
    from agentd_proxmox.prune import Pruning
    from agentd_proxmox.remove import Removal
    from agentd_proxmox.replication import Replication
    from agentd_proxmox.restore import Restore
    from agentd_proxmox.schemas import Schemas
    from agentd_proxmox.settings import ToolSettings
    from agentd_proxmox.snapshots import Snapshots
    from agentd_proxmox.states import States
    from agentd_proxmox.storage import Storage
    from agentd_proxmox.tokens import ApiTokens
    from agentd_proxmox.users import Users

    settings = toolbox.settings or ToolSettings()
    inventory = Inventory(toolbox.proxmox, settings)
    api = Api(inventory, Schemas(toolbox.proxmox, toolbox.state_dir))
    guests = (Creation, Containers, Guests, Disks, Power, States, Migration, Agent, Removal, Snapshots)
    cluster = (Cluster, Storage, Backups, Restore, Pruning, Jobs, Pools, Ha, HaRules, Replication)
    owners = [*(area(inventory) for area in (*guests, *cluster, Users, ApiTokens, Access)), api]
    return [each for owner in owners for each in collect(owner, service=SERVICE, halt=toolbox.proxmox.halt)]


@hookimpl
def agentd_rights(toolbox: Toolbox) -> Callable[[], Awaitable[list[Right]]] | None:
    """Return how to learn the rights that the tools need; None where the configuration names no Proxmox."""
    if toolbox.proxmox is None:
        return None
    from agentd_proxmox import rights
    from agentd_proxmox.schemas import Schemas

    schemas = Schemas(toolbox.proxmox, toolbox.state_dir)

    async def ask() -> list[Right]:
        return rights.rights(await schemas.catalogue())

    return ask
