# SPDX-License-Identifier: AGPL-3.0-or-later
"""Downloads by URL that really fetch, and are checked; fakepve only pretends.

The worker's id is the file's name, a file is there only when it is whole and its checksum right, and a file that is
there with the right checksum is left alone, with a wrong one an error: as pve-common's download and pve-storage's
API do, with their texts.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession
from fakepve import FakePve, TaskError, schema
from fakepve.routing import die, split_list
from fakepve.server import USER, ok

if TYPE_CHECKING:
    from pve.foreign import Data, Request, Response, Values


VOLUME = re.compile(r"/nodes/([^/]+)/storage/([^/]+)/content/(.+)")
TEMPLATE = "/nodes/{node}/storage/{storage}/content/{volume}"


class Downloads(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: download-url, and the paths of volumes."""

    def resolve(self, request: Request, prefix: str) -> Data:
        """Find a path's method; real PVE takes all that follows /content/ for the volume, slashes too."""
        found = VOLUME.search(unquote(request.rel_url.raw_path))
        if found is None:
            return super().resolve(request, prefix)
        names = dict(zip(("node", "storage", "volume"), found.groups(), strict=True))
        return schema.Match(TEMPLATE, names, schema.load().paths[TEMPLATE])

    async def _download_url(self, request: Request) -> Response:
        name, store = self._file_storage(request, "download")
        user, node = request[USER], request.match_info["node"]
        v = self._verify(request, await self.read_params(request))
        self.require(user, "/storage/" + name, "Datastore.AllocateTemplate")
        if not self.allowed(user, f"/nodes/{node}", "Sys.AccessNetwork"):
            self.require(user, "/", "Sys.Audit")
            self.require(user, "/", "Sys.Modify")
        self._need_file_storage(store, "can't upload to storage type '{0}', not a file based storage!")
        if v["content"] not in split_list(store.get("content")):
            raise die(f"storage '{name}' is not configured for content-type '{v['content']}'")

        async def body() -> str | None:
            await self.pause(5)
            return await self._fetch(v, name, node)

        upid = await self.task(node, "download", v["filename"], user, body, log=[f"downloading {v['url']}"])
        return ok(upid)

    async def _fetch(self, v: Values, storage: str, node: str) -> str:
        volumes, volname = self.storages[storage].setdefault("volumes", {}), f"{v['content']}/{v['filename']}"
        wanted = str(v.get("checksum") or "").lower()
        if volname in volumes:
            if not wanted:
                raise TaskError(f"refusing to override existing file '{volname}'")
            got = volumes[volname].get("checksums", {}).get(v["checksum-algorithm"])
            if got == wanted:
                return "OK, got correct file already, no need to download"
            raise TaskError(f"checksum mismatch: got '{got}' != expect '{wanted}', aborting")
        try:
            async with ClientSession() as session, session.get(v["url"]) as answer:
                answer.raise_for_status()
                data = await answer.read()
        except ClientError as error:
            raise TaskError(f"download failed: {error}") from error
        if wanted:
            got = hashlib.new(v["checksum-algorithm"], data).hexdigest()
            if got != wanted:
                raise TaskError(f"checksum mismatch: got '{got}' != expect '{wanted}'")
        known = {name: hashlib.new(name, data).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")}
        volumes[volname] = {
            "content": v["content"], "format": v["filename"].rpartition(".")[2], "size": len(data),
            "ctime": int(time.time()), "node": None if self.storages[storage].get("shared") else node,
            "checksums": known,
        }  # fmt: skip
        return f"download of '{v['url']}' to '{volname}' finished"
