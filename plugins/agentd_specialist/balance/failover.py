"""Whether the guests of a node fit on the others if it fails (N-1); pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentd_specialist.balance.steps import Ledger, Step

if TYPE_CHECKING:
    from agentd_specialist.balance.model import Guest, Landscape


def homeless(landscape: Landscape, lost: str) -> list[Guest]:
    """Return the guests of a node that would have no room elsewhere if it failed, the largest first.

    Each guest goes to the node with the most free memory that its rules allow, the largest guest first, as the HA
    manager starts them.
    """
    nodes = tuple(replace(node, closed="has failed") if node.name == lost else node for node in landscape.nodes)
    ledger = Ledger(replace(landscape, nodes=nodes))
    found = []
    for guest in sorted((g for g in landscape.guests if g.node == lost), key=lambda g: (-g.memory, g.vmid)):
        ledger.guests[guest.vmid] = replace(guest, fixed="")
        free = {node.name: node.memory - ledger.used[node.name] for node in nodes if not node.closed}
        for name in sorted(free, key=lambda name: (-free[name], name)):
            step = Step(guest.vmid, name, parked=True)
            if not ledger.objection(step):
                ledger.start(step)
                ledger.finish(guest.vmid)
                break
        else:
            found.append(guest)
    return found


def gaps(landscape: Landscape) -> dict[str, list[Guest]]:
    """Return the nodes whose failure the others cannot carry, and the guests that would have no room."""
    online = [node.name for node in landscape.nodes if not node.closed]
    found = {name: homeless(landscape, name) for name in online}
    return {name: guests for name, guests in found.items() if guests}
