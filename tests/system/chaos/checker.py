"""State what must be so after a chaos run, and name what is not: nothing of agentd is imported here.

    python tests/system/chaos/checker.py --nats nats://127.0.0.1:4222 --pve http://127.0.0.1:PORT --ids FILE

`FILE` is a JSON list of {"id": …, "endings": […]}: each request, and how its workflow may end.  `--pve` is the control
port of the simulator in tests/pve.  Each violation is one line: the invariant, the id, what was seen.  Exit code 1 if
there is any.

ended      every workflow that was asked for is over, and as it may be
answered   it was answered once, and the answer says what the last event says
unasked    there is no workflow that was not requested
made       what a task made is there once if it is to be there, and is gone if it was undone; nothing else is there
doubled    no write was carried out twice
recorded   effect records say what the workflow says
audited    no write was carried out without an audit line before it
chained    each agent's audit chain is whole
attempted  a task ended by a report of that very attempt
quiet      nothing is left to be done
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parents[2]))

from system.chaos import evidence
from system.chaos.evidence import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from system.chaos.evidence import Evidence, Json

TERMINAL = frozenset(
    {
        "completed",
        "completed_with_warnings",
        "failed",
        "cancelled",
        "compensated",
        "compensation_failed",
        "rejected",
        "expired",
    }
)
DONE = {"completed", "completed_with_warnings"}
MAKERS = {"create_vm"}
SLACK = 1.0
"""Seconds by which times of two processes on one machine may differ."""
_CLOCK = re.compile(r"failed.*: (no result within|no agent started attempt|.* was silent for) ")
"""A failure that the orchestrator's clock noted: no agent reported it."""
MARK = re.compile(r"^agentd:(\S+)$", re.MULTILINE)
_GUEST = re.compile(r"/nodes/[^/]+/qemu/(\d+)(?:/(.*))?$")
TOOLS = {
    "status/start": {"start_guest"},
    "status/stop": {"stop_guest"},
    "config": {"update_vm"},
    "resize": {"resize_disk"},
    "": {"remove_vm"},
}
"""Which tools may have sent a write to a guest, by the end of its path."""


class Violation(NamedTuple):
    """What is not as it must be."""

    invariant: str
    id: str
    text: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.invariant:9}  {self.id}: {self.text}"


def judge(found: Evidence) -> list[Violation]:
    """Return every violation of every invariant."""
    checks: list[Callable[[Evidence], Iterator[Violation]]] = [
        ended, answered, unasked, made, doubled, recorded, audited, chained, attempted, quiet,
    ]  # fmt: skip
    return [fault for check in checks for fault in check(found)]


# -- workflows --------------------------------------------------------------------------------------------------------


def ended(found: Evidence) -> Iterator[Violation]:
    """Every workflow that was asked for is over, and as it may be."""
    for item in found.wanted:
        event = found.events.get(item["id"])
        if event is None:
            yield Violation("ended", item["id"], "LOST: there is no such workflow")
        elif event["status"] not in TERMINAL:
            under_way = {
                name: task.get("status", "waiting") for name, task in event["tasks"].items() if task.get("attempt")
            }
            yield Violation("ended", item["id"], f"LOST: it is still {event['status']} ({under_way})")
        elif event["status"] not in item["endings"]:
            yield Violation("ended", item["id"], f"{event['status']}: {event.get('error', '')}")


def answered(found: Evidence) -> Iterator[Violation]:
    """Each was answered once, and the answer says what the last event says."""
    for item in found.wanted:
        name = item["id"]
        answers, event = found.answers.get(name, []), found.events.get(name)
        if len(answers) != 1:
            text = "LOST: no answer" if not answers else f"DOUBLED: {len(answers)} answers"
            yield Violation("answered", name, text)
        if not answers or event is None:
            continue
        for field in ("workflow_id", "status", "error"):
            if answers[-1].get(field, "") != event.get(field, ""):
                answer, is_so = answers[-1].get(field, ""), event.get(field, "")
                yield Violation("answered", name, f"{field}: the answer says {answer!r}, the last event {is_so!r}")
        reported = {task: it["status"] for task, it in answers[-1].get("result", {}).get("tasks", {}).items()}
        for task, status in reported.items():
            is_so = event["tasks"].get(task, {}).get("status", "waiting")
            if status != is_so:
                yield Violation("answered", name, f"{task}: the answer says {status}, the last event {is_so}")


