"""Tools that show what an account offers, what it costs, and what is left over in it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from agentd import Call, Repeat, Tier, now, tool
from agentd_cloud import limits, model
from agentd_cloud.model import Id, InAccount, Paged

if TYPE_CHECKING:
    from datetime import datetime

    from agentd_cloud.accounts import Account, Accounts


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class AccountView(msgspec.Struct, frozen=True):
    """An account: its provider, whether agentd may change something there, and its limits."""

    account: str
    provider: str
    region: str
    changes: bool
    only_tagged: bool
    max_nodes: int
    max_volume_gb: int
    max_hourly_cost: float | None
    sizes: list[str]
    locations: list[str]


class AccountList(msgspec.Struct, frozen=True):
    """The configured accounts."""

    accounts: list[AccountView]


class LocationList(msgspec.Struct, frozen=True):
    """A page of locations."""

    total: int
    locations: list[model.Location]
    next: str


class SizeList(msgspec.Struct, frozen=True):
    """A page of sizes; allowed: the configuration lets a new node have it."""

    total: int
    sizes: list[model.Size]
    next: str


class ImageList(msgspec.Struct, frozen=True):
    """A page of images."""

    total: int
    images: list[model.Image]
    next: str


class ListCloudSizes(Paged, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which sizes to list; min_memory_mib: the smallest memory."""

    min_memory_mib: Annotated[int, Meta(ge=0)] = 0
    only_allowed: bool = True


