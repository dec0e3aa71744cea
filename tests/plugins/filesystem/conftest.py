"""Fixtures of the file tools: a directory that may be read, one in it that may be changed, and a secret beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from agentd.tools.declaration import by_name
from agentd.tools.definition import BrokenTool, Tool, Toolbox
from agentd_filesystem import agentd_tools
from agentd_filesystem.settings import FilesystemSettings
from tool_bench import MemoryCall

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Files:
    """The file tools by name, and the directories they serve."""

    tools: dict[str, Tool]
    root: Path
    writable: Path
    outside: Path

    async def __call__(self, name: str, call: MemoryCall | None = None, /, **parameters: Any) -> Any:
        """Call a tool as the worker does; its result is JSON that fits its type."""
        tool = self.tools[name]
        call = call or MemoryCall(key=f"{name}.{len(str(parameters))}")
        call.tool = tool
        result = await tool.run(call, tool.parse(parameters))

        assert msgspec.convert(msgspec.to_builtins(result), type(result)) == result
        return result

    async def undo(self, call: MemoryCall) -> Any:
        """Undo a call by the tool that it has named."""
        assert call.undo is not None
        name, parameters = call.undo
        return await self(name, MemoryCall(key=f"{call.key}.undo"), **parameters)


def serving(root: Path, writable: Path, outside: Path, **settings: Any) -> Files:
    """Return the file tools for these directories."""
    section = FilesystemSettings(roots=(root,), writable_roots=(writable,), **settings)
    found = agentd_tools(Toolbox("pve1", None, section))
    assert not [tool for tool in found if isinstance(tool, BrokenTool)]
    return Files(by_name(tool for tool in found if isinstance(tool, Tool)), root, writable, outside)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Return the file tools over a small tree."""
    root, outside = tmp_path / "served", tmp_path / "served-not"
    writable = root / "work"
    for directory in (root, outside, writable, root / "docs"):
        directory.mkdir()
    (outside / "secret").write_text("the secret\n")
    (root / "readme.txt").write_text("one\ntwo\nthree\n")
    (root / "docs" / "a.md").write_text("alpha\nbeta\n")
    (writable / "old.txt").write_text("old\n")
    return serving(root, writable, outside)
