"""Say what stands in the way of a migration, and what to do about it; pure.

Proxmox accepts a migration to a node that is away, of a running VM with local disks or with a device of its node, and
fails in the task (PROXMOX.md 27): what can be known before is looked at before.  A finding either blocks or is worth
knowing; each that blocks says what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from agentd.answers import one_line
from agentd_proxmox import fields, look

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentd_proxmox.bonds import Rule
    from agentd_proxmox.inventory import Place

    Entry = dict[str, Any]

_VOLUME = re.compile(r"(?:scsi|virtio|sata|ide|efidisk|tpmstate|mp|unused)\d+\Z|rootfs\Z")
_BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")
_DEVICE = re.compile(r"(?:hostpci|usb|parallel)\d+\Z")
_OF_THE_HOST = ("host", "max")
"""CPU types that show a guest the CPU of its node."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which guest, by its VMID or its unique name, where to, and how.

    online             a running VM moves while it runs; false: only if it is stopped
    restart            a running container may be stopped for it, and started at the target
    with_local_disks   disks that the target does not see are copied while the VM runs
    target_storage     where the disks go; without it to the storages of the same name
    storage_map        the same by storage: {"local-lvm": "fast"}
    """

    vmid: fields.Vmid | None = None
    name: str = ""
    target: fields.Node
    online: bool = True
    restart: bool = False
    with_local_disks: bool = False
    target_storage: fields.Storage | None = None
    storage_map: dict[fields.Storage, fields.Storage] = {}

    def storage(self, name: str) -> str:
        """Return where the disks of the storage `name` go."""
        return self.storage_map.get(name, self.target_storage or name)


class Finding(msgspec.Struct, frozen=True):
    """One thing that stands in the way (`blocks`) or that somebody should know, and what to do."""

    check: str
    blocks: bool
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return it for a person."""
        return self.text + (f" ({self.advice})" if self.advice else "")


