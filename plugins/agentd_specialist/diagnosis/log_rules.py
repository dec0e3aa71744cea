"""Causes by what Proxmox VE, QEMU and storages write into task logs; pure.

Each entry: a pattern, the cause, what to do, a workflow that helps, and how sure the line makes it.  The texts are
those of Proxmox VE and of the programs that it runs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from agentd import Cause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd import Situation


class Pattern(NamedTuple):
    """A line that points to a cause."""

    pattern: str
    text: str
    advice: str
    likelihood: float = 0.9
    workflow: str = ""


PATTERNS: Final = (
    Pattern(
        r"no quorum|cluster not ready",
        "the cluster has no quorum, so nothing can be changed",
        "bring nodes back online; `pvecm status` shows the votes",
        0.95,
    ),
    Pattern(
        r"VM is locked \((\w[\w-]*)\)|CT is locked \((\w[\w-]*)\)",
        "the guest was locked by another operation",
        "wait for that operation; if no task runs, an interrupted one has left the lock (qm unlock)",
        0.85,
    ),
    Pattern(
        r"can't lock file .*got timeout|cfs-lock .* error",
        "another process held the lock of the configuration for too long",
        "repeat it; if it happens again, look for hung tasks on the node",
        0.7,
    ),
    Pattern(
        r"[Cc]annot allocate memory|not enough memory|unable to allocate|KVM.*ENOMEM",
        "the node has too little free memory for the guest",
        "move guests away from the node, or give the guest less memory",
        0.95,
        "resource_optimization",
    ),
    Pattern(
        r"[Nn]o space left on device|ENOSPC|out of space|thin pool.*(full|exceeds)|not enough free space",
        "a storage is full",
        "delete old snapshots, backups or unused disks, or move disks to another storage",
        0.95,
        "snapshot_cleanup",
    ),
    Pattern(
        r"storage '[^']+' is not (online|available|active)|storage '[^']+' does not exist|mount error|"
        r"unable to activate storage|Connection timed out.*(nfs|cifs)|stale file handle",
        "a storage that the guest needs is not available on the node",
        "check the storage's server and network; get_storage_status shows its state",
        0.9,
    ),
    Pattern(
        r"can't migrate (VM|guest).*local (disks|resources|devices)|can't migrate local disk|"
        r"can't live migrate attached local disks|uses local devices",
        "the guest uses disks or devices that exist on its node alone",
        "check_migration names them; local_disks lets disks be copied",
        0.9,
    ),
    Pattern(
        r"guest CPU doesn't match|host doesn't support requested feature|CPU.*not supported|"
        r"error while loading state|load of migration failed",
        "the CPU of the target differs from that of the source",
        "give the guest a CPU type that both nodes have, such as x86-64-v2-AES, or move it while it is off",
        0.75,
    ),
    Pattern(
        r"KVM virtualisation configured, but not available|failed to initialize.*[Kk][Vv][Mm]",
        "hardware virtualization is not available on the node",
        "enable VT-x or AMD-V in the firmware of the node",
        0.95,
    ),
    Pattern(
        r"bridge '[^']+' does not exist|no such bridge|vmbr\d+.*does not exist",
        "a network bridge of the guest does not exist on the node",
        "create the bridge, or change the network card of the guest",
        0.95,
    ),
    Pattern(
        r"no such (logical volume|file or directory|volume)|volume '[^']+' does not exist|"
        r"Failed to find logical volume|unable to open .*disk",
        "a disk of the guest is missing",
        "compare the disks in its configuration with list_volumes; restore it from a backup if one is lost",
        0.85,
    ),
    Pattern(
        r"Permission (check failed|denied)|403",
        "the token or user lacks a privilege",
        "the line names path and privilege; `agentd doctor` lists what is missing",
        0.85,
    ),
    Pattern(
        r"snapshot feature is not available|snapshots? (is|are) not supported",
        "a disk of the guest is on a storage that cannot keep snapshots",
        "move the disk to a storage that can, or back the guest up instead",
        0.95,
    ),
    Pattern(
        r"got no guest agent|QEMU guest agent is not running|guest-fsfreeze.*(failed|timeout)|agent.*got timeout",
        "the guest agent does not answer",
        "install or start qemu-guest-agent in the guest; without it file systems are not frozen",
        0.6,
    ),
    Pattern(
        r"shutdown failed - got timeout|VM quit/powerdown failed",
        "the guest did not react to the request to shut down",
        "start its guest agent or ACPI service; stop_guest ends it by force",
        0.85,
    ),
    Pattern(
        r"(tls|ssl|x509|certificate).*(expired|verify failed|not valid)|fingerprint .* not verified",
        "a certificate is not valid any more",
        "renew it; list_certificates shows the dates",
        0.9,
    ),
    Pattern(
        r"[Cc]onnection (refused|reset|timed out)|[Nn]o route to host|Temporary failure in name resolution",
        "a machine that the operation needs was not reachable",
        "check the network and whether the machine runs",
        0.6,
    ),
    Pattern(
        r"interrupted by signal|received interrupt|unexpected status|got signal",
        "the operation was interrupted",
        "check what it left behind (locks, half-made disks), then repeat it",
        0.7,
    ),
    Pattern(
        r"already exists",
        "something of that name or number exists already",
        "choose another name or number, or delete what is there",
        0.7,
    ),
)


def log_causes(situation: Situation) -> Iterator[Cause]:
    """Return the causes that lines of the evidence name; the newest lines count most."""
    for known in PATTERNS:
        matching = [line for line in situation.evidence if re.search(known.pattern, line.text)]
        if matching:
            age = situation.evidence.index(matching[0]) / max(1, len(situation.evidence))
            likelihood = round(known.likelihood * (1 - 0.2 * age), 3)
            yield Cause(known.text, likelihood, matching[:4], known.advice, known.workflow)
