"""Every mutant applies to the product as it is now, and names a test that exists: the table does not rot unseen."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from mutants import table

ROOT = Path(__file__).parents[2]
MUTANTS = table.read(ROOT / "tests" / "mutants")


def test_applies() -> None:
    """The old text of each edit occurs exactly once, and is replaced by another."""
    found = [(mutant.name, edit.problem(ROOT)) for mutant in MUTANTS.values() for edit in mutant.edits]

    assert [(name, problem) for name, problem in found if problem] == []


def test_names_a_test() -> None:
    """The test that must notice is defined in the file that is named."""
    assert [mutant.red for mutant in MUTANTS.values() if not _defined(mutant.red)] == []


def _defined(red: str) -> bool:
    path, *names = red.partition("[")[0].split("::")
    body = _body(path)
    for name in names:
        found = [node for node in body if isinstance(node, _DEFINITIONS) and node.name == name]
        if not found:
            return False
        body = found[0].body
    return bool(_body(path))


@functools.cache
def _body(path: str) -> list[ast.stmt]:
    file = ROOT / path
    return ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []


_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_refused(tmp_path: Path) -> None:
    """A table with a key that is not known, or a name that is there twice, is refused with its place."""
    edit = '[[a.edits]]\nfile = "agentd/bus/jetstream.py"\nold = "x"\nnew = "y"\n'
    (tmp_path / "one.toml").write_text(f'[a]\nbreaks = "b"\nred = "tests/x.py::y"\n{edit}')
    assert list(table.read(tmp_path)) == ["a"]
    (tmp_path / "two.toml").write_text(f'[a]\nbreaks = "b"\nred = "tests/x.py::y"\n{edit}')
    with pytest.raises(ValueError, match=r"two\.toml: a: there is a mutant of this name"):
        table.read(tmp_path)
    (tmp_path / "two.toml").write_text('[b]\nbreaks = "b"\ntest = "tests/x.py::y"\n')
    with pytest.raises(ValueError, match=r"two\.toml: b: needed are breaks, red and"):
        table.read(tmp_path)


def test_problems(tmp_path: Path) -> None:
    """An edit whose text is gone, not unique, the same, or of no file does not apply, and says why."""
    (tmp_path / "x.py").write_text("a = 1\nb = 2\nb = 2\n")

    assert table.Edit("x.py", "a = 1\n", "a = 2\n").problem(tmp_path) == ""
    assert table.Edit("x.py", "b = 2\n", "").problem(tmp_path) == "the old text occurs 2 times in x.py, not once"
    assert table.Edit("x.py", "c\n", "").problem(tmp_path) == "the old text occurs 0 times in x.py, not once"
    assert table.Edit("x.py", "a = 1\n", "a = 1\n").problem(tmp_path) == "old and new text are the same"
    assert table.Edit("y.py", "a", "b").problem(tmp_path) == "there is no file y.py"
