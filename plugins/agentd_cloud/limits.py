"""What an account may have and what agentd may touch there: the tag fence, quotas, allowed sizes; pure."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeVar

from agentd import Denied, NotFound, Rejected
from agentd.similar import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentd_cloud.model import Node, Size, Snapshot, Volume
    from agentd_cloud.settings import AccountSettings

O = TypeVar("O", bound="Node | Volume | Snapshot")  # noqa: E741 - an object of the cloud

HOURS: int = 730
"""Hours of a month, as providers count them."""


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a name is allowed; no pattern allows every name."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def only(kind: str, wanted: str, objects: Iterable[O]) -> O | None:
    """Return the living object with this id or name; None if there is none.

    Raises Rejected if the name is that of several.
    """
    alive = [found for found in objects if found.alive]
    exact = [found for found in alive if found.id == wanted]
    named = exact or [found for found in alive if found.name == wanted]
    if len(named) > 1:
        ids = ", ".join(sorted(found.id for found in named))
        raise Rejected(f"{kind}: {len(named)} are called {wanted!r}; use an id: {ids}")
    return named[0] if named else None


def needed(kind: str, wanted: str, objects: Sequence[O]) -> O:
    """Return the living object with this id or name; raises NotFound with similar names."""
    found = only(kind, wanted, objects)
    if found is None:
        names = [name for known in objects if known.alive for name in (known.id, known.name)]
        raise NotFound(f"{kind}: there is no {wanted!r}{suggestion(wanted, names)}")
    return found


def check_fence(account: str, settings: AccountSettings, title: str, mark: str) -> None:
    """Raise Denied if agentd may not change an object with this mark."""
    if not mark and settings.only_tagged:
        raise Denied(
            f"{title} does not have the tag {settings.tag!r}: agentd changes only what it has created "
            f"([cloud.accounts.{account}] only_tagged)"
        )


def choose(kind: str, wanted: str, known: Sequence[Any], patterns: Sequence[str]) -> Any:  # noqa: ANN401 - of libcloud
    """Return the size or location of this id or name; raises Rejected with the names that are similar or allowed."""
    for item in known:
        if wanted in {str(item.id), item.name}:
            if not matches(wanted, patterns):
                raise Rejected(f"{kind}: {wanted} is not allowed in this account; allowed: {', '.join(patterns)}")
            return item
    allowed = sorted({item.name if kind == "location" else str(item.id) for item in known})
    names = [name for name in allowed if matches(name, patterns)]
    raise Rejected(f"{kind}: there is no {wanted!r}{suggestion(wanted, names, listed=f'list_cloud_{kind}s')}")


def refusal(settings: AccountSettings, own: Sequence[Node], sizes: Sequence[Size], new: Size) -> str:
    """Return why a node of the size `new` may not be created beside the nodes `own`, or ""."""
    if not new.allowed:
        return f"size: {new.id} is not allowed in this account; allowed: {', '.join(settings.sizes)}"
    if len(own) >= settings.max_nodes:
        return f"{len(own)} nodes with the tag {settings.tag!r} exist, and max_nodes = {settings.max_nodes}"
    if settings.max_hourly_cost is None:
        return ""
    running, unknown = hourly_cost(own, sizes)
    if new.hourly_cost is None:
        unknown = [new.id]
    if unknown:
        return f"size: the price of {unknown[0]} is not known, and the account has a max_hourly_cost"
    total = running + (new.hourly_cost or 0.0)
    if total > settings.max_hourly_cost:
        return (
            f"size: with one more {new.id} all nodes would cost {total:.4f} an hour, and "
            f"max_hourly_cost = {settings.max_hourly_cost:g}"
        )
    return ""


def check_volumes(settings: AccountSettings, own: Sequence[Volume], size_gb: int) -> None:
    """Raise Rejected if one more volume would be too much."""
    total = sum(volume.size_gb for volume in own) + size_gb
    if total > settings.max_volume_gb:
        raise Rejected(
            f"size_gb: volumes with the tag {settings.tag!r} would have {total} GB, and "
            f"max_volume_gb = {settings.max_volume_gb}"
        )


def hourly_cost(nodes: Iterable[Node], sizes: Sequence[Size]) -> tuple[float, list[str]]:
    """Return what nodes cost per hour, and the sizes whose price is not known."""
    prices = {size.id: size.hourly_cost for size in sizes}
    used = [node.size for node in nodes if node.state != "stopped"]
    unknown = sorted({size for size in used if prices.get(size) is None})
    return sum(prices.get(size) or 0.0 for size in used), unknown
