"""Workflows that lie in files: what the command line asks of the plugin that reads them.

A plugin that reads such files offers a Reader by the hook `agentd_workflow_reader`; which form they have is its own
affair.  A fault names the place in the file and what to do, so that an editor can jump to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class Fault(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong in a file: line and column count from 1, `field` is what it belongs to."""

    file: str
    line: int
    column: int
    field: str
    text: str

    def __str__(self) -> str:
        """Return the line that a person, and an editor, reads."""
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}:{self.column}: {field}{self.text}"


class Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A definition that a request may name, and where it comes from; with faults, it cannot be asked for."""

    name: str
    source: str
    description: str = ""
    parameters: dict[str, Any] = {}
    faults: list[Fault] = []


class Reader(Protocol):
    """What reads the files of a directory."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a file."""
        ...

    def check(self, files: list[Path]) -> list[Fault]:
        """Return every fault of these files, in order; raises UsageError for one that cannot be read."""
        ...

    def listed(self) -> list[Listed]:
        """Return what can be asked for: the plugins' own definitions and those of the directory."""
        ...
