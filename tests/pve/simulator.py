# SPDX-License-Identifier: AGPL-3.0-or-later
"""The simulated Proxmox VE API: fakepve with the real API's manners at the door.

Every request passes `_gate`, which logs it and applies the rules that tests set, then `_middleware`, which does what
pveproxy does (login, proxying to nodes, the form of errors), and then the handlers of fakepve and of the mixins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from aiohttp import web
from fakepve import PveError, schema, server
from fakepve.routing import param_error
from fakepve.server import API, EXTJS, GENERIC, USER

from pve import apidoc
from pve.datacenter.access import Access
from pve.datacenter.ha import Ha
from pve.datacenter.realms import Realms
from pve.datacenter.replication import Replication
from pve.faults import CURRENT, Entry, RequestLog, Rule, Rules
from pve.guests.agent import Agent
from pve.guests.imports import Imports
from pve.guests.mounts import Mounts
from pve.nodes.disks import Disks
from pve.nodes.firewall_log import FirewallLog
from pve.nodes.networks import Networks
from pve.nodes.system import System
from pve.storage.downloads import Downloads
from pve.storage.jobs import Jobs
from pve.storage.uploads import Uploads

if TYPE_CHECKING:
    from pve.foreign import Data, Handler, Request, Values

PARAMS = "sim.params"
PROXY_CODES, UNAUTHORISED = 595, 401
# Reasons of 401 answers, word for word.
NO_TICKET = "No ticket"
BAD_TOKEN = "Authentication failed!"  # noqa: S105 - the text of an answer


def use_real_booleans() -> None:
    """Take only 1 and 0 for booleans of a request, as the real API does; words stay valid inside property strings."""
    words = {"1": schema.TRUE, "0": schema.FALSE}
    schema.parse_boolean = lambda text: next((v for v, known in words.items() if text.lower() in known), None)
    schema.TRUE, schema.FALSE = ("1",), ("0",)


def decode_form(text: str) -> Values:
    """Decode a form or query as real PVE does.

    A pair is split at every `=`, so an unencoded one in a value cuts it off; `;` separates pairs too; an empty value
    is none; a repeated key becomes a list.
    """
    out: Values = {}
    for pair in re.split("[&;]", text):
        parts = [unquote_plus(part) for part in pair.split("=")]
        if len(parts) < 2 or not parts[1]:
            continue
        key, value = parts[0], parts[1]
        if key in out:
            out[key] = [*out[key], value] if isinstance(out[key], list) else [out[key], value]
        else:
            out[key] = value
    return out


async def read_params(request: Request) -> Values:
    """Read the parameters of a request, once."""
    if PARAMS not in request:
        request[PARAMS] = decode_form(request.rel_url.raw_query_string) | await read_body(request)
    return dict(request[PARAMS])


async def read_body(request: Request) -> Values:
    """Read the parameters in the body: a form or JSON."""
    if request.content_type == "multipart/form-data":
        return {}  # uploads.py reads it, piece by piece
    body = await request.read()
    if not body:
        return {}
    if request.content_type != "application/json":
        return decode_form(body.decode("utf-8", "replace"))
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise param_error(body="request body is not a JSON object")
    return data


class Unauthorised(Exception):
    """A 401, which has a reason and an empty body."""


class Simulator(
    Ha,
    Imports,
    Jobs,
    Uploads,
    Mounts,
    Downloads,
    Replication,
    System,
    Networks,
    FirewallLog,
    Disks,
    Realms,
    Agent,
    Access,
):
    """A Proxmox VE cluster that behaves, and misbehaves when it is configured to."""

    def __init__(self) -> None:
        """Start an empty cluster; `cluster.build` fills it."""
        super().__init__(host="127.0.0.1", port=0)
        # fakepve's seconds are real ones; only the wait for a lock file uses them here.
        self.time_scale = 1.0
        self.version, self.release_version = "9.2.11", "9.2"
        self.rules = Rules()
        self.log = RequestLog()
        self.auth_delay = 0.0
        self.offline_delay = 0.0
        self.config_options = set(
            schema.load().paths["/nodes/{node}/qemu/{vmid}/config"]["PUT"]["parameters"]["properties"]
        )
        server.params = read_params
        self.read_params = read_params

    def _build_app(self) -> web.Application:
        app = super()._build_app()
        app.middlewares.insert(0, self._gate)
        return app

    async def start(self, certfile: str, keyfile: str) -> None:
        """Listen on https with this certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certfile, keyfile)
        # A held request must not hold up the end of the process.
        self.runner = web.AppRunner(self._build_app(), access_log=None, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.host, self.port, ssl_context=context, backlog=1024).start()
        self.port: int = self.runner.addresses[0][1]

    @staticmethod
    def paged(data: Data, total: int) -> web.Response:
        """Answer a page of a longer list; real PVE puts the total beside the data."""
        return web.json_response({"data": data, "total": total})

    async def serve(self, request: Request, handler: Handler) -> web.Response:
        """Run a stateful handler behind the schema's checks."""
        match = self.resolve(request, API)
        user = request[USER]
        data = await self.answer(request, match, await read_params(request), user, lambda _, v: handler(v, user))
        return data if isinstance(data, web.Response) else server.ok(data)

    def _verify(self, request: Request, values: Values, drop: tuple[str, ...] = ()) -> Values:
        """Check parameters; fakepve's one route for all of status/* adds `action`, which is none."""
        info = self.resolve(request, API)
        checked, errors = schema.validate(
            info.methods[request.method].get("parameters"),
            {key: value for key, value in (values | info.params).items() if key not in drop},
        )
        if errors:
            raise param_error(**errors)
        return dict(checked)

    def _stateful_handler(self, _template: str, handler: Handler) -> Handler:
        async def serve(request: Request) -> web.Response:
            return await self.serve(request, handler)

        return serve

    # --------------------------------------------------------------------- gate

    @web.middleware  # type: ignore[untyped-decorator] # untyped
    async def _gate(self, request: Request, handler: Handler) -> web.StreamResponse:
        """Log a request, and let the first rule that takes it do its mischief."""
        if request.path == apidoc.PATH:
            # Real PVE serves its schema to anyone.
            rule = self.rules.match(request.method, request.path)
            return await apidoc.serve(request, {} if rule is None else rule.effect)
        prefix = next((p for p in (API, EXTJS) if request.path.startswith(p + "/")), "")
        path = unquote(request.rel_url.raw_path)[len(prefix) :]
        entry = self.log.open(request.method, path, self._token_name(request))
        CURRENT.set(entry)
        try:
            entry.params = await read_params(request)
        except PveError as error:
            return self._note(entry, server.error(error.status, error.message, error.errors))
        rule = self.rules.match(request.method, path)
        if rule is None:
            return self._note(entry, await handler(request), done=self._is_modelled(request))
        return await self._disturbed(request, handler, entry, rule)

    async def _disturbed(self, request: Request, handler: Handler, entry: Entry, rule: Rule) -> web.StreamResponse:
        """Answer a request that a rule has taken."""
        effect = rule.effect
        if effect.get("delay"):
            await asyncio.sleep(float(effect["delay"]))
        if effect.get("hold"):
            await rule.released.wait()
        gone = request.transport is None or request.transport.is_closing()
        if effect.get("lost_before") or (effect.get("hold") and gone):
            return self._cut(request, entry, "connection cut before anything was done")
        if "status" in effect:
            return self._note(entry, self._configured_reply(effect))
        entry.task_exit = effect.get("task_exit")
        response = self._note(entry, await handler(request), done=self._is_modelled(request))
        if effect.get("cut_after"):
            return self._cut(request, entry, "connection cut after it was done")
        return response

    @staticmethod
    def _configured_reply(effect: Values) -> web.Response:
        """Return the answer that a rule spells out; real PVE: 401 and the codes of its proxy have no body."""
        status, reason = int(effect["status"]), str(effect.get("reason") or "simulated error")
        if isinstance(effect.get("body"), dict):
            return web.json_response(effect["body"], status=status, reason=reason)
        if effect.get("empty") or status == UNAUTHORISED or status >= 595:
            return web.Response(status=status, reason=reason, headers={"Content-Length": "0"})
        response: web.Response = server.error(status, reason, effect.get("errors"))
        return response

    @staticmethod
    def _note(entry: Entry, response: web.StreamResponse, *, done: bool = False) -> web.StreamResponse:
        entry.status, entry.reason = response.status, response.reason
        entry.performed = done and response.status < 400
        return response

    @staticmethod
    def _cut(request: Request, entry: Entry, reason: str) -> web.Response:
        """Break the connection; the response that is returned never leaves."""
        entry.status, entry.reason = None, reason
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    @staticmethod
    def _is_modelled(request: Request) -> bool:
        """Say whether an answer represents a real change: fakepve invents one for a write that it does not model."""
        return request.method == "GET" or "tail" not in request.match_info

    @staticmethod
    def _token_name(request: Request) -> str | None:
        kind, _, rest = request.headers.get("Authorization", "").partition("=")
        return str(rest.partition("=")[0]) if kind == "PVEAPIToken" else None

    # ---------------------------------------------------------------- pveproxy

    @web.middleware  # type: ignore[untyped-decorator] # untyped
    async def _middleware(self, request: Request, handler: Handler) -> web.StreamResponse:
        """Do what pveproxy does around a call of the API."""
        match = self.resolve(request, API)
        request[GENERIC] = match if "tail" in request.match_info else None
        try:
            request[USER] = None if self.is_world(match, request.method) else self._authenticate(request)
            if match is None or request.method not in match.methods:
                return self._not_implemented(request)
            # Real PVE: a node is woken by the one that is asked, and not asked itself.
            if "node" in match.params and not request.path.endswith("/wakeonlan"):
                await self._proxy(match.params["node"])
            return self.beside(request, await handler(request))
        except Unauthorised as error:
            await asyncio.sleep(self.auth_delay)
            return web.Response(status=401, reason=str(error))
        except PveError as error:
            return self._refusal(error)
        except Exception:
            logging.getLogger("fakepve").exception("unhandled error in %s %s", request.method, request.path)
            return server.error(500, "internal error of the simulator")

    @staticmethod
    def _refusal(error: PveError) -> web.Response:
        """Answer an error of the API; real PVE: the proxy's own codes, from 595 on, have no body."""
        if error.status >= PROXY_CODES:
            return web.Response(status=error.status, reason=error.message)
        return server.error(error.status, error.message, error.errors)

    @staticmethod
    def _not_implemented(request: Request) -> web.Response:
        """Real PVE: 501 for an unknown path or method; there is no 404, and PATCH has an empty body."""
        if request.method == "PATCH":
            return web.Response(status=501, reason="method 'PATCH' not available")
        message = f"Method '{request.method} {unquote(request.rel_url.raw_path).removeprefix(API)}' not implemented"
        return web.json_response({"data": None, "message": message}, status=501, reason=message)

    async def _proxy(self, node: str) -> None:
        """Find a request's node; real PVE fails by name lookup for an unknown one and with 595 for a dead one."""
        if node.lower() in self.nodes and node not in self.nodes:
            raise PveError(595, "No route to host")  # Real PVE: a name in the wrong case is proxied
        if node not in self.nodes:
            reason = f"failed to get address info for: {node}: Name or service not known"
            raise PveError(500, f"hostname lookup '{node}' failed - {reason}")
        if not self.is_online(node):
            await asyncio.sleep(self.offline_delay)
            raise PveError(595, "No route to host")

    def _authenticate(self, request: Request) -> str:
        """Return the token's or the ticket's user."""
        header = request.headers.get("Authorization", "")
        if header.startswith("PVEAPIToken="):
            name, _, secret = header[len("PVEAPIToken=") :].partition("=")
            if name not in self.apitokens or self.apitokens[name] != secret:
                raise Unauthorised(BAD_TOKEN)
            return str(name)
        if "PVEAuthCookie" not in request.cookies:
            raise Unauthorised(NO_TICKET)
        try:
            return str(super()._authenticate(request))
        except PveError as error:
            raise Unauthorised(error.message) from error
