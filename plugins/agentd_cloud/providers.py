"""The drivers of apache-libcloud, and what providers need beside them.  Everything here blocks: it runs in threads.

`Provider` lists what any of libcloud's drivers offers, and changes nothing.  A change needs more: the provider must set
the tag in the same request that creates the object, or a process that dies in between leaves an object that no retry
finds.  `Ec2` does so for Amazon EC2 and services with its API.  The key of a call is also EC2's client token, so that
EC2 itself refuses to repeat a request that is still under way.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias
from urllib.parse import urlsplit

from agentd import PermanentError, Rejected
from agentd.similar import suggestion

if TYPE_CHECKING:
    from types import ModuleType

    from agentd_cloud.settings import AccountSettings

Driver: TypeAlias = Any
"""A driver of libcloud, or its class."""
Object: TypeAlias = Any
"""A node, size, location, … of libcloud."""
MISSING: Final = "apache-libcloud is not installed: install agentd with its extra `cloud` (pip install 'agentd[cloud]')"


def library() -> ModuleType:
    """Import libcloud; raises PermanentError if the extra is not installed."""
    # Both would break a promise: one repeats requests by itself, the other writes requests with their credentials.
    for name in ("LIBCLOUD_RETRY_FAILED_HTTP_REQUESTS", "LIBCLOUD_DEBUG"):
        os.environ.pop(name, None)
    try:
        from libcloud.compute import providers
    except ImportError as error:
        raise PermanentError(MISSING) from error
    module: ModuleType = providers
    return module


@dataclass(frozen=True)
class NewNode:
    """A node to create; size and location are libcloud's objects."""

    name: str
    size: Object
    image: str
    location: Object
    key_pair: str
    tags: dict[str, str]


class Provider:
    """Any provider: what it has is listed, and nothing is changed."""

    changes: bool = False
    arguments: ClassVar[dict[str, Any]] = {}
    """Arguments of the driver that it needs beside those of the account."""

    def connect(self, settings: AccountSettings, secret: str) -> Driver:
        """Return a new driver; it is used by one thread, for one operation."""
        kind = _driver_class(settings.provider)
        credentials = [text for text in (settings.key, secret) if text] or [""]
        more: dict[str, Any] = self.arguments | settings.options
        if settings.region:
            more["region"] = settings.region
        if settings.endpoint:
            parts = urlsplit(settings.endpoint)
            more |= {"secure": parts.scheme == "https", "host": parts.hostname}
            more["port"] = parts.port or (443 if more["secure"] else 80)
        accepted = inspect.signature(kind).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):
            more["timeout"] = settings.timeout
        return kind(*credentials, **more)

    def locations(self, driver: Driver) -> list[Object]:
        """Return the locations."""
        return list(driver.list_locations())

    def sizes(self, driver: Driver) -> list[Object]:
        """Return the sizes of nodes."""
        return list(driver.list_sizes())

    def images(self, driver: Driver, query: str, owner: str) -> list[Object]:
        """Return the images whose id or name contains `query`."""
        if owner:
            raise Rejected("owner: this provider does not list images by owner; leave it out")
        return [image for image in driver.list_images() if query.lower() in f"{image.id} {image.name}".lower()]

    def nodes(self, driver: Driver) -> list[Object]:
        """Return the nodes."""
        return list(driver.list_nodes())

    def volumes(self, driver: Driver) -> list[Object]:
        """Return the volumes."""
        return list(driver.list_volumes())

    def snapshots(self, driver: Driver) -> list[Object]:
        """Return the snapshots of volumes."""
        return [found for volume in driver.list_volumes() for found in driver.list_volume_snapshots(volume)]

    def key_pairs(self, driver: Driver) -> list[Object]:
        """Return the key pairs."""
        return list(driver.list_key_pairs())


