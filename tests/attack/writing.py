"""Attacks of a raw NATS client: writing where one may not, by reply subjects, forged messages and stated identities."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

from attack.stage import Breach, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SERVICE = "mcp-proxmox"
SERVED = 30.0
"""Seconds within which a request is done while another principal floods the network, on a busy machine."""


async def _victim(stage: Stage) -> str:
    """Return the id of a workflow of alice that waits."""
    workflow, done = await stage.plan("alice", "delete_guest", "vmid=105", "name=shop")
    if not workflow:
        raise Breach(f"the plan was not made: {done.text[-300:]}")
    return workflow


async def _still_works(stage: Stage, workflow: str) -> None:
    status, text = await stage.http("GET", f"/api/workflows/{workflow}")
    if status != 200:
        raise Breach(f"the workflow is lost: {status} {text[:200]}")
    done = await stage.run("alice", "cancel", workflow)
    if done.code not in {0, 3}:
        raise Breach(f"the workflow cannot be cancelled: {done.text[-300:]}")


async def reply_into_a_workflow(stage: Stage) -> None:
    """A signal whose reply subject is the event of another workflow makes the orchestrator write there."""
    workflow = await _victim(stage)
    signal, before = json.dumps({"action": "pause"}).encode(), await stage.refusals()
    for subject in (f"ai.workflows.signal.rita.{workflow}", "ai.workflows.signal.rita.nothing"):
        await stage.raw.publish(subject, signal, reply=f"ai.workflows.event.{workflow}")
    await stage.raw.flush()
    await stage.until_refused(before, 2)
    await _still_works(stage, workflow)


async def reply_into_an_audit_chain(stage: Stage) -> None:
    """Signals, calls and requests with an audit subject as reply stop an agent from acting for ever."""
    reply, nothing, before = "ai.audit.all-pve1", json.dumps({"parameters": {}}).encode(), await stage.refusals()
    await stage.raw.publish("ai.workflows.signal.rita.nothing", json.dumps({"action": "pause"}).encode(), reply=reply)
    for subject in (
        f"ai.tools.call.rita.{SERVICE}.list_guests",
        f"ai.tools.call.{SERVICE}.list_guests",
        "ai.control.all-pve1",
    ):
        await stage.raw.publish(subject, nothing, reply=reply)
    await stage.raw.publish("ai.agents.discovery.request", b'{"requester": "rita"}', reply=reply)
    await stage.raw.publish("$SRV.INFO", b"", reply=reply)
    await stage.raw.flush()
    await stage.until_refused(before, 5)
    done = await stage.run("oscar", "call", "update_vm", "vmid=101", "description=still works")
    if done.code:
        raise Breach(f"the agent does not act any more: {done.text[-300:]}")
    await stage.prepare()


async def unreadable_event(stage: Stage) -> None:
    """One malformed message among the workflows makes every listing fail."""
    js = stage.raw.jetstream()
    for payload in (b"not json", b"{}", b"\xff\xfe", b"[]", b'{"workflow_id": 1}', b""):
        await js.publish(f"ai.workflows.event.broken{stage.number}", payload)
    done = await stage.run("rita", "workflows")
    if done.code:
        raise Breach(f"agentd workflows fails: {done.text[-300:]}")


async def tier_stated_by_the_caller(stage: Stage) -> None:
    """A caller states another principal and a higher tier in the message itself."""
    body = {"parameters": {"vmid": 105, "name": "evil"}, "key": "evil.a", "principal": "alice", "tier": "exec"}
    payload = json.dumps(body).encode()
    subjects = (
        f"ai.tools.call.rita.{SERVICE}.update_vm",
        f"ai.tools.call.{SERVICE}.update_vm",
        f"ai.tools.call.rita.{SERVICE}.start_guest",
    )
    for subject in subjects:
        try:
            await stage.raw.request(subject, payload, timeout=4)
        except Exception as error:  # noqa: BLE001 - no listener, or no answer: both are refusals
            del error
    await stage.nothing_written()


async def completion_forged_for_a_look(stage: Stage) -> None:
    """A plain completion answers a dry run, so that another guest is shown than is deleted."""
    workflow = f"forged{stage.number}"
    preview = {
        "tool": "delete_guest",
        "targets": [{"name": "guest/999", "title": "VM 999 'scratch-empty'", "state": {}}],
    }
    body = {"status": "completed", "result": preview, "service_id": SERVICE, "agent_id": "all-pve1"}
    stop = asyncio.Event()

    async def forge() -> None:
        names = ("preview-call", "preview_call", "preview.call", "preview-call_0", "call", "dry-call")
        while not stop.is_set():
            for name in names:
                message = body | {"task_id": f"{workflow}.{name}", "workflow_id": workflow}
                await stage.raw.publish("ai.tasks.complete", json.dumps(message).encode())
            await asyncio.sleep(0.002)

    forging = asyncio.create_task(forge())
    request = {"workflow_type": "tool_call", "workflow_id": workflow}
    request["parameters"] = {"tool": "delete_guest", "parameters": {"vmid": 105, "name": "shop"}}  # type: ignore[assignment]
    await stage.raw.publish("ai.workflows.request.alice", json.dumps(request).encode())
    text = await stage.until_shown(workflow)
    stop.set()
    await forging
    if "scratch-empty" in text:
        raise Breach("the forged preview is shown to the principal who approves")
    await stage.nothing_written()


async def flood_of_one_principal(stage: Stage) -> None:
    """One principal asks 10,000 times and goes on; each request of another one is done within seconds meanwhile."""
    enough = asyncio.Event()
    flooding = asyncio.create_task(_flood(stage, "rita", 10_000, enough))
    await asyncio.sleep(0.5)
    waits = [await _served(stage, "oscar", f"calm{stage.number}-{number}") for number in range(10)]
    enough.set()
    sent, refused = await flooding
    say = f"p50 {sorted(waits)[5]:.2f} s, longest {max(waits):.2f} s; {refused} of {sent} were not stored"
    sys.stdout.write(f"         flood: others wait {say}\n")
    if max(waits) > SERVED:
        raise Breach(f"another principal was not served: {say}")
    if not refused:
        raise Breach("NATS has stored every request of a flood")


async def _flood(stage: Stage, principal: str, least: int, enough: asyncio.Event) -> tuple[int, int]:
    """Publish requests as fast as NATS takes them; return how many were sent, and how many of them it refused."""
    body = {"workflow_type": "health_check", "parameters": {}}
    sent = refused = 0

    async def publish(index: int) -> None:
        nonlocal refused
        message = json.dumps(body | {"workflow_id": f"flood{stage.number}-{index}"}).encode()
        answer = await stage.raw.request(f"ai.workflows.request.{principal}", message, timeout=60)
        refused += "error" in json.loads(answer.data)

    while sent < least or not enough.is_set():
        await asyncio.gather(*(publish(index) for index in range(sent, sent + 200)))
        sent += 200
        await asyncio.sleep(0.1)  # the flooding client has a machine of its own; here it would take the CPU of agentd
    return sent, refused


async def _served(stage: Stage, principal: str, workflow: str) -> float:
    """Ask for a workflow as `principal`; return the seconds until its answer is there."""
    begun = time.monotonic()
    body = {"workflow_type": "health_check", "workflow_id": workflow, "parameters": {}}
    received = await stage.raw.subscribe(f"ai.workflows.response.{workflow}")
    await stage.raw.request(f"ai.workflows.request.{principal}", json.dumps(body).encode(), timeout=60)
    try:
        answer = await received.next_msg(timeout=150)
    except TimeoutError as error:
        raise Breach(f"{workflow} of {principal} had no answer within 150 s") from error
    finally:
        await received.unsubscribe()
    if json.loads(answer.data)["status"] != "completed":
        raise Breach(f"{workflow} of {principal}: {answer.data.decode()[:300]}")
    return time.monotonic() - begun


ATTACKS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    reply_into_a_workflow,
    reply_into_an_audit_chain,
    unreadable_event,
    tier_stated_by_the_caller,
    completion_forged_for_a_look,
    flood_of_one_principal,
)
