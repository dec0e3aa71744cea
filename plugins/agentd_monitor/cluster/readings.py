"""The sources in the Proxmox API, and the cached readings.

Pure: times are parameters, in seconds of a monotonic clock.

Decisions:

* The readings come through the API client of the monitor's own daemon, not through tools of `mcp-proxmox`: the response
  of /cluster/resources for 10,000 guests exceeds the payload limit of NATS, a reading must still be possible while no
  agent serves the tools, and a tool call every 20 s would fill the audit and the effect records with reads.
* A reading that is older than PATIENCE intervals is not used: its metrics disappear and its checks are unknown.  An
  old value is never shown as present.
* Clock steps have no effect: the ages are measured with a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Scope = Literal["cluster", "node", "guest"]

PATIENCE: Final = 3.0
"""Number of intervals after which a reading is too old to be used."""
SLACK: Final = 60.0
"""Seconds that are added to them: a slow response of one minute does not make a reading unknown."""

MINUTES: Final = 60.0
HOURS: Final = 3600.0


class Source(NamedTuple):
    """A method of the Proxmox API that is read periodically.

    every     seconds between two reads
    scope     read once for the cluster, for each node, or for each guest
    params    parameters of the request
    rights    privileges that the token needs, for the text of a problem
    """

    name: str
    path: str
    every: float
    scope: Scope = "cluster"
    params: tuple[tuple[str, str | int], ...] = ()
    rights: str = "Sys.Audit"


SOURCES: Final = {
    source.name: source
    for source in (
        Source("resources", "/cluster/resources", 20.0, rights="VM.Audit, Datastore.Audit, Sys.Audit"),
        Source("status", "/cluster/status", 30.0),
        Source("ha", "/cluster/ha/status/current", 60.0),
        Source("ceph", "/cluster/ceph/status", 2 * MINUTES),
        Source("not_backed_up", "/cluster/backup-info/not-backed-up", 10 * MINUTES),
        Source("qdevice", "/cluster/config/qdevice", 10 * MINUTES),
        Source("version", "/version", HOURS, rights=""),
        Source("node_status", "/nodes/{node}/status", MINUTES, "node"),
        Source("services", "/nodes/{node}/services", 5 * MINUTES, "node"),
        Source("time", "/nodes/{node}/time", 10 * MINUTES, "node"),
        Source("replication", "/nodes/{node}/replication", 10 * MINUTES, "node", rights="VM.Audit"),
        Source("zfs", "/nodes/{node}/disks/zfs", 10 * MINUTES, "node"),
        Source("lvmthin", "/nodes/{node}/disks/lvmthin", 10 * MINUTES, "node"),
        Source("failed_tasks", "/nodes/{node}/tasks", 10 * MINUTES, "node", (("errors", 1), ("limit", 100))),
        Source("subscription", "/nodes/{node}/subscription", 6 * HOURS, "node", rights=""),
        Source("certificates", "/nodes/{node}/certificates/info", 6 * HOURS, "node", rights=""),
        Source("disks", "/nodes/{node}/disks/list", 6 * HOURS, "node"),
        Source("apt_versions", "/nodes/{node}/apt/versions", 6 * HOURS, "node"),
        Source("guest_config", "/nodes/{node}/{guest}/config", 6 * HOURS, "guest", rights="VM.Audit"),
        Source("snapshots", "/nodes/{node}/{guest}/snapshot", 6 * HOURS, "guest", rights="VM.Audit"),
    )
}
"""Every source by name; the order is the order of reading when several are due and have the same interval."""


class Request(NamedTuple):
    """One read of a source.

    node   the node that is asked; "" for a source of the cluster
    guest  `qemu/101` or `lxc/102`; "" for other sources
    """

    source: str
    node: str = ""
    guest: str = ""

    @property
    def key(self) -> str:
        """Return what the reading is about, below its source: the guest, the node, or ""."""
        return self.guest or self.node

    @property
    def path(self) -> str:
        """Return the path of the API method."""
        return SOURCES[self.source].path.format(node=self.node, guest=self.guest)

    @property
    def every(self) -> float:
        """Return the seconds between two reads."""
        return SOURCES[self.source].every


@dataclass(frozen=True)
class Reading:
    """The last response of a source, and the result of the last attempt.

    at       time of the response; None if there was none yet
    tried    time of the last attempt
    problem  why the last attempt failed; "" if it succeeded
    """

    data: Any = None
    at: float | None = None
    tried: float = 0.0
    problem: str = ""

    def usable(self, now: float, every: float) -> bool:
        """Return whether the response is recent enough to be used at `now`."""
        return self.at is not None and now - self.at <= PATIENCE * every + SLACK


@dataclass(frozen=True)
class Snapshot:
    """All usable readings at one moment.

    data      responses by source and key
    problems  why a source cannot be read, by source and key; such a source may still have data that is not too old
    ages      seconds since the response, by source and key
    """

    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def get(self, source: str, key: str = "") -> Any:  # noqa: ANN401 - any JSON from Proxmox
        """Return a response; None if there is none that can be used."""
        return self.data.get(source, {}).get(key)

    def entries(self, source: str, key: str = "") -> list[dict[str, Any]]:
        """Return a response that is a list of objects.

        Entries of another type are ignored.
        """
        return objects(self.get(source, key))

    def each(self, source: str) -> Iterator[tuple[str, Any]]:
        """Return the key and the response of each reading of a source."""
        return iter(sorted(self.data.get(source, {}).items()))

    def why_not(self, source: str, key: str = "") -> str:
        """Return why a source cannot be read."""
        return self.problems.get(source, {}).get(key) or "it was not read yet"


class Readings:
    """The cache: the last reading of each request."""

    def __init__(self) -> None:
        self._readings: dict[Request, Reading] = {}

    def get(self, request: Request) -> Reading:
        """Return the last reading of a request; without one, an empty reading."""
        return self._readings.get(request) or Reading()

    def succeeded(self, request: Request, data: Any, at: float) -> None:  # noqa: ANN401 - any JSON from Proxmox
        """Store a response."""
        self._readings[request] = Reading(data, at, at)

    def failed(self, request: Request, problem: str, at: float) -> None:
        """Store why an attempt failed; the last response is kept until it is too old."""
        before = self.get(request)
        self._readings[request] = Reading(before.data, before.at, at, problem or "the request failed")

    def keep(self, requests: set[Request]) -> None:
        """Remove readings of nodes and guests that no longer exist."""
        self._readings = {request: reading for request, reading in self._readings.items() if request in requests}

    def snapshot(self, now: float) -> Snapshot:
        """Return the readings that can be used at `now`.

        A thread may call it while the event loop stores responses.
        """
        data: dict[str, dict[str, Any]] = {}
        problems: dict[str, dict[str, str]] = {}
        ages: dict[str, dict[str, float]] = {}
        for request, reading in self._readings.copy().items():
            if reading.at is not None:
                ages.setdefault(request.source, {})[request.key] = now - reading.at
            if reading.usable(now, request.every):
                data.setdefault(request.source, {})[request.key] = reading.data
            if reading.problem:
                problems.setdefault(request.source, {})[request.key] = reading.problem
        return Snapshot(data, problems, ages)


def objects(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - any JSON from Proxmox
    """Return the objects of a list; [] for anything else.

    Their values may be of any type: they are compared with tuples, because a list is never in a set but an error.
    """
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
