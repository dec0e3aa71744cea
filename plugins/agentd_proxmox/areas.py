"""The areas of tools, and the API methods and privileges that each tool needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agentd_proxmox.access.realms import Realms
from agentd_proxmox.access.roles import Access
from agentd_proxmox.access.tokens import ApiTokens
from agentd_proxmox.access.users import Users
from agentd_proxmox.api.rights import Declared
from agentd_proxmox.availability.ha_resources import Ha
from agentd_proxmox.availability.ha_rules import HaRules
from agentd_proxmox.availability.migrate import Migration
from agentd_proxmox.availability.replication import Replication
from agentd_proxmox.backup.archives import Backups
from agentd_proxmox.backup.jobs import Jobs
from agentd_proxmox.backup.prune import Pruning
from agentd_proxmox.backup.restore import Restore
from agentd_proxmox.cluster.ceph import Ceph
from agentd_proxmox.cluster.inventory_tools import Cluster
from agentd_proxmox.cluster.notification_setup import NotificationSetup
from agentd_proxmox.cluster.notifications import NotificationTools
from agentd_proxmox.cluster.pools import Pools
from agentd_proxmox.cluster.usage import UsageTools
from agentd_proxmox.guests.boot_check import BootCheckTools
from agentd_proxmox.guests.config import Guests
from agentd_proxmox.guests.containers import Containers
from agentd_proxmox.guests.create import Creation
from agentd_proxmox.guests.delete import DeletionTools
from agentd_proxmox.guests.disks import Disks
from agentd_proxmox.guests.guest_agent import Agent
from agentd_proxmox.guests.nics import NicTools
from agentd_proxmox.guests.options import RawOptions
from agentd_proxmox.guests.power import Power
from agentd_proxmox.guests.snapshots import Snapshots
from agentd_proxmox.guests.suspend import SuspendTools
from agentd_proxmox.network.firewall import Firewalls
from agentd_proxmox.network.firewall_log import FirewallLogs
from agentd_proxmox.network.firewall_sets import FirewallSets
from agentd_proxmox.network.sdn import SdnTools
from agentd_proxmox.nodes.certificates import CertificateTools
from agentd_proxmox.nodes.disks import NodeDiskTools
from agentd_proxmox.nodes.interfaces import NodeNetwork
from agentd_proxmox.nodes.power import NodePower
from agentd_proxmox.nodes.services import NodeTools
from agentd_proxmox.nodes.syslog import NodeLogs
from agentd_proxmox.storage.definitions import StorageDefinitions
from agentd_proxmox.storage.upload import Uploads
from agentd_proxmox.storage.volumes import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.inventory import Inventory


class Area(Protocol):
    """A class whose methods are tools, over one cluster."""

    def __call__(self, inventory: Inventory) -> object:
        """Return the area, bound to an inventory."""
        ...


GUESTS: Final[tuple[Area, ...]] = (
    *(
        Creation,
        Containers,
        Guests,
        Disks,
        NicTools,
        RawOptions,
        Power,
        SuspendTools,
        Migration,
        Agent,
        BootCheckTools,
        DeletionTools,
        Snapshots,
    ),
)
CLUSTER: Final[tuple[Area, ...]] = (
    *(Cluster, Storage, StorageDefinitions, Uploads, Backups, Restore, Pruning, Jobs, Pools, Ha, HaRules),
    *(Replication, NotificationTools, NotificationSetup, Ceph, CertificateTools, UsageTools),
)
NODES: Final[tuple[Area, ...]] = (
    *(NodeTools, NodeLogs, NodePower, NodeDiskTools, NodeNetwork, Firewalls, FirewallSets, FirewallLogs, SdnTools),
)
USERS: Final[tuple[Area, ...]] = (Users, ApiTokens, Access, Realms)
AREAS: Final = (*GUESTS, *CLUSTER, *NODES, *USERS)


def declared() -> Iterator[Declared]:
    """Yield the tier, the API methods and the privileges of each tool."""
    for area in AREAS:
        needs, optional = getattr(area, "needs", {}), getattr(area, "optional", {})
        for name, calls in getattr(area, "calls", {}).items():
            tier = getattr(area, name).__agentd_tool__.tier
            yield Declared(name, tier, frozenset(calls) - optional.get(name, frozenset()), needs.get(name, frozenset()))
