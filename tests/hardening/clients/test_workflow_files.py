"""One bad workflow file is a fault of that file alone, with its line; the others work."""

from __future__ import annotations

import itertools
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentd.errors import Rejected
from agentd_orchestrator.declared import check
from agentd_orchestrator.declared.library import Library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentd.plugins.workflow_files import Fault
    from agentd.tools.definition import Tool

SECRET = "S3CRET-hunter2-line"  # noqa: S105 - of a file of this test
GOOD = "description: d\ntasks: [{name: find, tool: list_guests}]\n"
WHOLE: dict[str, Any] = {
    "name": "x",
    "description": "d",
    "parameters": {
        "tag": {"type": "string", "default": "a", "pattern": "^a$", "enum": ["a"], "required": False},
        "ids": {"type": "list", "items": "int", "minimum": 1, "maximum": 2, "default": [1]},
    },
    "tasks": [
        {
            "name": "find", "tool": "list_guests", "with": {"tag": "{{ parameters.tag }}", "node": ["x", {"y": "z"}]},
            "when": "parameters.tag == 'a'", "approval": "sure?", "class": "c", "node": "n", "retries": 1,
            "backoff": "2s", "timeout": 30, "on_error": {"code": "find"}, "after": [], "optional": True,
        },
        {
            "name": "each", "tool": "reboot_guest", "for_each": "{{ tasks.find.result.guests }}", "max_parallel": 3,
            "with": {"vmid": "{{ item.vmid }}"}, "after": ["find"], "start_within": "1h", "heartbeat_timeout": 10,
            "undo": {"tool": "start_guest", "with": {"vmid": 1}, "always": True},
        },
        {"name": "sub", "workflow": "other", "with": {"a": 1}},
    ],
}  # fmt: skip
WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    2**80,
    1.5,
    "",
    "x",
    "{{",
    "{{ 1 }}",
    "{% x %}",
    "$a",
    [],
    ["list_guests"],
    [[]],
    {},
]
WRONG += [[None], {"a": None}, {"$x": 1}, {"a": {"b": ["c"]}}, "é\u202e", [{"name": 5}], {"name": []}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from places(below, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with `new` at a path."""
    if not path:
        return new
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copy


def checked(text: str | bytes, known: dict[str, Tool]) -> list[Fault]:
    """Return the faults of a file; anything else that is raised is a bug."""
    data = text.encode() if isinstance(text, str) else text
    declared, report = check.read(data, "x.yaml", "x", check.KnownNames(known, {"other": None}))
    assert (declared is None) == bool(report.faults)
    return report.faults


def test_a_task_that_is_a_text(known: dict[str, Tool]) -> None:
    """`tasks: [list_guests]` is a fault with its line."""
    faults = checked("description: d\ntasks: [list_guests]\n", known)

    assert [(fault.line, fault.column) for fault in faults][:1] == [(2, 9)]
    assert "should be a map" in faults[0].text


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_every_wrong_type_in_every_place(wrong: Any, known: dict[str, Tool]) -> None:
    """For any value at any place the check ends with or without faults, never with an exception."""
    for path in places(WHOLE):
        text = json.dumps(replaced(WHOLE, path, wrong))
        assert all(fault.line >= 1 for fault in checked(text, known)), path


def test_pairs_of_wrong_types(known: dict[str, Tool]) -> None:
    """Two wrong values at a time raise nothing either."""
    draw = random.Random(7)  # noqa: S311 - the same each time
    paths = list(places(WHOLE))
    for _ in range(80):
        text = json.dumps(replaced(WHOLE, draw.choice(paths), draw.choice(WRONG)))
        broken = json.loads(text)
        inside = [path for path in places(broken) if path]
        if inside:
            broken = replaced(broken, draw.choice(inside), draw.choice(WRONG))
        checked(json.dumps(broken), known)


def test_texts_that_are_no_yaml(known: dict[str, Tool]) -> None:
    """Text that is cut, mixed up, too deep or too much of itself is a fault."""
    draw = random.Random(11)  # noqa: S311 - the same each time
    text = yaml.safe_dump(WHOLE)
    for _ in range(80):
        begin, end = sorted(draw.sample(range(len(text)), 2))
        junk = draw.choice(
            ["&a", "*a", "!!python/object:x", "[", "{", "'", "\t", "- ", ": ", "? ", "|", "<<: *a", "\x00"]
        )
        checked(text[:begin] + junk + text[end:], known)
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefgh")
    )
    for bad in (
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        "&a [*a]",
        "&a {tasks: *a}",
        bomb,
        "\ufeff",
        "",
        "--- a\n--- b\n",
    ):
        assert checked(bad, known)
    assert "not UTF-8" in checked(b"description: \xff\n", known)[0].text


def open_to_all(path: Path) -> None:
    """Write a good file that every user may change."""
    path.write_text(GOOD)
    path.chmod(0o777)


def given_away(path: Path) -> None:
    """Write a good file that belongs to another user."""
    path.write_text(GOOD)
    os.chown(path, 4242, 4242)


BAD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "link": lambda path: path.symlink_to(path.parent.parent / "secret"),
    "directory": lambda path: path.mkdir(),
    "huge": lambda path: path.write_text("#" * 500_000),
    "latin": lambda path: path.write_bytes(b"description: \xe9\n"),
    "deep": lambda path: path.write_text("[" * 9000),
    "0777": open_to_all,
    "text": lambda path: path.write_text("description: d\ntasks: [list_guests]\n"),
    "scalar": lambda path: path.write_text(f"{SECRET}\n"),
    "values": lambda path: path.write_text(f"description: d\ntasks: [{{name: '{SECRET} x', tool: list_guests}}]\n"),
    "expression": lambda path: path.write_text(
        f"description: d\ntasks: [{{name: a, tool: list_guests, with: {{tag: \"{{{{ '{SECRET}' +* 1 }}}}\"}}}}]\n"
    ),
    "socket": lambda path: os.mknod(path, 0o140600),
}
if os.geteuid() == 0:
    BAD["owner"] = given_away


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_file(bad: str, tmp_path: Path, known: dict[str, Tool]) -> None:
    """It is named with its fault, which holds none of its content; the file beside it can be used."""
    (tmp_path / "secret").write_text(f"root:{SECRET}:1\n")
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "good.yaml").write_text(GOOD)
    BAD[bad](folder / "bad.yaml")
    library = Library(folder, lambda: known, {})
    library.refresh()

    assert library["good"].name == "good"
    assert [fault.file for fault in library.faults][:1] == [str(folder / "bad.yaml")]
    assert SECRET not in "".join(map(str, library.faults))
    with pytest.raises(Rejected, match="bad cannot be used"):
        library["bad"]


def test_a_directory_that_others_may_write(tmp_path: Path, known: dict[str, Tool]) -> None:
    """Nothing of it is used until it is corrected, and then without a restart."""
    folder = tmp_path / "workflows"
    folder.mkdir()
    (folder / "good.yaml").write_text(GOOD)
    library = Library(folder, lambda: known, {})
    library.refresh()
    assert library.faults == []

    folder.chmod(0o777)
    library.refresh()
    assert f"chmod go-w {folder}" in str(library.faults[0])
    with pytest.raises(Rejected, match="chmod go-w"):
        library["good"]

    folder.chmod(0o755)
    library.refresh()
    assert library.faults == []


def test_a_name_that_is_not_utf8(tmp_path: Path, known: dict[str, Tool]) -> None:
    """A file whose name holds other bytes, or controls a terminal, is a fault that can be shown."""
    (tmp_path / "good.yaml").write_text(GOOD)
    for name in (b"\xff.yaml", b"a\x1b[2J.yaml", "b\u202e.yaml".encode()):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:  # noqa: PTH118, PTH123 - a name in bytes
            file.write(GOOD.encode())
    library = Library(tmp_path, lambda: known, {})
    library.refresh()

    assert len(library.faults) == 3
    assert all(str(fault).encode() and str(fault).isprintable() for fault in library.faults)
    assert library["good"].name == "good"
