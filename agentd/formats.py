r"""Names and texts of Proxmox VE, one pattern for each format; pure.

The patterns are those of Proxmox itself.  Each pattern is matched against the whole text.  Python's `$`, like Perl's,
allows a line feed after it, so the types end in `\Z`.  JSON Schema has no `\Z`, and its `$` is the very end:
`portable_schema` converts the patterns for clients.  The character classes are ASCII, unlike Perl's `\w` and `\d`.  A
comment beside a type that is narrower than in Proxmox says why.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final
from urllib.parse import quote

from msgspec import Meta

_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_OCTET: Final = "(?:25[0-5]|(?:2[0-4]|1[0-9]|[1-9])?[0-9])"
_IP4: Final = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_IP6: Final = "[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,41}"
"""Only the characters of an IPv6 address: the tools, and Proxmox, parse it as an address."""
_CIDR4: Final = rf"{_IP4}/(?:[89]|[12][0-9]|3[0-2])"
_CIDR6: Final = rf"{_IP6}/(?:[89]|[1-9][0-9]|1[01][0-9]|12[0-8])"
_REALM: Final = "[A-Za-z][A-Za-z0-9._-]+"
_GROUP: Final = "[A-Za-z0-9._-]+"
_POOL: Final = "[A-Za-z0-9._-]+"
_STORAGE: Final = "[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
_PORTION: Final = (
    r"[^/.,\x00-\x1f\x7f][^/,\x00-\x1f\x7f]*|\.[^/.,\x00-\x1f\x7f][^/,\x00-\x1f\x7f]*|\.\.[^/,\x00-\x1f\x7f]+"
)
"""A component of a path that is neither empty nor `.` nor `..`."""

USER: Final = rf"[^\s:/\x00-\x1f\x7f]+@{_REALM}"
"""The realm is after the last `@`: a user name may contain `@` and `!`."""
TOKEN: Final = rf"{USER}!{_REALM}"
"""The user is before the last `!`: the name of a token contains neither `!` nor `@`."""
NAME: Final = rf"{_LABEL}(?:\.{_LABEL})*"
TAG: Final = "[A-Za-z0-9_][A-Za-z0-9_+.-]*"
LONGEST_NAME: Final = 255
VMID_MIN: Final = 100
VMID_MAX: Final = 999_999
"""The range of VMIDs for new guests, unless `[proxmox]` sets another one."""

_TOKEN: Final = re.compile(rf"{TOKEN}\Z")
_CLASSES: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)


def full_match(pattern: str, description: str | None = None, least: int | None = None, most: int | None = None) -> Meta:
    """Return the constraint that the whole text matches `pattern`.

    The text has `least` to `most` characters.
    """
    inner = f"(?:{pattern})" if "|" in pattern else pattern
    return Meta(pattern=rf"^{inner}\Z", description=description, min_length=least, max_length=most)


def python_pattern(pattern: str) -> str:
    """Return a pattern of JSON Schema as a Python pattern.

    In JSON Schema `$` is the very end, without a line feed after it.
    """
    return _CLASSES.sub(lambda found: r"\Z" if found[0] == "$" else found[0], pattern)


def portable_schema(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON Schema with its patterns converted for other languages."""
    if isinstance(schema, list):
        return [portable_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: readable_pattern(value) if key == "pattern" and isinstance(value, str) else portable_schema(value)
        for key, value in schema.items()
    }


def readable_pattern(pattern: str) -> str:
    """Return a pattern of this file in the form for other languages and people."""
    return re.sub(r"\\(.)", lambda found: "$" if found[1] == "Z" else found[0], pattern, flags=re.DOTALL)


def path_part(text: str) -> str:
    """Return a name as a part of an API path.

    Characters with another meaning in a path are percent-encoded.
    """
    return quote(text, safe="/:@!+=,;")


def is_token(who: str) -> bool:
    """Return whether `who` is a token (user@realm!name).

    A `!` alone may also be part of a user name.
    """
    return _TOKEN.match(who) is not None


def is_group(who: str) -> bool:
    """Return whether `who` is a group (@name).

    A user name that begins with `@` has a second `@` before the realm.
    """
    return who.startswith("@") and "@" not in who[1:]


def user_of(who: str) -> str:
    """Return the user of a token; for a user, the user itself."""
    return who.rpartition("!")[0] if is_token(who) else who


