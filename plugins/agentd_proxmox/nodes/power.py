"""Stop and wake nodes, and stop tasks.

Stopping one affects more than the node or the task, so the effects are shown before the call acts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from agentd import Call, Found, NotFound, ProxmoxUnavailable, Rejected, Repeat, Target, Tier, Upid, one_line, tool
from agentd_proxmox import area, changes, targets
from agentd_proxmox.model import fields

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]


class StopNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node, and whether to reboot it or to shut it down.

    without_quorum: do it even if the nodes that remain have no quorum
    """

    node: fields.Node
    command: Literal["reboot", "shutdown"]
    without_quorum: bool = False


class WakeNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The node; its configuration must contain its MAC address."""

    node: fields.Node


class NodeState(msgspec.Struct, frozen=True):
    """The present state of a node in the cluster, and the guests that ran on it."""

    node: str
    status: str
    guests: list[str]


class StopTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The task."""

    upid: str


class StoppedTask(msgspec.Struct, frozen=True):
    """The task and its exit status."""

    upid: str
    status: str


class NodePower(area.Area):
    """The tools that stop and wake nodes, and stop tasks."""

    needs: ClassVar[area.Needs] = {
        "stop_node": area.with_path(area.VM, "VM.Audit"),
        "stop_task": area.with_path("/nodes/{node}", "Sys.Audit", "Sys.Modify"),
    }

    @tool(tier=Tier.DESTROY, repeat=Repeat.UNSAFE, capability="node_management")
    async def stop_node(self, call: Call, p: StopNode) -> NodeState:
        """Shut down or reboot a node.

        Its guests are shut down with it, unless HA or a person moves them first.
        """
        running: list[GuestLocation] = []

        async def plan() -> changes.Planned:
            nodes = await self._nodes()
            if p.command == "shutdown" and not nodes[_known(nodes, p.node)]:
                return Found()
            if not nodes[_known(nodes, p.node)]:
                raise Rejected(f"{p.node} is not online, so it cannot be rebooted; wake_node wakes it")
            if not p.without_quorum:
                _check_quorum(nodes, p.node)
            running[:] = await self._running(p.node)
            call.target(_target(p, running, ours=await self._answering() == p.node))
            return lambda: self.proxmox.post(f"/nodes/{p.node}/status", command=p.command)

        await changes.change(call, plan)
        if p.command == "reboot":
            call.warn(f"{p.node} is rebooting; list_nodes shows when it is back")
        else:
            call.warn(f"{p.node} is shutting down; it is off when its guests have stopped")
        return NodeState(p.node, await self._state(p.node), [place.title for place in running])

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="node_management")
    async def wake_node(self, call: Call, p: WakeNode) -> NodeState:
        """Wake a node over its network card (Wake-on-LAN).

        After some minutes, list_nodes shows whether it is up.
        """
        call.target(Target(f"node/{p.node}", f"node {p.node}"))

        async def plan() -> changes.Planned:
            nodes = await self._nodes()
            path = f"/nodes/{p.node}/wakeonlan"
            return Found() if nodes[_known(nodes, p.node)] else lambda: self.proxmox.post(path)

        await changes.change(call, plan)
        return NodeState(p.node, await self._state(p.node), [])

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="node_management")
    async def stop_task(self, call: Call, p: StopTask) -> StoppedTask:
        """Stop a running task, and return how it ended.

        What the task had begun may be left unfinished, with a lock.
        """
        upid = Upid.parse(p.upid)

        async def plan() -> changes.Planned:
            if not (await self.proxmox.task(p.upid)).running:
                return Found()
            title = f"task {upid.type} {upid.id or '(no id)'} of {upid.user} on {upid.node}, running"
            labels = [f"node/{upid.node}", *([f"guest/{upid.id}"] if upid.id.isdigit() else [])]
            loses = [f"what {upid.type} has done so far; a lock or a half-made volume may stay"]
            call.target(Target(f"task/{p.upid}", title, {"running": True}, labels, loses))
            return lambda: self.proxmox.delete(f"/nodes/{upid.node}/tasks/{p.upid}")

        await changes.change(call, plan)
        while (status := await self.proxmox.task(p.upid)).running:
            await targets.wait_a_moment(call, f"waiting until {p.upid} has ended")
        return StoppedTask(p.upid, one_line(status.exit))

    async def _nodes(self) -> dict[str, bool]:
        """Return whether each node is online, as the cluster reports it now."""
        entries = await self.proxmox.get("/cluster/status") or []
        return {one_line(e["name"]): bool(int(e.get("online") or 0)) for e in entries if e.get("type") == "node"}

    async def _answering(self) -> str:
        """Return the node through which agentd reaches the cluster."""
        entries = await self.proxmox.get("/cluster/status") or []
        return next((one_line(e["name"]) for e in entries if int(e.get("local") or 0)), "")

    async def _state(self, node: str) -> str:
        """Return the state of a node; "unknown" if Proxmox cannot be reached.

        The node may have gone down before it could answer, so that is not a failure of the call.
        """
        try:
            return "online" if (await self._nodes()).get(node) else "offline"
        except ProxmoxUnavailable:
            return "unknown"

    async def _running(self, node: str) -> list[GuestLocation]:
        here = [place for place in await self.inventory.places() if place.node == node]
        return [place for place in await self.inventory.now(here) if place.status not in {"stopped", "suspended"}]


def _known(nodes: dict[str, bool], node: str) -> str:
    if node not in nodes:
        raise NotFound(f"there is no node {node!r}; there are {', '.join(sorted(nodes))}")
    return node


def _check_quorum(nodes: dict[str, bool], node: str) -> None:
    """Refuse if the nodes that remain would have no quorum.

    A single node needs none.
    """
    left = sum(online for name, online in nodes.items() if name != node)
    if len(nodes) > 1 and left <= len(nodes) // 2:
        raise Rejected(
            f"without {node} {left} of {len(nodes)} nodes would be online: no quorum, and nothing could be started or "
            "changed anywhere; without_quorum=true does it all the same"
        )


def _target(p: StopNode, running: list[GuestLocation], *, ours: bool) -> Target:
    named = [f"{place.title} stops" for place in running]
    title = f"node {p.node} with {len(running)} running guests ({p.command})"
    state: dict[str, Any] = {"online": True, "running": [place.vmid for place in running]}
    # What protects a guest protects the node that it runs on.
    labels = [label for place in running for label in (place.target().name, *place.target().labels)]
    access = ["agentd's own way to the cluster, which goes through this node, until it is back"] if ours else []
    return Target(f"node/{p.node}", title, state, labels, [*access, *named])
