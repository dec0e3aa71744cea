"""Plans of single clusters: parking, rules that contradict each other, sentences, packing, placing, N-1."""

from __future__ import annotations

from dataclasses import replace

from agentd_specialist.balance.brevity import brief
from agentd_specialist.balance.conflicts import smallest_conflict
from agentd_specialist.balance.failover import gaps
from agentd_specialist.balance.model import GIB, Guest, Landscape, Limits, Node, Rule
from agentd_specialist.balance.placing import suggestions
from agentd_specialist.balance.plan import Budget, Goal, describe, plan
from agentd_specialist.balance.problem import measure
from agentd_specialist.balance.reading import Answers, Figures, HaRule, Scope, figures, landscape

FAST = Budget(seconds=5.0, tries=4000)


def node(name: str, gib: int = 64, **more: str) -> Node:
    """Return a node without anything on it."""
    return Node(name, gib * GIB, 32.0, **more)  # type: ignore[arg-type]


def guest(vmid: int, at: str, gib: int, **more: object) -> Guest:
    """Return a guest that uses all of its memory."""
    return Guest(vmid, f"g{vmid}", at, gib * GIB, load=gib * GIB, **more)  # type: ignore[arg-type]


def test_full_nodes_exchange_guests_by_parking_one() -> None:
    """Two guests that cannot fit beside each other change places over a third node, and no node is overfilled."""
    there = Landscape(
        (node("a", 33), node("b", 33), node("c", 33)),
        (guest(101, "a", 30), guest(102, "b", 30)),
    )
    found = describe(there, Goal("fill", frozenset({"a", "b"})), {101: "b", 102: "a"})

    assert [(move.vmid, move.source, move.target, move.parked) for move in found.moves] == [
        (101, "a", "c", True),
        (102, "b", "a", False),
        (101, "c", "b", False),
    ]
    assert "it waits on c until there is room" in found.moves[0].reason


def test_a_cycle_without_room_is_left_with_the_reason() -> None:
    """If no order of moves is possible, nothing moves, and each guest says what is missing."""
    there = Landscape((node("a", 33), node("b", 33)), (guest(101, "a", 30), guest(102, "b", 30)))
    found = describe(there, Goal("fill", frozenset({"a", "b"})), {101: "b", 102: "a"})

    assert found.moves == []
    assert [left.reason for left in found.left] == [
        "b has no room for its 30.0 GiB of memory",
        "a has no room for its 30.0 GiB of memory",
    ]


def test_the_smallest_set_of_contradicting_rules_is_named() -> None:
    """Of five rules the two that contradict each other are named, and no other."""
    rules = (
        Rule("apart", "1 and 4 are apart", frozenset({101, 104})),
        Rule("together", "1 and 2 are together", frozenset({101, 102})),
        Rule("on", "3 is on a", frozenset({103}), frozenset({"a"})),
        Rule("apart", "1 and 2 are apart", frozenset({101, 102})),
        Rule("apart", "3 and 4 are apart", frozenset({103, 104})),
    )
    guests = tuple(guest(number, "a", 2) for number in range(101, 105))
    there = Landscape((node("a"), node("b"), node("c")), guests, rules)

    assert sorted(smallest_conflict(there)) == ["1 and 2 are apart", "1 and 2 are together"]
    assert smallest_conflict(replace(there, rules=rules[:3])) == []
    assert sorted(plan(there, Goal(), FAST).conflict) == ["1 and 2 are apart", "1 and 2 are together"]


def test_more_guests_apart_than_nodes_is_a_conflict() -> None:
    """Three guests cannot be apart on two nodes; a guest larger than every other node cannot leave its own."""
    rule = Rule("apart", "the three are apart", frozenset({101, 102, 103}))
    there = Landscape((node("a"), node("b")), tuple(guest(n, "a", 2) for n in (101, 102, 103)), (rule,))
    large = Landscape((node("a"), node("b", 8)), (guest(101, "a", 16),))

    assert smallest_conflict(there) == ["the three are apart"]
    assert plan(large, Goal("drain", frozenset({"a"})), FAST).conflict == [
        "VM 101 'g101' has 16.0 GiB of memory, and the largest other node has 7.0"
    ]


def test_a_drain_says_why_guests_stay() -> None:
    """The guests of the node go elsewhere; those that are locked or pinned stay, with the reason."""
    pin = Rule("on", "its tag keeps guest 102 on a", frozenset({102}), frozenset({"a"}))
    there = Landscape(
        (node("a"), node("b"), node("c", closed="is in maintenance")),
        (guest(101, "a", 8), guest(102, "a", 8), guest(103, "a", 8, fixed="it is locked (backup)"), guest(104, "b", 8)),
        (pin,),
    )
    found = plan(there, Goal("drain", frozenset({"a"})), FAST)

    assert {(move.vmid, move.target) for move in found.moves} >= {(101, "b")}
    assert all(move.target == "b" for move in found.moves)
    assert {left.vmid: left.reason for left in found.left}[103] == "it is locked (backup)"
    assert "a is to be empty" in found.moves[0].reason


def test_packing_empties_nodes_below_the_ceiling() -> None:
    """The least used nodes become empty; the others are not filled beyond the ceiling, and rules are kept."""
    apart = Rule("apart", "101 and 102 are apart", frozenset({101, 102}))
    guests = (guest(101, "a", 10), guest(102, "b", 10), guest(103, "c", 4))
    found = plan(Landscape((node("a"), node("b"), node("c")), guests, (apart,)), Goal("pack"), FAST)

    assert found.nodes == ["c"]
    assert [move.vmid for move in found.moves] == [103]
    assert found.after.fullest <= 80


