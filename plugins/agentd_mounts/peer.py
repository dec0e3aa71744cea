"""JSON-RPC with one child process over its stdin and stdout, as the protocol defines it for MCP servers.

It does without the SDK, because the server is not trusted: one malformed tool in a list is an error of the whole list
there, and a line has no limit.  Here a message has at most `most` bytes, requests have a time limit, requests of the
server are refused, and what it writes to stderr is dropped but for the last lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd import PermanentError, TemporaryError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd_mounts.settings import ServerSettings

ENDS: Final = 2.0
"""Seconds that a server may take to end after its stdin is closed."""
_METHOD_NOT_FOUND: Final = -32601
_ERRORS: Final = 20
"""Lines of stderr that are kept for the log."""


class Gone(TemporaryError):
    """The server has ended, or was ended because of what it sent."""


class Peer:
    """A running server.

    notified  called with the method of each notification of the server
    errors    the last lines that it wrote to stderr
    """

    def __init__(self, name: str, settings: ServerSettings, notified: Callable[[str], None]) -> None:
        """Describe the server; `start` starts it."""
        self._name, self._settings, self._notified = name, settings, notified
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._last = 0
        self._process: asyncio.subprocess.Process | None = None
        self._reading: list[asyncio.Task[None]] = []
        self.errors: deque[str] = deque(maxlen=_ERRORS)
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Start the process in its own session, so that its children can be ended with it."""
        settings = self._settings
        self._process = await asyncio.create_subprocess_exec(
            *settings.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=settings.directory,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **settings.environment},
            start_new_session=True,
            limit=settings.max_bytes,
        )
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    async def request(self, method: str, parameters: dict[str, Any], seconds: float) -> Any:  # noqa: ANN401 - JSON
        """Return the result of a request.

        Raises Gone, TemporaryError after `seconds`, PermanentError for its error.
        """
        self._last += 1
        number, answer = self._last, asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(seconds):
                await self._send({"jsonrpc": "2.0", "id": number, "method": method, "params": parameters})
                return await answer
        except TimeoutError:
            await self.notify("notifications/cancelled", {"requestId": number, "reason": "it took too long"})
            raise TemporaryError(f"{self._name} has not answered {method} within {seconds:.0f} s") from None
        except asyncio.CancelledError:
            with contextlib.suppress(Gone):
                await self.notify("notifications/cancelled", {"requestId": number, "reason": "no longer needed"})
            raise
        finally:
            self._waiting.pop(number, None)

    async def notify(self, method: str, parameters: dict[str, Any]) -> None:
        """Send a notification; raises Gone."""
        await self._send({"jsonrpc": "2.0", "method": method, "params": parameters})

    async def stop(self) -> None:
        """Close its stdin, and kill it with all its children if it has not ended soon."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDS):
                await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def _send(self, message: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None or self.ended.is_set():
            raise Gone(f"{self._name} is not running")
        try:
            process.stdin.write(msgspec.json.encode(message) + b"\n")
            async with asyncio.timeout(self._settings.timeout):
                await process.stdin.drain()
        except (OSError, TimeoutError) as error:
            raise Gone(f"{self._name} does not read: {error}") from error

    async def _read(self) -> None:
        reason = "it has ended"
        try:
            assert self._process is not None and self._process.stdout is not None  # noqa: PT018, S101 - started
            while line := await self._process.stdout.readline():
                await self._received(line)
        except ValueError:
            reason = f"a message has more than max_bytes = {self._settings.max_bytes}"
        except Gone as error:
            reason = str(error)
        finally:
            self.ended.set()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(Gone(f"{self._name}: {reason}"))

    async def _received(self, line: bytes) -> None:
        try:
            message = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return  # not a message: the server prints to stdout
        if not isinstance(message, dict):
            return
        method, number = message.get("method"), message.get("id")
        if isinstance(method, str):
            if number is None:
                self._notified(method)
            else:
                await self._refuse(number, method)
            return
        answer = self._waiting.get(number) if isinstance(number, int) else None
        if answer is None or answer.done():
            return
        try:
            answer.set_result(result_of(message, self._name))
        except PermanentError as error:
            answer.set_exception(error)

    async def _refuse(self, number: object, method: str) -> None:
        """Answer a request of the server.

        Only `ping` is served: the server gets no model, no form and no directories.
        """
        if method == "ping":
            await self._send({"jsonrpc": "2.0", "id": number, "result": {}})
        else:
            error = {"code": _METHOD_NOT_FOUND, "message": "Method not found"}
            await self._send({"jsonrpc": "2.0", "id": number, "error": error})

    async def _read_errors(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: PT018, S101 - started
        while data := await self._process.stderr.read(4096):
            self.errors.extend(printable.printable(line[:200]) for line in data.decode(errors="replace").splitlines())


def result_of(message: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return the result in an answer of the server `name`; raises PermanentError for an error."""
    if isinstance(message, dict) and "result" in message:
        return message["result"]
    fault = message.get("error") if isinstance(message, dict) else message
    text = fault.get("message") if isinstance(fault, dict) else fault
    raise PermanentError(f"{name}: {printable.printable(str(text)[:500])}")
