"""For every cluster and request: what the specialist chooses is possible, or it gives a reason."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agentd.proxmox.vm import VmParameters
from agentd_specialist.model import GIB, Cluster, GuestView, NodeView, Rules, StorageView, TemplateView
from agentd_specialist.vm import free_vmid, validate


@given(
    taken=st.sets(st.integers(95, 215)),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_drawn_vmid_is_free_and_in_range(taken: set[int], draw: float) -> None:
    """For any taken VMIDs and any random choice."""
    found = free_vmid(taken, 100, 199, draw)

    if found is None:
        assert set(range(100, 200)) <= taken
    else:
        assert 100 <= found <= 199
        assert found not in taken


@given(count=st.integers(1, 50))
def test_every_free_vmid_can_be_drawn(count: int) -> None:
    """Chance reaches each of them, each as often."""
    drawn = [free_vmid([101, 103], 100, 101 + count, (index + 0.5) / count) for index in range(count)]

    free = [number for number in range(100, 102 + count) if number not in {101, 103}]
    assert set(drawn) <= set(free)
    assert len(set(drawn)) == min(count, len(free))


NAMES = st.sampled_from(["pve1", "pve2", "pve3", "pve4"])
STORAGES = st.sampled_from(["local-lvm", "shared", "tank"])


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Draw any cluster: nodes in any state, storages with any room."""
    names = draw(st.lists(NAMES, unique=True))
    nodes = [
        NodeView(
            name,
            draw(st.sampled_from(["online", "offline", "unknown"])),
            draw(st.integers(0, 8)),
            64 * GIB,
            draw(st.integers(0, 64)) * GIB,
        )
        for name in names
    ]
    storages = [
        StorageView(
            storage,
            name,
            draw(st.sampled_from(["available", "unknown"])),
            storage == "shared",
            draw(st.sampled_from([["images"], ["iso"], []])),
            draw(st.integers(0, 64)) * GIB,
        )
        for name in names
        for storage in draw(st.lists(STORAGES, unique=True))
    ]
    guests = [GuestView(vmid, f"vm-{vmid}", "pve1") for vmid in draw(st.sets(st.integers(100, 109)))]
    bridges = {name: draw(st.lists(st.sampled_from(["vmbr0", "vmbr1"]), unique=True)) for name in names}
    template = draw(
        st.none() | st.builds(TemplateView, st.just(9000), st.just("t"), NAMES, storages=st.lists(STORAGES))
    )
    templates = [] if template is None else [GuestView(9000, "t", template.node)]
    return Cluster(nodes, storages, guests, templates, template, bridges)


REQUESTS = st.builds(
    VmParameters,
    st.just("app"),
    vmid=st.none() | st.integers(98, 112),
    node=st.none() | NAMES,
    full=st.booleans(),
    memory=st.none() | st.integers(1, 100_000),
    disk=st.none() | st.integers(0, 100),
    storage=st.none() | STORAGES,
)


@given(cluster=clusters(), requested=REQUESTS, draw=st.floats(0, 1, exclude_max=True))
def test_any_request_has_a_possible_answer_or_a_reason(cluster: Cluster, requested: VmParameters, draw: float) -> None:
    """Never an offline node, never a taken VMID, never too little room, and never silence."""
    rules = Rules(vmid_min=100, vmid_max=110)
    requested = msgspec.structs.replace(requested, template=None if cluster.template is None else 9000)

    found = validate(requested, cluster, rules, draw)

    if isinstance(found, list):
        assert found
        assert all(item.partition(":")[0] in VmParameters.__struct_fields__ for item in found)
        return
    home = next(node for node in cluster.nodes if node.node == found.node)
    assert home.status == "online"
    assert requested.node in {None, found.node}
    assert found.vmid not in cluster.taken
    assert 100 <= found.vmid <= 110
    assert home.memory - home.memory_used >= (requested.memory or 0) * 2**20
    assert (requested.vmid is None) == any(reason.startswith("vmid") for reason in found.reasons)
    assert (requested.node is None) == any(reason.startswith("node") for reason in found.reasons)
    if "storage" in found.create:
        (on,) = [
            storage
            for storage in cluster.storages
            if (storage.node, storage.storage) == (found.node, found.create["storage"])
        ]
        assert on.usable
        assert on.free >= (requested.disk or 0) * GIB
    if cluster.template is not None and found.node != cluster.template.node:
        assert set(cluster.template.storages) == {"shared"}
