"""The locations of a guest's drives: storages, or devices and folders of a node.

Pure.  All drives are included, also a CD-ROM, a cloud-init drive, an EFI disk, a TPM state and an unused volume:
Proxmox checks all of them when it clones or moves a guest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentd import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_KEY: Final = re.compile(r"(?:(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+|rootfs)\Z")
_STORED: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]):(?!\Z)")
_CLOUDINIT: Final = re.compile(r"vm-\d+-cloudinit")
_ON: Final = re.compile(r"(?:\A|,)shared=(?:1|on|yes|true)(?:,|\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class Drive:
    """One drive of a guest.

    `storage` is "" for a device, a folder, a physical CD-ROM or an empty CD-ROM drive.
    """

    key: str
    volume: str
    storage: str
    options: str

    @property
    def is_empty(self) -> bool:
        """Whether it is a CD-ROM drive without a medium."""
        return self.volume == "none"

    @property
    def is_physical(self) -> bool:
        """Whether it is the CD-ROM drive of the node itself."""
        return self.volume == "cdrom"

    @property
    def is_local_path(self) -> bool:
        """Whether it is a device or a folder of the node."""
        return self.volume.startswith("/")

    @property
    def is_shared(self) -> bool:
        """Whether an administrator has marked it as available on all nodes (shared=1)."""
        return _ON.search(self.options) is not None

    @property
    def is_cloudinit(self) -> bool:
        """Whether it is a cloud-init drive, which Proxmox creates again."""
        return _CLOUDINIT.search(self.volume) is not None

    @property
    def is_medium(self) -> bool:
        """Whether it is a CD-ROM drive with a medium."""
        return "media=cdrom" in self.options and not self.is_cloudinit and not self.is_empty

    @property
    def is_linked(self) -> bool:
        """Whether its volume is a linked clone of another one."""
        return re.search(r"(?:^|/|:)base-\d+-[^/]*/", self.volume) is not None


def drives(config: dict[str, Any]) -> Iterator[Drive]:
    """Yield the drives of a guest, sorted by name."""
    for key in sorted(config):
        if _KEY.match(key):
            first, _, options = str(config[key]).partition(",")
            volume = one_line(first.removeprefix("file=").removeprefix("volume="))
            found = None if volume.startswith("/") else _STORED.match(volume)
            yield Drive(key, volume, found[1] if found else "", options)


def uncloneable(config: dict[str, Any], *, container: bool) -> list[str]:
    """Return the drives that Proxmox cannot clone.

    These are devices, and folders of a container.
    """
    kind = "a folder or device" if container else "a device or file"
    return [f"{drive.key} is {kind} of the node ({drive.volume})" for drive in drives(config) if drive.is_local_path]


def not_shared(config: dict[str, Any], shared: Collection[str]) -> list[str]:
    """Return the drives that are not on shared storage.

    They keep a clone on the node of its source.
    """
    counted = [drive for drive in drives(config) if not drive.key.startswith("unused") and not drive.is_empty]
    return [f"{drive.key} on {drive.storage or drive.volume}" for drive in counted if drive.storage not in shared]


def storages_of(config: dict[str, Any]) -> list[str]:
    """Return the storages of all drives.

    A device or file of the node is listed by its path.
    """
    counted = [drive for drive in drives(config) if not drive.key.startswith("unused") and not drive.is_empty]
    return sorted({drive.storage or drive.volume for drive in counted})
