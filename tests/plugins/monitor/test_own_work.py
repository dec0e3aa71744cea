"""What agentd itself is changing: its targets are facts for as long as the workflow or the call runs."""

from __future__ import annotations

from agentd_monitor.own_work import MOST, Effect, OwnWork


def targets(work: OwnWork) -> set[str]:
    """Return the labels of all facts, short."""
    return {f"{label}={value}" for fact in work.facts() for label, value in fact.labels.items()}


def test_workflow() -> None:
    """The targets of a workflow count until it ends, not while it waits for a person, and not after its end."""
    work = OwnWork()
    work.observe_effect(Effect("w1.reboot", "claimed", ["reboot_node node/pve1"]))
    unknown = targets(work)
    work.observe_workflow("w1", "running")
    work.observe_effect(Effect("w1.reboot", "claimed", ["reboot_node node/pve1"]))
    work.observe_effect(Effect("w1.start.0", "done", ["start_guest guest/101", "grow storage/local"]))
    running = targets(work)
    work.observe_workflow("w1", "waiting_approval")
    waiting = targets(work)
    work.observe_workflow("w1", "compensating")
    again = targets(work)
    work.observe_workflow("w1", "compensated")
    work.observe_effect(Effect("w1.start.0", "done", ["start_guest guest/101"]))

    assert unknown == waiting == targets(work) == set()
    assert running == again == {"node=pve1", "guest=qemu/101", "guest=lxc/101", "storage=local"}
    assert work.open_workflows() == []


def test_call() -> None:
    """The targets of a call count while it runs."""
    work = OwnWork()
    work.observe_effect(Effect("alice=one.two", "claimed"))
    before = targets(work)
    work.observe_effect(Effect("alice=one.two", "claimed", ["stop_guest guest/7"]))
    running = targets(work)
    work.observe_effect(Effect("alice=one.two", "done", ["stop_guest guest/7"]))

    assert (before, running, targets(work)) == (set(), {"guest=qemu/7", "guest=lxc/7"}, set())


def test_flood() -> None:
    """A flood of workflows and calls does not fill the memory."""
    work = OwnWork()
    for number in range(3 * MOST):
        work.observe_workflow(f"w{number}", "running")
        work.observe_effect(Effect(f"alice=one.w{number}", "claimed", [f"stop_guest guest/{number}"]))

    assert len(work.open_workflows()) == MOST
    assert len(targets(work)) == 4 * MOST
