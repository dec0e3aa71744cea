"""Decide which VM to create for a request, in the current cluster.

Pure: values in, values out; also the random number is a parameter.

`validate` returns either everything that the later steps need, with a reason for each value that the request left out,
or every problem, one per line: the parameter, what is wrong, and what would be possible.  It decides everything that
could be decided in more than one way, so that the steps that create and configure the VM can be repeated.

The VMID is drawn at random from the free ones: clients that take the lowest free VMID collide with each other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentd import CLOUD_INIT, VmOptions, VmParameters, formats
from agentd_specialist.model import Cluster, GuestView, Rules, TemplateView, ValidatedVm, names_of
from agentd_specialist.placement import Candidate, Placement, Requirements

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = re.compile(rf"{formats.NAME}\Z")
_TAG = re.compile(rf"{formats.TAG}\Z")


def find_template(request: VmParameters, cluster: Cluster) -> GuestView | str | None:
    """Return the template that the request names, or None if it names none.

    Return the problem as a text if there is not exactly one such template.
    """
    wanted = request.template
    if wanted is None:
        return None
    if isinstance(wanted, str) and wanted.isascii() and wanted.isdigit():
        wanted = int(wanted)
    found = [template for template in cluster.templates if wanted in (template.vmid, template.name)]
    if len(found) == 1:
        return found[0]
    if found:
        return (
            f"template: {wanted!r} is the name of {names_of(str(template.vmid) for template in found)}; "
            "name it by its VMID"
        )
    there_are = names_of(f"{template.vmid} {template.name!r}" for template in cluster.templates)
    guest = next((guest for guest in cluster.guests if wanted in (guest.vmid, guest.name)), None)
    if guest is not None:
        return f"template: {guest.vmid} {guest.name!r} on {guest.node} is a guest, no template; templates: {there_are}"
    return f"template: there is no template {wanted!r}; there are {there_are}"


def candidate_nodes(request: VmParameters, cluster: Cluster, rules: Rules) -> list[str]:
    """Return the nodes that could take the VM, best first; bridges are ignored."""
    return _VmValidation(request, cluster, rules).placement().shortlist()


def placement(request: VmParameters, cluster: Cluster, rules: Rules) -> Placement:
    """Return the placement of the VM, with its defaults filled in."""
    return _VmValidation(request, cluster, rules).placement()


def validate(request: VmParameters, cluster: Cluster, rules: Rules, draw: float) -> ValidatedVm | list[str]:
    """Return the validated VM, or the list of all problems.

    draw  random number from 0 up to 1 that selects the VMID
    """
    checks = _VmValidation(request, cluster, rules)
    checks.check()
    vmid = checks.vmid(draw)
    offer = checks.place()
    if checks.problems or vmid is None or offer is None:
        return checks.problems
    checks.explain(offer)
    return checks.verdict(vmid, offer)


def free_vmid(taken: Iterable[int], low: int, high: int, draw: float) -> int | None:
    """Return a free VMID from `low` to `high`, or None if all are taken.

    `draw` (0 up to 1) selects it: each free VMID has the same chance.
    """
    used = sorted({number for number in taken if low <= number <= high})
    count = high - low + 1 - len(used)
    if count <= 0:
        return None
    vmid = low + min(int(draw * count), count - 1)
    for number in used:
        if number > vmid:
            break
        vmid += 1
    return vmid


class _VmValidation:
    """Checks one request against one cluster."""

    def __init__(self, request: VmParameters, cluster: Cluster, rules: Rules) -> None:
        self.request = request
        self.cluster = cluster
        self.rules = rules
        self.template = cluster.template
        self.linked = self.template is not None and not request.full
        self.problems: list[str] = []
        self.reasons: list[str] = []
        self.warnings: list[str] = []
        template = self.template
        self.cores = request.cores or (template.cores or 1 if template else rules.default_cores)
        self.memory = request.memory or (template.memory if template else rules.default_memory)
        self.disk = request.disk or (0 if template else rules.default_disk)

    # -- checks that do not depend on the node ------------------------------------------------------------------------

    def check(self) -> None:
        self._name()
        self._sizes()
        template = find_template(self.request, self.cluster)
        if isinstance(template, str):
            self.problems.append(template)
        elif template is None:
            self._empty()
        elif self.template is None:
            self.problems.append(f"template: what {template.vmid} is made of is not known")
        else:
            self._clone(self.template)
        self._check_texts()

    def _name(self) -> None:
        name = self.request.name
        if len(name) > formats.LONGEST_NAME or not _NAME.match(name):
            self.problems.append(
                f"name: {name!r} is no DNS name: its parts are of letters, digits and -, with a letter or digit at "
                "both ends"
            )
        others = [*self.cluster.guests, *self.cluster.templates]
        other = next((guest for guest in others if guest.name.lower() == name.lower()), None)
        if other is not None and name:
            self.problems.append(f"name: {name!r} is guest {other.vmid} on {other.node} already; use another name")

    def _sizes(self) -> None:
        for name, value, least, unit in (
            ("cores", self.request.cores, 1, ""),
            ("memory", self.request.memory, 16, " MiB"),
            ("disk", self.request.disk, 1, " GiB"),
        ):
            if value is not None and value < least:
                self.problems.append(f"{name}: {value}{unit} is too little; use {least} or more")

    def _clone(self, template: TemplateView) -> None:
        main = template.main_disk
        if self.request.disk is not None and not main:
            self.problems.append(
                f"disk: template {template.vmid} has no disk that could be {self.request.disk} GiB large, or does not "
                "define from which one it boots; leave disk out, resize_disk grows one by its name"
            )
        elif self.request.disk is not None and self.request.disk < template.disks[main]:
            self.problems.append(
                f"disk: {self.request.disk} GiB is smaller than {main} of template {template.vmid} "
                f"({template.disks[main]:g} GiB), and a disk cannot shrink; use that or more"
            )
        if self.request.iso is not None:
            self.problems.append("iso: only an empty VM boots from an ISO image; leave iso or template out")
        if self.request.bridge is not None and template.bridges != {self.request.bridge}:
            self.problems.append(
                f"bridge: a clone keeps its template's network ({names_of(sorted(template.bridges))}); leave bridge out"
            )
        if self.linked and self.request.storage is not None and self.request.storage not in template.storages:
            self.problems.append(
                f"storage: a linked clone is on its template's storage ({names_of(template.storages)}); leave "
                "storage out, or ask for a full clone"
            )

    def _empty(self) -> None:
        self.problems += [
            f"{name}: cloud-init needs a template with a cloud-init drive; name one as template"
            for name in CLOUD_INIT
            if getattr(self.request, name)
        ]
        if self.request.iso is None:
            self.warnings.append("the VM is empty: it has no system until one is installed or a template is named")

    def _check_texts(self) -> None:
        bad = [tag for tag in self.request.tags or [] if not _TAG.match(tag)]
        if bad:
            self.problems.append(
                f"tags: {names_of(map(repr, bad))}: use letters, digits and _ + . -, and none of + . - at the beginning"
            )

    def vmid(self, draw: float) -> int | None:
        low, high, wanted = self.rules.vmid_min, self.rules.vmid_max, self.request.vmid
        if wanted is None:
            drawn = free_vmid(self.cluster.taken, low, high, draw)
            if drawn is None:
                self.problems.append(f"vmid: none is free from {low} to {high}; widen [proxmox] vmid_min and vmid_max")
            else:
                self.reasons.append(f"vmid {drawn}: drawn from the free ones of {low} to {high}")
            return drawn
        if not low <= wanted <= high:
            self.problems.append(f"vmid: {wanted} is not from {low} to {high}; leave it out, and a free one is drawn")
        if wanted in self.cluster.taken:
            owner = next(guest for guest in (*self.cluster.guests, *self.cluster.templates) if guest.vmid == wanted)
            self.problems.append(
                f"vmid: {wanted} is {owner.name!r} on {owner.node}; leave it out, and a free one is drawn"
            )
        return wanted

    # -- placement and result ------------------------------------------------------------------------

    def placement(self) -> Placement:
        need = Requirements(self.cores * (self.template.sockets if self.template else 1), self.memory, self.disk)
        return Placement(self.request, self.cluster, self.rules, need)

    def place(self) -> Candidate | None:
        if self.request.template is not None and self.template is None:
            return None  # the needs of the VM are not known; this problem is already in the list
        best = self.placement().best()
        if isinstance(best, Candidate):
            return best
        self.problems += best
        return None

    def explain(self, offer: Candidate) -> None:
        request, template = self.request, self.template
        if request.node is None:
            online = sum(node.status == "online" for node in self.cluster.nodes)
            free = f"{offer.free / 1024:.0f} GiB"
            self.reasons.append(f"node {offer.node.node}: most free memory ({free}) of {online} online nodes")
        self.warnings += self.cluster.cautions.get(offer.node.node, [])
        source = f"as template {template.vmid}" if template else "the specialist's default"
        if request.cores is None:
            self.reasons.append(f"cores {self.cores}: {source}")
        if request.memory is None:
            self.reasons.append(f"memory {self.memory} MiB: {source}")
        if request.disk is None and template is None:
            self.reasons.append(f"disk {self.disk} GiB: {source}")
        if request.storage is None:
            which = f"storage {offer.storage}: most free space" if offer.storage else "storage: the template's"
            self.reasons.append(which)
        if request.bridge is None and offer.bridge:
            self.reasons.append(f"bridge {offer.bridge}: there on {offer.node.node}")

    def verdict(self, vmid: int, offer: Candidate) -> ValidatedVm:
        request = self.request
        create: dict[str, Any] = {"vmid": vmid, "node": offer.node.node, "name": request.name}
        configure: dict[str, Any] = {"vmid": vmid, "name": request.name, "start": request.start}
        if self.template is None:
            create |= {"storage": offer.storage, "bridge": offer.bridge}
            create |= {"cores": self.cores, "memory": self.memory, "disk": self.disk}
            create |= _given(request, "iso", "tags")
        else:
            create |= {"template": self.template.vmid, "full": request.full}
            create |= {"storage": offer.storage} if offer.storage else {}
            configure |= _given(request, *VmOptions.__struct_fields__)
            main = self.template.main_disk
            if request.disk is not None and request.disk > self.template.disks[main]:
                configure |= {"disk": main, "size": request.disk}
        create |= _given(request, "pool", "description")
        return ValidatedVm(vmid, offer.node.node, create, configure, self.reasons, self.warnings)


def _given(request: VmParameters, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(request, name))}
