# SPDX-License-Identifier: AGPL-3.0-or-later
"""Uploads that are really received, piece by piece; fakepve holds the body in memory and compares nothing.

As libpve-http-server reads a form: the fields content, checksum-algorithm, checksum in this order before the file, a
length is needed, and a form that breaks off leaves nothing.  As pve-storage's API takes it in: the name is changed to
plain characters, its ending has to fit, a file of that name is overwritten, the worker (imgcopy, without an id)
compares the checksum, says `target file:` and copies; a copy that does not fit is removed again.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING

from fakepve import FakePve, PveError, TaskError
from fakepve.routing import die, param_error, split_list
from fakepve.server import USER, ok

if TYPE_CHECKING:
    from pve.foreign import Data, Request, Response, Values

FIELDS = ("content", "checksum-algorithm", "checksum")
ENDINGS = {
    "iso": r"\.(iso|img)$", "vztmpl": r"\.tar\.(gz|xz|zst|bz2)$", "import": r"\.(ova|qcow2|raw|vmdk)$",
}  # fmt: skip
PIECE = 1 << 16


class Uploads(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: POST /nodes/{node}/storage/{storage}/upload."""

    async def _upload(self, request: Request) -> Response:
        name, store = self._file_storage(request, "upload")
        user, node = request[USER], request.match_info["node"]
        values, found, size = await self._received(request)
        values = self._verify(request, values)
        self.require(user, "/storage/" + name, "Datastore.AllocateTemplate")
        self._need_file_storage(store, "can't upload to storage type '{0}'")
        content, filename = values["content"], re.sub(r"[^-a-zA-Z0-9_.]", "_", values["filename"])
        if not re.search(ENDINGS[content], filename):
            raise param_error(filename="wrong file extension")
        if content not in split_list(store.get("content")):
            raise die(f"storage '{name}' does not support '{content}' content")

        async def body() -> str | None:
            return await self._take_in(values, found, size, name, node, filename)

        # Real PVE: the worker runs where the request came in, whatever node it is for.
        return ok(await self.task(next(iter(self.nodes)), "imgcopy", "", user, body))

    async def _received(self, request: Request) -> tuple[Values, Data, int]:
        """Read the form; return its fields, the file's checksum by the algorithm that is named, and its size."""
        if request.content_length is None:
            raise PveError(501, "upload without content length header not supported")
        values: Values = {}
        async for part in await request.multipart():
            if part.filename is None:
                if part.name not in FIELDS[len(values) :]:
                    raise PveError(501, f"upload failed: field '{part.name}' is not read here")
                values[part.name] = (await part.read()).decode().strip()
                continue
            if part.name != "filename":
                raise PveError(501, f"wrong field name '{part.name}' for file upload, expected 'filename'")
            values["filename"], size = part.filename, 0
            found = hashlib.new(values.get("checksum-algorithm", "md5"))
            while piece := await part.read_chunk(PIECE):
                found.update(piece)
                size += len(piece)
            return values, found, size
        raise PveError(501, "upload failed")

    async def _take_in(self, v: Values, found: Data, size: int, storage: str, node: str, filename: str) -> str:
        self.say("starting file import from: /var/tmp/pveupload-0")
        await self.pause(1)
        got = found.hexdigest()
        if v.get("checksum") and got != v["checksum"].lower():
            raise TaskError(f"checksum mismatch: got '{got}' != expect '{v['checksum']}'")
        store, volname = self.storages[storage], f"{v['content']}/{filename}"
        self.say(f"target node: {node}")
        self.say(f"target file: {store.get('path')}/template/{volname}")
        if size > self._status_item(storage, node).get("avail", size):
            raise TaskError("import failed: command 'cp' failed: exit code 1")
        store.setdefault("volumes", {})[volname] = {
            "content": v["content"], "format": filename.rpartition(".")[2], "size": size, "ctime": int(time.time()),
            "node": None if store.get("shared") else node, "checksums": {found.name: got},
        }  # fmt: skip
        return "finished file import successfully"
