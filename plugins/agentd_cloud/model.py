"""What the tools show of a cloud: nodes, volumes, images, prices.

Names and descriptions were written by users of the cloud: they are data, made printable.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from agentd import formats
from agentd.printable import printable

T = TypeVar("T", bound=msgspec.Struct)
Item: TypeAlias = Any
"""An object of libcloud."""

LONGEST: Final = 200
"""Characters of a text from a provider."""
GONE: Final = frozenset({"terminated", "deleted"})
LEAVING: Final = frozenset({"shutting-down", "deleting"})

Account = Annotated[str, Meta(min_length=1, max_length=32, description="alias of the account (list_cloud_accounts)")]
Name = Annotated[str, formats.full_match("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "letters, digits, dots, dashes")]
Id = Annotated[str, Meta(min_length=1, max_length=200)]
Limit = Annotated[int, Meta(ge=1, le=200, description="entries on a page")]
Cursor = Annotated[str, Meta(max_length=200, description="`next` of the page before")]


class InAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The account of a call."""

    account: Account


class Paged(InAccount, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The page of a list to return; `query`: only entries whose id or name contains this text."""

    query: Annotated[str, Meta(max_length=100)] = ""
    limit: Limit = 50
    cursor: Cursor = ""


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """A place where the provider creates nodes and volumes."""

    id: str
    name: str
    country: str = ""


class Size(msgspec.Struct, frozen=True, omit_defaults=True):
    """A size of node; hourly_cost: from the price list of apache-libcloud, null if it has none."""

    id: str
    name: str
    memory_mib: int = 0
    disk_gb: int = 0
    hourly_cost: float | None = None
    allowed: bool = True


class Image(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image from which a node starts."""

    id: str
    name: str
    description: str = ""
    owner: str = ""


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node; mark: the value of agentd's tag, the key of the call that created it."""

    id: str
    name: str
    state: str
    size: str = ""
    image: str = ""
    location: str = ""
    addresses: list[str] = []
    created: datetime | None = None
    mark: str = ""

    @property
    def alive(self) -> bool:
        """Return whether the node exists, and is not being deleted."""
        return self.state not in GONE | LEAVING


class Volume(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume; node: id of the node that it is attached to."""

    id: str
    name: str
    state: str
    size_gb: int = 0
    location: str = ""
    node: str = ""
    device: str = ""
    created: datetime | None = None
    mark: str = ""

    @property
    def alive(self) -> bool:
        """Return whether the volume exists, and is not being deleted."""
        return self.state not in GONE | LEAVING


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A snapshot of a volume."""

    id: str
    name: str
    state: str
    size_gb: int = 0
    volume: str = ""
    created: datetime | None = None
    mark: str = ""

    @property
    def alive(self) -> bool:
        """Return whether the snapshot exists, and is not being deleted."""
        return self.state not in GONE | LEAVING


class KeyPair(msgspec.Struct, frozen=True, omit_defaults=True):
    """A public key that nodes can be given."""

    name: str
    fingerprint: str = ""


def location(item: Item) -> Location:
    """Return a location; its name is what the tools take."""
    return Location(text(item.id), text(item.name), text(item.country))


def size(item: Item, *, allowed: bool) -> Size:
    """Return a size."""
    cost = float(item.price) if isinstance(item.price, int | float) and item.price > 0 else None
    return Size(text(item.id), text(item.name), int(item.ram or 0), int(item.disk or 0), cost, allowed)


def image(item: Item) -> Image:
    """Return an image."""
    return Image(text(item.id), text(item.name), _extra(item, "description"), _extra(item, "owner_id"))


def node(item: Item, tag: str) -> Node:
    """Return a node."""
    return Node(
        id=text(item.id),
        name=text(item.name),
        state=_extra(item, "status") or text(item.state),
        size=_extra(item, "instance_type") or text(getattr(item.size, "id", "")),
        image=_extra(item, "image_id") or text(getattr(item.image, "id", "")),
        location=_extra(item, "availability"),
        addresses=[text(address) for address in dict.fromkeys([*item.public_ips, *item.private_ips])],
        created=_time(item.created_at),
        mark=_mark(item, tag),
    )


def volume(item: Item, tag: str) -> Volume:
    """Return a volume."""
    return Volume(
        id=text(item.id),
        name=text(item.name),
        state=_extra(item, "state") or text(item.state),
        size_gb=int(item.size or 0),
        location=_extra(item, "zone"),
        node=_extra(item, "instance_id"),
        device=_extra(item, "device"),
        created=_time(item.extra.get("create_time")),
        mark=_mark(item, tag),
    )


def snapshot(item: Item, tag: str) -> Snapshot:
    """Return a snapshot."""
    return Snapshot(
        id=text(item.id),
        name=text(item.name or item.id),
        state=_extra(item, "state") or text(item.state),
        size_gb=int(item.size or 0),
        volume=_extra(item, "volume_id"),
        created=_time(item.created),
        mark=_mark(item, tag),
    )


def key_pair(item: Item) -> KeyPair:
    """Return a key pair, never its private part."""
    return KeyPair(text(item.name), text(item.fingerprint))


def text(value: object) -> str:
    """Return a value of a provider as one printable line."""
    return "" if value is None else printable(str(value))[:LONGEST]


def _extra(item: Item, name: str) -> str:
    return text(item.extra.get(name))


def _mark(item: Item, tag: str) -> str:
    tags = item.extra.get("tags")
    return text(tags.get(tag)) if isinstance(tags, dict) else ""


def _time(value: object) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def page(entries: list[T], asked: Paged, key: str = "id") -> tuple[int, list[T], str]:
    """Return how many entries match, those of the page, and the cursor of the next one ("": none).

    key  the field that is unique to an entry and by which they are sorted
    """
    words = asked.query.lower()
    found = [entry for entry in entries if words in f"{getattr(entry, key)} {getattr(entry, 'name', '')}".lower()]
    found.sort(key=lambda entry: str(getattr(entry, key)))
    rest = [entry for entry in found if str(getattr(entry, key)) > asked.cursor]
    shown = rest[: asked.limit]
    return len(found), shown, str(getattr(shown[-1], key)) if len(rest) > len(shown) else ""
