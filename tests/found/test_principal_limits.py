"""One principal that asks for too much is refused, and says nothing of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import client
from agentd.messages import WorkflowRequest
from agentd_orchestrator.room import Quota
from fake_agent import Agent, orchestrators, task

if TYPE_CHECKING:
    from agentd.bus import Bus
    from harness import Net


def test_so_many_requests_within_a_minute() -> None:
    """The next one is refused with the setting; other principals are not, and a minute later nobody is."""
    quota = Quota(3, None)
    said = [quota.refusal("alice", at, lambda _: 0) for at in (0.0, 1.0, 2.0, 3.0, 59.0, 60.0, 60.5)]

    assert [bool(text) for text in said] == [False, False, False, True, True, False, True]
    assert "alice has sent 3 requests within a minute, as many as [orchestrator] requests_per_minute" in said[3]
    assert quota.refusal("bob", 3.0, lambda _: 0) == ""
    assert Quota(None, None).refusal("alice", 0.0, lambda _: 10**6) == ""


async def test_so_many_open_workflows(quiet_net: Net, bus: Bus) -> None:
    """A request above the limit of its principal is rejected with the setting; another principal's is carried out."""
    quiet_net.settings["orchestrator"] = {"open_workflows": 2, "requests_per_minute": 100}
    agent = Agent(bus)
    agent.hold.add("a")
    async with orchestrators(quiet_net, lambda _: [task("a")]), agent.working():
        for number in range(3):
            await client.submit(bus, "alice", WorkflowRequest("test", f"w{number}"))
        await client.submit(bus, "bob", WorkflowRequest("test", "b0"))
        refused = await client.follow(bus, "w2", lambda _: None, wait=30)
        agent.release.set()
        others = [await client.follow(bus, name, lambda _: None, wait=30) for name in ("w0", "w1", "b0")]
        await client.submit(bus, "alice", WorkflowRequest("test", "w3"))
        later = await client.follow(bus, "w3", lambda _: None, wait=30)

    assert refused.status == "rejected"
    assert "alice has 2 open workflows, as many as [orchestrator] open_workflows allows" in str(refused.error)
    assert {answer.status for answer in [*others, later]} == {"completed"}
