"""The clients of a chaos run: requesters, approvers, and those that reject or cancel."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Final

from nats.errors import Error as NatsError

from system.chaos import evidence
from system.chaos.checker import TERMINAL

if TYPE_CHECKING:
    from nats.aio.client import Client

    from system.chaos.evidence import Json
    from system.chaos.plan import Request

ASKS: Final = "tester"
DECIDES: Final = "boss"
GATE: Final = "gate"


class Clients:
    """Sends what was drawn, for as long as it takes until NATS has stored it."""

    def __init__(self, client: Client, requests: list[Request]) -> None:
        """Keep the connection."""
        self._client = client
        self._js = client.jetstream(timeout=3)
        self._requests = requests
        self._talks: set[asyncio.Task[None]] = set()

    def wanted(self) -> list[Json]:
        """Return what the checker has to know."""
        return [
            {"id": request.id, "kind": request.kind, "endings": list(request.endings)} for request in self._requests
        ]

    async def ask(self) -> None:
        """Send each request at its time."""
        begun = asyncio.get_running_loop().time()
        for request in self._requests:
            await asyncio.sleep(max(0.0, begun + request.at - asyncio.get_running_loop().time()))
            talk = asyncio.create_task(self._talk(request))
            self._talks.add(talk)

    async def answer(self) -> None:
        """Wait until all drawn signals were sent."""
        await asyncio.gather(*self._talks)

    async def _talk(self, request: Request) -> None:
        message: Json = {
            "workflow_id": request.id,
            "workflow_type": request.kind,
            "parameters": request.parameters,
            "requester_id": ASKS,
        }
        for number in range(1 + request.twice):
            await self._store(f"ai.workflows.request.{ASKS}", message, {"Nats-Msg-Id": f"{request.id}-{number}"})
        if not request.signal:
            return
        if request.signal == "cancel" and request.kind != "chaos_graph":
            await asyncio.sleep(request.after)
            await self._signal(request.id, {"action": "cancel", "reason": "it was drawn so"})
        elif request.signal in {"approve", "reject"}:
            await self._decide(request)

    async def _decide(self, request: Request) -> None:
        """Say yes or no each time that the workflow asks, until it is over."""
        reported = ""
        while True:
            event = await evidence.event(self._client, request.id)
            if event is not None and event["status"] in TERMINAL:
                return
            gate = ((event or {}).get("tasks") or {}).get(GATE, {})
            if gate.get("status") == "waiting_approval" and gate["approval"]["digest"] != reported:
                reported = gate["approval"]["digest"]
                await asyncio.sleep(request.after)
                await self._signal(request.id, {"action": request.signal, "task": GATE, "digest": reported})
            await asyncio.sleep(0.5)

    async def give_up(self) -> None:
        """Cancel, and have undone, what was never approved; again, for one that has not begun cannot be."""
        left = [request for request in self._requests if request.signal == "cancel" and request.kind == "chaos_graph"]
        while left:
            for item in list(left):
                event = await evidence.event(self._client, item.id)
                if event is not None and event["status"] in TERMINAL:
                    left.remove(item)
                elif event is not None:
                    await self._signal(item.id, {"action": "cancel", "undo": True})
            await asyncio.sleep(2.0)

    async def _signal(self, workflow: str, signal: Json) -> None:
        await self._store(f"ai.workflows.signal.{DECIDES}.{workflow}", signal)

    async def _store(self, subject: str, message: Json, headers: dict[str, str] | None = None) -> None:
        while True:
            try:
                await self._js.publish(subject, json.dumps(message).encode(), headers=dict(headers or {}))
            except (NatsError, TimeoutError):
                await asyncio.sleep(0.5)
            else:
                return

    async def end(self) -> None:
        """Stop talking."""
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def summary(self, events: dict[str, Json]) -> str:
        """Return how many workflows ended how."""
        ends = Counter(events.get(request.id, {}).get("status", "unknown") for request in self._requests)
        return ", ".join(f"{number} {status}" for status, number in sorted(ends.items()))
