"""Interpret what the Proxmox API returns about a guest.

For example: whether the guest is ours, its size, and which changes are needed.  Pure: the input is answers of the API.
A guest that agentd created has a mark: a line `agentd:<key>` in its description, where <key> is the workflow and task
that created it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, unquote

from agentd import key_of, mark, one_line
from agentd_proxmox.model import drives
from agentd_proxmox.model.fields import Guest
from agentd_proxmox.model.option_strings import boot_disk
from agentd_proxmox.model.option_strings import comparable_tags as tags_of

CLONING: Final = "qmclone temporary file"
"""Description of the target of a clone until the clone is finished (proxmox.md, Guests)."""

RESUMABLE: Final = frozenset({"paused", "prelaunch"})
"""States of a VM that is powered on, from which resume_vm continues it."""

MAKING: Final = frozenset({"create", "clone"})
"""Locks of a guest that is still being created."""

Config = dict[str, Any]

_DISK: Final = re.compile(r"(scsi|virtio|sata|ide|efidisk|tpmstate|mp)\d+\Z|rootfs\Z")
_NETWORK: Final = re.compile(r"net\d+\Z")
_SIZE: Final = re.compile(r"(?:^|,)size=(\d+(?:\.\d+)?)([KMGT]?)")
_GIBIBYTES: Final = {"": 2**-30, "K": 2**-20, "M": 2**-10, "G": 1.0, "T": 1024.0}


class VmidOwner(Enum):
    """What occupies a VMID."""

    FREE = "no guest"
    OURS = "a guest that has our mark"
    UNDECIDED = "a guest that is being created by an unknown task"
    FOREIGN = "a guest without our mark"


def describe(text: str, key: str) -> str:
    """Return a description with `text` and the mark of `key`."""
    return f"{text.strip()}\n\n{mark(key)}".strip()


def is_internal(line: str) -> bool:
    """Return whether Proxmox itself wrote this line of a description.

    vzdump notes there where each drive was.
    """
    return line.strip().lstrip("#").startswith(("qmdump#", "vzdump#"))


def marks(description: str) -> list[str]:
    """Return the lines of `description` that are exactly a mark."""
    return [line for line in description.replace("\r\n", "\n").split("\n") if key_of(line)]


def text_of(description: str) -> str:
    """Return `description` as a person wrote it: no marks, no control characters."""
    lines = [one_line(line) for line in description.splitlines() if not key_of(line) and not is_internal(line)]
    return "\n".join(lines).strip()


def redescribe(old: str, text: str) -> str:
    """Return a description with `text` and the marks of `old`."""
    return "\n\n".join(part for part in (text.strip(), "\n".join(marks(old))) if part)


def owner_of(config: Config | None, key: str) -> VmidOwner:
    """Return what occupies a VMID, from the configuration of its guest.

    config  None: there is no guest
    """
    if config is None:
        return VmidOwner.FREE
    description = str(config.get("description") or "")
    if mark(key) in marks(description):
        return VmidOwner.OURS
    if config.get("lock") in MAKING and description.strip() in {"", CLONING}:
        return VmidOwner.UNDECIDED
    return VmidOwner.FOREIGN


def split_tags(tags: object) -> list[str]:
    """Return the tags in `comparable_tags`.

    Proxmox separates them with semicolons; people also use commas and spaces.
    """
    return sorted({one_line(tag) for tag in re.split(r"[;,\s]+", str(tags or "")) if tag})


def disk_size(drive: str) -> float:
    """Return the size of a drive in GiB, 0 if it has none.

    A drive is, for example, `local:101/vm-101-disk-0.qcow2,size=32G`.
    """
    found = _SIZE.search(drive)
    return round(float(found[1]) * _GIBIBYTES[found[2]], 3) if found else 0.0


def disks(config: Config) -> dict[str, float]:
    """Return the disks of a guest and their sizes in GiB, without CD-ROM drives."""
    drives = {key: str(value) for key, value in config.items() if _DISK.match(key)}
    return {key: disk_size(value) for key, value in sorted(drives.items()) if "media=cdrom" not in value.split(",")}


def storages(config: Config) -> list[str]:
    """Return the storages of the disks of a guest."""
    volumes = (str(config[key]).partition(",")[0] for key in disks(config))
    return sorted({storage for storage, colon, _ in (volume.partition(":") for volume in volumes) if colon})


def enabled(value: object) -> bool:
    """Return whether an option like `1`, `enabled=1,type=virtio` or `0` is on."""
    first = str(value or "0").partition(",")[0]
    return first.removeprefix("enabled=") == "1"


def memory(config: Config) -> int:
    """Return the memory of a guest in MiB.

    Proxmox writes `2048` or `current=2048`; without a value it is 512.
    """
    text = str(config.get("memory") or 512).partition(",")[0].removeprefix("current=")
    return int(float(text))


def cores(config: Config, kind: str) -> int | None:
    """Return the cores of a container, or of each socket of a VM.

    None: a container without a limit.
    """
    return int(config["cores"]) if config.get("cores") else None if kind == "lxc" else 1


def guest(vmid: int, node: str, kind: str, config: Config, status: Config) -> Guest:
    """Return a guest from its configuration and its status (status/current)."""
    return Guest(
        vmid=vmid,
        node=node,
        name=one_line(config.get("name") or config.get("hostname") or status.get("name") or ""),
        status="stopped" if (current := state(status)) == "suspended" else current,
        type=kind,
        template=bool(config.get("template")),
        lock=one_line(config.get("lock") or ""),
        cores=cores(config, kind),
        sockets=int(config.get("sockets") or 1),
        cpus=float(status.get("cpus") or 0) or float((cores(config, kind) or 0) * int(config.get("sockets") or 1)),
        memory=memory(config),
        cpulimit=float(config.get("cpulimit") or 0) or None,
        cpuunits=int(config.get("cpuunits") or _ABSENT["cpuunits"]),
        balloon=int(config["balloon"]) if kind == "qemu" and "balloon" in config else None,
        swap=int(config.get("swap", _ABSENT["swap"])) if kind == "lxc" else None,
        disks=disks(config),
        boot_disk=boot_disk(config),
        storages=storages(config),
        networks={key: one_line(value) for key, value in sorted(config.items()) if _NETWORK.match(key)},
        tags=split_tags(config.get("tags")),
        description=text_of(str(config.get("description") or "")),
        onboot=enabled(config.get("onboot")),
        agent=enabled(config.get("agent")),
        ha=bool((status.get("ha") or {}).get("managed")),
        uptime=int(status.get("uptime") or 0),
        digest=str(config.get("digest") or ""),
        all_storages=drives.storages_of(config),
    )


def state(status: Config) -> str:
    """Return the state of a guest: running, stopped, suspended, or one of QEMU.

    Suspended means suspended to disk; a state of QEMU is, for example, paused.  A backup of a stopped VM starts its
    process but does not run the VM (status running, qmpstatus prelaunch): such a VM counts as stopped.
    """
    plain = one_line(status.get("status") or "unknown")
    if plain == "stopped" and status.get("lock") == "suspended":
        return "suspended"
    if plain != "running":
        return plain
    if is_prelaunched(status):
        return "stopped"
    return one_line(status.get("qmpstatus") or plain)


def is_prelaunched(status: Config) -> bool:
    """Return whether a backup has started the process of the VM.

    A later start of the VM continues that process.
    """
    return status.get("qmpstatus") == "prelaunch" and status.get("lock") == "backup"


def is_powered_on(status: Config) -> bool:
    """Return whether a guest is powered on.

    A paused VM is: its process uses its memory and its disks.
    """
    return status.get("status") == "running" and not is_prelaunched(status)


def sshkeys(text: str) -> str:
    """Return public keys percent-encoded, as Proxmox requires.

    The request encodes them once more.
    """
    return quote(text.strip(), safe="")


def changes(config: Config, wanted: Config) -> Config:
    """Return the parameters that change `config` to `wanted`; {}: nothing to change.

    A value None means: do not change this option.  An empty value means: delete this option.
    """
    changed: Config = {}
    removed: list[str] = []
    for key, value in wanted.items():
        if value is None or _same(key, config, value):
            continue
        if value in ("", []) or (key in _UNLIMITED and not value):
            removed.append(key)
        elif key == "tags":
            changed[key] = ";".join(split_tags(";".join(value)))
        else:
            changed[key] = value
    return changed | ({"delete": ",".join(removed)} if removed else {})


_ABSENT: Final = {"sockets": 1, "swap": 512, "cpuunits": 100, "cpulimit": 0}
"""Defaults of Proxmox for numbers that the configuration does not contain."""
_UNLIMITED: Final = frozenset({"cores", "cpulimit"})
"""Options for which 0 means: no limit."""


def _same(key: str, config: Config, want: Any) -> bool:  # noqa: ANN401 - values of a configuration
    """Return whether an option has the wanted value, in any notation of Proxmox."""
    have = config.get(key)
    if isinstance(want, bool):
        return enabled(have) is want
    if key == "tags":
        return tags_of(have) == tags_of(";".join(want))
    if key == "memory":
        return memory(config) == int(want)
    have, want = (unquote(str(text or "")) if key == "sshkeys" else text for text in (have, want))
    if key == "cores":
        return cores(config, "lxc" if "rootfs" in config else "qemu") == (int(want) if want else None)
    if key in _ABSENT:
        return float(_ABSENT[key] if have is None else have) == float(want)
    return str("" if have is None else have).strip() == str(want).strip()


def mark_of(notes: str) -> str:
    """Return the key of our call that made the backup with these notes, or ""."""
    return key_of(notes.partition("\n")[0].rstrip().rpartition(" ")[2])


def notes_text(notes: str) -> str:
    """Return notes as one line, without the mark and control characters."""
    first, _, rest = notes.partition("\n")
    first = first.rstrip().rpartition(" ")[0] if mark_of(notes) else first
    return one_line(f"{first}\n{rest}")
