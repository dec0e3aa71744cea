"""Each parameter that holds a name of Proxmox takes all that Proxmox takes, matched whole, and no more."""

from __future__ import annotations

import json
import re
import types
import typing
from collections import defaultdict
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd import formats
from agentd.config import load
from agentd.plugins import manager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentd.tools.definition import Tool

LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
CONFIG_ID: Final = "[A-Za-z][A-Za-z0-9_-]+"
REALM: Final = "[A-Za-z][A-Za-z0-9._-]+"
STORAGE: Final = "[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IP4: Final = rf"{OCTET}\.{OCTET}\.{OCTET}\.{OCTET}"
IP6: Final = "([0-9a-f]{1,4}:){7}[0-9A-F]{1,4}|[0-9a-f]{1,4}::[0-9a-f]{1,4}|::1"
CIDR4: Final = f"{IP4}/([89]|[12][0-9]|3[0-2])"
CIDR6: Final = f"({IP6})/([89]|[1-9][0-9]|1[01][0-9]|12[0-8])"
ORDER: Final = "((order=|up=|down=)[0-9]+|[1-9][0-9]*)(,(order=|up=|down=)?[0-9]+){0,4}"


class Format(typing.NamedTuple):
    """A format as Proxmox has it: what it takes, what it refuses, and which parameters hold it.

    free: a text of any language, so that digits of other scripts are as good as all else
    """

    kind: Any
    takes: str
    refuses: list[str]
    places: str
    most: int | None = None
    free: bool = False


