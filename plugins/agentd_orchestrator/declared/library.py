"""The workflow files of a directory: read when they change, each for itself.

A file's name is the workflow's name (`restart_tagged.yaml`), so that a file that cannot be read still has one: whoever
asks for it is told its fault, and the others work.  There is one source for a name: a file cannot replace a workflow
that a plugin brings.

Before a request for a declared workflow is planned, the directory is looked at again, by inode, time and size: a file
that was put in place is in force for the next request, without a signal that somebody has to send (and may forget on
one of several orchestrators).  It costs the stat of some files in a thread, for requests of declared workflows alone.
Write a file beside and rename it: one that is caught half-written is at fault until it is whole.  What runs goes on
with the plan that it was started with: that is in its state.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import files
from agentd.errors import Rejected, UnsafeFile, UsageError
from agentd.plugins.workflow_files import Fault, Listed
from agentd.printable import printable
from agentd.tools.definition import object_schema
from agentd.wire.workflow import Definition
from agentd_orchestrator.declared import check, file_format
from agentd_orchestrator.declared.yaml_source import MAX_BYTES

if TYPE_CHECKING:
    from agentd.tools.definition import Tool

MAX_FILES: Final = 500
ENDINGS: Final = (".yaml", ".yml")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")
_QUOTED: Final = re.compile(r"""(?<!\w)(?:(?P<name>(['"])[A-Za-z_$][\w.$-]{0,63}\2)|"[^"]*(?:"|$)|'[^']*(?:'|$))""")
_NO_NAME: Final = re.compile(r"(?:(?<=\.)|\A)[^.]*[^\w.\[\]$-].*", re.DOTALL)
_Signature = tuple[object, ...]


@dataclass
class _Entry:
    """One file as it was read last."""

    path: Path
    signature: _Signature
    definition: Definition | None = None
    faults: list[Fault] = field(default_factory=list)
    starts: set[str] = field(default_factory=set)
    """Workflows that it starts as tasks."""


class Library(Mapping[str, Definition]):
    """What can be asked for: workflows of plugins, and those of the files of a directory."""

    def __init__(self, directory: Path, tools: Callable[[], Mapping[str, Tool]], own: Mapping[str, Definition]) -> None:
        """Keep where the files lie; nothing is read.

        `tools` is asked once, when there is a file; `own` are the workflows of plugins, by name.
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
        """Read what has changed in the directory, in a thread that may block; tell whether anything has."""
        with self._lock:
            found, extra = self._scan()
            before = {name: each.signature for name, each in self._entries.items()}
            now = {name: signature for name, (_, signature) in found.items()}
            if before == now and extra == self._extra:
                return False
            self._extra = extra
            changed = {name for name in {*before, *now} if before.get(name) != now.get(name)}
            entries = {name: each for name, each in self._entries.items() if name in now and name not in changed}
            known = dict.fromkeys(now) | {name: each.parameters for name, each in self._own.items()}
            for name in sorted(changed & set(now)):
                entries[name] = self._read(name, *found[name], known)
            known |= {name: each.definition.parameters for name, each in entries.items() if each.definition}
            for name, each in entries.items():
                if each.starts & changed or (each.faults and name not in changed):
                    entries[name] = self._read(name, each.path, each.signature, known)
            self._entries = _without_circles(entries)
            return True

    def _scan(self) -> tuple[dict[str, tuple[Path, _Signature]], list[Fault]]:
        """Return the files by the names of their workflows, and what is wrong with the directory."""
        try:
            paths = sorted(each for each in self._directory.iterdir() if each.suffix in ENDINGS and _shown(each))
        except FileNotFoundError:
            return {}, []
        except OSError as error:
            return {}, [Fault(_said(self._directory), 1, 1, "", f"cannot be read: {error.strerror}")]
        found: dict[str, tuple[Path, _Signature]] = {}
        extra = []
        unsafe = files.directory_fault(self._directory)
        for path in paths[:MAX_FILES]:
            if path.stem in found:
                extra.append(
                    Fault(_said(path), 1, 1, "", f"{found[path.stem][0].name} bears the same name; remove one")
                )
                continue
            try:
                stat = path.lstat()
            except OSError:  # it went away meanwhile: told when it is read
                found[path.stem] = (path, (unsafe,))
            else:
                kept = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
                found[path.stem] = (path, (unsafe, *kept))
        if len(paths) > MAX_FILES:
            extra.append(
                Fault(_said(paths[MAX_FILES]), 1, 1, "", f"at most {MAX_FILES} files are read; this is left out")
            )
        return found, extra

    def _read(
        self, name: str, path: Path, signature: _Signature, known: Mapping[str, type[msgspec.Struct] | None]
    ) -> _Entry:
        try:
            with files.opened(path) as file:
                data = file.read(MAX_BYTES + 1)
        except UnsafeFile as error:
            return _Entry(path, signature, faults=[Fault(_said(path), 1, 1, "", f"is not read: {error}")])
        except OSError as error:
            return _Entry(path, signature, faults=[Fault(_said(path), 1, 1, "", f"cannot be read: {error.strerror}")])
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
            brought = f" of the {self._own[name].source}" if self._own[name].source else ""
            text = f"there is a workflow {name}{brought} already; rename the file"
            return _Entry(path, signature, faults=[Fault(_said(path), 1, 1, "", text)])
        if not _NAME.match(name):
            text = f"{name!r} cannot be a workflow's name; name the file with a letter, then A-Z a-z 0-9 _ and -"
            return _Entry(path, signature, faults=[Fault(_said(path), 1, 1, "", text)])
        try:
            declared, report = check.read(data, _said(path), name, check.Known(self._known_tools(), known))
        except Exception as error:  # noqa: BLE001 - a bug of the check must not keep the other files from being read
            text = f"it cannot be checked, which is a bug in agentd ({type(error).__name__}); the file is left out"
            return _Entry(path, signature, faults=[Fault(_said(path), 1, 1, "", text)])
        if declared is None:
            return _Entry(path, signature, faults=report.faults)
        starts = {each.workflow for each in declared.form.tasks if each.workflow}
        return _Entry(path, signature, replace(declared.definition(), source=_said(path)), starts=starts)

    def _known_tools(self) -> Mapping[str, Tool]:
        if self._tools is None:
            self._tools = self._ask_tools()
        return self._tools

    # -- asking --------------------------------------------------------------------------------------------------------

    def is_own(self, name: str) -> bool:
        """Tell whether a plugin brings it, so that no file has to be looked at."""
        return name in self._own

    def __getitem__(self, name: str) -> Definition:
        """Return a definition as it was read last; raises Rejected with the fault of its file."""
        if name in self._own:
            return self._own[name]
        entry = self._entries[name]
        if entry.definition is None:
            more = f" (and {len(entry.faults) - 1} more)" if len(entry.faults) > 1 else ""
            raise Rejected(f"workflow_type: {name} cannot be used: {_discreet(entry.faults[0])}{more}")
        return entry.definition

    def __iter__(self) -> Iterator[str]:
        """Name what there is, whether or not it can be used."""
        return iter({**self._own, **self._entries})

    def __len__(self) -> int:
        """Return how many there are."""
        return len({**self._own, **self._entries})

    @property
    def faults(self) -> list[Fault]:
        """Return what is wrong in the directory."""
        return [*self._extra, *(_discreet(fault) for _, each in sorted(self._entries.items()) for fault in each.faults)]

    # -- for the command line ------------------------------------------------------------------------------------------

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a file."""
        return file_format.schema()

    def check(self, paths: list[Path]) -> list[Fault]:
        """Return every fault of these files; what they start may be among them, in the directory or in a plugin."""
        self.refresh()
        read = [(each, _bytes(each)) for each in paths]
        known = {name: each.parameters for name, each in self._own.items()} | dict.fromkeys(
            [*self._entries, *(each.stem for each in paths)]
        )
        known |= {name: each.definition.parameters for name, each in self._entries.items() if each.definition}
        entries = [self._entry(path.stem, path, (0, 0, 0), data, known) for path, data in read]
        checked = _without_circles({**self._entries, **{each.path.stem: each for each in entries}})
        found = [checked[each.path.stem] if checked[each.path.stem].path == each.path else each for each in entries]
        return [fault for each in found for fault in each.faults]

    def listed(self) -> list[Listed]:
        """Return what can be asked for, and what cannot because its file is at fault."""
        self.refresh()
        usable = [*self._own.values(), *(each.definition for each in self._entries.values() if each.definition)]
        found = [Listed(each.name, each.source, each.description, object_schema(each.parameters)) for each in usable]
        broken = [(name, each) for name, each in self._entries.items() if each.definition is None]
        found += [Listed(printable(name), _said(each.path), faults=each.faults) for name, each in broken]
        found += [Listed(Path(each.file).stem, each.file, faults=[each]) for each in self._extra]
        return sorted(found, key=lambda each: each.name)


def _shown(path: Path) -> bool:
    """Tell whether it is no hidden file, such as an editor leaves."""
    return not path.name.startswith(".")


def _discreet(fault: Fault) -> Fault:
    """Return a fault as others read it, in logs, on pages and in answers: names stay, other content of the file not.

    `agentd workflows check` shows all of it to those who may read the file.
    """

    def kept(found: re.Match[str]) -> str:
        return found[0] if found["name"] or found[0][1:-1] == Path(fault.file).stem else "…"

    return msgspec.structs.replace(fault, field=_NO_NAME.sub("…", fault.field), text=_QUOTED.sub(kept, fault.text))


def _said(path: Path) -> str:
    """Return a path as it is shown; its name may hold anything, even bytes that are not UTF-8."""
    return printable(str(path))


def _bytes(path: Path) -> bytes:
    try:
        with files.opened(path, trusted=False) as file:
            return file.read(MAX_BYTES + 1)
    except UnsafeFile as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _without_circles(entries: dict[str, _Entry]) -> dict[str, _Entry]:
    """Return the entries; one that would start itself, through whichever others, is at fault."""
    made = dict(entries)
    for name, each in entries.items():
        path = _way_back(entries, name)
        if path and each.definition is not None:
            text = f"would start itself for ever: {' → '.join(path)}"
            made[name] = _Entry(each.path, each.signature, None, [Fault(_said(each.path), 1, 1, "", text)], each.starts)
    return made


def _way_back(entries: dict[str, _Entry], name: str) -> list[str]:
    """Return a way from `name` to itself along what each starts; empty if there is none."""
    ways = [[name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for each in sorted(entries[way[-1]].starts & entries.keys()):
            if each == name:
                return [*way, name]
            if each not in seen:
                seen.add(each)
                ways.append([*way, each])
    return []
