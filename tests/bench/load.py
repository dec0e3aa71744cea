"""A closed loop of workflows against agentd, measured as the floor's client measures: START, then RESULT with JSON.

    PYTHONPATH=FLOOR python load.py PORT C SECONDS WARM TYPE PARAMETERS

It uses the floor's own client (found by PYTHONPATH), so that both loops cost the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import time
from typing import Any

import uvloop
from raw import Raw  # type: ignore[import-not-found]  # the floor's

from agentd.wire import subjects
from agentd.wire.codec import decode, encode
from agentd.wire.messages import WorkflowRequest, WorkflowResponse

REQUEST = subjects.request("bench").encode()
ANSWERS = subjects.response("*").encode()
PATIENCE = 60.0
"""Seconds after which an answer is missing."""


class Loop:
    """Workflows one after the other in `width` lanes."""

    def __init__(self, connection: Raw, kind: str, parameters: dict[str, Any]) -> None:
        """Keep what to ask for."""
        self.connection = connection
        self.kind = kind
        self.parameters = parameters
        self.run = secrets.token_hex(3)
        self.numbers = itertools.count()
        self.open: dict[bytes, asyncio.Future[bytes]] = {}
        self.took: list[float] = []
        connection.sub(ANSWERS, self.on_answer)

    def on_answer(self, subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        """Wake the lane that waits for this workflow."""
        waiting = self.open.pop(subject[subject.rindex(b".") + 1 :], None)
        if waiting is not None and not waiting.done():
            waiting.set_result(data)

    async def one(self) -> None:
        """Ask for one workflow and wait for its answer."""
        name = f"{self.run}{next(self.numbers)}"
        answered = self.open[name.encode()] = asyncio.get_running_loop().create_future()
        parameters = {**self.parameters, "name": f"b{name}"} if self.kind == "vm_deployment" else self.parameters
        request = encode(WorkflowRequest(self.kind, name, parameters))
        begun = time.perf_counter()
        await self.connection.jpubf(REQUEST, request, f"NATS/1.0\r\nNats-Msg-Id: {name}\r\n\r\n".encode())
        data = await answered
        self.took.append(time.perf_counter() - begun)
        answer = decode(data, WorkflowResponse)
        if not answer.status.startswith("completed"):
            raise RuntimeError(f"{name}: {answer.status}: {answer.error}")

    async def lane(self, end: float) -> None:
        """Ask again and again until `end`."""
        while time.perf_counter() < end:
            await asyncio.wait_for(self.one(), PATIENCE)

    async def measure(self, width: int, seconds: float) -> tuple[float, list[float]]:
        """Return how long it took in all, and each workflow's time, shortest first."""
        self.took = []
        begun = time.perf_counter()
        await asyncio.gather(*(self.lane(begun + seconds) for _ in range(width)))
        return time.perf_counter() - begun, sorted(self.took)


async def main() -> None:
    """Warm up, measure, print."""
    port, width, seconds, warm, kind, parameters = sys.argv[1:]
    loop = Loop(await Raw.connect(int(port), "load"), kind, json.loads(parameters))
    await loop.measure(int(width), float(warm))
    print("START", flush=True)  # noqa: T201 - the protocol with systems.py
    whole, took = await loop.measure(int(width), float(seconds))
    n = len(took)
    result = {
        "n": n,
        "wfs": round(n / whole, 1),
        "p50": round(took[n // 2] * 1e3, 3),
        "p99": round(took[int(n * 0.99)] * 1e3, 3),
    }
    print("RESULT", json.dumps(result), flush=True)  # noqa: T201 - the protocol with systems.py


uvloop.run(main())