FORMATS: Final = {
    "node": Format(
        formats.Node,
        LABEL,
        ["", "-a", "a-", "a.b", "a_b", "a b"],
        "*.node *.nodes migrate_guest.target check_migration.target create_replication.target move_osd_data.host "
        "move_osd_data.through",
    ),
    "guest": Format(
        formats.GuestName,
        rf"{LABEL}(\.{LABEL}){{0,3}}",
        ["", "web_1", "a.", "-a", "a..b", ".a", "a-.b"],
        "create_vm.name clone_container.name create_container.name update_vm.name restore_backup.name *.hostname",
        255,
    ),
    "storage": Format(
        formats.Storage,
        STORAGE,
        ["", "a", "1a", "a_", "a-", "a/b", "a:b"],
        "*.storage *.storages *.target_storage create_local_storage.name get_zfs_status.pool",
    ),
    "volume": Format(
        formats.Volume,
        f"{STORAGE}:[^,]+",
        ["local", "local:", ":a", "1a:b", "local:a,b", "local:a\x00b", "a:b"],
        "*.iso *.image *.volume delete_volume.volid",
        255,
        free=True,
    ),
    "backup": Format(
        formats.Backup,
        f"{STORAGE}:backup/[^,]+",
        ["local:iso/a.iso", "local:backup/", "a:backup/b", "local:backup/a,b"],
        "set_backup_notes.volid set_backup_protection.volid inspect_backup.volid restore_backup.volid "
        "restore_over_guest.volid",
        255,
        free=True,
    ),
    "config id": Format(
        formats.ConfigId,
        CONFIG_ID,
        ["", "a", "1a", "a.b", "-a", "a b", "_a"],
        "*_ha_rule.name *_ha_group.name *_ha_resource.group create_mail_target.name create_metric_server.name "
        "set_notification_matcher.name set_notification_matcher.targets "
        "delete_notification_*.name delete_metric_server.name test_notification.name",
    ),
    "snapshot": Format(
        formats.Snapshot,
        CONFIG_ID,
        ["", "a", "1a", "a.b", "a" * 41],
        "*_snapshot.name",
        40,
    ),
    "backup job": Format(formats.NewBackupJob, CONFIG_ID, ["", "a", "1a", "a.b", "a" * 51], "create_backup_job.id", 50),
    "replication": Format(
        formats.Replication,
        "[1-9][0-9]{2,8}-[0-9]{1,9}",
        ["99-0", "100", "100-", "099-1", "100-0 "],
        "*_replication.id get_replication.id",
    ),
    "tag": Format(
        formats.Tag,
        "[A-Za-z0-9_][A-Za-z0-9_+.-]*",
        ["", "-a", ".a", "+a", "a;b", "a b"],
        "*.tags update_tags.add update_tags.remove",
    ),
    "pool": Format(
        formats.Pool,
        "[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}",
        ["", "/a", "a/", "a//b", "a/b/c/d", "a b"],
        "create_vm.pool clone_container.pool create_container.pool restore_backup.pool *_backup_job.pool get_pool.pool "
        "update_pool.pool delete_pool.pool",
    ),
    "user": Format(
        formats.User,
        rf"[^\s:/]+@{REALM}",
        ["", "@pve", "john", "john@", "a b@pve", "a:b@pve", "a/b@pve", "a@p", "a@pve!t", "a@1x", "x" * 61 + "@pve"],
        "*_user.id list_tokens.id *_token.user create_mail_target.users",
        64,
        free=True,
    ),
    "token": Format(formats.TokenName, REALM, ["", "a", "1a", "a!b", "a@b", "a b"], "*_token.name", 64),
    "realm": Format(formats.Realm, REALM, ["", "a", "1a", "a@b", "x" * 33], "*_realm.id sync_realm.realm", 32),
    "group": Format(formats.Group, "[A-Za-z0-9._-]+", ["", "a b", "@a", "a/b"], "*_group.id update_user.groups"),
    "role": Format(formats.Role, "[A-Za-z0-9._-]+", ["", "a b", "a/b"], "*_role.id *_role.role"),
    "whom": Format(
        formats.UserOrGroup,
        rf"@[A-Za-z0-9._-]+|[a-z@!]+@{REALM}(!{REALM})?",
        ["", "@", "a", "a@", "a@pve!", "a@pve!t!", "@a b"],
        "*_role.who get_permissions.who",
    ),
    "mac": Format(
        formats.Mac,
        "[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}",
        ["01:00:00:00:00:00", "00-00-00-00-00-00", "00:00:00:00:00", "0:0:0:0:0:0"],
        "*.mac",
    ),
    "ip": Format(
        formats.Ip,
        f"{IP4}|{IP6}",
        ["", "1.2.3", "01.2.3.4", "1.2.3.256", "fe80::1%eth0", "1.2.3.4/24", "host"],
        "set_dns.dns set_sdn_zone.peers set_sdn_subnet.gateway",
    ),
    "ipv4": Format(formats.Ip4, IP4, ["", "::1", "1.2.3", "1.2.3.04"], "set_interface.gateway"),
    "ipv6": Format(formats.Ip6, IP6, ["", "1.2.3.4", "abcd", "::1%e"], "set_interface.gateway6"),
    "cidr": Format(
        formats.Cidr, f"{CIDR4}|{CIDR6}", ["10.0.0.1", "10.0.0.0/7", "10.0.0.0/33", "::/7", "::/129"], "*.subnet"
    ),
    "cidr4": Format(formats.Cidr4, CIDR4, ["1.2.3.4", "1.2.3.4/0", "1.2.3.4/33", "::/64"], "set_interface.cidr"),
    "cidr6": Format(formats.Cidr6, CIDR6, ["::1", "::/0", "::/129", "1.2.3.4/24"], "set_interface.cidr6"),
    "container ip": Format(
        formats.CtIp4,
        f"dhcp|manual|{CIDR4}",
        ["DHCP", "auto", "1.2.3.4", ""],
        "create_container.ip set_guest_network.ip",
    ),
    "container ip6": Format(
        formats.CtIp6, f"dhcp|auto|manual|{CIDR6}", ["Auto", "::1", ""], "create_container.ip6 set_guest_network.ip6"
    ),
    "bridge": Format(formats.Bridge, "[A-Za-z0-9_.-]+", ["", "a b", "a,b", "a/b"], "*.bridge"),
    "interface": Format(
        formats.Interface,
        "[A-Za-z][A-Za-z0-9_]{1,13}([:.][0-9]{1,4})?",
        ["", "a", "0a", "a-b", "eth0.", "eth0.a", "a" * 21],
        "*_interface.iface set_interface.members set_interface.parent set_interface.ports *firewall_rule*.iface",
        20,
    ),
    "sdn": Format(
        formats.SdnId,
        "[A-Za-z][A-Za-z0-9]{0,6}[A-Za-z0-9]",
        ["", "a", "1a", "a_b", "a-b", "abcdefghi"],
        "*.zone *.vnet delete_sdn.name",
        8,
    ),
    "security group": Format(
        formats.SecurityGroup,
        CONFIG_ID,
        ["", "a", "1a", "a" * 19],
        "*firewall*.group *.uses create_firewall_group.name",
        18,
    ),
    "firewall name": Format(
        formats.FirewallName,
        CONFIG_ID,
        ["", "a", "1a", "a" * 65],
        "set_firewall_alias.name set_firewall_ipset.name delete_firewall_set.name",
        64,
    ),
    "startup": Format(
        formats.Startup, ORDER, ["0", "order=", "first", "1;2", "up=-1", "1,", ",1", "1, 2", "order=0x1"], "*.startup"
    ),
    "disk": Format(
        formats.Disk,
        "ide[0-3]|sata[0-5]|scsi(30|[12][0-9]|[0-9])|virtio(1[0-5]|[0-9])|efidisk0|tpmstate0|rootfs|mp(25[0-5]|[0-9])",
        ["", "ide4", "sata6", "scsi31", "virtio16", "efidisk1", "mp256", "scsi01", "unused0", "net0"],
        "resize_disk.disk create_disk.disk attach_disk.disk detach_disk.disk move_disk.disk",
    ),
    "card": Format(formats.Card, "net([0-9]|[12][0-9]|3[01])", ["net32", "net01", "net", "eth0"], "*.card"),
    "mount": Format(
        formats.MountPath,
        r"(/([a-z @]|\.[a-z]|\.\.[a-z.])+){1,3}",
        ["/", "a", "/a/", "/a//b", "/..", "/a/./b", "/a/../b", "/a,b"],
        "*.mount",
        free=True,
    ),
}
"""FORMATS of Proxmox VE 9.2, written down apart from the types that are tested."""
OTHERS: Final = {
    "list_*.group": "a filter",
    "list_grants.*": "a filter",
    "get_guest.name list_guests.name get_guest_config.name list_users.name": "a filter: a name, or a part of one",
    "*_vm.name *_guest.name check_migration.name *guest_agent*.name list_snapshots.name get_console.name "
    "get_pending_changes.name regenerate_cloudinit.name convert_to_template.name delete_guest.name": "says which guest "
    "is meant: compared with the names that there are",
    "create_volume.name": "a part of the name of a volume",
    "create_storage.pool": "a pool of ZFS and a data set in it",
    "*_backup_job.id": "Proxmox gave other ids to jobs of older versions",
    "create_pool.pool": "of a new pool the last name begins with a letter",
    "set_firewall_alias.cidr": "may be an address",
    "create_container.gateway* set_guest_network.gateway*": "may be empty: no gateway",
    "update_guest_options.remove": "options, not tags",
}
"""Parameters that are called as one that holds a name of Proxmox, and why they are none."""
TEXT = st.characters(min_codepoint=0x20, max_codepoint=0x24F, exclude_categories=("Cc", "Cs", "Zs"))


