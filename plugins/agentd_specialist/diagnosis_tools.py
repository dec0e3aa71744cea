"""The tool that diagnoses an alert, a failed task, a guest or a node.

It gathers evidence; pure rules find the causes in it.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from agentd import AgentdError, BusUnavailable, Call, Evidence, Rejected, Repeat, Situation, Tier, Upid, formats, tool
from agentd_specialist.collecting import PROXMOX, Collector
from agentd_specialist.diagnosis.ranking import Diagnosis, diagnose
from agentd_specialist.diagnosis.wording import NoWords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentd import DiagnosisRule
    from agentd_specialist.diagnosis.wording import Model

    Entry = dict[str, Any]

TASKS: Final = 4
"""Failed tasks whose logs are read."""
LINES: Final = 12
"""Last lines of a task log that are kept."""
_GUEST = re.compile(r"\b(?:VM|CT|guest|container|vmid)[ /]*(\d{3,9})\b", re.IGNORECASE)


class Diagnose(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is wrong; name one of these.

    vmid   a guest
    node   a node
    upid   a task that failed
    alert  the text of an alert; the guest, node or storage that it names is read
    """

    vmid: Annotated[int, Meta(ge=100, le=999_999_999)] | None = None
    node: formats.Node | None = None
    upid: str = ""
    alert: Annotated[str, Meta(max_length=2000)] = ""


class HaStates(msgspec.Struct, frozen=True):
    """Result of list_ha, with the fields that are needed here."""

    quorate: bool
    nodes: dict[str, str] = {}


class DiagnosisTools:
    """The tool for diagnoses."""

    def __init__(self, rules: Sequence[DiagnosisRule], model: Model | None = None) -> None:
        """Use the rules of all plugins, and a model for the words, if there is one."""
        self.rules = rules
        self.model = model

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="diagnosis")
    async def diagnose(self, call: Call, p: Diagnose) -> Diagnosis:
        """Find out why a guest, a node, a task or an alert is in trouble.

        It reads states, locks, storages, HA, and the logs of failed tasks, and returns the causes, the most likely
        first, each with its evidence, what to do, and a workflow that helps.
        """
        given = [name for name in ("vmid", "node", "upid", "alert") if getattr(p, name)]
        if len(given) != 1:
            raise Rejected("name one of vmid, node, upid and alert")
        return await self._in_words(call, diagnose(await _Gathering(call).situation(p), self.rules))

    async def _in_words(self, call: Call, found: Diagnosis) -> Diagnosis:
        """Return the diagnosis, with the words of the model if one is configured and answers."""
        if self.model is None:
            return found
        call.progress(f"the model {self.model.name} words the diagnosis")
        try:
            words = await asyncio.to_thread(self.model.words, found)
        except NoWords as error:
            call.warn(f"the model {self.model.name} did not word the diagnosis: {error}")
            return found
        return msgspec.structs.replace(found, words=words)