class Ec2(Provider):
    """Amazon EC2, and services with its API."""

    changes = True
    arguments: ClassVar[dict[str, Any]] = {"signature_version": "4"}  # 2 writes the access key into every URL

    def images(self, driver: Driver, query: str, owner: str) -> list[Object]:
        """Return the images whose name contains `query`: the provider searches, as it has tens of thousands."""
        if not query and not owner:
            raise Rejected("query: this provider has too many images to list; give a part of the name, or an owner")
        if query.startswith("ami-"):
            return list(driver.list_images(ex_image_ids=[query]))
        filters = {"name": f"*{query}*"} if query else None
        return list(driver.list_images(ex_owner=owner or None, ex_filters=filters))

    def snapshots(self, driver: Driver) -> list[Object]:
        """Return the account's own snapshots."""
        return list(driver.list_snapshots(owner="self"))

    def create_node(self, driver: Driver, new: NewNode) -> None:
        """Create a node with its tags, in one request."""
        from libcloud.compute.base import NodeImage

        driver.create_node(
            name=new.name,
            size=new.size,
            image=NodeImage(new.image, "", driver),
            location=new.location,
            ex_keyname=new.key_pair or None,
            ex_metadata=new.tags,
            ex_clienttoken=_token(new.tags),
        )

    def delete_node(self, driver: Driver, node: str) -> None:
        """Delete a node."""
        driver.destroy_node(_stub_node(driver, node))

    def power(self, driver: Driver, node: str, act: str) -> None:
        """Start, stop or reboot a node."""
        getattr(driver, f"{act}_node")(_stub_node(driver, node))

    def create_volume(  # noqa: PLR0913, PLR0917 - the properties of a volume
        self,
        driver: Driver,
        name: str,
        size: int,
        location: Object,
        snapshot: str,
        tags: dict[str, str],
    ) -> None:
        """Create a volume with its tags, in one request."""
        from libcloud.compute.base import VolumeSnapshot

        of = VolumeSnapshot(snapshot, driver) if snapshot else None
        _tag_at_creation(driver, "CreateVolume", "volume", {"Name": name, **tags}, ClientToken=_token(tags))
        driver.create_volume(size, name, location=location, snapshot=of, ex_volume_type="gp3")

    def attach_volume(self, driver: Driver, volume: str, node: str, device: str) -> None:
        """Attach a volume to a node."""
        driver.attach_volume(_stub_node(driver, node), _stub_volume(driver, volume), device)

    def detach_volume(self, driver: Driver, volume: str) -> None:
        """Detach a volume from its node."""
        driver.detach_volume(_stub_volume(driver, volume))

    def delete_volume(self, driver: Driver, volume: str) -> None:
        """Delete a volume."""
        driver.destroy_volume(_stub_volume(driver, volume))

    def create_snapshot(self, driver: Driver, volume: str, name: str, tags: dict[str, str]) -> None:
        """Create a snapshot of a volume with its tags, in one request."""
        _tag_at_creation(driver, "CreateSnapshot", "snapshot", {"Name": name, **tags})
        driver.create_volume_snapshot(_stub_volume(driver, volume), name)

    def delete_snapshot(self, driver: Driver, snapshot: str) -> None:
        """Delete a snapshot."""
        from libcloud.compute.base import VolumeSnapshot

        driver.destroy_volume_snapshot(VolumeSnapshot(snapshot, driver))

    def import_key_pair(self, driver: Driver, name: str, public_key: str) -> None:
        """Import a public key."""
        driver.import_key_pair_from_string(name, public_key)

    def delete_key_pair(self, driver: Driver, name: str) -> None:
        """Delete a key pair."""
        from libcloud.compute.base import KeyPair

        driver.delete_key_pair(KeyPair(name, None, None, driver))


READ_ONLY: Final = Provider()
_WITH_CHANGES: Final = {"ec2": Ec2()}


def provider_of(name: str) -> Provider:
    """Return what is known of a provider."""
    return _WITH_CHANGES.get(name, READ_ONLY)


def changing() -> str:
    """Return the names of the providers at which something can be changed."""
    return ", ".join(_WITH_CHANGES)


def _driver_class(name: str) -> Driver:
    drivers = library()
    if name not in drivers.DRIVERS:
        raise PermanentError(f"provider: apache-libcloud knows no {name!r}{suggestion(name, drivers.DRIVERS)}")
    return drivers.get_driver(name)


def _token(tags: dict[str, str]) -> str:
    """Return EC2's client token of a call: its mark as at most 64 characters."""
    return hashlib.sha256("\0".join(tags.values()).encode()).hexdigest()


def _stub_node(driver: Driver, node: str) -> Object:
    from libcloud.compute.base import Node

    return Node(id=node, name="", state=None, public_ips=[], private_ips=[], driver=driver)


def _stub_volume(driver: Driver, volume: str) -> Object:
    from libcloud.compute.base import StorageVolume

    return StorageVolume(id=volume, name="", size=0, driver=driver)


def _tag_at_creation(driver: Driver, action: str, resource: str, tags: dict[str, str], **more: str) -> None:
    """Add tags to the request `action` of this driver: libcloud itself would set them in a second request."""
    send = driver.connection.request
    added = {"TagSpecification.1.ResourceType": resource, **more}
    for number, (key, value) in enumerate(tags.items(), 1):
        added |= {f"TagSpecification.1.Tag.{number}.Key": key, f"TagSpecification.1.Tag.{number}.Value": value}

    def request(path: str, params: dict[str, str] | None = None, **rest: object) -> Object:
        if params is not None and params.get("Action") == action:
            params |= added
        return send(path, params=params, **rest)

    driver.connection.request = request