def known() -> dict[str, Tool]:
    """Return every tool for Proxmox; those of the specialist answer what is wrong in sentences of their own."""
    found = manager.known_tools(load.load(None, {}, manager.installed()))
    return {name: tool for name, tool in found.items() if tool.service == "mcp-proxmox"}


def texts(kind: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the name and the type of each text in a type of a parameter: of lists the items, of maps the keys."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        if of[0] is str:
            yield name, kind
        else:
            yield from texts(of[0], name)
    elif origin in {typing.Union, types.UnionType, list, dict}:
        for one in of[:1] if origin in {list, dict} else of:
            yield from texts(one, name)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from texts(field.type, field.name)
    elif kind is str:
        yield name, str


PLACES: Final = [
    (f"{tool.name}.{name}", kind)
    for tool in known().values()
    for field in msgspec.structs.fields(tool.parameters)
    for name, kind in texts(field.type, field.name)
]


def of(place: str) -> list[str]:
    """Return the formats that a parameter holds."""
    return [name for name, item in FORMATS.items() if any(fnmatch(place, shape) for shape in item.places.split())]


def accepts(kind: Any, text: str) -> bool:
    """Return whether a type takes a text."""
    try:
        msgspec.convert(text, kind)
    except msgspec.ValidationError:
        return False
    return True


def kinds(name: str) -> list[tuple[str, Any]]:
    """Return the parameters that hold a format, with the type that each of them has."""
    return [(place, kind) for place, kind in PLACES if name in of(place)]


@pytest.mark.parametrize("name", FORMATS)
def test_every_parameter(name: str) -> None:
    """Each parameter of a format has the one type of that format."""
    found = kinds(name)
    pattern = _pattern(FORMATS[name].kind)

    assert found
    assert [place for place, kind in found if _pattern(kind) != pattern] == []


def test_no_other_parameter() -> None:
    """A parameter that is called as one that holds a name of Proxmox has the type of that, or it is known why not."""
    names = {shape.partition(".")[2] for item in FORMATS.values() for shape in item.places.split()}
    odd = [place for place, _ in PLACES if place.partition(".")[2] in names and not of(place)]

    shapes = [shape for other in OTHERS for shape in other.split()]

    assert [place for place in odd if not any(fnmatch(place, shape) for shape in shapes)] == []
    assert [shape for shape in shapes if not any(fnmatch(place, shape) for place in odd)] == []


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_taken(name: str, data: st.DataObject) -> None:
    """What Proxmox takes is taken; followed by a line feed or with a digit of another script it is not."""
    kind, takes, _, _, most, free = FORMATS[name]
    text = data.draw(st.from_regex(takes, fullmatch=True, alphabet=TEXT if free else None))
    if most is not None and len(text) > most:
        return
    other = re.sub("[0-9]", "\u0663", text)

    assert accepts(kind, text)
    assert not accepts(kind, f"{text}\n")
    assert not accepts(kind, f"\n{text}")
    assert other == text or free or not accepts(kind, other)


@pytest.mark.parametrize("name", FORMATS)
def test_refused(name: str) -> None:
    """What is nearly of a format is refused."""
    assert [text for text in FORMATS[name].refuses if accepts(FORMATS[name].kind, text)] == []


def test_schemas() -> None:
    """Patterns in the schemas of clients are whole, as ECMA has them, and mean what the types mean."""
    found = defaultdict(list)
    for tool in known().values():
        for pattern in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(tool.input_schema())):
            found[json.loads(pattern)].append(tool.name)
    del found["^/"]  # a path of the API: its beginning

    assert [pattern for pattern in found if not (pattern.startswith("^") and pattern.endswith("$"))] == []
    assert [pattern for pattern in found if re.search(r"\\[ZzAdwDW]|\(\?(?!:)|[*+?}][+]", pattern)] == []
    assert [kind for _, kind in PLACES if kind is not str and re.search(r"(?<!\\)\$", _pattern(kind))] == []


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [("^a$", r"^a\Z"), (r"^a\$", r"^a\$"), ("^[$]$", r"^[$]\Z"), ("^[]$]+$", r"^[]$]+\Z"), ("a|b$|^$", r"a|b\Z|^\Z")],
)
def test_exact(answer: str, pattern: str) -> None:
    """The `$` of a workflow's parameter is the very end, and it is shown as it was written."""
    assert formats.python_pattern(answer) == pattern
    assert formats.readable_pattern(pattern) == answer


