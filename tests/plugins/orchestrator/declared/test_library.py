"""The directory of workflow files: what is read when, and that one file at fault never harms another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from agentd.errors import Rejected, UsageError
from agentd.wire.workflow import Definition
from agentd_orchestrator.builtin_workflows.deploy_vm import VM_DEPLOYMENT
from agentd_orchestrator.declared.library import Library
from plugins.files import HEAD

if TYPE_CHECKING:
    from pathlib import Path

    from agentd.tools.definition import Tool

GOOD = HEAD + "tasks: [{name: a, tool: list_guests}]\n"
OWN = {"vm_deployment": VM_DEPLOYMENT}


@pytest.fixture
def library(tmp_path: Path, known: dict[str, Tool]) -> Library:
    """Return a library of the test's directory."""
    return Library(tmp_path, lambda: known, OWN)


def write(path: Path, text: str) -> Path:
    """Put a file in its place, as one should: beside, then renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)
    return path


def starting(name: str) -> str:
    """Return a file that starts another workflow."""
    return HEAD + f"tasks: [{{name: a, workflow: {name}}}]\n"


def tasks(library: Library, name: str) -> list[str]:
    """Return the names of the tasks that a request without parameters gets."""
    definition = library[name]
    return [task.name for task in definition.plan(definition.parameters())]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """Without files there are the definitions of plugins, and no tool is looked up."""

    def fail() -> dict[str, Tool]:
        raise AssertionError

    library = Library(tmp_path / "none", fail, OWN)

    assert not library.refresh()
    assert list(library) == ["vm_deployment"]
    assert library["vm_deployment"] is VM_DEPLOYMENT
    assert library.faults == []


def test_files_are_added_changed_and_removed(tmp_path: Path, library: Library) -> None:
    """A file is in force from the next check on; unchanged files are not read again."""
    file = write(tmp_path / "mine.yaml", GOOD)
    assert library.refresh()
    first = library["mine"]
    assert (tasks(library, "mine"), first.source) == (["a"], str(file))
    assert not library.refresh()
    assert library["mine"] is first

    write(file, GOOD.replace("name: a", "name: b"))
    assert library.refresh()
    assert tasks(library, "mine") == ["b"]

    file.write_text(GOOD.replace("name: a", "name: c"))
    os.utime(file, ns=(1, 1))
    assert library.refresh()
    assert tasks(library, "mine") == ["c"]

    file.unlink()
    assert library.refresh()
    assert "mine" not in library


def test_one_at_fault_leaves_the_others(tmp_path: Path, library: Library) -> None:
    """A file that breaks is refused with its fault by name, the others work, and it is good again when corrected."""
    write(tmp_path / "good.yml", GOOD)
    file = write(tmp_path / "bad.yaml", GOOD)
    library.refresh()
    write(file, "tasks: [\nx: y")
    library.refresh()

    assert tasks(library, "good") == ["a"]
    assert sorted(library) == ["bad", "good", "vm_deployment"]
    with pytest.raises(Rejected, match=rf"^workflow_type: bad cannot be used: {file}:2:5: this is not YAML: while par"):
        library["bad"]
    assert [str(fault).partition(": this")[0] for fault in library.faults] == [f"{file}:2:5"]

    write(file, GOOD)
    library.refresh()
    assert tasks(library, "bad") == ["a"]
    assert library.faults == []


def test_names(tmp_path: Path, library: Library) -> None:
    """A file cannot take a plugin's name, nor one that is no name, nor two the same; hidden ones are no files."""
    write(tmp_path / "vm_deployment.yaml", GOOD)
    write(tmp_path / "a b.yaml", GOOD)
    write(tmp_path / "twice.yaml", GOOD)
    write(tmp_path / "twice.yml", GOOD)
    (tmp_path / ".swap.yaml").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "lost.yaml").symlink_to(tmp_path / "nowhere")
    library.refresh()

    assert library["vm_deployment"] is VM_DEPLOYMENT
    assert [str(fault).removeprefix(f"{tmp_path}/") for fault in library.faults] == [
        "twice.yml:1:1: twice.yaml has the same name; remove one",
        "a b.yaml:1:1: 'a b' cannot be a workflow's name; name the file with a letter, then A-Z a-z 0-9 _ and -",
        f"folder.yaml:1:1: is not read: {tmp_path}/folder.yaml: is a directory, not a regular file; remove it",
        (
            f"lost.yaml:1:1: is not read: {tmp_path}/lost.yaml: is a symbolic link, which is not followed; name "
            f"the file itself ({tmp_path}/nowhere)"
        ),
        "vm_deployment.yaml:1:1: there is a workflow vm_deployment already; rename the file",
    ]


def test_workflows_that_start_others(tmp_path: Path, library: Library) -> None:
    """A file may start another one, whose parameters are checked as they are now; a circle is a fault."""
    write(tmp_path / "outer.yaml", starting("inner"))
    library.refresh()
    assert library.faults[0].text == "there is no workflow 'inner'; there are outer, vm_deployment"

    inner = write(tmp_path / "inner.yaml", GOOD)
    library.refresh()
    assert library.faults == []

    write(inner, GOOD + "parameters: {n: {type: int, required: true}}\n")
    library.refresh()
    assert [fault.text for fault in library.faults] == ["inner needs n"]

    write(inner, starting("outer"))
    library.refresh()
    assert [fault.text for fault in library.faults] == [
        "would start itself for ever: inner → outer → inner",
        "would start itself for ever: outer → inner → outer",
    ]


def test_checking_files_of_another_directory(tmp_path: Path, library: Library) -> None:
    """Files may be checked before they are put in place: together, and against what is there."""
    (tmp_path / "new").mkdir()
    one, two = tmp_path / "new" / "one.yaml", tmp_path / "new" / "two.yaml"
    one.write_text(starting("two"))
    two.write_text(GOOD)

    assert library.check([one, two]) == []
    assert [fault.text for fault in library.check([one])] == [
        "there is no workflow 'two'; there are one, vm_deployment"
    ]
    two.write_text(starting("one"))
    assert len(library.check([one, two])) == 2
    with pytest.raises(UsageError, match=r"three\.yaml: cannot be read: No such file or directory$"):
        library.check([tmp_path / "three.yaml"])


def test_the_list(tmp_path: Path, library: Library) -> None:
    """A listing shows each definition with where it comes from, what it takes, or why it cannot be used."""
    file = write(tmp_path / "mine.yaml", GOOD + "parameters: {n: {type: int, default: 3}}\n")
    bad = write(tmp_path / "bad.yaml", "x: 1")

    broken, mine, built_in = library.listed()

    assert (broken.name, broken.source, len(broken.faults)) == ("bad", str(bad), 2)
    assert (mine.name, mine.source, mine.description) == ("mine", str(file), "A test's own.")
    assert mine.parameters["properties"] == {"n": {"type": "integer", "default": 3}}
    assert (built_in.name, built_in.source) == ("vm_deployment", "")
    assert isinstance(VM_DEPLOYMENT, Definition)


def test_many_files(tmp_path: Path, library: Library) -> None:
    """A directory full of something else is read up to a bound, and says so."""
    for number in range(502):
        (tmp_path / f"w{number:03}.yaml").write_text(GOOD)
    library.refresh()

    assert len(library) == 501
    assert [str(fault) for fault in library.faults] == [
        f"{tmp_path / 'w500.yaml'}:1:1: at most 500 files are read; this is left out"
    ]
