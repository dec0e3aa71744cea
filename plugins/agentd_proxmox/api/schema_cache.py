"""Fetch the node's schema once, and keep it on disk by version.

The node's own answer is the truth, over the same connection and with the same trust as every call; where it cannot
be had or read, the copy that pve-docs puts on a node's disk stands in for a while: this machine may be of another
version.  The schema is decoded once a version, which takes memory for a moment; after that a file of lines is read, of
which only the index stays in memory.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from agentd import files
from agentd.errors import AgentdError, Denied, UnsafeFile
from agentd_proxmox.api_schema import Catalogue, lines_of

if TYPE_CHECKING:
    from agentd.proxmox.client import Proxmox

SCRIPT = "/pve-docs/api-viewer/apidoc.js"
ON_DISK = Path("/usr/share/pve-docs/api-viewer/apidoc.js")
LAYOUT = 1
"""Number of the cached file's layout: another one is another file."""
LARGEST = 64 << 20
"""Bytes of the cached file; it has about four million."""
FRESH = 300.0
"""Seconds after which the node's version is asked again: it may have been upgraded."""


class Schemas:
    """The catalogue of the connected node's version."""

    def __init__(self, proxmox: Proxmox, folder: Path | None) -> None:
        """Keep where the schema comes from, and where it is kept; without a folder it is kept in memory."""
        self._proxmox = proxmox
        self._folder = folder
        self._known: Catalogue | None = None
        self._asked = -FRESH
        self._loading = asyncio.Lock()

    async def catalogue(self) -> Catalogue:
        """Return the catalogue; raises ProxmoxUnavailable, Rejected if the node's schema cannot be had."""
        async with self._loading:
            if self._known is not None and time.monotonic() - self._asked < FRESH:
                return self._known
            try:
                said = await self._proxmox.get("/version")
            except Denied:  # the schema itself is served to everybody, so that roles can be made before a token works
                return _converted("unknown", await self._proxmox.document(SCRIPT), None)
            version = re.sub(r"[^A-Za-z0-9.+~-]", "_", str(said.get("version") or "unknown"))
            if self._known is None or self._known.version != version:
                self._known = await self._load(version)
            self._asked = time.monotonic()
            return self._known

    async def _load(self, version: str) -> Catalogue:
        path = None if self._folder is None else self._folder / f"pve-api-{version}.{LAYOUT}.lines"
        kept = await asyncio.to_thread(_opened, version, path)
        if kept is not None:
            return kept
        try:
            script = await self._proxmox.document(SCRIPT)
            return await asyncio.to_thread(_converted, version, script, path)
        except AgentdError as error:
            return await asyncio.to_thread(_stand_in, version, error)


def _stand_in(version: str, error: AgentdError) -> Catalogue:
    """Return what this machine's copy says, by a version that no node is of: it is not kept, and soon asked again.

    Raises `error`, why the node's own cannot be had, where there is no copy that can be read.
    """
    try:
        return _converted(f"{version} (by this machine's copy of the schema)", ON_DISK.read_bytes(), None)
    except (OSError, AgentdError) as other:
        raise error from other


def _opened(version: str, path: Path | None) -> Catalogue | None:
    """Return what is kept in `path`; None if there is nothing, or half of something."""
    try:
        data = b"" if path is None else files.read(path, most=LARGEST)
    except (OSError, UnsafeFile):  # it is made anew, in the place of what is there
        return None
    if path is None or not data.endswith(b"\n# end\n"):
        return None
    return Catalogue(version, data, Reader(path))


def _converted(version: str, script: bytes, path: Path | None) -> Catalogue:
    data = b"\n".join(lines_of(script)) + b"\n# end\n"
    if path is not None:
        try:
            _replace(path, data)
        except OSError:  # a full or read-only disk costs memory, not the tool
            return Catalogue(version, data)
        return Catalogue(version, data, Reader(path))
    return Catalogue(version, data)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            Path(file.name).replace(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


class Reader:
    """Read pieces of a file that stays open: a later version's file does not change it."""

    def __init__(self, path: Path) -> None:
        """Open the file, until nobody needs it any more."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def __call__(self, offset: int, length: int) -> bytes:
        """Return a piece."""
        return os.pread(self._fd, length, offset)