class _Gathering:
    """Gathers facts and evidence; what cannot be read is evidence too."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.collector = Collector(call)
        self.facts: Entry = {}
        self.evidence: list[Evidence] = []

    async def situation(self, p: Diagnose) -> Situation:
        self.call.progress("gathering evidence")
        subject = f"guest {p.vmid}" if p.vmid else f"node {p.node}" if p.node else p.upid or "alert"
        vmid, node = p.vmid, p.node
        if p.alert:
            self.evidence.append(Evidence("alert", p.alert))
            named = _GUEST.search(p.alert)
            vmid = int(named[1]) if named else None
        if p.upid:
            task = Upid.parse(p.upid)
            node, vmid = task.node, int(task.id) if task.id.isdigit() else None
            await self._task(task.node, p.upid, "the task")
        await self._cluster(vmid, node, p.alert)
        return Situation(subject, self.facts, self.evidence)

    async def _cluster(self, vmid: int | None, node: str | None, alert: str) -> None:
        guests = await self.collector.entries("vm", ("vmid", "name", "node", "type", "status", "lock", "hastate"))
        nodes = await self.collector.entries("node", ("node", "status", "maxmem", "mem", "cpu"))
        storages = await self.collector.entries("storage", ("storage", "node", "status", "disk", "maxdisk"))
        guest = next((e for e in guests if vmid is not None and int(e["vmid"]) == vmid), None)
        if vmid is not None and guest is None:
            self.evidence.append(Evidence("present state", f"there is no guest {vmid}, or it may not be seen"))
        node = node or (str(guest["node"]) if guest else None) or _named(alert, [str(e["node"]) for e in nodes])
        await self._ha()
        if guest is not None:
            self.facts |= {"vmid": vmid, "name": guest.get("name"), "status": guest.get("status")}
            self.facts |= {"lock": guest.get("lock"), "ha_state": guest.get("hastate")}
        if node is not None:
            self._node(node, nodes)
            names = {str(e["storage"]) for e in storages}
            about = _named(alert, sorted(names)) if alert else None
            here = [e for e in storages if e.get("node") == node and about in {None, e["storage"]}]
            self.facts["storages"] = [(str(e["storage"]), str(e.get("status") or ""), _used(e)) for e in here]
            await self._tasks(node, vmid)

    def _node(self, name: str, nodes: Sequence[Entry]) -> None:
        entry = next((e for e in nodes if e["node"] == name), None)
        if entry is None:
            raise Rejected(f"node: there is no node {name!r}")
        self.facts |= {"node": name, "node_status": entry.get("status")}
        if entry.get("maxmem") and entry.get("mem") is not None:
            self.facts["node_memory"] = 100 * int(entry["mem"]) / int(entry["maxmem"])

    async def _ha(self) -> None:
        try:
            found = await self.call.use(PROXMOX, "list_ha", {"limit": 1}, HaStates, step="ha")
        except BusUnavailable:
            raise
        except AgentdError as error:
            self.evidence.append(Evidence("HA", f"was not read: {error}"))
        else:
            self.facts["quorate"] = found.quorate

    async def _tasks(self, node: str, vmid: int | None) -> None:
        """Read the running tasks, and the logs of the last failed ones."""
        of = {} if vmid is None else {"vmid": vmid}
        active = await self._list(f"/nodes/{node}/tasks", of | {"source": "active"}, "active")
        mine = [e for e in active if vmid is None or str(e.get("id")) == str(vmid)]
        self.facts["running_tasks"] = [f"{e.get('type')} of {e.get('user')} ({e.get('upid')})" for e in mine][:TASKS]
        failed = await self._list(f"/nodes/{node}/tasks", of | {"errors": True, "source": "all", "limit": 20}, "failed")
        failed.sort(key=lambda e: -int(e.get("starttime") or 0))
        for entry in failed[:TASKS]:
            when = datetime.fromtimestamp(int(entry.get("starttime") or 0), UTC)
            title = f"task {entry.get('type')} {entry.get('id') or ''} of {when:%Y-%m-%d %H:%M} UTC".replace("  ", " ")
            await self._task(node, str(entry["upid"]), title)

    async def _task(self, node: str, upid: str, title: str) -> None:
        """Add the result and the last lines of a task's log, unless they are there already."""
        if any(line.source.endswith(upid) for line in self.evidence):
            return
        source = f"{title} {upid}"
        lines = await self._list(f"/nodes/{node}/tasks/{upid}/log", {"limit": 500}, f"log-{len(self.evidence)}")
        texts = [str(line.get("t") or "") for line in sorted(lines, key=lambda line: int(line.get("n") or 0))]
        self.evidence += [Evidence(source, text) for text in reversed(texts[-LINES:]) if text.strip()]

    async def _list(self, path: str, parameters: Entry, step: str) -> list[Entry]:
        try:
            found = await self.collector.get(path, parameters, limit=500, step=step)
        except BusUnavailable:
            raise
        except AgentdError as error:
            self.evidence.append(Evidence(path, f"was not read: {error}"))
            return []
        return [entry for entry in found.data or [] if isinstance(entry, dict)]


def _named(text: str, names: Sequence[str]) -> str | None:
    """Return the first of the names that the text contains as a word."""
    return next((name for name in names if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)), None)


def _used(entry: Entry) -> float:
    return 100 * int(entry.get("disk") or 0) / int(entry["maxdisk"]) if entry.get("maxdisk") else 0.0
