"""Checks before a migration: what blocks it, and what to do about it; pure.

Proxmox accepts a migration to an offline node, of a running VM with local disks, or of a VM with a device of its node,
and the task then fails (proxmox.md, Cluster).  So whatever can be known before is checked before.  A finding either
blocks the migration or is a warning; each blocking finding says what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from agentd import one_line
from agentd_proxmox.availability import cpu_check
from agentd_proxmox.availability.migration_model import Facts, Finding, MigrationRequest, blocker, remark
from agentd_proxmox.model import guest_model, units
from agentd_proxmox.model.drives import Drive, drives

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.availability.ha_model import Rule

    Entry = dict[str, Any]

_BRIDGE: Final = re.compile(r"(?:^|,)bridge=([^,]+)")
_DEVICE: Final = re.compile(r"(?:(?:hostpci|usb|parallel|serial|virtiofs)\d+|ivshmem)\Z")
_COPIED_WITH_SNAPSHOTS: Final = frozenset({"zfspool", "btrfs"})
_COPIED: Final = frozenset({"dir", "btrfs", "zfspool", "lvm", "lvmthin"})
"""Storage types whose volumes Proxmox copies to another node; above: those of which it copies snapshots too."""


def findings(facts: Facts, request: MigrationRequest) -> list[Finding]:
    """Return the findings of all checks, blocking ones first."""
    if request.target == facts.at.node:
        return [Finding("place", blocks=False, text=f"{facts.at.title} is there already: nothing to do")]
    away = [*_target(facts, request), *_lock(facts)]
    checks = (
        *(_mode, _managed, _media, _paths, _disks, _linked, _snapshots, _storages, _devices, _mapped, _replicas),
        *(_allowed, _rules, _memory, cpu_check.findings, _bridges),
    )
    rest = [] if away else [finding for check in checks for finding in check(facts, request)]
    return sorted([*away, *rest], key=lambda finding: not finding.blocks)


def way_back(facts: Facts, request: MigrationRequest) -> dict[str, Any]:
    """Return the parameters that move the guest back, its disks to their storages."""
    storages = {request.storage(name): name for name, _ in _local_drives(facts).values()}
    moved = {there: here for there, here in storages.items() if there != here}
    wanted = {"vmid": facts.at.vmid, "target": facts.at.node, "storage_map": moved}
    return wanted | {"restart": request.restart, "with_local_disks": request.with_local_disks}


def _target(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    others = ", ".join(sorted(n for n, e in facts.nodes.items() if e.get("status") == "online" and n != facts.at.node))
    entry = facts.nodes.get(request.target)
    if entry is None:
        yield blocker(
            "target", f"there is no node {request.target!r}", f"target: {others or 'no other node is online'}"
        )
    elif entry.get("status") != "online":
        state = one_line(entry.get("status") or "unknown")
        yield blocker("target", f"{request.target} is {state}", f"online are: {others or 'none'}")


def _lock(facts: Facts) -> Iterator[Finding]:
    if lock := one_line(facts.status.get("lock") or ""):
        yield blocker("lock", f"{facts.at.title} is locked ({lock})", "wait until that has ended; list_tasks names it")


def _mode(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    if not facts.running:
        return
    if facts.at.kind == "qemu" and not request.online:
        yield blocker("mode", f"{facts.at.title} runs", "online=true moves it while it runs; or shutdown_guest first")
    if facts.at.kind == "lxc" and not request.restart:
        advice = "restart=true stops it, moves it and starts it there; or shutdown_guest first"
        yield blocker("mode", f"{facts.at.title} runs, and a container cannot move while it runs", advice)


def _managed(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    if facts.managed and (request.target_storage or request.storage_map):
        text = "the HA manager moves it, and puts disks only on the storages of the same name"
        yield blocker("ha", text, "leave target_storage and storage_map out; or delete_ha_resource first")


def _volumes(facts: Facts) -> dict[str, tuple[str, float]]:
    """Return the guest's drives that are on a storage: drive -> (storage, GiB)."""
    found = [drive for drive in drives(facts.config) if drive.storage]
    return {drive.key: (drive.storage, guest_model.disk_size(str(facts.config[drive.key]))) for drive in found}


