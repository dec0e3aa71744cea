"""Workflow files: the interface to the plugin that reads them.

A plugin that reads such files provides a Reader by the hook `agentd_workflow_reader`; the plugin decides on the format
of the files.  A fault names the place in the file and what to do, so that an editor can jump to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class Fault(msgspec.Struct, frozen=True, order=True):
    """One fault in a file; line and column count from 1."""

    file: str
    line: int
    column: int
    field: str
    text: str

    def __str__(self) -> str:
        """Return the fault as one line, in the form that editors understand."""
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}:{self.column}: {field}{self.text}"


class ListedWorkflow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A definition and its source; one with faults cannot be requested."""

    name: str
    source: str
    description: str = ""
    parameters: dict[str, Any] = {}
    faults: list[Fault] = []


class Reader(Protocol):
    """Reads the workflow files of a directory."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a workflow file."""
        ...

    def check(self, files: list[Path]) -> list[Fault]:
        """Return every fault of these files; raises UsageError if one is unreadable."""
        ...

    def listed(self) -> list[ListedWorkflow]:
        """Return the definitions of the plugins and of the directory."""
        ...