class ListCloudImages(Paged, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which images to list; owner: for EC2 `self`, `amazon` or an account number."""

    owner: Annotated[str, Meta(max_length=100)] = ""


class EstimateCloudCost(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The size of the nodes that would be created, and how many."""

    size: Id
    count: Annotated[int, Meta(ge=1, le=1000)] = 1


class CloudCost(msgspec.Struct, frozen=True):
    """What nodes would cost, in the currency of the provider's prices; null: the price is not known.

    The prices come with apache-libcloud: they can be out of date, and cover nodes only, not disks or traffic.
    running_hourly: all nodes with agentd's tag that run now; unknown: their sizes without a known price
    refused: why a node of this size would not be created
    """

    size: str
    hourly: float | None
    monthly: float | None
    running_hourly: float
    unknown: list[str]
    refused: str


class ListCloudOrphans(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From which age on a snapshot is listed; only_tagged: only agentd's own; limit: entries listed."""

    snapshot_days: Annotated[int, Meta(ge=0, le=3650)] = 30
    only_tagged: bool = False
    limit: model.Limit = 50


class Orphan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that costs money and is probably not used; mark: the call of agentd that created it."""

    kind: str
    id: str
    name: str
    reason: str
    size_gb: int = 0
    mark: str = ""


class OrphanList(msgspec.Struct, frozen=True):
    """What is probably left over: its number, and all GB together."""

    total: int
    size_gb: int
    orphans: list[Orphan]


class Catalogue:
    """The reading tools."""

    def __init__(self, accounts: Accounts) -> None:
        """Read from these accounts."""
        self.accounts = accounts

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_accounts(self, call: Call, p: Nothing) -> AccountList:  # noqa: ARG002
        """List the configured accounts at cloud providers, and their limits."""
        return AccountList([_account(account) for account in self.accounts.by_name.values()])

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_locations(self, call: Call, p: Paged) -> LocationList:
        """List the locations of an account where nodes and volumes can be created."""
        account = self.accounts.find(p.account)
        found = [model.location(item) for item in await account.read(account.provider.locations)]
        allowed = [item for item in found if limits.matches(item.name, account.settings.locations)]
        return LocationList(*model.page(allowed, p, "name"))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_sizes(self, call: Call, p: ListCloudSizes) -> SizeList:
        """List the sizes that a node of an account can have, with memory, disk and price."""
        found = await sizes_of(self.accounts.find(p.account))
        wanted = [
            size for size in found if size.memory_mib >= p.min_memory_mib and (size.allowed or not p.only_allowed)
        ]
        return SizeList(*model.page(wanted, p))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_images(self, call: Call, p: ListCloudImages) -> ImageList:
        """Search the images from which a node can start, by a part of their name."""
        account = self.accounts.find(p.account)
        found = await account.read(lambda driver: account.provider.images(driver, p.query, p.owner))
        return ImageList(*model.page([model.image(item) for item in found], msgspec.structs.replace(p, query="")))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def estimate_cloud_cost(self, call: Call, p: EstimateCloudCost) -> CloudCost:
        """Preview what nodes of a size would cost, and whether the limits of the account allow one."""
        account = self.accounts.find(p.account)
        sizes, nodes = await asyncio.gather(sizes_of(account), account.nodes())
        size = limits.choose("size", p.size, sizes, ())
        running, unknown = limits.hourly_cost(own(nodes), sizes)
        hourly = None if size.hourly_cost is None else round(size.hourly_cost * p.count, 4)
        return CloudCost(
            size=size.id,
            hourly=hourly,
            monthly=None if hourly is None else round(hourly * limits.HOURS, 2),
            running_hourly=round(running, 4),
            unknown=unknown,
            refused=limits.refusal(account.settings, own(nodes), sizes, size),
        )

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_orphans(self, call: Call, p: ListCloudOrphans) -> OrphanList:
        """List what probably costs money for nothing: free volumes, old snapshots, stopped nodes."""
        account = self.accounts.find(p.account)
        nodes, volumes, snapshots = await asyncio.gather(account.nodes(), account.volumes(), account.snapshots())
        found = find_orphans(nodes, volumes, snapshots, now() - timedelta(days=p.snapshot_days))
        found = [orphan for orphan in found if orphan.mark or not p.only_tagged]
        return OrphanList(len(found), sum(orphan.size_gb for orphan in found), found[: p.limit])


def find_orphans(
    nodes: list[model.Node], volumes: list[model.Volume], snapshots: list[model.Snapshot], before: datetime
) -> list[Orphan]:
    """Return what is probably left over, agentd's own first; `before`: a snapshot that was made earlier is old."""
    alive = {volume.id for volume in volumes if volume.alive}
    found = [
        Orphan("node", node.id, node.name, "is stopped", mark=node.mark) for node in nodes if node.state == "stopped"
    ]
    found += [
        Orphan("volume", volume.id, volume.name, "is attached to no node", volume.size_gb, volume.mark)
        for volume in volumes
        if volume.alive and not volume.node
    ]
    for snapshot in snapshots:
        old = snapshot.created is not None and snapshot.created < before
        reason = "its volume does not exist any more" if snapshot.volume not in alive else "is old"
        if old or snapshot.volume not in alive:
            found.append(Orphan("snapshot", snapshot.id, snapshot.name, reason, snapshot.size_gb, snapshot.mark))
    return sorted(found, key=lambda orphan: (not orphan.mark, orphan.kind, orphan.id))


def own(nodes: list[model.Node]) -> list[model.Node]:
    """Return the living nodes with agentd's tag."""
    return [node for node in nodes if node.alive and node.mark]


async def sizes_of(account: Account) -> list[model.Size]:
    """Return the sizes of an account, each with whether it is allowed."""
    allowed = account.settings.sizes
    found = await account.read(account.provider.sizes)
    return [model.size(item, allowed=limits.matches(str(item.id), allowed)) for item in found]


def _account(account: Account) -> AccountView:
    settings = account.settings
    return AccountView(
        account=account.name,
        provider=settings.provider,
        region=settings.region,
        changes=account.provider.changes,
        only_tagged=settings.only_tagged,
        max_nodes=settings.max_nodes,
        max_volume_gb=settings.max_volume_gb,
        max_hourly_cost=settings.max_hourly_cost,
        sizes=list(settings.sizes),
        locations=list(settings.locations),
    )
