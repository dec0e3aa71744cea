"""Parse and compare option strings of guests; pure.

An example is `virtio=BC:24:…,bridge=vmbr0,queues=4`.  Proxmox prints the parts of an option string in its own order, so
two strings are compared part by part.  A part is split at its first `=`; a value contains no comma.
"""

from __future__ import annotations

import re
from typing import Any, Final

from agentd import one_line

Config = dict[str, Any]
Parts = dict[str, str]

MODELS: Final = (
    *("e1000", "e1000-82540em", "e1000-82544gc", "e1000-82545em", "e1000e", "i82551", "i82557b", "i82559er"),
    *("ne2k_isa", "ne2k_pci", "pcnet", "rtl8139", "virtio", "vmxnet3"),
)
"""Models of a VM's network card in the schema of Proxmox VE 9; `MODEL=MAC` is short for model and macaddr."""
NET: Final = re.compile(r"net\d+\Z")
DRIVE: Final = re.compile(r"(ide|sata|scsi|virtio|efidisk|tpmstate)\d+\Z")
MOUNT: Final = re.compile(r"(rootfs|mp\d+)\Z")
CLOUDINIT: Final = re.compile(r"(^|[:/])vm-\d+-cloudinit(\.|\Z)")
MEDIA: Final = frozenset({"none", "cdrom"})
"""Values of a CD drive that are not volumes."""
_ALLOCATES: Final = re.compile(r"[^:]+:(\d+(\.\d+)?|cloudinit)\Z")
_BOOLEANS: Final = {"yes": "1", "on": "1", "true": "1", "no": "0", "off": "0", "false": "0"}
_SWITCHES: Final = frozenset({"firewall", "link_down", "backup", "iothread", "ssd", "ro", "quota", "replicate", "acl"})

_PLAIN: Final = (
    *("name", "cores", "sockets", "memory", "description", "tags", "onboot", "startup", "protection", "agent", "boot"),
    *("cpulimit", "cpuunits", "balloon"),
    *("bootdisk", "ciuser", "sshkeys", "nameserver", "searchdomain", "hostname", "swap", "features"),
)
_OWN: Final = {
    "qemu": re.compile(r"(net([12]?\d|3[01])|ide[0-3]|sata[0-5]|scsi([12]?\d|30)|virtio(\d|1[0-5])|ipconfig\d+)\Z"),
    "lxc": re.compile(r"(net([12]?\d|3[01])|mp(\d{1,2}|1\d\d|2[0-4]\d|25[0-5]))\Z"),
}


def parts(value: object, first: str = "") -> Parts:
    """Return the parts of an option string.

    At most one part has no name; it gets the name `first`.
    """
    found: Parts = {}
    for part in str(value).split(","):
        key, equals, text = part.partition("=")
        if equals:
            found[key] = text
        elif part:
            found[first or part] = part if first else ""
    return found


def card(value: object) -> Parts:
    """Return the parts of a network card.

    For the card of a VM, these include `model` and `macaddr`, in either notation.
    """
    found: Parts = {}
    for key, text in parts(value, "model").items():
        if key in MODELS:
            found |= {"model": key} | ({"macaddr": text} if text else {})
        else:
            found[key] = text
    return found


def drive(value: object) -> Parts:
    """Return the parts of a drive or mount point.

    `volume` is its volume, its path, `none` or `cdrom`.
    """
    found = parts(value, "volume")
    return {("volume" if key == "file" else key): text for key, text in found.items()}


def volume(value: object) -> str:
    """Return the volume of a drive or mount point."""
    return drive(value).get("volume", "")


def same_value(key: str, one: object, other: object) -> bool:
    """Return whether two values of an option mean the same to Proxmox.

    None means that the option is not set.
    """
    if one is None or other is None:
        return one is other
    if key == "tags":
        return comparable_tags(one) == comparable_tags(other)
    if NET.match(key):
        return _equalized(card(one)) == _equalized(card(other))
    if DRIVE.match(key) or MOUNT.match(key):
        return _equalized(drive(one), "size") == _equalized(drive(other), "size")
    return str(one).strip() == str(other).strip()


def comparable_tags(value: object) -> list[str]:
    """Return tags in a form to compare: without case and order."""
    return sorted({tag.casefold() for tag in re.split(r"[;,\s]+", str(value or "")) if tag})


def _equalized(found: Parts, *besides: str) -> Parts:
    return {
        key: _BOOLEANS.get(text.lower(), text) if key in _SWITCHES else text
        for key, text in found.items()
        if key not in besides
    }


def is_known_option(kind: str, key: str) -> bool:
    """Return whether tools of tier `operate` write this option of a kind of guest."""
    return key in _PLAIN or _OWN[kind].match(key) is not None


def unwritable_reason(kind: str, key: str, value: object) -> str:
    """Return why a token cannot write back this value of an option, "" if it can."""
    text = one_line(value)
    if not is_known_option(kind, key):
        return f"{key} is not an option that these tools write"
    if NET.match(key):
        mac = card(value).get("macaddr" if kind == "qemu" else "hwaddr")
        return "" if mac else f"{key} has no MAC address, so it would get a new one: {text}"
    return _unwritable_disk(key, value) if DRIVE.match(key) or MOUNT.match(key) else ""


def _unwritable_disk(key: str, value: object) -> str:
    where = volume(value)
    if where.startswith("/"):
        return f"{key} is {where}: Proxmox allows only root@pam to use a path of the node"
    if CLOUDINIT.search(where):
        return f"{key} is a cloud-init drive: Proxmox frees its image at once when it is taken off"
    if _ALLOCATES.match(where) or "import-from" in drive(value):
        return f"{key} would be a new volume: {one_line(value)}"
    return ""


def boot_order(config: Config) -> list[str]:
    """Return the devices that a VM boots from, in order.

    It is [] if the configuration has no boot order, or has it in the old format.
    """
    text = str(config.get("boot") or "")
    found = next((part.removeprefix("order=") for part in text.split(",") if part.startswith("order=")), "")
    return [device for device in found.split(";") if device]


def is_disk(key: str, value: object) -> bool:
    """Return whether an option is a disk that a VM can boot from.

    A CD, an EFI disk or a TPM state is not.
    """
    kind = re.match(r"(ide|sata|scsi|virtio)\d+\Z", key)
    found = drive(value)
    return kind is not None and found.get("media") != "cdrom" and found.get("volume") not in MEDIA


def boot_disk(config: Config) -> str:
    """Return the disk that a guest boots from.

    It is "" if the configuration does not say which of several disks it is.
    """
    if "rootfs" in config:
        return "rootfs"
    disks = [key for key, value in config.items() if is_disk(key, value)]
    candidates = [*boot_order(config), str(config.get("bootdisk") or "")]
    return next((key for key in candidates if key in disks), disks[0] if len(disks) == 1 else "")
