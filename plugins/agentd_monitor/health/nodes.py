"""The nodes of a moment, and checks that read one source of each of them.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentd_monitor.health.finding import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agentd import Finding
    from agentd_monitor.health.finding import Moment


def node_entries(moment: Moment) -> list[dict[str, Any]]:
    """Return the nodes as the status of the cluster lists them."""
    return [entry for entry in moment.snapshot.entries("status") if entry.get("type") == "node" and entry.get("name")]


def online_nodes(moment: Moment) -> list[str]:
    """Return the names of the nodes that are online."""
    return [str(entry["name"]) for entry in node_entries(moment) if entry.get("online")]


def per_node(
    check: str, source: str
) -> Callable[[Callable[[Moment, str, Any], Iterator[Finding]]], Callable[[Moment], Iterator[Finding]]]:
    """Return a decorator: a check of the response of one node becomes one of all nodes that are online.

    A node whose response is missing has an unknown finding.
    """

    def decorate(findings_of: Callable[[Moment, str, Any], Iterator[Finding]]) -> Callable[[Moment], Iterator[Finding]]:
        def run(moment: Moment) -> Iterator[Finding]:
            for node in online_nodes(moment):
                response = moment.snapshot.get(source, node)
                if response is None:
                    yield unknown(moment, check, source, node, node=node)
                else:
                    yield from findings_of(moment, node, response)

        return run

    return decorate
