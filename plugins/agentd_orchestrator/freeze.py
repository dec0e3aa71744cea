"""Freezes and thaws the whole network on request, and writes the audit record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentd import AgentdError, Tier, subjects
from agentd.safety import freeze
from agentd.wire.announcements import NetworkReply, NetworkRequest

if TYPE_CHECKING:
    from agentd import Context, Received
    from agentd.bus.nats.subscriptions import Subscription
    from agentd.wire.announcements import Freeze


class FreezeRequests:
    """Answers the freeze and thaw requests of principals."""

    def __init__(self, context: Context) -> None:
        """Use the bus and the policy of `context`."""
        self._context = context

    async def listen(self) -> Subscription:
        """Subscribe to the requests and answer them."""
        return await self._context.bus.subscribe(subjects.ALL_NETWORK, self._on_request)

    async def _on_request(self, received: Received) -> None:
        """Execute a request and reply with its outcome."""
        context, principal = self._context, received.subject.rpartition(".")[2]
        try:
            request = received.decode(NetworkRequest)
            reply = await self._execute(principal, request)
        except AgentdError as error:
            context.log.warning("the network was not changed", principal=principal, reason=str(error))
            current = context.worker.runner.freeze_watch.current
            reply = NetworkReply(context.agent_id, done=False, message=str(error), freeze=current)
        await received.respond(reply)

    async def _execute(self, principal: str, request: NetworkRequest) -> NetworkReply:
        context = self._context
        tier = context.policy.tier_of(principal, plain=False)

        async def note(outcome: str, found: Freeze | None) -> None:
            context.log.warning(
                "the network is frozen or thawed", outcome=outcome, principal=principal, reason=request.reason
            )
            arguments = {"reason": request.reason, "freeze": found}
            try:
                await context.worker.runner.audit_log.write(
                    principal=principal,
                    tool=request.action,
                    tier=Tier.OPERATE,
                    phase="after" if request.action == "freeze" else "before",
                    key=f"network.{request.action}",
                    arguments={name: value for name, value in arguments.items() if value},
                    outcome=outcome,
                )
            except AgentdError as error:
                if request.action != "freeze":
                    raise
                context.log.error("the freeze is in force, but its audit record is lost", reason=str(error))  # noqa: TRY400

        return await freeze.carry_out(context.bus, context.agent_id, principal, tier, request, note)
