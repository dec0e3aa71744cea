"""The mutants: each an edit of the product that switches one safety answer off, and the test that must notice.

They are held in `*.toml` beside this file, one table each:

    [name]
    breaks = "what it breaks"
    red = "tests/path.py::test"

    [[name.edits]]
    file = "agentd/tools/worker.py"
    old = '''
    whole lines, which occur exactly once in the file
    '''
    new = '''
    what they become
    '''

Text instead of patches: line numbers and moves of code within a file do not matter; a moved file is one changed path.

`NAME.patch` beside them is read too: lines `# breaks:` and `# red:`, then a patch for `git apply`.  It replaces
an entry of the same name.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One text of one file, and what it becomes."""

    file: str
    old: str
    new: str

    def problem(self, root: Path) -> str:
        """Return why the edit does not apply to this tree, or nothing."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        count = path.read_text(encoding="utf-8").count(self.old)
        if count != 1:
            return f"the old text occurs {count} times in {self.file}, not once"
        return "old and new text are the same" if self.old == self.new else ""

    def apply(self, root: Path) -> None:
        """Change the file; raises ValueError if the edit does not apply."""
        if problem := self.problem(root):
            raise ValueError(problem)
        path = root / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """What a mutant breaks, the test that must notice, and its edits."""

    name: str
    breaks: str
    red: str
    edits: tuple[Edit, ...]
    patch: Path | None = None


def read(folder: Path) -> dict[str, Mutant]:
    """Return all mutants of a folder by name; raises ValueError if a name is there twice or a table is not complete."""
    found: dict[str, Mutant] = {}
    for path in sorted(folder.glob("*.toml")):
        for name, given in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if name in found:
                message = f"{path.name}: {name}: there is a mutant of this name in another file already"
                raise ValueError(message)
            found[name] = _mutant(f"{path.name}: {name}", name, given)
    for path in sorted(folder.glob("*.patch")):
        lines = [line[1:].partition(":") for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
        given = {key.strip(): value.strip() for key, _, value in lines}
        found[path.stem] = Mutant(path.stem, given["breaks"], given["red"], (), path)
    return found


def _mutant(where: str, name: str, given: dict[str, Any]) -> Mutant:
    keys, edits = {"breaks", "red", "edits"}, given.get("edits", [])
    if set(given) != keys or not edits or any(set(edit) != {"file", "old", "new"} for edit in edits):
        message = f"{where}: needed are breaks, red and [[edits]] with file, old and new, and nothing else"
        raise ValueError(message)
    return Mutant(name, given["breaks"], given["red"], tuple(Edit(**edit) for edit in edits))
