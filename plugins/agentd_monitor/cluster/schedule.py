"""Which requests to the Proxmox API are due.  Pure: times are parameters, in seconds of a monotonic clock.

The rules:
- At most LIMIT requests a minute to one node.  A source of the cluster counts for the node that agentd is connected to.
- The request with the shortest interval comes first.  The sources of guests come last, in turn: the configurations of
  250 guests need more than their interval if little of the limit is left, and are then read less often.
- At most AT_ONCE requests to one node at the same time: a node that hangs delays only its own sources.
- A node that is offline is not asked; its readings become too old and are then unknown.
- After a failed attempt the next one is due after the interval, and after at least RETRY seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from agentd_monitor.cluster.readings import SOURCES, Readings, Request, Scope, objects

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT: Final = 10
"""Maximum number of requests a minute to one node."""
WINDOW: Final = 60.0
"""The minute, in seconds."""
AT_ONCE: Final = 2
"""Maximum number of requests to one node at the same time."""
RETRY: Final = 60.0
"""Minimum seconds between a failed attempt and the next."""
ESSENTIAL: Final = frozenset({"status", "resources"})
"""They show which nodes and guests exist; after a failed attempt they are tried again after their interval."""


class Schedule:
    """Decides what is read next."""

    def __init__(self, readings: Readings, limit: int = LIMIT) -> None:
        self._readings = readings
        self._limit = limit
        self._started: dict[str, deque[float]] = {}
        self._running: set[Request] = set()
        self._fixed = [Request(name) for name in _names("cluster")]
        self._turns: dict[str, deque[Request]] = {}
        self._connected = ""
        self._offline: set[str] = set()
        self._seen: tuple[Any, Any] = (None, None)

    def due(self, at: float) -> list[Request]:
        """Return the requests to start at `at`, and count them as started."""
        self._follow_cluster()
        busy = Counter(self._target(request) for request in self._running)
        chosen: list[Request] = []
        fixed = sorted((request for request in self._fixed if self._is_due(request, at)), key=self._urgency)
        for request in chain(fixed, self._first_turns(at)):
            target = self._target(request)
            if busy[target] < AT_ONCE and self._within_limit(target, at):
                busy[target] += 1
                self._started[target].append(at)
                self._running.add(request)
                chosen.append(request)
                self._end_turn(request)
        return chosen

    def ended(self, request: Request) -> None:
        """Record that a request has ended, in success or failure."""
        self._running.discard(request)

    # -- decisions ------------------------------------------------------------------------------------------------

    def _is_due(self, request: Request, at: float) -> bool:
        if request in self._running or request.node in self._offline:
            return False
        reading = self._readings.get(request)
        if reading.at is None and not reading.problem:
            return True
        pause = request.every
        if reading.problem and request.source not in ESSENTIAL:
            pause = max(pause, RETRY)
        return at - reading.tried >= pause

    def _urgency(self, request: Request) -> tuple[float, float]:
        """Return the sort key: the shortest interval first, then the oldest attempt."""
        return request.every, self._readings.get(request).tried

    def _first_turns(self, at: float) -> list[Request]:
        """Return the next requests about guests of each node.

        They are kept in the order of their last attempt.
        """
        first = [turns[place] for turns in self._turns.values() for place in range(min(AT_ONCE, len(turns)))]
        return [request for request in first if self._is_due(request, at)]

    def _end_turn(self, request: Request) -> None:
        if request.guest:
            turns = self._turns[request.node]
            turns.remove(request)
            turns.append(request)

    def _within_limit(self, target: str, at: float) -> bool:
        started = self._started.setdefault(target, deque())
        while started and at - started[0] >= WINDOW:
            started.popleft()
        return len(started) < self._limit

    def _target(self, request: Request) -> str:
        return request.node or self._connected

    # -- the cluster, as the last responses show it -----------------------------------------------------------------

    def _follow_cluster(self) -> None:
        """Adopt new and removed nodes and guests, if there was a new response."""
        responses = self._readings.get(Request("status")).data, self._readings.get(Request("resources")).data
        if all(new is old for new, old in zip(responses, self._seen, strict=True)):
            return
        self._seen = responses
        nodes = [entry for entry in objects(responses[0]) if entry.get("type") == "node" and entry.get("name")]
        names = [str(entry["name"]) for entry in nodes]
        before, self._connected = self._connected, next((str(node["name"]) for node in nodes if node.get("local")), "")
        if not before and "" in self._started:  # these requests went to the node whose name is known now
            self._started[self._connected] = self._started.pop("")
        self._offline = {str(node["name"]) for node in nodes if not node.get("online")}
        self._fixed = [Request(name) for name in _names("cluster")]
        self._fixed += [Request(name, node) for name in _names("node") for node in names]
        wanted = dict.fromkeys(_guest_requests(responses[1]))
        waiting = [request for turns in self._turns.values() for request in turns if request in wanted]
        known, self._turns = set(waiting), {}
        for request in chain(waiting, (request for request in wanted if request not in known)):
            self._turns.setdefault(request.node, deque()).append(request)
        self._readings.keep({*self._fixed, *wanted})


def _names(scope: Scope) -> list[str]:
    return [source.name for source in SOURCES.values() if source.scope == scope]


def _guest_requests(resources: Any) -> Iterator[Request]:  # noqa: ANN401 - any JSON from Proxmox
    for entry in objects(resources):
        if entry.get("type") in ("qemu", "lxc") and entry.get("node") and entry.get("id"):
            for name in _names("guest"):
                yield Request(name, str(entry["node"]), str(entry["id"]))