@pytest.mark.parametrize(
    ("who", "token", "group", "user"),
    [
        ("a@pve", False, False, "a@pve"),
        ("a@pve!tok", True, False, "a@pve"),
        ("a!b@pve", False, False, "a!b@pve"),
        ("a!b@pve!tok", True, False, "a!b@pve"),
        ("john@corp.example@pve!tok", True, False, "john@corp.example@pve"),
        ("x@pam!root@pve", False, False, "x@pam!root@pve"),
        ("@admins", False, True, "@admins"),
        ("@a@pve", False, False, "@a@pve"),
    ],
)
def test_names_of_users_and_tokens(who: str, token: bool, group: bool, user: str) -> None:  # noqa: FBT001
    """A name may have `@` and `!`; a token's own name is behind the last `!`."""
    assert (formats.is_token(who), formats.is_group(who), formats.user_of(who)) == (token, group, user)


def test_the_schema_of_the_cluster(facts: Path) -> None:
    """The patterns and lengths in the schema of Proxmox VE 9.2 are those of the formats."""
    schema = json.loads((facts / "pve" / "pve-api-schema-9.2.json").read_text())
    of_schema = {
        "vnet": "sdn",
        "group": "security group",
        "tokenid": "token",
        "id": "replication",
        "snapname": "snapshot",
    }
    seen = set()
    for method, entry in schema.items():
        for key, answer in ((entry.get("parameters") or {}).get("properties") or entry.get("parameters") or {}).items():
            if method == "_meta" or key not in of_schema or not isinstance(answer, dict) or "pattern" not in answer:
                continue
            format_ = FORMATS[of_schema[key]]
            if (key, answer["pattern"]) in seen or (key == "id" and "replication" not in str(answer.get("format"))):
                continue
            seen.add((key, answer["pattern"]))
            theirs = re.sub(r"\(\?\^:(.*)\)\Z", r"\1", answer["pattern"]).replace(r"\d", "[0-9]")
            plain = [re.sub(r"\\([._-])", r"\1", text) for text in (theirs, format_.takes)]
            assert sorted(_classes(plain[0])) == sorted(_classes(plain[1])), key
    assert len(seen) >= 3


def _classes(pattern: str) -> list[str]:
    return ["".join(sorted(text)) for text in re.findall(r"\[[^]]*\]", pattern)]


def _pattern(kind: Any) -> str:
    return "".join(item.pattern or "" for item in getattr(kind, "__metadata__", ()) if isinstance(item, msgspec.Meta))