def unasked(found: Evidence) -> Iterator[Violation]:
    """There is no workflow that was not requested."""
    wanted = {item["id"] for item in found.wanted}
    for name in {*found.events, *found.answers} - wanted:
        yield Violation("unasked", name, "it was not requested")


def attempted(found: Evidence) -> Iterator[Violation]:
    """A task ended by a report of that very attempt, and not before it was reported."""
    if found.blind:
        return
    reported: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for message in found.reported:
        if message.status != "running":
            reported[message.workflow, message.task, message.attempt].append(message.written)
    for name, event in found.events.items():
        for entry in event.get("timeline", []):
            what, task, attempt = entry["what"], entry.get("task", ""), entry.get("attempt", 0)
            if not entry.get("agent") or _CLOCK.match(what) or not (what in DONE or what.startswith("failed")):
                continue
            written = reported.get((name, task, attempt), [])
            if not any(item <= seconds(entry["at"]) + SLACK for item in written):
                text = f"attempt {attempt} of {task} is noted as {what!r} before a report of that attempt"
                yield Violation("attempted", name, text)


# -- the world --------------------------------------------------------------------------------------------------------


def _ok(found: Evidence, request: Json) -> bool:
    """Return whether a write was carried out: accepted, and its task, if it has one, did not fail."""
    exits = {task["upid"]: task["exitstatus"] for task in found.tasks}
    end = exits.get(request.get("upid"), "OK")
    return bool(request["performed"]) and (end is None or end == "OK" or str(end).startswith("WARNINGS: "))


def _writes(found: Evidence) -> Iterator[Json]:
    yield from (request for request in found.requests if request["method"] != "GET" and _ok(found, request))


def _mark_of(request: Json) -> str:
    """Return the key that a create or clone leaves on its guest."""
    mark = MARK.search(str(request["params"].get("description", "")))
    return mark[1] if mark and re.search(r"/qemu(/\d+/clone)?$", request["path"]) else ""


def made(found: Evidence) -> Iterator[Violation]:
    """What a task made is there once if it is to be there, and is gone if it was undone; nothing else is there."""
    there = Counter(key for guest in found.guests for key in MARK.findall(str(guest.get("description") or "")))
    created = Counter(key for write in _writes(found) if (key := _mark_of(write)))
    may_be: set[str] = set()
    for name, event in found.events.items():
        for task, state in event["tasks"].items():
            if (state.get("spec") or {}).get("tool") in MAKERS:
                key = f"{name}.{task}"
                may_be.add(key)
                yield from _made_by(event, task, there[key], created[key])
    for key in {*there, *created} - may_be:
        yield Violation("made", key, "there is a guest of a task that does not exist")


def _made_by(event: Json, task: str, there: int, created: int) -> Iterator[Violation]:
    """Judge how many guests a task made, and how many of them are there."""
    key, status = f"{event['workflow_id']}.{task}", event["tasks"][task].get("status", "waiting")
    undone = event["tasks"].get(f"undo-{task}", {}).get("status") in DONE
    wanted = 0 if undone else int(status in DONE)
    sure = undone or wanted or event["status"] in {"compensated", "rejected"}
    if (sure and there != wanted) or there > 1:
        text = f"{there} guests bear its mark, {wanted} should ({event['status']}, {status})"
        yield Violation("made", key, f"{'DOUBLED: ' if there > wanted else 'LOST: '}{text}")
    if wanted and created != 1:
        yield Violation("made", key, f"Proxmox made {created} guests for it")


def doubled(found: Evidence) -> Iterator[Violation]:
    """No write was carried out twice."""
    seen: Counter[str] = Counter()
    for write in _writes(found):
        params = {name: value for name, value in write["params"].items() if name != "digest"}
        what = f"{write['method']} {write['path']} {json.dumps(params, sort_keys=True)}"
        key = _mark_of(write)
        seen[f"create for {key}" if key else what] += 1
    for what, count in seen.items():
        if count > 1:
            yield Violation("doubled", what[:120], f"DOUBLED: carried out {count} times")


