"""Search, describe and call every method of the Proxmox VE API.

A tool has one tier, so the tier of a call decides which tool may send it: api_get reads, api_call makes changes that
can be undone, api_destroy and api_exec make all others. A call by the wrong tool is rejected with the name of the right
one, so policy, audit and the hints of MCP need no exception.

What is sent is encoded first; the tier and the targets are determined from the encoded values (api_tiers.py,
targets.py). A call that takes a secret, or whose answer is one, is refused, and an answer shows only the listed fields
of a stored object.

A write is unsafe to repeat, because no mark can be left. If its answer was lost, the node's task list settles the
outcome where the type of the task is known and exactly one of our tasks matches; otherwise a person has to check.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import (
    NEEDS_APPROVAL,
    Call,
    Found,
    NotFound,
    Rejected,
    Repeat,
    Target,
    Tier,
    UnknownOutcome,
    Upid,
    tool,
)
from agentd_proxmox import api_schema
from agentd_proxmox.api import access_guard, parameter_checks, targets
from agentd_proxmox.api import answers as api_answers
from agentd_proxmox.api.descriptions import TOOLS, Description, describe
from agentd_proxmox.api.request_parts import fill_path, upid_in, without_control_characters
from agentd_proxmox.api_tiers import refusal_reason, tier_of
from agentd_proxmox.model import pages

if TYPE_CHECKING:
    from agentd_proxmox.api.schema_cache import Schemas
    from agentd_proxmox.inventory import Inventory

LISTED: Final = 15.0
"""Seconds after which a started task is in one of the lists: the archive lags by up to 10 s."""
LOG_TAIL: Final = 5

Path = Annotated[str, Meta(min_length=1, max_length=1024, pattern="^/", description="/nodes/pve1/qemu/100/config")]
Verb = Annotated[str, Meta(pattern=r"^(GET|POST|PUT|DELETE)\Z")]
ReadVerb = Annotated[str, Meta(pattern=r"^(GET|POST)\Z")]


class ApiFind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words to search for, and the HTTP method.

    All words must occur in the path, the description or the parameter names.
    """

    words: Annotated[str, Meta(min_length=1, max_length=200)]
    method: Annotated[str, Meta(pattern=r"^(GET|POST|PUT|DELETE)?\Z")] = ""
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{0,4}\Z")] = ""


class EndpointPage(msgspec.Struct, frozen=True):
    """The number of matches, and the best of them as `METHOD path: what it does`.

    `next` is the cursor of the next page.
    """

    total: int
    found: list[str]
    next: str = ""


class EndpointSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method of the API, by HTTP method and path.

    The variables of the path may be filled in or not; `match` selects parameters by a part of their name.
    """

    path: Path
    method: Verb = "GET"
    match: str = ""


class Get(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The path to read; a list is returned in pages of `limit` entries.

    Each entry has only the `fields` that are named (none: all).
    """

    path: Path
    parameters: dict[str, Any] = {}
    fields: list[str] = []
    limit: Annotated[int, Meta(ge=1, le=500)] = 25
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{0,9}\Z")] = ""

    @staticmethod
    def unreviewed(parameters: dict[str, Any]) -> str:
        """Return why a text among the parameters may be a secret, or ""."""
        return api_answers.unreviewed(parameters | {"method": "GET"})

    @staticmethod
    def audited(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return what the audit stores of a call."""
        return api_answers.audited(parameters)


class Data(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of Proxmox, including text from guests.

    `total` and `next` are set for a list.
    """

    data: Any
    total: int | None = None
    next: str = ""


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The method to call; path variables are filled in, or given as parameters."""

    path: Path
    method: Verb = "POST"
    parameters: dict[str, Any] = {}

    @staticmethod
    def unreviewed(parameters: dict[str, Any]) -> str:
        """Return why a text among the parameters may be a secret, or ""."""
        return api_answers.unreviewed({"method": "POST"} | parameters)

    @staticmethod
    def audited(parameters: dict[str, Any]) -> dict[str, Any]:
        """Return what the audit stores of a call."""
        return api_answers.audited(parameters)


class Changed(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer of Proxmox, or its task and the last lines of the task's log."""

    method: str
    data: Any = None
    upid: str = ""
    log: list[str] = []
    settled: bool = False


class Api:
    """The tools for API methods that no other tool calls."""

    def __init__(self, inventory: Inventory, schemas: Schemas) -> None:
        """Use the client of `inventory` and the schema of `schemas`."""
        self.inventory = inventory
        self.proxmox = inventory.proxmox
        self.schemas = schemas

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="api")
    async def api_find(self, call: Call, p: ApiFind) -> EndpointPage:
        """Search the Proxmox API by words, best match first; use it if no tool fits."""
        catalogue = await self.schemas.catalogue()
        words = p.words.lower().split()[:8]
        ranked: list[tuple[int, str, str]] = []
        for line in catalogue.lines():
            key, _, rest = line.partition(b"\t")
            text = line.lower()
            if not rest or not key.startswith(p.method.encode()) or any(word.encode() not in text for word in words):
                continue
            info = msgspec.json.decode(rest)
            if score := api_schema.rank(key.decode(), info, words):
                ranked.append((-score, key.decode(), api_schema.summary(info)))
        start = int(p.cursor or 0)
        page = sorted(ranked)[start : start + p.limit]
        more = start + len(page) < len(ranked)
        return EndpointPage(
            len(ranked), [f"{key}: {text}" for _, key, text in page], str(start + len(page)) if more and page else ""
        )

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="api")
    async def api_describe(self, call: Call, p: EndpointSelector) -> Description:
        """Describe an API method: parameters, permissions, result, and its tool."""
        return describe((await self.schemas.catalogue()).resolve(p.method, p.path), p.match)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="api")
    async def api_get(self, call: Call, p: Get) -> Data:
        """Read any path of the Proxmox API; a list is returned in pages."""
        endpoint, path, sent = await self._checked("GET", p.path, p.parameters, Tier.READ)
        return page_of(api_answers.redact(endpoint.key, await self.proxmox.get(path, **sent)), p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.UNSAFE, capability="api")
    async def api_call(self, call: Call, p: Change) -> Changed:
        """Call an API method that changes something, and wait for its task.

        The parameters are checked before anything is sent. Prefer a named tool: it checks the present state first and
        can be repeated. Methods that destroy or execute are refused here.
        """
        return await self._change(call, p.method, p.path, p.parameters, Tier.OPERATE)

    @tool(tier=Tier.DESTROY, repeat=Repeat.UNSAFE, capability="api")
    async def api_destroy(self, call: Call, p: Change) -> Changed:
        """Call an API method that destroys, overwrites, stops a node or changes rights."""
        return await self._change(call, p.method, p.path, p.parameters, Tier.DESTROY)

    @tool(tier=Tier.EXEC, repeat=Repeat.UNSAFE, capability="api")
    async def api_exec(self, call: Call, p: Change) -> Changed:
        """Call an API method that runs commands in a guest or node, or opens a console."""
        return await self._change(call, p.method, p.path, p.parameters, Tier.EXEC)

    async def _checked(
        self, verb: str, path: str, parameters: dict[str, Any], granted: Tier
    ) -> tuple[api_schema.Endpoint, str, dict[str, Any]]:
        """Return the endpoint, its path and the encoded parameters.

        Raises Rejected with all faults, or with the name of the right tool.
        """
        known = (await self.schemas.catalogue()).resolve(verb, path)
        values, rest = fill_path(known, parameters)
        endpoint = api_schema.Endpoint(known.verb, known.path, known.info, values)
        if why := refusal_reason(endpoint, rest):
            raise Rejected(
                f"{endpoint.key}: {why}, and what agentd receives is kept: use pveum or the page of Proxmox VE"
            )
        sent, faults = parameter_checks.check(endpoint, rest)
        if faults:
            raise Rejected(f"{endpoint.key}: {'; '.join(faults)}")
        if why := refusal_reason(endpoint, sent):
            raise Rejected(f"{endpoint.key}: {why}")
        needed, why = tier_of(endpoint, sent)
        if needed is not granted:
            raise Rejected(f"{endpoint.key} is of tier {needed}, since {why}: {TOOLS[needed]} is the tool for it")
        return endpoint, api_schema.VARIABLE.sub(lambda found: values[found[1]], endpoint.path), sent

    async def _change(self, call: Call, verb: str, path: str, parameters: dict[str, Any], granted: Tier) -> Changed:
        endpoint, where, sent = await self._checked(verb, path, parameters, granted)
        answers: list[Any] = []

        async def check() -> Found | None:
            since = call.begun
            found = None if since is None else await self._started_task(endpoint, sent, since)
            if found is None:
                await access_guard.check(self.proxmox, endpoint, sent)
                for target in await self._targets(endpoint, where, sent, with_state=granted in NEEDS_APPROVAL):
                    call.target(target)
            return found

        async def apply() -> str | None:
            send = getattr(self.proxmox, endpoint.verb.lower())
            answers.append(await send(where, **sent))
            return upid_in(answers[-1])

        call.progress(f"{endpoint.verb} {where}")
        found = await call.ensure(check, apply)
        if not found.upid:
            return Changed(
                endpoint.key,
                data=without_control_characters(api_answers.redact(endpoint.key, answers[-1] if answers else None)),
            )
        await self.inventory.finish(call, found)
        log = await self.proxmox.log_tail(found.upid, LOG_TAIL)
        return Changed(endpoint.key, upid=found.upid, log=log, settled=found.adopted)

    async def _targets(
        self, endpoint: api_schema.Endpoint, where: str, sent: dict[str, Any], *, with_state: bool
    ) -> list[Target]:
        """Return what a call is about to change, as far as the API can read it."""
        names = targets.labels(endpoint, sent)
        state = await self._digest_of(endpoint, where) if with_state else {}
        what = Target(
            where, f"{endpoint.verb} {where}", state, names, targets.values_as_lines(sent) if with_state else []
        )
        return [what, *await targets.changed_guests(self.inventory, endpoint, sent)]

    async def _digest_of(self, endpoint: api_schema.Endpoint, where: str) -> dict[str, Any]:
        """Return the digest of the object that is changed or deleted, or {}."""
        if endpoint.verb not in {"PUT", "DELETE"}:
            return {}
        try:
            (await self.schemas.catalogue()).resolve("GET", where)
        except NotFound:
            return {}
        return {
            "object": pages.digest(
                api_answers.redact(f"GET {endpoint.path}", without_control_characters(await self.proxmox.get(where)))
            )[:16]
        }

    async def _started_task(self, endpoint: api_schema.Endpoint, sent: dict[str, Any], since: datetime) -> Found | None:
        """Return the task that an unanswered write has started, or None.

        Raises UnknownOutcome while the task may still be missing from the lists.
        """
        kind = WORKERS.get(endpoint.key)
        node = endpoint.values.get("node")
        if kind is None or node is None:
            return None
        listed = await self.proxmox.tasks(node, source="all", since=int(since.timestamp()) - 1, limit=500)
        target = endpoint.values.get("vmid") or str(sent.get("vmid") or "")
        matching = [found for entry in listed if (found := self._ours(entry, kind, target, since)) is not None]
        if len(matching) == 1:
            return Found(matching[0].text)
        if not matching and (datetime.now(UTC) - since).total_seconds() < LISTED:
            raise UnknownOutcome(f"{endpoint.key} was not answered; its task is not listed yet", delay=2.0)
        return None  # none or several: `ensure` reports that the outcome is unknown

    def _ours(self, entry: dict[str, Any], kind: str, target: str, since: datetime) -> Upid | None:
        upid = Upid.parse(str(entry["upid"]))
        fits = upid.type == kind and upid.id == target and upid.start >= int(since.timestamp()) - 1
        return upid if fits and upid.user == self.proxmox.user else None


