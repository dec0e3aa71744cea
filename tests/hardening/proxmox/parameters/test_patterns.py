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
from hardening.proxmox.parameters.proxmox_formats import (
    FORMATS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentd.tools.definition import Tool

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
