"""Fetch the node's API schema once per version, and cache it on disk.

The schema of the node itself is authoritative; it is read over the same connection and with the same trust as every
call. If it cannot be fetched or read, the copy that pve-docs installs on a node's disk is used for a short time: this
machine may run another version. The schema is decoded once per version, which takes memory for a moment; after that a
file of lines is read, of which only the index stays in memory.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd import AgentdError, Denied, UnsafeFile, files
from agentd_proxmox.api_schema import Catalogue, lines_of

if TYPE_CHECKING:
    from agentd import Proxmox

SCRIPT: Final = "/pve-docs/api-viewer/apidoc.js"
ON_DISK: Final = Path("/usr/share/pve-docs/api-viewer/apidoc.js")
LAYOUT: Final = 1
"""Version of the cache file's format; it is part of the file name."""
LARGEST: Final = 64 << 20
"""Maximum size of the cache file in bytes; it has about four million."""
FRESH: Final = 300.0
"""Seconds after which the node's version is read again: the node may have been upgraded."""


class Schemas:
    """The catalogue of the API of the connected node's version."""

    def __init__(self, proxmox: Proxmox, folder: Path | None) -> None:
        """Read the schema with `proxmox`; cache it in `folder`, or (None) in memory."""
        self._proxmox = proxmox
        self._folder = folder
        self._known: Catalogue | None = None
        self._asked = -FRESH
        self._loading = asyncio.Lock()

    async def catalogue(self) -> Catalogue:
        """Return the catalogue.

        Raises ProxmoxUnavailable or Rejected if the node's schema cannot be read.
        """
        async with self._loading:
            if self._known is not None and time.monotonic() - self._asked < FRESH:
                return self._known
            try:
                answer = await self._proxmox.get("/version")
            except Denied:  # the schema needs no rights, so roles can be created before a token works
                return _converted("unknown", await self._proxmox.document(SCRIPT), None)
            version = re.sub(r"[^A-Za-z0-9.+~-]", "_", str(answer.get("version") or "unknown"))
            if self._known is None or self._known.version != version:
                self._known = await self._load(version)
            self._asked = time.monotonic()
            return self._known

    async def _load(self, version: str) -> Catalogue:
        path = None if self._folder is None else self._folder / f"pve-api-{version}.{LAYOUT}.lines"
        cached = await asyncio.to_thread(_opened, version, path)
        if cached is not None:
            return cached
        try:
            script = await self._proxmox.document(SCRIPT)
            return await asyncio.to_thread(_converted, version, script, path)
        except AgentdError as error:
            return await asyncio.to_thread(_stand_in, version, error)


def _stand_in(version: str, error: AgentdError) -> Catalogue:
    """Return the catalogue of this machine's copy, under a version that no node has.

    It is not cached on disk, and the node is soon asked again. Raises `error`, which says why the node's own schema is
    unavailable, if there is no readable copy.
    """
    try:
        return _converted(f"{version} (by this machine's copy of the schema)", ON_DISK.read_bytes(), None)
    except (OSError, AgentdError) as other:
        raise error from other


def _opened(version: str, path: Path | None) -> Catalogue | None:
    """Return the catalogue cached in `path`; None if it is missing or incomplete."""
    try:
        data = b"" if path is None else files.read(path, most=LARGEST)
    except (OSError, UnsafeFile):  # the file is written again, over the present one
        return None
    if path is None or not data.endswith(b"\n# end\n"):
        return None
    return Catalogue(version, data, Reader(path))


def _converted(version: str, script: bytes, path: Path | None) -> Catalogue:
    data = b"\n".join(lines_of(script)) + b"\n# end\n"
    if path is not None:
        try:
            _replace(path, data)
        except OSError:  # with a full or read-only disk it stays in memory
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
    """Reads pieces of a file that stays open.

    A later version's file does not change it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; it is closed when this object is no longer used."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def __call__(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`."""
        return os.pread(self._fd, length, offset)