WORKERS: Final = {
    **{
        f"POST /nodes/{{node}}/qemu/{{vmid}}/status/{action}": f"qm{action}" for action in ("start", "stop", "shutdown")
    },
    **{
        f"POST /nodes/{{node}}/qemu/{{vmid}}/status/{action}": f"qm{action}" for action in ("reboot", "reset", "resume")
    },
    **{f"POST /nodes/{{node}}/lxc/{{vmid}}/status/{action}": f"vz{action}" for action in ("start", "stop", "shutdown")},
    "POST /nodes/{node}/lxc/{vmid}/status/reboot": "vzreboot",
    "POST /nodes/{node}/qemu/{vmid}/status/suspend": "qmpause",
    "POST /nodes/{node}/qemu/{vmid}/clone": "qmclone",
    "POST /nodes/{node}/qemu/{vmid}/config": "qmconfig",
    "POST /nodes/{node}/qemu/{vmid}/migrate": "qmigrate",
    "POST /nodes/{node}/qemu/{vmid}/move_disk": "qmmove",
    "POST /nodes/{node}/qemu/{vmid}/snapshot": "qmsnapshot",
    "POST /nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback": "qmrollback",
    "DELETE /nodes/{node}/qemu/{vmid}/snapshot/{snapname}": "qmdelsnapshot",
    "DELETE /nodes/{node}/qemu/{vmid}": "qmdestroy",
    "PUT /nodes/{node}/qemu/{vmid}/resize": "resize",
    "POST /nodes/{node}/qemu": "qmcreate",
    "POST /nodes/{node}/lxc": "vzcreate",
    "POST /nodes/{node}/lxc/{vmid}/clone": "vzclone",
    "POST /nodes/{node}/lxc/{vmid}/migrate": "vzmigrate",
    "POST /nodes/{node}/lxc/{vmid}/snapshot": "vzsnapshot",
    "POST /nodes/{node}/lxc/{vmid}/snapshot/{snapname}/rollback": "vzrollback",
    "DELETE /nodes/{node}/lxc/{vmid}/snapshot/{snapname}": "vzdelsnapshot",
    "DELETE /nodes/{node}/lxc/{vmid}": "vzdestroy",
}
"""The type of the task that a method starts, where the task's id is the guest: used to settle a lost answer."""


