"""The workflow files of a directory; each is read on its own when it changes.

The file's name is the workflow's name (`restart_tagged.yaml`), so that a file that cannot be read still has a name: a
request for it gets the file's fault, and the other workflows work.  A name has one source: a file cannot replace a
workflow that a plugin provides.

Before a request for a declared workflow is planned, the directory is checked for changes, by inode, time and size: a
new file is effective for the next request, without a reload signal (which could be forgotten on one of several
orchestrators).  The cost is a stat of some files in a thread, only for requests of declared workflows.  Write to a
temporary file and rename it: a partly written file is faulty until it is complete.  Running workflows continue with
the plan that they started with: it is in their state.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import Definition, Fault, ListedWorkflow, Rejected, UnsafeFile, UsageError, files
from agentd.printable import printable
from agentd.tools.schemas import object_schema
from agentd_orchestrator.declared import check, file_format
from agentd_orchestrator.declared.yaml_source import MAX_BYTES

if TYPE_CHECKING:
    from agentd import Tool

MAX_FILES: Final = 500
ENDINGS: Final = (".yaml", ".yml")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_QUOTED: Final = re.compile(r"""(?<!\w)(?:(?P<name>(['"])[A-Za-z_$][\w.$-]{0,63}\2)|"[^"]*(?:"|$)|'[^']*(?:'|$))""")
_NO_NAME: Final = re.compile(r"(?:(?<=\.)|\A)[^.]*[^\w.\[\]$-].*", re.DOTALL)
_Signature = tuple[object, ...]


@dataclass
class _Entry:
    """One file as it was last read."""

    path: Path
    signature: _Signature
    definition: Definition | None = None
    faults: list[Fault] = field(default_factory=list)
    starts: set[str] = field(default_factory=set)
    """Workflows that its tasks start."""


class Library(Mapping[str, Definition]):
    """All workflows by name: those of plugins, and those of the files of a directory."""

    def __init__(self, directory: Path, tools: Callable[[], Mapping[str, Tool]], own: Mapping[str, Definition]) -> None:
        """Use the files of `directory`; nothing is read yet.

        tools  called once, when there is a file: the tools of the installed plugins
        own    the workflows of plugins, by name
        """
        self._directory = directory
        self._ask_tools = tools
        self._tools: Mapping[str, Tool] | None = None
        self._own = own
        self._entries: dict[str, _Entry] = {}
        self._extra: list[Fault] = []
        self._lock = threading.Lock()

    # -- reading -------------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read the changed files; return whether anything has changed.

        It blocks, so call it in a thread.
        """
        with self._lock:
            found, extra = self._scan()
            before = {name: entry.signature for name, entry in self._entries.items()}
            now = {name: signature for name, (_, signature) in found.items()}
            if before == now and extra == self._extra:
                return False
            self._extra = extra
            changed = {name for name in {*before, *now} if before.get(name) != now.get(name)}
            entries = {name: entry for name, entry in self._entries.items() if name in now and name not in changed}
            known = dict.fromkeys(now) | {name: definition.parameters for name, definition in self._own.items()}
            for name in sorted(changed & set(now)):
                entries[name] = self._read(name, *found[name], known)
            known |= {name: entry.definition.parameters for name, entry in entries.items() if entry.definition}
            for name, entry in entries.items():
                if entry.starts & changed or (entry.faults and name not in changed):
                    entries[name] = self._read(name, entry.path, entry.signature, known)
            self._entries = _reject_cycles(entries)
            return True

    def _scan(self) -> tuple[dict[str, tuple[Path, _Signature]], list[Fault]]:
        """Return the files by workflow name, and the faults of the directory."""
        try:
            paths = sorted(path for path in self._directory.iterdir() if path.suffix in ENDINGS and _shown(path))
        except FileNotFoundError:
            return {}, []
        except OSError as error:
            return {}, [Fault(_printable_path(self._directory), 1, 1, "", f"cannot be read: {error.strerror}")]
        found: dict[str, tuple[Path, _Signature]] = {}
        extra = []
        unsafe = files.directory_fault(self._directory)
        for path in paths[:MAX_FILES]:
            if path.stem in found:
                extra.append(
                    Fault(_printable_path(path), 1, 1, "", f"{found[path.stem][0].name} has the same name; remove one")
                )
                continue
            try:
                stat = path.lstat()
            except OSError:  # it was removed meanwhile: reported when it is read
                found[path.stem] = (path, (unsafe,))
            else:
                stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
                found[path.stem] = (path, (unsafe, *stamp))
        if len(paths) > MAX_FILES:
            extra.append(
                Fault(
                    _printable_path(paths[MAX_FILES]), 1, 1, "", f"at most {MAX_FILES} files are read; this is left out"
                )
            )
        return found, extra

    def _read(
        self, name: str, path: Path, signature: _Signature, known: Mapping[str, type[msgspec.Struct] | None]
    ) -> _Entry:
        try:
            with files.open_regular(path) as file:
                data = file.read(MAX_BYTES + 1)
        except UnsafeFile as error:
            return _Entry(path, signature, faults=[Fault(_printable_path(path), 1, 1, "", f"is not read: {error}")])
        except OSError as error:
            return _Entry(
                path, signature, faults=[Fault(_printable_path(path), 1, 1, "", f"cannot be read: {error.strerror}")]
            )
        return self._entry(name, path, signature, data, known)

    def _entry(
        self,
        name: str,
        path: Path,
        signature: _Signature,
        data: bytes,
        known: Mapping[str, type[msgspec.Struct] | None],
    ) -> _Entry:
        if name in self._own:
            origin = f" of the {self._own[name].source}" if self._own[name].source else ""
            text = f"there is a workflow {name}{origin} already; rename the file"
            return _Entry(path, signature, faults=[Fault(_printable_path(path), 1, 1, "", text)])
        if not _NAME.match(name):
            text = f"{name!r} cannot be a workflow's name; name the file with a letter, then A-Z a-z 0-9 _ and -"
            return _Entry(path, signature, faults=[Fault(_printable_path(path), 1, 1, "", text)])
        try:
            declared, report = check.read(
                data, _printable_path(path), name, check.KnownNames(self._known_tools(), known)
            )
        except Exception as error:  # noqa: BLE001 - a bug in the check must not prevent reading the other files
            text = f"it cannot be checked, which is a bug in agentd ({type(error).__name__}); the file is left out"
            return _Entry(path, signature, faults=[Fault(_printable_path(path), 1, 1, "", text)])
        if declared is None:
            return _Entry(path, signature, faults=report.faults)
        starts = {task.workflow for task in declared.form.tasks if task.workflow}
        return _Entry(path, signature, replace(declared.definition(), source=_printable_path(path)), starts=starts)

    def _known_tools(self) -> Mapping[str, Tool]:
        if self._tools is None:
            self._tools = self._ask_tools()
        return self._tools

    # -- lookup --------------------------------------------------------------------------------------------------------

    def is_builtin(self, name: str) -> bool:
        """Return whether a plugin provides the workflow, so that no file is read for it."""
        return name in self._own

    def __getitem__(self, name: str) -> Definition:
        """Return a definition as last read; raises Rejected with the fault of its file."""
        if name in self._own:
            return self._own[name]
        entry = self._entries[name]
        if entry.definition is None:
            more = f" (and {len(entry.faults) - 1} more)" if len(entry.faults) > 1 else ""
            raise Rejected(f"workflow_type: {name} cannot be used: {_without_content(entry.faults[0])}{more}")
        return entry.definition

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all workflows, usable or not."""
        return iter({**self._own, **self._entries})

    def __len__(self) -> int:
        """Return the number of workflows."""
        return len({**self._own, **self._entries})

    @property
    def faults(self) -> list[Fault]:
        """Return the faults of the directory and its files."""
        return [
            *self._extra,
            *(_without_content(fault) for _, entry in sorted(self._entries.items()) for fault in entry.faults),
        ]

    # -- for the command line ------------------------------------------------------------------------------------------

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a workflow file."""
        return file_format.schema()

    def check(self, paths: list[Path]) -> list[Fault]:
        """Return every fault of these files.

        The workflows that they start may be among them, in the directory or in a plugin.
        """
        self.refresh()
        read = [(path, _bytes(path)) for path in paths]
        known = {name: definition.parameters for name, definition in self._own.items()} | dict.fromkeys(
            [*self._entries, *(path.stem for path in paths)]
        )
        known |= {name: entry.definition.parameters for name, entry in self._entries.items() if entry.definition}
        entries = [self._entry(path.stem, path, (0, 0, 0), data, known) for path, data in read]
        checked = _reject_cycles({**self._entries, **{entry.path.stem: entry for entry in entries}})
        found = [
            checked[entry.path.stem] if checked[entry.path.stem].path == entry.path else entry for entry in entries
        ]
        return [fault for entry in found for fault in entry.faults]

    def listed(self) -> list[ListedWorkflow]:
        """Return all workflows: the usable ones, and those whose file has faults."""
        self.refresh()
        usable = [*self._own.values(), *(entry.definition for entry in self._entries.values() if entry.definition)]
        found = [
            ListedWorkflow(
                definition.name, definition.source, definition.description, object_schema(definition.parameters)
            )
            for definition in usable
        ]
        broken = [(name, entry) for name, entry in self._entries.items() if entry.definition is None]
        found += [
            ListedWorkflow(printable(name), _printable_path(entry.path), faults=entry.faults) for name, entry in broken
        ]
        found += [ListedWorkflow(Path(fault.file).stem, fault.file, faults=[fault]) for fault in self._extra]
        return sorted(found, key=lambda workflow: workflow.name)


def _shown(path: Path) -> bool:
    """Return whether the file is not hidden; editors leave hidden files."""
    return not path.name.startswith(".")


def _without_content(fault: Fault) -> Fault:
    """Return a fault for logs, pages and responses: names, but no other file content.

    `agentd workflows check` shows everything to users who may read the file.
    """

    def kept(found: re.Match[str]) -> str:
        return found[0] if found["name"] or found[0][1:-1] == Path(fault.file).stem else "…"

    return msgspec.structs.replace(fault, field=_NO_NAME.sub("…", fault.field), text=_QUOTED.sub(kept, fault.text))


def _printable_path(path: Path) -> str:
    """Return a path as printable text; it may contain any bytes, even invalid UTF-8."""
    return printable(str(path))


def _bytes(path: Path) -> bytes:
    try:
        with files.open_regular(path, trusted=False) as file:
            return file.read(MAX_BYTES + 1)
    except UnsafeFile as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _reject_cycles(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Return the entries; one that would start itself, directly or not, gets a fault."""
    result = dict(entries)
    for name, entry in entries.items():
        path = _find_cycle(entries, name)
        if path and entry.definition is not None:
            text = f"would start itself for ever: {' → '.join(path)}"
            result[name] = _Entry(
                entry.path, entry.signature, None, [Fault(_printable_path(entry.path), 1, 1, "", text)], entry.starts
            )
    return result


def _find_cycle(entries: dict[str, _Entry], name: str) -> list[str]:
    """Return a cycle of started workflows from `name` back to itself, or []."""
    paths = [[name]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for started in sorted(entries[path[-1]].starts & entries.keys()):
            if started == name:
                return [*path, name]
            if started not in seen:
                seen.add(started)
                paths.append([*path, started])
    return []
