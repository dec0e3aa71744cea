"""Attacks on the second principal: approvals that are not independent, not complete, or not for what is done."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from attack.stage import Breach, Stage, refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DESTROY = ("vmid=105", "name=shop")


async def requester_approves(stage: Stage) -> None:
    """The requester approves its own plan, over NATS and over HTTP."""
    workflow, done = await stage.plan("alice", "delete_guest", *DESTROY)
    if not workflow:
        raise Breach(f"the plan was not made: {done.text[-300:]}")
    refused(await stage.run("alice", "approve", workflow), "alice's approval of her own plan")
    bearer = {"Authorization": f"Bearer {stage.tokens['alice']}"}
    status, text = await stage.http("POST", f"/api/workflows/{workflow}/approve", {}, bearer)
    if status == 200 and json.loads(text).get("done"):
        raise Breach("alice approved her own plan over HTTP")
    await stage.run("alice", "cancel", workflow)
    await stage.nothing_written()


async def approver_without_a_token(stage: Stage) -> None:
    """A configuration makes an AI client without a token the approver of its own requests."""
    file = stage.folder / "approvers.toml"
    file.write_text(stage.config_of("alice").read_text() + '\n[mcp-bridge.approvers]\nmcp = "bob"\n')
    file.chmod(0o600)
    stage.config_of("check").write_text(file.read_text())
    done = await stage.run("check", "check")
    refused(done, "approvers of a principal without a token")


async def protected_kinds_unknown(stage: Stage) -> None:
    """A pattern that protects nothing is accepted as if it protected something."""
    for pattern in ("vm/100", "guest/102 ", " tag/keep", "Guest/1", "guest/", "nothing"):
        text = stage.config_of("alice").read_text().replace('"guest/102"', json.dumps(pattern))
        stage.config_of("check").write_text(text)
        refused(await stage.run("check", "check"), f"protected = {pattern!r}")


async def target_renamed_after_the_plan(stage: Stage) -> None:
    """The guest that a raw call names is another one when the approval is given."""
    pairs = ("method=POST", "path=/nodes/pve1/qemu/105/template", "parameters={}")
    workflow, done = await stage.plan("alice", "api_destroy", *pairs)
    if not workflow:
        raise Breach(f"the plan was not made: {done.text[-300:]}")
    await asyncio.to_thread(stage.pve.drop_guest, 105)
    await asyncio.to_thread(stage.pve.guest, vmid=105, name="payroll", node="pve1", status="stopped")
    await stage.run("bob", "approve", workflow)
    await stage.finished(workflow)
    await stage.nothing_written()
    await stage.prepare()


async def command_longer_than_the_question(stage: Stage) -> None:
    """The end of a long command is not shown to the approver."""
    tail = "rm -rf /precious"
    command = json.dumps({"command": ["sh", "-c", "echo " + "harmless " * 12 + "; " + tail]})
    pairs = ("method=POST", "path=/nodes/pve1/qemu/100/agent/exec", f"parameters={command}")
    workflow, done = await stage.plan("alice", "api_exec", *pairs)
    if workflow:
        shown = await stage.run("bob", "show", workflow)
        page = await stage.http("GET", f"/api/workflows/{workflow}")
        for where, text in (("agentd show", shown.text), ("/api/workflows", page[1])):
            if tail not in " ".join(text.split()):
                raise Breach(f"{where} does not show the end of the command")
        await stage.run("alice", "cancel", workflow)
    elif tail not in done.text and "approve" in done.text:
        raise Breach("the question does not show the end of the command")
    await stage.nothing_written()


async def act_replaced_by_a_call(stage: Stage) -> None:
    """A call takes the key of a planned task, so that the deletion is reported and not done."""
    workflow, _ = await stage.plan("alice", "delete_guest", *DESTROY)
    for key in (f"{workflow}.call", f"{workflow}.call.call"):
        await stage.run("oscar", "call", "update_vm", "vmid=105", "description=x", "--key", key)
    await asyncio.to_thread(stage._reset)  # noqa: SLF001 - whatever the call has written is not the question here
    await stage.run("bob", "approve", workflow)
    found = await stage.finished(workflow)
    gone = 105 not in await asyncio.to_thread(stage.guests)
    if (found["status"] in {"completed", "completed_with_warnings"}) != gone:
        raise Breach(f"the workflow says {found['status']}, and the guest is {'gone' if gone else 'there'}")
    await stage.prepare()


ATTACKS: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    requester_approves,
    approver_without_a_token,
    protected_kinds_unknown,
    target_renamed_after_the_plan,
    command_longer_than_the_question,
    act_replaced_by_a_call,
)