@dataclass(frozen=True)
class Facts:
    """What was read; None is what could not be.

    conditions   answer of GET …/migrate
    nodes        entries of /cluster/resources, by node
    storages     entries of /cluster/resources, by node and storage
    bridges      of the target
    cpus         models of the CPUs of source and target
    rules        HA rules, or groups as rules
    managed      where the guests are that HA manages, by service id; empty if it does not manage this one
    """

    at: Place
    config: Entry
    status: Entry
    nodes: dict[str, Entry]
    storages: dict[tuple[str, str], Entry]
    conditions: Entry | None = None
    bridges: frozenset[str] | None = None
    cpus: tuple[str, str] | None = None
    rules: list[Rule] | None = None
    managed: dict[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status.get("status") == "running"

    @property
    def sid(self) -> str:
        """The guest's name in HA."""
        return service(self.at)


def service(at: Place) -> str:
    """Return the name by which HA knows a guest."""
    return f"{'vm' if at.kind == 'qemu' else 'ct'}:{at.vmid}"


def findings(facts: Facts, wish: Wish) -> list[Finding]:
    """Return all that is known for or against a migration; what blocks comes first."""
    if wish.target == facts.at.node:
        return [Finding("place", blocks=False, text=f"{facts.at.title} is there already: nothing is to be done")]
    away = [*_target(facts, wish), *_lock(facts)]
    checks = (_mode, _managed, _disks, _snapshots, _storages, _devices, _allowed, _rules, _memory, _cpu, _bridges)
    rest = [] if away else [each for check in checks for each in check(facts, wish)]
    return sorted([*away, *rest], key=lambda each: not each.blocks)


def back(facts: Facts, wish: Wish) -> dict[str, Any]:
    """Return the parameters that bring the guest back to where it is, its disks to their storages."""
    storages = {wish.storage(name): name for name, _ in _local(facts).values()}
    moved = {there: here for there, here in storages.items() if there != here}
    wanted = {"vmid": facts.at.vmid, "target": facts.at.node, "storage_map": moved}
    return wanted | {"restart": wish.restart, "with_local_disks": wish.with_local_disks}


def needs_cpus(facts: Facts, wish: Wish) -> bool:
    """Tell whether the CPUs of both nodes matter: the guest sees the one that it was started on."""
    kind = str(facts.config.get("cpu") or "").partition(",")[0].removeprefix("cputype=")
    return facts.at.kind == "qemu" and facts.running and wish.online and kind in _OF_THE_HOST


def _block(check: str, text: str, advice: str) -> Finding:
    return Finding(check, blocks=True, text=text, advice=advice)


def _note(check: str, text: str, advice: str = "") -> Finding:
    return Finding(check, blocks=False, text=text, advice=advice)


def _target(facts: Facts, wish: Wish) -> Iterator[Finding]:
    others = ", ".join(sorted(n for n, e in facts.nodes.items() if e.get("status") == "online" and n != facts.at.node))
    entry = facts.nodes.get(wish.target)
    if entry is None:
        yield _block("target", f"there is no node {wish.target!r}", f"target: {others or 'no other node is online'}")
    elif entry.get("status") != "online":
        state = one_line(entry.get("status") or "unknown")
        yield _block("target", f"{wish.target} is {state}", f"online are: {others or 'none'}")


def _lock(facts: Facts) -> Iterator[Finding]:
    if lock := one_line(facts.status.get("lock") or ""):
        yield _block("lock", f"{facts.at.title} is locked ({lock})", "wait until that is over; list_tasks names it")


def _mode(facts: Facts, wish: Wish) -> Iterator[Finding]:
    if not facts.running:
        return
    if facts.at.kind == "qemu" and not wish.online:
        yield _block("mode", f"{facts.at.title} runs", "online=true moves it while it runs; or shutdown_vm first")
    if facts.at.kind == "lxc" and not wish.restart:
        advice = "restart=true stops it, moves it and starts it there; or shutdown_vm first"
        yield _block("mode", f"{facts.at.title} runs, and a container cannot move while it runs", advice)


def _managed(facts: Facts, wish: Wish) -> Iterator[Finding]:
    if facts.managed and (wish.target_storage or wish.storage_map):
        text = "the HA manager moves it, and puts disks on the storages of the same name alone"
        yield _block("ha", text, "leave target_storage and storage_map out; or remove_ha_resource first")


def _volumes(facts: Facts) -> dict[str, tuple[str, float]]:
    """Return the guest's drives that lie on a storage: drive -> (storage, GiB)."""
    drives = {key: str(value) for key, value in facts.config.items() if _VOLUME.match(key)}
    parts = {key: value.partition(",")[0].partition(":") for key, value in sorted(drives.items())}
    return {key: (storage, look.disk_size(drives[key])) for key, (storage, colon, _) in parts.items() if colon}


def _local(facts: Facts) -> dict[str, tuple[str, float]]:
    """Return the drives that other nodes do not see."""
    shared = {name for (node, name), each in facts.storages.items() if node == facts.at.node and each.get("shared")}
    return {key: each for key, each in _volumes(facts).items() if each[0] not in shared}


def _is_medium(facts: Facts, drive: str) -> bool:
    value = str(facts.config[drive])
    return "media=cdrom" in value and "cloudinit" not in value


def _disks(facts: Facts, wish: Wish) -> Iterator[Finding]:
    local = _local(facts)
    for drive in (each for each in local if _is_medium(facts, each)):
        medium = str(facts.config[drive]).partition(",")[0]
        yield _block("disks", f"{drive} holds {one_line(medium)}, which only {facts.at.node} sees", "take it out first")
    disks = [each for each in local if not _is_medium(facts, each)]
    named = ", ".join(f"{each} on {local[each][0]}, {local[each][1]:g} GiB" for each in disks)
    if disks and facts.at.kind == "qemu" and facts.running and not wish.with_local_disks:
        advice = "with_local_disks=true copies them while it runs; or move_disk to a shared storage first"
        yield _block("disks", f"{wish.target} does not see {named}", advice)
    elif disks:
        yield _note("disks", f"these disks are copied, which takes its time: {named}")
    for key, value in facts.config.items():
        if re.match(r"mp\d+\Z", key) and str(value).startswith("/") and "shared=1" not in str(value):
            yield _block(
                "disks", f"{key} is a folder of {facts.at.node}", "take the mount point away, or mark it shared=1"
            )


def _snapshots(facts: Facts, _: Wish) -> Iterator[Finding]:
    """Proxmox copies no disk of a running VM that has snapshots."""
    disks = [each for each in _local(facts) if not _is_medium(facts, each)]
    if facts.at.kind == "qemu" and facts.running and disks and facts.config.get("parent"):
        advice = "delete the snapshots, or shutdown_vm first"
        yield _block("snapshots", f"{facts.at.title} has snapshots, and {', '.join(disks)} would be copied", advice)


def _storages(facts: Facts, wish: Wish) -> Iterator[Finding]:
    local, content = _local(facts), "images" if facts.at.kind == "qemu" else "rootdir"
    needed: dict[str, float] = {}
    for drive, (name, size) in _volumes(facts).items():
        if not _is_medium(facts, drive):
            to = wish.storage(name) if drive in local else name
            needed[to] = needed.get(to, 0) + (size if drive in local else 0)
    there = {name: entry for (node, name), entry in facts.storages.items() if node == wish.target}
    fit = [n for n, e in there.items() if content in str(e.get("content") or "").split(",")]
    advice = f"target_storage or storage_map: {', '.join(sorted(fit)) or 'no storage of it'}"
    for name, size in sorted(needed.items()):
        entry = there.get(name)
        if entry is None or entry.get("status") != "available":
            state = "does not exist" if entry is None else f"is not online ({one_line(entry.get('status'))})"
            yield _block("storage", f"storage {name} {state} on {wish.target}", advice)
        elif size and name not in fit:
            yield _block("storage", f"storage {name} of {wish.target} does not hold {content}", advice)
        elif size > (free := _free(entry)):
            yield _block("storage", f"{size:g} GiB do not fit: storage {name} of {wish.target} has {free:g}", advice)


def _free(entry: Entry) -> float:
    return round(max(0, int(entry.get("maxdisk") or 0) - int(entry.get("disk") or 0)) / 2**30, 1)


def _devices(facts: Facts, _: Wish) -> Iterator[Finding]:
    if facts.conditions is None:
        found = [k for k, v in facts.config.items() if _DEVICE.match(k) and not re.search("mapping=|spice", str(v))]
    else:
        found = [one_line(each) for each in facts.conditions.get("local_resources") or []]
    if found and facts.at.kind == "qemu":
        named = ", ".join(sorted(found))
        yield _block("devices", f"{facts.at.title} uses devices of {facts.at.node}: {named}", "take them away first")


def _allowed(facts: Facts, wish: Wish) -> Iterator[Finding]:
    """Hand on what Proxmox itself says of the target; a list of allowed nodes comes for stopped guests only."""
    if facts.conditions is None:
        yield _note("allowed", "what Proxmox says of the target was not asked: the token lacks VM.Migrate on the guest")
        return
    said = {key.replace("-", "_"): value for key, value in facts.conditions.items()}
    reasons = (said.get("not_allowed_nodes") or {}).get(wish.target) or {}
    allowed = said.get("allowed_nodes")
    if wish.target in (allowed or []) or (allowed is None and not reasons):
        pass
    elif not (set(reasons) == {"unavailable_storages"} and (wish.target_storage or wish.storage_map)):
        why = "; ".join(f"{one_line(key)}: {_reason(value)}" for key, value in sorted(reasons.items()))
        advice = f"target: {', '.join(sorted(allowed))}" if allowed else "choose another target"
        yield _block("allowed", f"Proxmox does not let it go to {wish.target}" + (f": {why}" if why else ""), advice)
    if along := said.get("dependent_ha_resources"):
        yield _note("allowed", f"HA moves these with it: {', '.join(map(one_line, along))}")


def _reason(value: object) -> str:
    parts = value if isinstance(value, list) else [value]
    return ", ".join(one_line(e.get("sid") if isinstance(e, dict) else e) for e in parts)


def members(text: object) -> set[str]:
    """Return the names in a list of Proxmox: nodes without their priorities, services as they are called."""
    return {one_line(each) for each in re.split(r"[,;\s]+", str(text or "")) if each}


def _rules(facts: Facts, wish: Wish) -> Iterator[Finding]:
    if not facts.managed:
        return
    if facts.rules is None:
        yield _note("rules", "the HA rules were not read: the token lacks Sys.Audit on /")
    for rule in facts.rules or []:
        if facts.sid in rule.resources and rule.enabled:
            yield from _node_rule(rule, wish) if rule.type == "node-affinity" else _resource_rule(rule, facts, wish)


def _node_rule(rule: Rule, wish: Wish) -> Iterator[Finding]:
    nodes = sorted(rule.nodes)
    if wish.target in nodes:
        return
    if rule.strict:
        advice = f"target: {', '.join(nodes)}; or change the rule"
        yield _block("rules", f"the HA rule {rule.name} keeps it on {', '.join(nodes)}", advice)
    else:
        yield _note("rules", f"the HA rule {rule.name} prefers {', '.join(nodes)}: the HA manager may move it back")


def _resource_rule(rule: Rule, facts: Facts, wish: Wish) -> Iterator[Finding]:
    others = set(rule.resources) - {facts.sid}
    if rule.affinity == "negative":
        there = sorted(each for each in others if facts.managed.get(each) == wish.target)
        if there:
            text = f"the HA rule {rule.name} keeps it apart from {', '.join(there)}, which is on {wish.target}"
            yield _block("rules", text, "choose another target, or change the rule")
    elif others:
        yield _note(
            "rules", f"the HA rule {rule.name} keeps it together with {', '.join(sorted(others))}: they move with it"
        )


def _memory(facts: Facts, wish: Wish) -> Iterator[Finding]:
    node = facts.nodes[wish.target]
    if not node.get("maxmem") or node.get("mem") is None:
        yield _note("memory", f"the memory of {wish.target} was not read: the token lacks Sys.Audit on it")
        return
    free = (int(node["maxmem"]) - int(node["mem"])) // 2**20
    needed = look.memory(facts.config)
    if needed <= free:
        return
    text = f"it has {needed} MiB of memory, and {wish.target} has {max(0, free)} MiB free"
    if facts.running:
        yield _block("memory", text, "choose another target, or make room there")
    else:
        yield _note("memory", text, "it can move, and may not start there")


def _cpu(facts: Facts, wish: Wish) -> Iterator[Finding]:
    if not needs_cpus(facts, wish):
        return
    if facts.cpus is None:
        yield _note(
            "cpu", "its CPU type is that of its node, and the CPUs were not compared: the token lacks Sys.Audit"
        )
    elif facts.cpus[0] != facts.cpus[1]:
        text = f"its CPU type is that of its node ({facts.cpus[0]}), and {wish.target} has {facts.cpus[1]}"
        yield _block("cpu", text, "shutdown_vm first, or give it a CPU type that both have, such as x86-64-v2-AES")


def _bridges(facts: Facts, wish: Wish) -> Iterator[Finding]:
    if facts.bridges is None:
        yield _note("bridges", f"the bridges of {wish.target} were not read")
        return
    nets = {key: _BRIDGE.search(str(value)) for key, value in facts.config.items() if re.match(r"net\d+\Z", key)}
    for key, found in sorted(nets.items()):
        if found is not None and found[1] not in facts.bridges:
            advice = f"change {key}, or make the bridge there"
            yield _block("bridges", f"{key} is on {one_line(found[1])}, which {wish.target} does not have", advice)