Node = Annotated[str, full_match(_LABEL, "name of a node")]
# Proxmox has no length limit for the name of a VM; this is the limit of a DNS name, and Proxmox's for a container.
GuestName = Annotated[str, full_match(NAME, "name of a guest, as in DNS", most=LONGEST_NAME)]
Domain = Annotated[str, full_match(NAME, "name of a domain", most=LONGEST_NAME)]
Storage = Annotated[str, full_match(_STORAGE, "name of a storage")]
# Without comma and control characters: it becomes part of an option, and of a line of a configuration.
Volume = Annotated[str, full_match(rf"{_STORAGE}:[^,\x00-\x1f\x7f]+", "for example local:iso/debian.iso", most=255)]
Backup = Annotated[str, full_match(rf"{_STORAGE}:backup/[^,\x00-\x1f\x7f]+", "a backup, as in list_backups", most=255)]
CtTemplate = Annotated[
    str, full_match(rf"{_STORAGE}:vztmpl/[^,/\x00-\x1f\x7f]+", "local:vztmpl/debian-12….tar.zst", most=255)
]
ConfigId = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_-]+", "letters, digits, - and _")]
Snapshot = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_-]+", "2 to 40 letters, digits, - and _", most=40)]
# An id in list_backup_jobs can also have the form that older versions of Proxmox used.
BackupJob = Annotated[str, full_match("[A-Za-z0-9][A-Za-z0-9_:.-]*", "id, as in list_backup_jobs", most=50)]
NewBackupJob = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_-]+", "id of the job", most=50)]
Replication = Annotated[str, full_match("[1-9][0-9]{2,8}-[0-9]{1,9}", "VMID and number: 101-0")]
Tag = Annotated[str, full_match(TAG, "Proxmox makes it lower case, unless configured otherwise")]
Pool = Annotated[str, full_match(rf"{_POOL}(?:/{_POOL}){{0,2}}", "name of a pool, of one within another parent/name")]
NewPool = Annotated[
    str,
    full_match(rf"(?:{_POOL}/){{0,2}}[A-Za-z][A-Za-z0-9._-]*", "name of a pool; a pool within another is parent/child"),
]
User = Annotated[str, full_match(USER, "name@realm", 3, 64)]
# The name of a token is part of the name of the file that holds its secret.
TokenName = Annotated[str, full_match(_REALM, "name of a token", most=64)]
Realm = Annotated[str, full_match(_REALM, "name of a realm", most=32)]
Group = Annotated[str, full_match(_GROUP, "name of a group")]
Role = Annotated[str, full_match(_GROUP, "name of a role")]
UserOrGroup = Annotated[str, full_match(rf"@{_GROUP}|{USER}(?:!{_REALM})?", "name@realm, name@realm!token, or @group")]
Privilege = Annotated[str, full_match(r"[A-Za-z]+(?:\.[A-Za-z]+)+", "for example VM.Audit")]
AclPath = Annotated[str, full_match("/[A-Za-z0-9._/@:-]*", "/, /vms/100, /pool/web", most=256)]
# Proxmox rejects multicast addresses too.
Mac = Annotated[str, full_match("[0-9A-Fa-f][02468ACEace](?::[0-9A-Fa-f]{2}){5}")]
Ip = Annotated[str, full_match(f"{_IP4}|{_IP6}", "IPv4 or IPv6 address")]
Ip4 = Annotated[str, full_match(_IP4, "IPv4 address")]
Ip6 = Annotated[str, full_match(_IP6, "IPv6 address")]
Cidr = Annotated[str, full_match(f"{_CIDR4}|{_CIDR6}", "for example 10.0.0.0/24")]
Cidr4 = Annotated[str, full_match(_CIDR4, "IPv4 address/length of its network")]
Cidr6 = Annotated[str, full_match(_CIDR6, "IPv6 address/length of its network")]
# Only the allowed characters: the tool parses it as a network, and reports what is wrong with it.
IpOrCidr = Annotated[str, full_match("[0-9A-Fa-f:./]{2,64}", "address or network")]
CtIp4 = Annotated[str, full_match(f"dhcp|manual|{_CIDR4}", "dhcp, manual or 192.0.2.5/24")]
CtIp6 = Annotated[str, full_match(f"dhcp|auto|manual|{_CIDR6}", "dhcp, auto or 2001:db8::5/64")]
CtGateway4 = Annotated[str, full_match(f"(?:{_IP4})?", "192.0.2.1; only with an address")]
CtGateway6 = Annotated[str, full_match(f"(?:{_IP6})?", "2001:db8::1; only with an address")]
Host = Annotated[str, full_match(f"{NAME}|{_IP6}", "name or address", most=256)]
Bridge = Annotated[str, full_match("[A-Za-z0-9_.-]+", "name of a bridge of the node")]
Interface = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_]{1,20}(?:[:.][0-9]+)?", "for example vmbr1 or bond0", 2, 20)]
SdnId = Annotated[str, full_match("[A-Za-z][A-Za-z0-9]*[A-Za-z0-9]", "2 to 8 letters and digits", most=8)]
SecurityGroup = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_-]+", "name of a security group", most=18)]
FirewallName = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_-]+", "letters, digits, - and _", most=64)]
Calendar = Annotated[
    str, full_match("[A-Za-z0-9*,:/. -]+", "a calendar event, for example 02:00 or sun 02:00", most=128)
]
TimeZone = Annotated[str, full_match("[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*", "for example Europe/Berlin")]
Startup = Annotated[
    str,
    # Proxmox rejects a single bare 0; an empty text removes the option.
    full_match(
        "(?:(?:(?:order|up|down)=[0-9]+|[1-9][0-9]*|0[0-9]+)(?:,(?:(?:order|up|down)=)?[0-9]+)*"
        "|0(?:,(?:(?:order|up|down)=)?[0-9]+)+)?",
        "order=1,up=30,down=60",
    ),
]
Disk = Annotated[
    str,
    full_match(
        "ide[0-3]|sata[0-5]|scsi(?:[12]?[0-9]|30)|virtio(?:[0-9]|1[0-5])|efidisk0|tpmstate0"
        "|mp(?:[1-9]?[0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])|rootfs",
        "for example scsi0; of a container rootfs or mp0",
    ),
]
Card = Annotated[str, full_match("net(?:[12]?[0-9]|3[01])", "net0 to net31")]
MountPath = Annotated[str, full_match(rf"(?:(?:/(?:{_PORTION}))+)?", "where a container sees it: /srv/data")]
StoragePath = Annotated[str, full_match(r"/[A-Za-z0-9/_.@-][^\x00-\x1f\x7f]*", "an absolute path", most=200)]
OneLine = Annotated[str, full_match(r"[^\x00-\x1f\x7f]*", "one line", most=200)]
