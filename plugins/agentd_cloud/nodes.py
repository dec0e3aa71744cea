"""Tools for nodes.

A new node has the key of its call as its tag, set in the request that creates it.  If the answer is lost, the tool
looks for that tag before it repeats the request, also among the nodes that were deleted since.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, Rejected, Repeat, TaskFailed, TemporaryError, Tier, tool
from agentd_cloud import limits, model, providers
from agentd_cloud.catalogue import own
from agentd_cloud.model import Id, InAccount, Name, Node, Paged

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd_cloud.accounts import Account, Accounts

PAUSE = 2.0
"""Seconds between two reads while a node changes its state."""


class NodeList(msgspec.Struct, frozen=True):
    """A page of nodes."""

    total: int
    nodes: list[Node]
    next: str


class CloudNodeSelector(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A node, by its id or its name."""

    node: Id


class CreateCloudNode(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The new node.

    size: from list_cloud_sizes; image: id from list_cloud_images; location: name from list_cloud_locations
    key_pair: name of a key pair, for a login by SSH
    """

    name: Name
    size: Id
    image: Id
    location: Annotated[str, Meta(max_length=100)] = ""
    key_pair: Annotated[str, Meta(max_length=100)] = ""


class DeletedNode(msgspec.Struct, frozen=True):
    """What was deleted; existed: false if there was no such node."""

    node: str
    existed: bool


class Nodes:
    """The tools for nodes."""

    def __init__(self, accounts: Accounts) -> None:
        """Work in these accounts."""
        self.accounts = accounts

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def list_cloud_nodes(self, call: Call, p: Paged) -> NodeList:
        """List the nodes (virtual machines) of a cloud account."""
        nodes = await self.accounts.find(p.account).nodes()
        return NodeList(*model.page([node for node in nodes if node.state not in model.GONE], p))

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="cloud_management")
    async def get_cloud_node(self, call: Call, p: CloudNodeSelector) -> Node:
        """Show one node of a cloud account."""
        return limits.needed("node", p.node, await self.accounts.find(p.account).nodes())

    @tool(tier=Tier.OPERATE, repeat=Repeat.MARKED, capability="cloud_management")
    async def create_cloud_node(self, call: Call, p: CreateCloudNode) -> Node:
        """Create a node in a cloud account and wait until it runs; a dry run shows its cost."""
        account = self.accounts.find(p.account)
        account.writable()
        title = f"new node {p.name}"
        sending: list[providers.NewNode] = []

        async def check() -> Found | None:
            nodes = await account.nodes()
            if any(node.mark == call.key for node in nodes):
                call.target(account.new(p.name, title))
                return Found()
            if limits.only("node", p.name, nodes) is not None:
                raise Rejected(f"name: a node {p.name} exists in account {account.name}")
            new, cost = await _choose(account, p, nodes, call.key)
            sending[:] = [new]
            call.target(account.new(p.name, f"{title} ({p.size}, {cost})", size=p.size, image=p.image))
            call.inverse("delete_cloud_node", {"account": account.name, "node": p.name})
            return None

        async def apply() -> None:
            await account.write(lambda provider, driver: provider.create_node(driver, sending[0]))

        async with account.changing:
            await call.ensure(check, apply)
        return await _wait(call, account, lambda node: node.mark == call.key, "running", p.name)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cloud_management")
    async def start_cloud_node(self, call: Call, p: CloudNodeSelector) -> Node:
        """Start a node of a cloud account and wait until it runs."""
        return await self._power(call, p, "start", "running")

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cloud_management")
    async def stop_cloud_node(self, call: Call, p: CloudNodeSelector) -> Node:
        """Stop a node of a cloud account and wait until it is stopped."""
        return await self._power(call, p, "stop", "stopped")

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="cloud_management")
    async def reboot_cloud_node(self, call: Call, p: CloudNodeSelector) -> Node:
        """Reboot a running node of a cloud account."""
        account = self.accounts.find(p.account)
        node = await _own_node(call, account, p.node)
        if node.state != "running":
            raise Rejected(f"node: {node.name} is {node.state}; only a running node can be rebooted")

        async def check() -> Found | None:
            return None

        async def apply() -> None:
            await account.write(lambda provider, driver: provider.power(driver, node.id, "reboot"))

        await call.ensure(check, apply)
        return node

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cloud_management")
    async def delete_cloud_node(self, call: Call, p: CloudNodeSelector) -> DeletedNode:
        """Delete (destroy, terminate) a node of a cloud account with its own disks."""
        account = self.accounts.find(p.account)
        account.writable()
        deleting: list[str] = []

        async def check() -> Found | None:
            node = limits.only("node", p.node, await account.nodes())
            if node is None:
                return Found()
            limits.check_fence(account.name, account.settings, f"node {node.name} ({node.id})", node.mark)
            if call.undoes and node.mark != call.undoes:
                raise Rejected(f"node: {node.name} was not created by the call that is undone")
            volumes = [volume for volume in await account.volumes() if volume.node == node.id]
            deleting[:] = [node.id]
            lost = [f"volume {volume.name}, {volume.size_gb} GB, may be deleted with it" for volume in volumes]
            call.target(
                msgspec.structs.replace(account.target("node", node), loses=["the node and its own disks", *lost])
            )
            return None

        async def apply() -> None:
            await account.write(lambda provider, driver: provider.delete_node(driver, deleting[0]))

        await call.ensure(check, apply)
        for node in deleting:
            await _gone(call, account, node)
        return DeletedNode(p.node, existed=bool(deleting) or call.begun is not None)

    async def _power(self, call: Call, p: CloudNodeSelector, act: Literal["start", "stop"], state: str) -> Node:
        account = self.accounts.find(p.account)
        node = await _own_node(call, account, p.node)

        async def check() -> Found | None:
            if (await _read(account, node.id)).state == state:
                return Found()
            other = "stop" if act == "start" else "start"
            call.inverse(f"{other}_cloud_node", {"account": account.name, "node": node.id})
            return None

        async def apply() -> None:
            await account.write(lambda provider, driver: provider.power(driver, node.id, act))

        await call.ensure(check, apply)
        return await _wait(call, account, lambda found: found.id == node.id, state, node.name)


async def _choose(account: Account, p: CreateCloudNode, nodes: list[Node], key: str) -> tuple[providers.NewNode, str]:
    """Return the node to create and what it costs; raises Rejected if the account may not have it."""
    settings, provider = account.settings, account.provider
    sizes, locations = await asyncio.gather(account.read(provider.sizes), account.read(provider.locations))
    if not locations:  # libcloud reads an answer that it does not understand as an empty list
        raise TemporaryError(f"account {account.name}: the list of locations is empty; its other lists are not trusted")
    size = limits.choose("size", p.size, sizes, settings.sizes)
    views = [model.size(item, allowed=True) for item in sizes]
    view = model.size(size, allowed=True)
    if reason := limits.refusal(settings, own(nodes), views, view):
        raise Rejected(reason)
    place = p.location or _only_location(settings.locations)
    location = limits.choose("location", place, locations, settings.locations) if place else None
    if location is None and settings.locations:
        raise Rejected(f"location: name one; allowed: {', '.join(settings.locations)}")
    cost = "price not known" if view.hourly_cost is None else f"{view.hourly_cost:g} an hour"
    return providers.NewNode(p.name, size, p.image, location, p.key_pair, {settings.tag: key}), cost


def _only_location(allowed: tuple[str, ...]) -> str:
    return allowed[0] if len(allowed) == 1 and "*" not in allowed[0] else ""


async def _own_node(call: Call, account: Account, wanted: str) -> Node:
    """Return a node that may be changed, declared as the target."""
    account.writable()
    node = limits.needed("node", wanted, await account.nodes())
    limits.check_fence(account.name, account.settings, f"node {node.name} ({node.id})", node.mark)
    call.target(account.target("node", node))
    return node


async def _read(account: Account, node: str) -> Node:
    return limits.needed("node", node, await account.nodes())


async def _wait(call: Call, account: Account, wanted: Callable[[Node], bool], state: str, name: str) -> Node:
    """Return the node once it has a state; the deadline of the call ends the wait."""
    while True:
        node = next((node for node in await account.nodes() if wanted(node)), None)
        if node is not None and node.state == state:
            return node
        if node is not None and not node.alive:
            raise TaskFailed(f"node {name} is {node.state}, not {state}: another client deleted it, or it failed")
        call.progress(f"node {name} is {node.state if node else 'not listed yet'}")
        await asyncio.sleep(PAUSE)


async def _gone(call: Call, account: Account, node: str) -> None:
    """Wait until a node is deleted, or is being deleted."""
    while any(found.id == node and found.alive for found in await account.nodes()):
        call.progress(f"node {node} is being deleted")
        await asyncio.sleep(PAUSE)
