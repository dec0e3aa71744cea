# SPDX-License-Identifier: AGPL-3.0-or-later
"""The API's own description, `apidoc.js`, from the schema that fakepve brings."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

from aiohttp import web
from fakepve import schema

PATH = "/pve-docs/api-viewer/apidoc.js"


def tree() -> list[dict[str, Any]]:
    """Return the schema as the nested list that a real node serves."""
    roots: list[dict[str, Any]] = []
    known: dict[str, dict[str, Any]] = {}
    for path, methods in sorted(schema.load().paths.items()):
        parent, _, text = path.rpartition("/")
        item = {
            "path": path,
            "text": text,
            "leaf": 1,
            "info": {name: {"method": name, **i} for name, i in methods.items()},
        }
        known[path] = item
        above = known.get(parent)
        if above is None:
            roots.append(item)
        else:
            above["leaf"] = 0
            above.setdefault("children", []).append(item)
    return roots


@functools.lru_cache(maxsize=1)
def text() -> str:
    """Return the file: the schema as a constant, then code, as on a real node."""
    return f"const apiSchema = {json.dumps(tree(), indent=1)}\n;\n\nlet method2cmd = {{}};\n"


async def serve(request: web.Request, effect: dict[str, Any]) -> web.StreamResponse:
    """Serve the file, or what a rule makes of it: an error, another text, half of it, or one that never ends."""
    if "status" in effect:
        return web.Response(status=int(effect["status"]), reason=effect.get("reason"))
    data = str(effect.get("text", text())).encode()
    answer = web.StreamResponse(headers={"Content-Type": "application/javascript"})
    if not effect.get("endless"):
        answer.content_length = len(data)
    await answer.prepare(request)
    await answer.write(data[: len(data) // 2] if effect.get("cut_after") else data)
    while effect.get("endless"):  # until the client hangs up, which raises here
        await answer.write(b" " * (1 << 20))
        await asyncio.sleep(0)  # a write to who has hung up does not wait, and then it would never be noticed
    if effect.get("cut_after") and request.transport is not None:
        request.transport.close()  # what was written still leaves
    return answer
