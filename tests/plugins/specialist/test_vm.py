"""What VM a request becomes: every check, every default, and the reason for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from agentd.proxmox.vm import VmParameters
from agentd_specialist.model import (
    GIB,
    Cluster,
    GuestView,
    NodeView,
    Rules,
    StorageView,
    TemplateView,
    ValidatedVm,
)
from agentd_specialist.vm import candidate_nodes, validate

RULES = Rules(vmid_min=100, vmid_max=199)
IMAGES = ["images", "rootdir"]
DEBIAN = TemplateView(
    9000,
    "debian-12",
    "pve1",
    cores=2,
    memory=1024,
    disks={"efidisk0": 0.004, "scsi0": 3.0},
    networks={"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"},
    storages=["shared"],
)


def lab(**changes: Any) -> Cluster:
    """Return three nodes: pve1 busy, pve2 with the most free memory, pve3 offline."""
    storages = []
    for node, free in (("pve1", 100), ("pve2", 50), ("pve3", 500)):
        storages += [
            StorageView("local", node, "available", content=["iso", "backup"], free=20 * GIB),
            StorageView("local-lvm", node, "available", content=IMAGES, free=free * GIB),
            StorageView("shared", node, "available", shared=True, content=["images"], free=40 * GIB),
        ]
    found = Cluster(
        nodes=[
            NodeView("pve1", "online", 16, 64 * GIB, 60 * GIB),
            NodeView("pve2", "online", 8, 64 * GIB, 2 * GIB),
            NodeView("pve3", "offline", 8, 64 * GIB),
        ],
        storages=storages,
        guests=[GuestView(100, "web-01", "pve1", "running"), GuestView(101, "dns", "pve2", "stopped")],
        templates=[GuestView(9000, "debian-12", "pve1", "stopped")],
        bridges={"pve1": ["vmbr0"], "pve2": ["vmbr0", "vmbr1"]},
    )
    return replace(found, **changes)


def clones(template: TemplateView = DEBIAN, **changes: Any) -> Cluster:
    """Return the lab with a template that was read."""
    return lab(template=template, **changes)


def agreed(cluster: Cluster | None = None, draw: float = 0.0, **requested: Any) -> ValidatedVm:
    """Return what a request becomes; it must be possible."""
    found = validate(VmParameters(**{"name": "app"} | requested), cluster or lab(), RULES, draw)

    assert isinstance(found, ValidatedVm), found
    return found


def refused(cluster: Cluster | None = None, **requested: Any) -> list[str]:
    """Return what prevents a request; there must be a reason."""
    found = validate(VmParameters(**{"name": "app"} | requested), cluster or lab(), RULES, 0.0)

    assert isinstance(found, list)
    assert found
    return found


def test_defaults_are_chosen_with_a_reason() -> None:
    """A name is enough, and every choice is explained."""
    made = agreed()

    assert made.create == {
        "vmid": 102,
        "node": "pve2",
        "name": "app",
        "storage": "local-lvm",
        "bridge": "vmbr0",
        "cores": 1,
        "memory": 2048,
        "disk": 8,
    }
    assert made.configure == {"vmid": 102, "name": "app", "start": True}
    assert made.reasons == [
        "vmid 102: drawn from the free ones of 100 to 199",
        "node pve2: most free memory (61 GiB) of 2 online nodes",
        "cores 1: the specialist's default",
        "memory 2048 MiB: the specialist's default",
        "disk 8 GiB: the specialist's default",
        "storage local-lvm: most free space",
        "bridge vmbr0: there on pve2",
    ]
    assert made.warnings == ["the VM is empty: it has no system until one is installed or a template is named"]


def test_requested_values_are_kept() -> None:
    """No value of the request is changed."""
    requested: dict[str, Any] = {
        "vmid": 150,
        "node": "pve1",
        "cores": 4,
        "memory": 1024,
        "disk": 20,
        "storage": "shared",
        "bridge": "vmbr0",
        "iso": "local:iso/debian.iso",
        "pool": "lab",
        "tags": ["ci"],
        "description": "a test",
    }
    made = agreed(**requested)

    assert made.create == {"name": "app", **requested}
    assert made.reasons == []


def test_a_clone_takes_from_its_template_and_is_configured_after() -> None:
    """A clone is created as its template is; what differs is for configure_vm."""
    requested: dict[str, Any] = {
        "cores": 4,
        "memory": 2048,
        "disk": 10,
        "tags": ["web"],
        "ciuser": "ops",
        "ipconfig0": "ip=dhcp",
    }
    made = agreed(clones(), template="debian-12", start=False, **requested)

    assert made.create == {"vmid": 102, "node": "pve2", "name": "app", "template": 9000, "full": True}
    configure = {**requested, "disk": "scsi0", "size": 10}
    assert made.configure == {"vmid": 102, "name": "app", "start": False, **configure}


def test_a_clone_of_the_same_size_is_not_resized() -> None:
    """A disk that is as wished already is left alone."""
    assert "size" not in agreed(clones(), template=9000, disk=3).configure


@pytest.mark.parametrize("named", [9000, "9000", "debian-12"], ids=["number", "digits", "name"])
def test_a_template_is_named_by_id_or_name(named: int | str) -> None:
    """Both forms are understood, the number in quotes too."""
    assert agreed(clones(), template=named).create["template"] == 9000


def test_a_template_on_local_storage_is_cloned_on_its_node() -> None:
    """The node with less memory is taken when only that one can reach the template."""
    local = msgspec.structs.replace(DEBIAN, storages=["local-lvm"])

    assert agreed(clones(local), template=9000).node == "pve1"
    assert refused(clones(local), template=9000, node="pve2") == [
        "template: 9000 is on pve1 (local-lvm is not shared): it can only be cloned there, not to pve2"
    ]


def test_a_full_clone_may_go_to_another_storage() -> None:
    """The storage of the request is given to create_vm."""
    assert agreed(clones(), template=9000, storage="local-lvm").create["storage"] == "local-lvm"


def test_a_linked_clone_stays_on_its_templates_storage() -> None:
    """Another storage is refused, the same one is left for the template to decide."""
    assert "storage" not in agreed(clones(), template=9000, full=False, storage="shared").create
    assert refused(clones(), template=9000, full=False, storage="local-lvm") == [
        "storage: a linked clone is on its template's storage (shared); leave storage out, or ask for a full clone"
    ]


@pytest.mark.parametrize(
    ("requested", "line"),
    [
        (
            {"name": "-app"},
            "name: '-app' is no DNS name: its parts are of letters, digits and -, with a letter or digit at both ends",
        ),
        ({"name": "web-01"}, "name: 'web-01' is guest 100 on pve1 already; use another name"),
        ({"name": "WEB-01"}, "name: 'WEB-01' is guest 100 on pve1 already; use another name"),
        ({"vmid": 100}, "vmid: 100 is 'web-01' on pve1; leave it out, and a free one is drawn"),
        ({"vmid": 99}, "vmid: 99 is not from 100 to 199; leave it out, and a free one is drawn"),
        ({"node": "pve9"}, "node: there is no node 'pve9'; there are pve1, pve2, pve3"),
        ({"node": "pve3"}, "node: pve3 is offline; online are pve1, pve2"),
        (
            {"node": "pve1", "memory": 4096},
            "memory: 4096 MiB do not fit on pve1: 3072 MiB are free beside a reserve of 1024 MiB",
        ),
        ({"node": "pve2", "cores": 9}, "cores: 9 are more than the 8 of pve2"),
        ({"cores": 0}, "cores: 0 is too little; use 1 or more"),
        ({"memory": 8}, "memory: 8 MiB is too little; use 16 or more"),
        ({"disk": 0}, "disk: 0 GiB is too little; use 1 or more"),
        ({"storage": "tank"}, "storage: there is no storage 'tank'; there are local-lvm, shared"),
        (
            {"storage": "local"},
            "storage: 'local' does not hold disks (content images); there are local-lvm, shared",
        ),
        (
            {"node": "pve2", "storage": "local-lvm", "disk": 50},
            "storage: local-lvm on pve2 has 49 GiB free beside a reserve of 1 GiB; 50 GiB are needed",
        ),
        (
            {"node": "pve2", "disk": 90},
            "storage: none of pve2 has room for 90 GiB; it has local-lvm (50 GiB free), shared (40 GiB free)",
        ),
        ({"node": "pve1", "bridge": "vmbr1"}, "bridge: pve1 has no vmbr1; it has vmbr0"),
        ({"template": "alpine"}, "template: there is no template 'alpine'; there are 9000 'debian-12'"),
        (
            {"template": 100},
            "template: 100 'web-01' on pve1 is a guest, no template; templates: 9000 'debian-12'",
        ),
        ({"tags": ["-web"]}, "tags: '-web': use letters, digits and _ + . -, and none of + . - at the beginning"),
        ({"ciuser": "ops"}, "ciuser: cloud-init needs a template with a cloud-init drive; name one as template"),
    ],
)
def test_a_problem_names_the_parameter_and_a_valid_value(requested: dict[str, Any], line: str) -> None:
    """One line says what is wrong and what is possible."""
    assert refused(**requested) == [line]


@pytest.mark.parametrize(
    ("requested", "line"),
    [
        (
            {"disk": 2},
            "disk: 2 GiB is smaller than scsi0 of template 9000 (3 GiB), and a disk cannot shrink; use that or more",
        ),
        ({"bridge": "vmbr1"}, "bridge: a clone keeps its template's network (vmbr0); leave bridge out"),
        ({"iso": "local:iso/x.iso"}, "iso: only an empty VM boots from an ISO image; leave iso or template out"),
    ],
)
def test_a_problem_with_a_clone_names_the_template(requested: dict[str, Any], line: str) -> None:
    """What a clone cannot have is reported with the reason."""
    assert refused(clones(), template=9000, **requested) == [line]


def test_a_template_without_a_disk_cannot_be_made_larger() -> None:
    """There is nothing to grow."""
    bare = msgspec.structs.replace(DEBIAN, disks={}, storages=[])

    (line,) = refused(clones(bare), template=9000, disk=4)

    assert line.startswith("disk: template 9000 has no disk that could be 4 GiB large")


def test_a_template_that_was_not_looked_at_is_a_problem() -> None:
    """Nothing is decided over a template that is known by name alone."""
    assert refused(template=9000) == ["template: what 9000 is made of is not known"]


def test_a_template_name_that_two_have_is_no_name() -> None:
    """The one that is meant has to be given."""
    twice = [GuestView(9000, "debian", "pve1"), GuestView(9001, "debian", "pve2")]

    assert refused(lab(templates=twice), template="debian") == [
        "template: 'debian' is the name of 9000, 9001; name it by its VMID"
    ]


def test_a_template_on_an_offline_node_cannot_be_cloned() -> None:
    """The node that holds the template has to be there, even for a clone elsewhere."""
    away = msgspec.structs.replace(DEBIAN, node="pve3")

    assert refused(clones(away), template=9000, node="pve2") == ["template: 9000 is on pve3, which is not online"]


def test_the_target_node_must_have_the_bridge_of_the_template() -> None:
    """A node without it is passed over."""
    odd = msgspec.structs.replace(DEBIAN, networks={"net0": "virtio,bridge=vmbr7"})
    where = {"pve1": ["vmbr0", "vmbr7"], "pve2": ["vmbr0"]}

    assert agreed(clones(odd, bridges=where), template=9000).node == "pve1"


def test_a_node_without_bridges_takes_no_new_vm() -> None:
    """There is nothing to put its network on."""
    assert refused(lab(bridges={"pve2": []}), node="pve2") == ["bridge: pve2 has none"]


def test_all_problems_are_reported_at_once() -> None:
    """All faults are reported at once."""
    lines = refused(name="web-01", vmid=100, node="pve1", memory=99_999, disk=999, bridge="vmbr1")

    assert [line.partition(":")[0] for line in lines] == ["name", "vmid", "memory", "storage", "bridge"]


def test_without_a_suitable_node_every_reason_is_listed() -> None:
    """The refusal lists what prevents every node."""
    (line,) = refused(memory=99_999)

    assert line.startswith("node: none of 3 can take it: pve1: memory: 99999 MiB do not fit on pve1")
    assert "pve2: memory: 99999 MiB do not fit on pve2" in line
    assert "pve3: node: pve3 is offline" in line


def test_a_token_without_rights_is_not_an_empty_cluster() -> None:
    """No nodes at all is a question of rights."""
    assert refused(lab(nodes=[])) == ["node: no node is visible; does the token have rights?"]


def test_a_storage_that_is_not_active_is_passed_over() -> None:
    """A hung storage takes no new disk, and its name is reported to the requester."""
    dead = [
        msgspec.structs.replace(storage, status="unknown")
        if (storage.storage, storage.node) == ("local-lvm", "pve2")
        else storage
        for storage in lab().storages
    ]

    assert agreed(lab(storages=dead)).create["storage"] == "shared"
    assert refused(lab(storages=dead), node="pve2", storage="local-lvm") == ["storage: local-lvm on pve2 is not active"]


def test_a_storage_of_other_nodes_names_them() -> None:
    """A storage of another node is named with its nodes."""
    only = [storage for storage in lab().storages if (storage.storage, storage.node) != ("local-lvm", "pve2")]

    assert refused(lab(storages=only), node="pve2", storage="local-lvm") == [
        "storage: local-lvm is not on pve2; it is on pve1, pve3"
    ]


def test_a_full_range_is_reported() -> None:
    """When no VMID is free the range is named."""
    all_guests = [GuestView(vmid, f"vm-{vmid}", "pve1") for vmid in range(100, 200)]

    assert refused(lab(guests=all_guests)) == [
        "vmid: none is free from 100 to 199; widen [proxmox] vmid_min and vmid_max"
    ]


def test_the_shortlist_is_by_free_memory_and_does_not_ask_for_bridges() -> None:
    """The nodes whose bridges are worth asking for, the best first."""
    assert candidate_nodes(VmParameters("app"), lab(bridges=None), RULES) == ["pve2", "pve1"]
    assert refused(lab(bridges=None), node="pve2") == ["bridge: the bridges of pve2 are not known"]
