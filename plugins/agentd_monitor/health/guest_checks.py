"""Checks of guests: load, memory, disks, locks, start, snapshots, replication.  Pure.

The memory of a VM is only checked if an override switches it on: Proxmox counts the page cache of most VMs as used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentd import Finding, Level
from agentd_monitor.alerting.state import Rule
from agentd_monitor.cluster.family import number, text
from agentd_monitor.cluster.node_families import snapshot_times
from agentd_monitor.cluster.readings import objects
from agentd_monitor.health.finding import Moment, ReadingCheck, graded, unknown
from agentd_monitor.health.node_checks import DAY, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKUP: Final = "backup"
WANTED: Final = ("started", "request_start", "request_start_balance")
"""HA states of a guest that should be running."""


def guests(moment: Moment) -> list[dict[str, Any]]:
    """Return the guests; templates are not guests that run."""
    return [
        entry
        for entry in moment.snapshot.entries("resources")
        if entry.get("type") in ("qemu", "lxc") and entry.get("id") and not entry.get("template")
    ]


def labels_of(guest: dict[str, Any]) -> dict[str, str]:
    """Return the labels of findings about a guest.

    The node is not among them, so that a migration is not a new alert.
    """
    return {"guest": text(guest.get("id"))}


def _name(guest: dict[str, Any]) -> str:
    return f"guest {text(guest.get('vmid'))} ({text(guest.get('name')) or 'no name'})"


def _figure_check(
    check: str, what: str, advice: str, value: Callable[[dict[str, Any]], float | None]
) -> Callable[[Moment], Iterator[Finding]]:
    """Return a check of one percentage of each running guest."""

    def run(moment: Moment) -> Iterator[Finding]:
        if moment.snapshot.get("resources") is None:
            yield unknown(moment, check, "resources")
        for guest in guests(moment):
            limits = moment.thresholds.limits(check, guest)
            figure = value(guest)
            if guest.get("status") != "running" or limits is None or figure is None:
                continue
            sentence = f"{_name(guest)}: {what} {figure:.0f} %"
            yield graded(check, labels_of(guest), figure, limits, sentence, advice=advice)

    return run


def _cpu(guest: dict[str, Any]) -> float | None:
    return percent(guest.get("cpu"), 1)


def _memory(guest: dict[str, Any]) -> float | None:
    return percent(guest.get("mem"), guest.get("maxmem"))


def _disk(guest: dict[str, Any]) -> float | None:
    """Return how full the root disk of a container is.

    Proxmox does not know it of a VM.
    """
    return percent(guest.get("disk"), guest.get("maxdisk")) if guest.get("type") == "lxc" else None


def memory(moment: Moment) -> Iterator[Finding]:
    """Check the memory of containers, and of VMs whose override switches it on."""
    overrides = moment.thresholds
    vms = {text(guest.get("id")) for guest in guests(moment) if guest.get("type") == "qemu"}
    switched_on = {
        text(guest.get("id")) for guest in guests(moment) if overrides.enabled("guest_memory", guest, default=False)
    }
    run = _figure_check("guest_memory", "memory", "Give it more memory, or find what uses it.", _memory)
    for finding in run(moment):
        if finding.labels.get("guest") not in vms - switched_on:
            yield finding


def _lock_check(check: str, *, backup: bool) -> Callable[[Moment], Iterator[Finding]]:
    """Return a check of the lock of each guest.

    How long a lock may be held is the time of the rule.
    """

    def run(moment: Moment) -> Iterator[Finding]:
        if moment.snapshot.get("resources") is None:
            yield unknown(moment, check, "resources")
        for guest in guests(moment):
            lock = text(guest.get("lock"))
            if not moment.thresholds.enabled(check, guest):
                continue
            if lock and (lock == BACKUP) is backup:
                sentence = f"{_name(guest)} is locked ({lock})"
                advice = (
                    f"If no task works on it, remove the lock: `qm unlock {text(guest.get('vmid'))}` or `pct unlock`."
                )
                yield Finding(check, labels_of(guest), Level.WARNING, sentence, advice)
            else:
                yield Finding(check, labels_of(guest), Level.OK, f"{_name(guest)} is not locked")

    return run


def stopped(moment: Moment) -> Iterator[Finding]:
    """Check that guests run which HA or their node should have started."""
    if moment.snapshot.get("resources") is None:
        yield unknown(moment, "guest_stopped", "resources")
    for guest in guests(moment):
        config = moment.snapshot.get("guest_config", text(guest.get("id")))
        onboot = isinstance(config, dict) and bool(number(config.get("onboot")))
        wanted = guest.get("hastate") in WANTED or (onboot and not guest.get("hastate"))
        if not wanted or not moment.thresholds.enabled("guest_stopped", guest):
            continue
        status = text(guest.get("status"))
        if status == "running":
            yield Finding("guest_stopped", labels_of(guest), Level.OK, f"{_name(guest)} is running")
        elif status == "stopped":
            sentence = f"{_name(guest)} is stopped, although {'HA' if guest.get('hastate') else 'its node'} starts it"
            advice = "Start it, or switch off `onboot` if it is meant to be stopped."
            yield Finding("guest_stopped", labels_of(guest), Level.WARNING, sentence, advice)
        else:
            yield Finding("guest_stopped", labels_of(guest), Level.UNKNOWN, f"{_name(guest)}: its status is {status}")


def snapshots(moment: Moment) -> Iterator[Finding]:
    """Check the age and the number of snapshots.

    Guests whose snapshots were not read yet have no finding.
    """
    for guest in guests(moment):
        response = moment.snapshot.get("snapshots", text(guest.get("id")))
        if response is None:
            continue
        times = snapshot_times(response)
        age = (moment.at - min(times)) / DAY if times else 0.0
        advice = "Delete snapshots that are not needed: they occupy space and slow the disk down."
        if (limits := moment.thresholds.limits("snapshot_age", guest)) is not None:
            sentence = f"{_name(guest)}: " + (f"its oldest snapshot is {age:.0f} days old" if times else "no snapshot")
            yield graded("snapshot_age", labels_of(guest), age, limits, sentence, advice=advice)
        if (limits := moment.thresholds.limits("snapshot_count", guest)) is not None:
            sentence = f"{_name(guest)}: {len(times)} snapshots"
            yield graded("snapshot_count", labels_of(guest), len(times), limits, sentence, advice=advice)


def replication(moment: Moment) -> Iterator[Finding]:
    """Check that replication jobs succeed, and how long ago they did."""
    for node, response in moment.snapshot.each("replication"):
        for job in objects(response):
            if job.get("source", node) != node or job.get("disable"):
                continue
            name, fails = text(job.get("id")), number(job.get("fail_count")) or 0.0
            labels = {"job": name, "node": node}
            level = Level.WARNING if fails else Level.OK
            sentence = f"replication {name} from {node}: " + (
                f"{fails:.0f} failed runs" if fails else "its runs succeed"
            )
            advice = f"`pvesr status` on {node} shows the error{': ' + text(job['error']) if job.get('error') else ''}."
            yield Finding("replication_failed", labels, level, sentence, advice if fails else "", fails)
            limits = moment.thresholds.limits("replication_age", {"node": node, "vmid": job.get("guest")})
            last = number(job.get("last_sync"))
            if limits is not None and last:
                age = (moment.at - last) / 60
                sentence = f"replication {name} from {node}: the last successful run was {age:.0f} minutes ago"
                yield graded("replication_age", labels, age, limits, sentence, advice=advice)


def _guest_check(name: str, about: str, run: Callable[[Moment], Iterator[Finding]], minutes: float) -> ReadingCheck:
    rule = Rule(name, pending_for=60 * minutes, keep_firing_for=120, readings=3)
    return ReadingCheck(name, about, "performance", "resources", rule, run)


CHECKS: Final = (
    _guest_check("guest_cpu", "CPU of guests", _figure_check("guest_cpu", "CPU", "Find what uses it.", _cpu), 15),
    _guest_check("guest_memory", "memory of containers; of VMs with an override", memory, 10),
    _guest_check(
        "guest_disk", "root disks of containers", _figure_check("guest_disk", "disk", "Enlarge it.", _disk), 5
    ),
    ReadingCheck(
        "guest_lock",
        "no guest stays locked",
        "lock",
        "resources",
        Rule("guest_lock", pending_for=900),
        _lock_check("guest_lock", backup=False),
    ),
    ReadingCheck(
        "backup_lock_stale",
        "no backup locks a guest for more than six hours",
        "backup",
        "resources",
        Rule("backup_lock_stale", pending_for=6 * 3600),
        _lock_check("backup_lock_stale", backup=True),
    ),
    ReadingCheck(
        "guest_stopped",
        "guests run that HA or their node starts",
        "guest",
        "resources",
        Rule("guest_stopped", pending_for=300, baseline=True),
        stopped,
    ),
    ReadingCheck(
        "snapshot_age", "age of snapshots", "guest", "snapshots", Rule("snapshot_age", stale_after=DAY), snapshots
    ),
    # The findings of the next two come with those of the check before: the same response shows both.
    ReadingCheck("snapshot_count", "number of snapshots", "guest", "snapshots", Rule("snapshot_count"), lambda _: ()),
    ReadingCheck(
        "replication_failed",
        "replication jobs succeed",
        "replication",
        "replication",
        Rule("replication_failed", stale_after=3600),
        replication,
    ),
    ReadingCheck(
        "replication_age",
        "replication jobs succeeded recently",
        "replication",
        "replication",
        Rule("replication_age", stale_after=3600),
        lambda _: (),
    ),
)