def _all_drives(facts: Facts) -> Iterator[tuple[str, Drive]]:
    """Yield every drive, including those of snapshots, with a label for a person."""
    for drive in drives(facts.config):
        yield drive.key, drive
    for name, config in sorted(facts.snapshots.items()):
        for drive in drives(config):
            yield f"{drive.key} of snapshot {one_line(name)}", drive


def _local_drives(facts: Facts) -> dict[str, tuple[str, float]]:
    """Return the drives that other nodes cannot access."""
    shared = {name for (node, name), entry in facts.storages.items() if node == facts.at.node and entry.get("shared")}
    return {key: volume for key, volume in _volumes(facts).items() if volume[0] not in shared}


def _is_medium(facts: Facts, key: str) -> bool:
    return any(drive.is_medium for drive in drives({key: facts.config[key]}))


def _media(facts: Facts, _: MigrationRequest) -> Iterator[Finding]:
    shared = {name for (node, name), entry in facts.storages.items() if node == facts.at.node and entry.get("shared")}
    for where, drive in _all_drives(facts):
        advice = "delete the snapshot" if "snapshot" in where else "take it out first"
        if drive.is_physical:
            yield blocker("disks", f"{where} is the CD-ROM drive of {facts.at.node} itself", advice)
        elif drive.is_medium and drive.storage and drive.storage not in shared:
            yield blocker("disks", f"{where} holds {drive.volume}, which only {facts.at.node} sees", advice)


def _paths(facts: Facts, _: MigrationRequest) -> Iterator[Finding]:
    """Block on devices, files and folders of the node, unless marked as shared."""
    for where, drive in _all_drives(facts):
        if drive.is_local_path and not drive.is_shared:
            kind = "a folder or device" if facts.at.kind == "lxc" else "a device or file"
            what = "the mount point" if facts.at.kind == "lxc" else "the drive"
            advice = "delete the snapshot" if "snapshot" in where else f"take {what} away, or mark it shared=1"
            yield blocker("disks", f"{where} is {kind} of {facts.at.node} ({drive.volume})", advice)


