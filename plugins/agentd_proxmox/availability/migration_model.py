"""A migration: what is requested, what is known about the guest, and what is found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from agentd_proxmox.availability.ha_model import service
from agentd_proxmox.model import fields, guest_model

if TYPE_CHECKING:
    from agentd_proxmox.availability.ha_model import Rule
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]


class MigrationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The guest, by its VMID or its unique name, the target node, and the mode.

    online             move a running VM while it runs; false: move it only if it is stopped
    restart            a running container may be stopped for the move, and is started on the target
    with_local_disks   copy disks that the target cannot access, while the VM runs
    target_storage     where the disks go; omitted: to the storages of the same name
    storage_map        the same for each storage: {"local-lvm": "fast"}
    """

    vmid: fields.Vmid | None = None
    name: str = ""
    target: fields.Node
    online: bool = True
    restart: bool = False
    with_local_disks: bool = False
    target_storage: fields.Storage | None = None
    storage_map: dict[fields.Storage, fields.Storage] = {}

    def storage(self, name: str) -> str:
        """Return the target storage for the disks of the storage `name`."""
        return self.storage_map.get(name, self.target_storage or name)


class Finding(msgspec.Struct, frozen=True):
    """A result of a check: it blocks the migration or is a warning."""

    check: str
    blocks: bool
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return the finding with its advice, as one line of text."""
        return self.text + (f" ({self.advice})" if self.advice else "")


class Cpu(NamedTuple):
    """The CPUs of a node: their model, and their features in the names of /proc/cpuinfo (none: not known)."""

    model: str
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Facts:
    """The facts that the checks use; None means that a fact could not be read.

    conditions   answer of GET …/migrate
    nodes        entries of /cluster/resources, by node
    storages     entries of /cluster/resources, by node and storage
    bridges      of the target
    cpus         the CPUs of source and target, or of the target alone
    rules        HA rules, or groups as rules
    managed      nodes of the guests that HA manages, by service ID; empty if it does not manage this guest
    snapshots    configurations of the snapshots, by name: their volumes are moved too
    replicas     nodes to which the guest is replicated
    """

    at: GuestLocation
    config: Entry
    status: Entry
    nodes: dict[str, Entry]
    storages: dict[tuple[str, str], Entry]
    conditions: Entry | None = None
    bridges: frozenset[str] | None = None
    cpus: tuple[Cpu, ...] | None = None
    rules: list[Rule] | None = None
    managed: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, Entry] = field(default_factory=dict)
    replicas: frozenset[str] | None = frozenset()

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return guest_model.is_powered_on(self.status)

    @property
    def sid(self) -> str:
        """The HA service ID of the guest."""
        return service(self.at)


def blocker(check: str, text: str, advice: str) -> Finding:
    """Return a finding that blocks the migration."""
    return Finding(check, blocks=True, text=text, advice=advice)


def remark(check: str, text: str, advice: str = "") -> Finding:
    """Return a finding that is a warning."""
    return Finding(check, blocks=False, text=text, advice=advice)