def recorded(found: Evidence) -> Iterator[Violation]:
    """Effect records say what the workflow says of what it did to the world."""
    for name, event in found.events.items():
        if event["status"] not in TERMINAL:
            continue
        for task, state in event["tasks"].items():
            record = found.records.get(f"{name}.{task}")
            tier = (state.get("spec") or {}).get("tier", "read")
            status, phase = state.get("status", "waiting"), (record or {}).get("phase", "none")
            if status in DONE and tier != "read" and phase != "done":
                yield Violation("recorded", f"{name}.{task}", f"{status}, and its effect record says {phase}")
            if status == "failed" and phase == "done" and record and record.get("attempt", 1) <= state["attempt"]:
                yield Violation("recorded", f"{name}.{task}", "failed, and its effect record says that it was done")


def audited(found: Evidence) -> Iterator[Violation]:
    """No write was carried out without an audit line before it."""
    if found.requests and found.requests[0]["n"] != 1:
        yield Violation("audited", "log", "the simulator's log lost its beginning: nothing can be checked")
    before: dict[str, list[tuple[float, Json]]] = defaultdict(list)
    for chain in found.audit.values():
        for line in chain:
            if line.data["phase"] == "before":
                before[line.data["tool"]].append((line.time, line.data))
    for request in found.requests:
        if request["method"] == "GET" or not request["performed"]:
            continue
        if not any(
            _shows(line, request) for tool in _tools_of(request) for at, line in before[tool] if at <= request["t"]
        ):
            yield Violation(
                "audited", f"{request['method']} {request['path']}", f"no audit line before request {request['n']}"
            )


def _tools_of(request: Json) -> set[str]:
    at = _GUEST.search(request["path"])
    if request["path"].endswith("/clone") or at is None:
        return MAKERS
    return TOOLS.get(at[2] or "", set())


def _shows(line: Json, request: Json) -> bool:
    """Return whether an audit line is of what the request did."""
    key = _mark_of(request)
    if key:
        return bool(line["key"] == key)
    at = _GUEST.search(request["path"])
    return at is not None and line.get("arguments", {}).get("vmid") == int(at[1])


# -- records ----------------------------------------------------------------------------------------------------------


def chained(found: Evidence) -> Iterator[Violation]:
    """Each agent's audit chain is whole: numbers, hashes, and each line names the one before it."""
    for agent, chain in found.audit.items():
        previous = ""
        for number, line in enumerate(chain, 1):
            answer = dict(line.data)
            claimed = answer.pop("hash", "")
            answer.pop("signature", None)  # over the hash
            text = json.dumps(answer, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            wrong = [
                "its hash does not fit" if hashlib.sha256(text.encode()).hexdigest() != claimed else "",
                f"its number is {answer['seq']}" if answer["seq"] != number else "",
                "it does not continue the line before" if answer["previous"] != previous else "",
                f"it is of {answer['agent_id']}" if answer["agent_id"] != agent else "",
            ]
            for item in filter(None, wrong):
                yield Violation("chained", f"{agent} line {number}", item)
            previous = claimed


def quiet(found: Evidence) -> Iterator[Violation]:
    """Nothing is left to be done."""
    for item in found.pending:
        yield Violation("quiet", "NATS", item)


def lost(violations: list[Violation]) -> int:
    """Return how many workflows were lost: not over, not answered, or without what they made."""
    return len({violation.id.partition(".")[0] for violation in violations if violation.text.startswith("LOST")})


def twice(violations: list[Violation]) -> int:
    """Return how many things were done twice."""
    return len([violation for violation in violations if violation.text.startswith("DOUBLED")])


def report(violations: list[Violation]) -> str:
    """Return the violations as lines."""
    return "\n".join(map(str, violations)) or "every invariant holds"


async def check(nats: list[str], control: str, wanted: list[dict[str, Any]]) -> list[Violation]:
    """Read everything and judge it."""
    client = await evidence.connect(nats)
    try:
        return judge(await evidence.read(client, control, wanted))
    finally:
        await client.close()


def main() -> int:
    """Judge what is there now; return 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nats", required=True, help="addresses of nats-server, by commas")
    parser.add_argument("--pve", required=True, help="control port of the simulator")
    parser.add_argument("--ids", required=True, type=Path, help="JSON list of the requests")
    given = parser.parse_args()
    violations = asyncio.run(check(given.nats.split(","), given.pve, json.loads(given.ids.read_text())))
    sys.stdout.write(report(violations) + "\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