def _disks(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    local = _local_drives(facts)
    disks = [key for key in local if not _is_medium(facts, key)]
    named = ", ".join(f"{key} on {local[key][0]}, {units.gib(local[key][1])}" for key in disks)
    if disks and facts.at.kind == "qemu" and facts.running and not request.with_local_disks:
        advice = "with_local_disks=true copies them while it runs; or move_disk to a shared storage first"
        yield blocker("disks", f"{request.target} does not see {named}", advice)
    elif disks:
        yield remark("disks", f"these disks are copied, which takes its time: {named}")


def _linked(facts: Facts, _: MigrationRequest) -> Iterator[Finding]:
    local = _local_drives(facts)
    for drive in drives(facts.config):
        if drive.key in local and drive.is_linked:
            text = f"{drive.key} is a linked clone on {drive.storage}, which only {facts.at.node} sees"
            yield blocker("disks", text, "move_disk to another storage makes it a disk of its own")
    if facts.at.template and local:
        yield remark("disks", "Proxmox refuses if linked clones were made of this template: its disks are local")


def _types(facts: Facts) -> dict[str, str]:
    """Return the types of the storages of the guest's node, where they are known."""
    known = {name: entry.get("plugintype") for (node, name), entry in facts.storages.items() if node == facts.at.node}
    return {name: str(kind) for name, kind in known.items() if kind}


def _snapshots(facts: Facts, _: MigrationRequest) -> Iterator[Finding]:
    """Block on local disks that Proxmox does not copy.

    It does not copy disks of a running VM with snapshots, disks with snapshots on most types of storage, and any disk
    on some types of storage.
    """
    local, types = _local_drives(facts), _types(facts)
    disks = [key for key in local if not _is_medium(facts, key)]
    if not disks or not (facts.config.get("parent") or facts.snapshots):
        pass
    elif facts.at.kind == "qemu" and facts.running:
        advice = "delete the snapshots, or shutdown_guest first"
        yield blocker("snapshots", f"{facts.at.title} has snapshots, and {', '.join(disks)} would be copied", advice)
    else:
        kept = [e for e in disks if types.get(local[e][0], "zfspool") not in _COPIED_WITH_SNAPSHOTS]
        kept = [e for e in kept if ".qcow2" not in str(facts.config[e])]
        if kept:
            text = f"{facts.at.title} has snapshots, which are not copied with {', '.join(kept)}"
            yield blocker("snapshots", text, "delete the snapshots, or move_disk to a shared storage first")
    for drive in disks:
        if types.get(local[drive][0], "dir") not in _COPIED:
            text = f"{drive} is on {local[drive][0]} ({types[local[drive][0]]}), which Proxmox does not copy"
            yield blocker("disks", text, "move_disk to another storage first")


def _storages(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    local, content = _local_drives(facts), "images" if facts.at.kind == "qemu" else "rootdir"
    needed: dict[str, float] = {}
    for drive, (name, size) in _volumes(facts).items():
        if not _is_medium(facts, drive):
            to = request.storage(name) if drive in local else name
            needed[to] = needed.get(to, 0) + (size if drive in local else 0)
    there = {name: entry for (node, name), entry in facts.storages.items() if node == request.target}
    fit = [n for n, e in there.items() if content in str(e.get("content") or "").split(",")]
    advice = f"target_storage or storage_map: {', '.join(sorted(fit)) or 'no storage of it'}"
    for name, size in sorted(needed.items()):
        entry = there.get(name)
        if entry is None or entry.get("status") != "available":
            state = "does not exist" if entry is None else f"is not online ({one_line(entry.get('status'))})"
            yield blocker("storage", f"storage {name} {state} on {request.target}", advice)
        elif size and name not in fit:
            yield blocker("storage", f"storage {name} of {request.target} does not hold {content}", advice)
        elif size > (free := _free(entry)):
            yield blocker(
                "storage",
                f"{units.gib(size)} do not fit: storage {name} of {request.target} has {units.gib(free)}",
                advice,
            )


def _free(entry: Entry) -> float:
    return round(max(0, int(entry.get("maxdisk") or 0) - int(entry.get("disk") or 0)) / 2**30, 1)


def _devices(facts: Facts, _: MigrationRequest) -> Iterator[Finding]:
    """Block on devices of the node, by the configuration and by Proxmox' own answer."""
    if facts.at.kind != "qemu":
        return
    found = {key for key, value in facts.config.items() if _DEVICE.match(key) and _is_local(key, str(value))}
    found |= {one_line(name) for name in (facts.conditions or {}).get("local_resources") or []}
    if found:
        named = ", ".join(sorted(found))
        yield blocker("devices", f"{facts.at.title} uses devices of {facts.at.node}: {named}", "take them away first")


def _is_local(key: str, value: str) -> bool:
    if key.startswith("serial"):
        return value != "socket"
    first = value.partition(",")[0].removeprefix("host=")
    return "mapping=" not in value and not (key.startswith("usb") and first == "spice")


def _mapped(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    """Block on mapped devices that cannot move with a running guest.

    Otherwise warn that the target needs the mapped devices.
    """
    if facts.at.kind != "qemu":
        return
    conditions = {key.replace("_", "-"): value for key, value in (facts.conditions or {}).items()}
    known = conditions.get("mapped-resource-info") or {}
    mapped = {key for key, value in facts.config.items() if _DEVICE.match(key) and "mapping=" in str(value)}
    mapped |= {one_line(name) for name in conditions.get("mapped-resources") or []} | {one_line(name) for name in known}
    if facts.running and request.online:
        fixed = sorted(key for key in mapped if not (known.get(key) or {}).get("live-migration-capable"))
        if fixed:
            text = f"{facts.at.title} runs with mapped devices that cannot move with it: {', '.join(fixed)}"
            yield blocker("devices", text, "shutdown_guest first")
    elif mapped:
        yield remark("devices", f"{request.target} has to have the mapped devices {', '.join(sorted(mapped))}")


def _replicas(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    if facts.replicas is None:
        yield remark("replication", "the replication jobs were not read: the token lacks VM.Audit or Sys.Audit")
    elif facts.replicas and request.target not in facts.replicas:
        nodes = ", ".join(sorted(facts.replicas))
        text = f"{facts.at.title} is replicated to {nodes}, not to {request.target}"
        if facts.running and facts.at.kind == "qemu":
            yield blocker(
                "replication", text, f"target: {nodes}; or shutdown_guest first, or delete the replication job"
            )
        else:
            yield remark("replication", text)


def _allowed(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    """Report what Proxmox itself answers about the target.

    Its list of allowed nodes is only present for stopped guests.
    """
    if facts.conditions is None:
        yield remark("allowed", "the target was not checked by Proxmox: the token lacks VM.Migrate on the guest")
        return
    conditions = {key.replace("-", "_"): value for key, value in facts.conditions.items()}
    reasons = (conditions.get("not_allowed_nodes") or {}).get(request.target) or {}
    allowed = conditions.get("allowed_nodes")
    if request.target in (allowed or []) or (allowed is None and not reasons):
        pass
    elif not (set(reasons) == {"unavailable_storages"} and (request.target_storage or request.storage_map)):
        why = "; ".join(f"{one_line(key)}: {_reason(value)}" for key, value in sorted(reasons.items()))
        advice = f"target: {', '.join(sorted(allowed))}" if allowed else "choose another target"
        yield blocker(
            "allowed", f"Proxmox does not allow it to move to {request.target}" + (f": {why}" if why else ""), advice
        )
    if along := conditions.get("dependent_ha_resources"):
        yield remark("allowed", f"HA moves these with it: {', '.join(map(one_line, along))}")


def _reason(value: object) -> str:
    parts = value if isinstance(value, list) else [value]
    return ", ".join(one_line(e.get("sid") if isinstance(e, dict) else e) for e in parts)


def _rules(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    if not facts.managed:
        return
    if facts.rules is None:
        yield remark("rules", "the HA rules were not read: the token lacks Sys.Audit on /")
    for rule in facts.rules or []:
        if facts.sid in rule.resources and rule.enabled:
            yield from (
                _node_rule(rule, request) if rule.type == "node-affinity" else _resource_rule(rule, facts, request)
            )


def _node_rule(rule: Rule, request: MigrationRequest) -> Iterator[Finding]:
    nodes = sorted(rule.nodes)
    if request.target in nodes:
        return
    if rule.strict:
        advice = f"target: {', '.join(nodes)}; or change the rule"
        yield blocker("rules", f"the HA rule {rule.name} keeps it on {', '.join(nodes)}", advice)
    else:
        yield remark("rules", f"the HA rule {rule.name} prefers {', '.join(nodes)}: the HA manager may move it back")


def _resource_rule(rule: Rule, facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    others = set(rule.resources) - {facts.sid}
    if rule.affinity == "negative":
        there = sorted(sid for sid in others if facts.managed.get(sid) == request.target)
        if there:
            text = f"the HA rule {rule.name} keeps it apart from {', '.join(there)}, which is on {request.target}"
            yield blocker("rules", text, "choose another target, or change the rule")
    elif others:
        yield remark(
            "rules", f"the HA rule {rule.name} keeps it together with {', '.join(sorted(others))}: they move with it"
        )


def _memory(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    node = facts.nodes[request.target]
    if not node.get("maxmem") or node.get("mem") is None:
        yield remark("memory", f"the memory of {request.target} was not read: the token lacks Sys.Audit on it")
        return
    free = (int(node["maxmem"]) - int(node["mem"])) // 2**20
    needed = guest_model.memory(facts.config)
    if needed <= free:
        return
    text = f"it has {needed} MiB of memory, and {request.target} has {max(0, free)} MiB free"
    if facts.running:
        yield blocker("memory", text, "choose another target, or make room there")
    else:
        yield remark("memory", text, "it can move, and may not start there")


def _bridges(facts: Facts, request: MigrationRequest) -> Iterator[Finding]:
    if facts.bridges is None:
        yield remark("bridges", f"the bridges of {request.target} were not read")
        return
    nets = {key: _BRIDGE.search(str(value)) for key, value in facts.config.items() if re.match(r"net\d+\Z", key)}
    for key, found in sorted(nets.items()):
        if found is not None and found[1] not in facts.bridges:
            advice = f"change {key}, or make the bridge there"
            yield blocker("bridges", f"{key} is on {one_line(found[1])}, which {request.target} does not have", advice)
