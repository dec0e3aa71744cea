"""All areas of named tools, and what each of their tools calls and needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from agentd_proxmox.access import Access
from agentd_proxmox.agent import Agent
from agentd_proxmox.backups import Backups
from agentd_proxmox.ceph import Ceph
from agentd_proxmox.certificates import CertificateTools
from agentd_proxmox.cluster import Cluster
from agentd_proxmox.containers import Containers
from agentd_proxmox.create import Creation
from agentd_proxmox.disks import Disks
from agentd_proxmox.firewall import Firewalls
from agentd_proxmox.firewall_log import FirewallLogs
from agentd_proxmox.firewall_sets import FirewallSets
from agentd_proxmox.guests import Guests
from agentd_proxmox.ha import Ha
from agentd_proxmox.ha_rules import HaRules
from agentd_proxmox.hardware import Hardware
from agentd_proxmox.interfaces import NodeNetwork
from agentd_proxmox.jobs import Jobs
from agentd_proxmox.migrate import Migration
from agentd_proxmox.networks import Networks
from agentd_proxmox.node import Node
from agentd_proxmox.node_log import NodeLogs
from agentd_proxmox.node_power import NodePower
from agentd_proxmox.notice_rules import NoticeRules
from agentd_proxmox.notices import NoticeTools
from agentd_proxmox.pools import Pools
from agentd_proxmox.power import Power
from agentd_proxmox.prune import Pruning
from agentd_proxmox.raw import RawOptions
from agentd_proxmox.realms import Realms
from agentd_proxmox.remove import Removal
from agentd_proxmox.replication import Replication
from agentd_proxmox.restore import Restore
from agentd_proxmox.rights import Declared
from agentd_proxmox.sdn import SdnTools
from agentd_proxmox.snapshots import Snapshots
from agentd_proxmox.states import States
from agentd_proxmox.storage import Storage
from agentd_proxmox.storages import StorageDefinitions
from agentd_proxmox.tokens import ApiTokens
from agentd_proxmox.trial import Trial
from agentd_proxmox.uploads import Uploads
from agentd_proxmox.usage import UsageTools
from agentd_proxmox.users import Users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.inventory import Inventory


class Area(Protocol):
    """A class whose methods are tools, over one cluster."""

    def __call__(self, inventory: Inventory) -> object:
        """Return the area bound to where guests are found."""
        ...


GUESTS: Final[tuple[Area, ...]] = (
    *(
        Creation,
        Containers,
        Guests,
        Disks,
        Networks,
        RawOptions,
        Power,
        States,
        Migration,
        Agent,
        Trial,
        Removal,
        Snapshots,
    ),
)
CLUSTER: Final[tuple[Area, ...]] = (
    *(Cluster, Storage, StorageDefinitions, Uploads, Backups, Restore, Pruning, Jobs, Pools, Ha, HaRules),
    *(Replication, NoticeTools, NoticeRules, Ceph, CertificateTools, UsageTools),
)
NODES: Final[tuple[Area, ...]] = (
    *(Node, NodeLogs, NodePower, Hardware, NodeNetwork, Firewalls, FirewallSets, FirewallLogs, SdnTools),
)
USERS: Final[tuple[Area, ...]] = (Users, ApiTokens, Access, Realms)
AREAS: Final = (*GUESTS, *CLUSTER, *NODES, *USERS)


def declared() -> Iterator[Declared]:
    """Yield what each tool may call and needs, with its tier."""
    for area in AREAS:
        needs, optional = getattr(area, "needs", {}), getattr(area, "optional", {})
        for name, calls in getattr(area, "calls", {}).items():
            tier = getattr(area, name).__agentd_tool__.tier
            yield Declared(name, tier, frozenset(calls) - optional.get(name, frozenset()), needs.get(name, frozenset()))
