"""Nothing destroyed that was not meant: dry runs, consents, what is protected, and how much within an hour."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from agentd.client.tool_calls import call_tool
from agentd.errors import Denied, NeedsPlan, PermanentError, Rejected
from agentd.proxmox.read_only import dry_run_context, refuse_write
from agentd.safety import budget
from agentd.safety.policy import Policy, check_unchanged
from agentd.wire import subjects
from agentd.wire.codec import digest, plain
from agentd.wire.messages import Consent, Outcome, Preview, Target, TaskCompletion, Tier, ToolCall
from core.jetstream import kv_list
from core.probe import SERVICE, Probe, a_worker, assign, audit, completion, serving

if TYPE_CHECKING:
    from agentd.bus.jetstream import Bus

THING = Target("thing/1", "the thing", {"looks": "whole"}, ["tag/old"], ["all of it"])
GIVEN = Consent("bob", "d" * 64, [THING], digest(["wipe", {}]))


async def _assigned(bus: Bus, probe: Probe, tool: str, policy: Policy | None = None, **more: Any) -> TaskCompletion:
    async with serving(a_worker(bus, probe, policy=policy)):
        await assign(bus, tool, **{"tier": Tier.EXEC} | more)
        return await completion(bus)


# -- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["marked", "unsafe", "wipe"])
async def test_a_dry_run_only_reads(bus: Bus, probe: Probe, tool: str) -> None:
    """It says what would be changed; nothing is done, no effect is recorded, and tier read suffices."""
    async with serving(a_worker(bus, probe, policy=Policy())):
        call = ToolCall({}, "w.t.step", dry_run=True)
        reply = await call_tool(bus, subjects.tool_call("tester", SERVICE, tool), call, seconds=15)

    assert (reply.status, reply.dry_run) == ("completed", True)
    assert reply.result == plain(Preview(tool, [THING] if tool == "wipe" else []))
    assert (probe.checks, probe.acts) == (1, 0)
    assert await bus.last(subjects.EFFECTS, subjects.effect(SERVICE, "tester=w.t.step")) is None
    assert await audit(bus) == []


async def test_a_dry_run_without_a_change(bus: Bus, probe: Probe) -> None:
    """What is as wanted already would not be touched."""
    probe.inventory["tester=w.t.step"] = "UPID"
    async with serving(a_worker(bus, probe)):
        reply = await call_tool(
            bus, subjects.tool_call("tester", SERVICE, "probed"), ToolCall({}, "w.t.step", dry_run=True), seconds=15
        )

    assert reply.result == {"tool": "probed", "already": True}


async def test_a_dry_run_of_a_reading_tool_is_the_read(bus: Bus, probe: Probe) -> None:
    """There is nothing else to be seen: the result is its own."""
    async with serving(a_worker(bus, probe)):
        reply = await call_tool(
            bus, subjects.tool_call("tester", SERVICE, "read_it"), ToolCall({"text": "x"}, dry_run=True), seconds=15
        )

    assert (reply.result, reply.dry_run) == ({"upid": "", "text": "x"}, False)


async def test_a_dry_run_of_an_exec_tool_needs_its_tier(bus: Bus, probe: Probe) -> None:
    """The dry run of a tool of tier exec may read inside a guest."""
    async with serving(a_worker(bus, probe, policy=Policy())):
        call = ToolCall({}, "w.t.step", dry_run=True)
        with pytest.raises(Denied, match="shell needs tier exec; tester has read"):
            await call_tool(bus, subjects.tool_call("tester", SERVICE, "shell"), call, seconds=15)

    assert probe.steps == []


def test_a_dry_run_never_writes() -> None:
    """A tool that writes outside `ensure` is stopped before anything is sent; outside a dry run it is not."""
    with (
        dry_run_context(),
        pytest.raises(PermanentError, match="POST /x writes, and this is a dry run: nothing was sent"),
    ):
        refuse_write("POST /x")

    refuse_write("POST /x")


# -- consents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["wipe", "shell"])
async def test_destruction_needs_a_second_principal(bus: Bus, probe: Probe, tool: str) -> None:
    """Without a consent a destructive or executing tool does not start, for any tier of the caller."""
    found = await _assigned(bus, probe, tool)

    assert (found.status, probe.steps) == (Outcome.FAILED, [])
    assert found.error is not None
    assert found.error.code == NeedsPlan.code  # type: ignore[union-attr]
    assert f"`agentd call {tool} …` requests it" in found.error.message  # type: ignore[union-attr]


async def test_an_approved_call_is_done_once(bus: Bus, probe: Probe) -> None:
    """With another's approval it is done, and both audit records name the approver; a redelivery does nothing."""
    async with serving(a_worker(bus, probe)):
        await assign(bus, "wipe", tier=Tier.DESTROY, consent=GIVEN)
        first = await completion(bus)
        await assign(bus, "wipe", tier=Tier.DESTROY, consent=GIVEN, attempt=2)
        second = await completion(bus, number=2)
    lines = await audit(bus)

    assert first.status == second.status == Outcome.COMPLETED
    assert probe.acts == 1
    assert [(line.phase, line.approved_by) for line in lines] == [("before", "bob"), ("after", "bob")]