def page_of(answer: Any, p: Get) -> Data:  # noqa: ANN401
    """Return an answer; of a list, one page."""
    if isinstance(answer, dict):
        return Data(without_control_characters(_chosen(answer, p.fields)))
    if not isinstance(answer, list):
        return Data(without_control_characters(answer))
    start = int(p.cursor or 0)
    page = [_chosen(entry, p.fields) for entry in sorted(answer, key=_order)[start : start + p.limit]]
    end = start + len(page)
    return Data(
        without_control_characters(page), total=len(answer), next=str(end) if page and end < len(answer) else ""
    )


def _order(entry: Any) -> tuple[float, str]:  # noqa: ANN401
    """Return a sort key for the pages of a list.

    Proxmox returns some lists in the random order of a Perl hash. Lines of a log are sorted by their number.
    """
    if not isinstance(entry, dict):
        return (0, "")
    name = next((str(entry[key]) for key in ("id", "vmid", "upid", "volid", "name", "node") if key in entry), "")
    number = entry.get("n", entry.get("pos", 0))
    return (float(number) if isinstance(number, int | float) else 0, name)


def _chosen(entry: Any, fields: list[str]) -> Any:  # noqa: ANN401
    return {key: entry[key] for key in fields if key in entry} if fields and isinstance(entry, dict) else entry