def test_a_balanced_cluster_stays_as_it_is() -> None:
    """Nothing moves within the band, and zero guests are no fault."""
    guests = (guest(101, "a", 10), guest(102, "b", 12))
    calm = plan(Landscape((node("a"), node("b")), guests), Goal(), FAST)

    assert (calm.moves, calm.text) == ([], "nothing to do: the gap between the nodes is 3.1 % of memory")
    assert plan(Landscape((), ()), Goal(), FAST).moves == []
    assert plan(Landscape((node("a"),), ()), Goal("pack"), FAST).moves == []


def test_a_brief_plan_fits_into_a_task() -> None:
    """Of 400 moves the first ones are kept, with their number; the text says how many follow."""
    guests = tuple(guest(1000 + number, "a", 1) for number in range(400))
    there = Landscape((node("a", 1024), node("b", 1024)), guests, limits=Limits())
    full = describe(there, Goal("fill", frozenset({"b"})), {one.vmid: "b" for one in guests})
    short = brief(full)

    assert len(full.moves) == 400
    assert 100 <= len(short.moves) < 400
    assert short.more == 400 - len(short.moves)
    assert f"{short.more} more migrations follow" in short.text


def test_tags_rules_pools_and_states_are_read() -> None:
    """What Proxmox VE reports becomes rules and reasons; tags of ProxLB mean the same as ours."""
    entries = [
        {"vmid": 101, "node": "a", "status": "running", "maxmem": 4 * GIB, "mem": GIB, "tags": "agentd-apart-web;x"},
        {"vmid": 102, "node": "a", "status": "running", "maxmem": 4 * GIB, "mem": GIB, "tags": "agentd-apart-web"},
        {"vmid": 103, "node": "b", "status": "running", "maxmem": 4 * GIB, "tags": "plb_pin_b,plb_affinity_q"},
        {"vmid": 104, "node": "b", "status": "running", "maxmem": 4 * GIB, "tags": "plb_affinity_q", "pool": "p"},
        {"vmid": 105, "node": "b", "status": "running", "maxmem": 4 * GIB, "pool": "p", "lock": "backup"},
        {"vmid": 106, "node": "b", "status": "stopped", "maxmem": 4 * GIB},
        {"vmid": 107, "node": "b", "status": "running", "maxmem": 4 * GIB, "tags": "agentd-stay", "hastate": "started"},
        {"vmid": 108, "node": "b", "type": "lxc", "status": "running", "maxmem": 4 * GIB},
    ]
    nodes = [
        {"node": "a", "status": "online", "maxmem": 64 * GIB, "mem": 8 * GIB, "maxcpu": 8},
        {"node": "b", "status": "online", "maxmem": 64 * GIB, "mem": 20 * GIB, "maxcpu": 8},
        {"node": "c", "status": "offline", "maxmem": 64 * GIB},
    ]
    ha = [HaRule("ha1", "resource-affinity", ["vm:101", "vm:103"], affinity="negative")]
    used = {"101": Figures(memory=2 * GIB, cpu=0.5), "node/a": Figures(pressure=0.2)}
    scope = Scope(apart_pools=["p"], exclude=[102], rebalanced="Proxmox VE balances the guests under HA itself")
    found = landscape(Answers(nodes, entries, ha, used, ["b"]), scope, Limits())

    assert {(rule.kind, rule.guests) for rule in found.rules} == {
        ("apart", frozenset({101, 102})),
        ("on", frozenset({103})),
        ("together", frozenset({103, 104})),
        ("apart", frozenset({104, 105})),
        ("apart", frozenset({101, 103})),
    }
    assert {one.vmid: one.fixed for one in found.guests} == {
        101: "",
        102: "the request excludes it",
        103: "",
        104: "",
        105: "it is locked (backup)",
        107: "its tag says that it stays",
        108: "a move stops a container (restart_containers allows it)",
    }
    assert [one.closed for one in found.nodes] == ["", "is in maintenance", "is offline"]
    assert (found.guests[0].load, found.nodes[0].pressure) == (2 * GIB, 0.2)
    assert figures([{"time": 1, "mem": 9.0}, *({"time": 10, "mem": 1.0 * n} for n in range(20))], since=5).memory == 19


def test_places_are_proposed_with_reasons() -> None:
    """The best node comes first; rules, maintenance and a failover that would not fit any more are reasons against."""
    apart = Rule("apart", "the tag web keeps 0, 101 apart", frozenset({0, 101}))
    there = Landscape(
        (node("a", 32), node("b", 32), node("c", 32), node("d", 32, closed="is in maintenance")),
        (guest(101, "a", 8), guest(102, "b", 18), guest(103, "c", 6)),
        (apart,),
    )
    found = suggestions(there, Guest(0, "", "", 12 * GIB, load=12 * GIB), {"a": ("local", "vmbr0")})

    assert [(one.node, one.fits, one.con) for one in found] == [
        ("c", True, []),
        ("b", True, ["if b fails, the other nodes have no room for the new guest"]),
        ("d", False, ["d takes no guests: it is in maintenance"]),
        ("a", False, ["the tag web keeps 0, 101 apart"]),
    ]
    assert gaps(there) == {}


def test_unequal_nodes_are_balanced_by_their_share() -> None:
    """A node of twice the size gets twice the load; the same seed gives the same plan."""
    guests = tuple(guest(100 + number, "small", 2) for number in range(12))
    there = Landscape((node("small", 32), node("large", 64)), guests, limits=Limits(band=0.03))
    found = plan(there, Goal(), FAST)
    where = {move.vmid: move.target for move in found.moves}

    assert measure(there, where).gap <= 7
    assert plan(there, Goal(), FAST).moves == found.moves