async def test_a_target_changed_since_the_approval_is_not_touched(bus: Bus, probe: Probe) -> None:
    """The consent holds for what was shown: the refusal names what is otherwise now."""
    probe.looks_like = "in use"
    found = await _assigned(bus, probe, "wipe", consent=GIVEN)

    assert (found.status, probe.acts) == (Outcome.FAILED, 0)
    assert found.error.message == (  # type: ignore[union-attr]
        "the thing is not as it was when bob approved it (looks: 'whole' → 'in use'): nothing was done; "
        "request it again"
    )


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (
            [replace(THING, name="thing/2")],
            "the thing was not part of what bob approved: nothing was done; request it again",
        ),
        ([], "the thing, which bob approved, is no longer among the targets: nothing was done; request it again"),
        ([THING, replace(THING, name="thing/2")], "the thing was not part of what bob approved: nothing was done"),
        ([replace(THING, state={})], "(looks: 'whole' → None): nothing was done; request it again"),
    ],
)
def test_a_consent_is_for_exactly_these(now: list[Target], line: str) -> None:
    """Neither more nor less nor other than what was approved."""
    with pytest.raises(Rejected) as caught:
        check_unchanged(now, GIVEN)

    assert line in str(caught.value)


@pytest.mark.parametrize("by", ["tester", ""])
async def test_the_requester_cannot_consent(bus: Bus, probe: Probe, by: str) -> None:
    """Two are needed; one under both names is one."""
    found = await _assigned(bus, probe, "wipe", consent=replace(GIVEN, by=by))

    assert (found.status, probe.steps) == (Outcome.FAILED, [])
    assert "another principal has to" in found.error.message  # type: ignore[union-attr]


async def test_a_tool_that_does_not_declare_its_targets(bus: Bus, probe: Probe) -> None:
    """It cannot be checked whether it is allowed: it is refused right before it acts."""
    found = await _assigned(bus, probe, "shell", consent=replace(GIVEN, targets=[], call=digest(["shell", {}])))

    assert (found.status, probe.acts) == (Outcome.FAILED, 0)
    assert found.error.message.startswith("shell does not report what it changes")  # type: ignore[union-attr]


# -- what is protected ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["thing/1", "thing/*", "tag/old"])
async def test_a_protected_target_is_not_touched(bus: Bus, probe: Probe, pattern: str) -> None:
    """Not even with a consent; a dry run reports it before an approval is requested."""
    policy = Policy(default_tier=Tier.EXEC, protected=("other/*", pattern))
    line = f"wipe: the thing is protected by [policy] protected = {pattern!r}; nothing was done"
    async with serving(a_worker(bus, probe, policy=policy)):
        await assign(bus, "wipe", tier=Tier.EXEC, consent=GIVEN)
        found = await completion(bus)
        with pytest.raises(Denied) as caught:
            await call_tool(
                bus, subjects.tool_call("tester", SERVICE, "wipe"), ToolCall({}, "w.t.step", dry_run=True), seconds=15
            )

    assert (found.error.message, str(caught.value)) == (line, line)  # type: ignore[union-attr]
    assert probe.acts == 0


async def test_a_target_protected_from_every_change(bus: Bus, probe: Probe) -> None:
    """With `protected_min_tier = "operate"` a tool that does not say what it changes changes nothing."""
    policy = Policy(default_tier=Tier.OPERATE, protected=("thing/9",), protected_min_tier=Tier.OPERATE)
    found = await _assigned(bus, probe, "marked", policy)

    assert (found.status, probe.acts) == (Outcome.FAILED, 0)
    assert "does not report what it changes" in found.error.message  # type: ignore[union-attr]


# -- how much ---------------------------------------------------------------------------------------------------------


async def test_destruction_within_an_hour_is_limited(bus: Bus, probe: Probe) -> None:
    """The limit is the network's; an act that is repeated takes no second place."""
    await budget.take_slot(bus, "w.one", 2)
    await budget.take_slot(bus, "w.one", 2)
    found = await _assigned(bus, probe, "wipe", Policy(default_tier=Tier.EXEC, per_hour=1), consent=GIVEN)

    assert (found.status, probe.acts) == (Outcome.FAILED, 0)
    assert "destructive_per_hour allows 1 operations that destroy" in found.error.message  # type: ignore[union-attr]
    assert list(await kv_list(bus, subjects.BUDGET)) == ["0"]


async def test_two_do_not_take_the_same_place(bus: Bus) -> None:
    """Of many at once exactly as many get a place as there are."""
    found = await asyncio.gather(
        *(budget.take_slot(bus, f"w.{number}", 3) for number in range(6)), return_exceptions=True
    )

    assert sum(isinstance(item, Denied) for item in found) == 3
    assert sum(item is None for item in found) == 3
