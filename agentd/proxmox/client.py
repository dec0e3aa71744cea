"""The Proxmox VE client; only this package imports proxmoxer and requests.

Decisions:

* proxmoxer's resource, token header and session are used, but not its ProxmoxAPI: that discards the body of an error,
  and its helpers for tasks treat a task without exit status as a success.  Our serializer keeps the body.
* proxmoxer blocks, so each call runs in a thread.  One session serves all threads (its pool is thread-safe): a new
  TLS connection costs 68 ms, a kept one 1.3 ms.
* A node has three pvedaemon workers, and a call that waits for a lock or a hung NFS server occupies one of them.  So
  at most two calls per node and process are in flight.  Calls that pveproxy answers by itself (/version, /nodes,
  /cluster/…, reads under /access, /nodes/N/status, lists of tasks) are not counted, and neither is the status of a
  task: it costs a few ms, and a process that cannot see that its task has ended keeps everything that it holds.
* The number of threads is limited.  Some are reserved for calls that are not counted, so that dead nodes never occupy
  all of them.
* The environment (proxies, REQUESTS_CA_BUNDLE, netrc) is ignored: it would silently change what is trusted.
"""

from __future__ import annotations

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import requests

from agentd.errors import (
    AgentdError,
    Denied,
    NoQuorum,
    NotFound,
    ProxmoxUnavailable,
    Rejected,
    TemporaryError,
)
from agentd.proxmox.read_only import refuse_write
from agentd.proxmox.responses import (
    TaskStatus,
    Upid,
    failure,
    not_found_error,
    object_of_path,
    one_line,
    task_status,
    unreachable_reason,
)
from agentd.proxmox.session import CONNECT_TIMEOUT, Session
from agentd.proxmox.transport import (
    THREADS,
    VERBS,
    was_not_sent,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentd.proxmox.session import Access
    from agentd.proxmox.upload import Upload

    Observe = Callable[[str, str, float], None]

THREADS_KEPT_BACK: Final = 4
UPLOADS: Final = 2
"""Files that are sent at the same time."""
LOG_LINES: Final = 10
LOG_PAGE: Final = 500
HALT: Final = 30.0
"""Seconds that a task may take to end after it was stopped."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0

_UNCOUNTED: Final = re.compile(r"/nodes/[^/]+/(tasks|tasks/[^/]+/status|status|version|time)\Z")
_ELSEWHERE: Final = re.compile(r"[\x00-\x20\x7f?#\\]|%2[eE]|%2[fF](?!\d{1,3}\Z)")
_ALIAS: Final = re.compile(r"/ipset/[A-Za-z][A-Za-z0-9_-]+/(?:dc|guest)%2F[A-Za-z][A-Za-z0-9_-]+\Z")
_NODE: Final = re.compile(r"/nodes/([^/]+)/")


def encode(params: dict[str, Any]) -> dict[str, Any]:
    """Return `params` in the form that Proxmox reads.

    Booleans become 1 and 0, None is left out, a list becomes a repeated key.

    requests percent-encodes the values (an unencoded '=' would cut the value off).  Proxmox takes a repeated key for
    its arrays; what it expects as one string (`delete`, `tags`) must be joined by the caller.
    """
    plain = {True: 1, False: 0}
    return {
        name: plain[value] if isinstance(value, bool) else value for name, value in params.items() if value is not None
    }


def _safe(path: str) -> str:
    """Return `path` with one leading slash; raises Rejected for an unsafe path.

    An encoded slash is allowed in an entry of an IP set: `…/ipset/NAME/192.0.2.0%2F24`, `…/NAME/dc%2FALIAS`.
    """
    parts = path.strip("/").split("/")
    if any(part in {"", ".", ".."} for part in parts) or _ELSEWHERE.search(_ALIAS.sub("", path)):
        raise Rejected(f"{one_line(path)!r} is not a path of the Proxmox API")
    return "/" + "/".join(parts)


class Proxmox:
    """A Proxmox VE cluster, reached over HTTPS with an API token."""

    def __init__(self, settings: Access, *, observe: Observe | None = None) -> None:
        """Use these settings; the token is read with the first call.

        `observe` is called with (method, outcome, seconds) for each call.
        """
        self.settings = settings
        self.user: str = settings.token_id
        """The token's id as in Proxmox's lists of active tasks: `user@realm!name`."""
        self.insecure = not settings.verify
        self._session = Session(settings)
        self._observe = observe
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="proxmox")
        self._free_threads = asyncio.Semaphore(THREADS - THREADS_KEPT_BACK)
        self._uploads = asyncio.Semaphore(UPLOADS)
        self._nodes: dict[str, asyncio.Semaphore] = {}

    @property
    def local(self) -> bool:
        """Whether the API was unreachable recently, and pvesh answered reads instead."""
        return self._session.local

    async def close(self) -> None:
        """Close the connections; calls in flight end by themselves and are not awaited."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    async def get(self, path: str, /, **params: Any) -> Any:  # noqa: ANN401 - any JSON from Proxmox
        """Return the data of GET `path`."""
        return (await self._call("GET", path, params)).get("data")

    async def whole(self, path: str, /, **params: str | int | bool | None) -> dict[str, Any]:
        """Return the whole response of GET `path`: some have more fields than `data`."""
        return await self._call("GET", path, params)

    async def post(self, path: str, /, **params: Any) -> Any:  # noqa: ANN401
        """Return the data of POST `path`, often a UPID."""
        return (await self._call("POST", path, params)).get("data")

    async def put(self, path: str, /, **params: Any) -> Any:  # noqa: ANN401
        """Return the data of PUT `path`, often nothing."""
        return (await self._call("PUT", path, params)).get("data")

    async def delete(self, path: str, /, **params: Any) -> Any:  # noqa: ANN401
        """Return the data of DELETE `path`, often a UPID."""
        return (await self._call("DELETE", path, params)).get("data")

    async def upload(self, path: str, body: Upload, last: Callable[[], None] = lambda: None) -> Any:  # noqa: ANN401
        """POST a file and return the data of the response.

        If it is cancelled before the last byte is sent, Proxmox keeps nothing.  `last` is called right before that
        byte: from then on the upload may take effect.
        """
        loop, runner = asyncio.get_running_loop(), asyncio.current_task()

        async def end() -> bool:
            if runner is not None and runner.cancelling():
                return False
            last()
            return True

        body.may_end = lambda: asyncio.run_coroutine_threadsafe(end(), loop).result(CONNECT_TIMEOUT)
        try:
            return (await self._call("UPLOAD", path, {"body": body})).get("data")
        except asyncio.CancelledError:
            body.drop()
            raise

    async def document(self, path: str) -> bytes:
        """Return a file that pveproxy serves outside the API, such as its schema.

        Raises ProxmoxUnavailable.
        """
        answer = await self._in_thread("FILE", _safe(path), {})
        if isinstance(answer, AgentdError):
            raise answer
        data: bytes = answer["data"]
        return data

    async def permissions(self) -> dict[str, list[str]]:
        """Return the token's privileges by path.

        {} means that the token has no privileges: it then sees every list as empty.
        """
        data = await self.get("/access/permissions") or {}
        return {
            path: sorted(name for name, held in privileges.items() if held is not None)
            for path, privileges in data.items()
        }

    async def task(self, upid: str) -> TaskStatus:
        """Return the status of the task `upid`, read from the node that runs it.

        Other nodes do not know it.
        """
        return task_status(upid, await self.get(f"/nodes/{Upid.parse(upid).node}/tasks/{upid}/status"))

    async def tasks(self, node: str, **filters: str | int) -> list[dict[str, Any]]:
        """Return the tasks of `node`, newest first.

        `source=active` is up to date, the archive lags by up to 10 s.
        """
        return await self.get(f"/nodes/{node}/tasks", **filters) or []

    async def log_tail(self, upid: str, count: int = LOG_LINES) -> list[str]:
        """Return the last `count` lines of the log of the task `upid`."""
        path = f"/nodes/{Upid.parse(upid).node}/tasks/{upid}/log"
        answer = await self._call("GET", path, {"start": 0, "limit": LOG_PAGE})
        total = int(answer.get("total") or 0)
        if total > LOG_PAGE:
            answer = await self._call("GET", path, {"start": max(0, total - count), "limit": count})
        return [one_line(line.get("t", "")) for line in answer.get("data") or []][-count:]

    async def wait(self, upid: str, timeout: float, poll: float = FIRST_PAUSE) -> list[str]:  # noqa: ASYNC109
        """Wait until the task `upid` has ended and return its warnings.

        Raises TaskFailed with the last lines of the log, GuestLocked or NoQuorum if that is why the task failed
        (nothing was done, the UPID is to be forgotten), TemporaryError if it still runs after `timeout` seconds.
        """
        until = time.monotonic() + timeout
        while True:
            log: list[str] = []
            try:
                status, trouble = await self.task(upid), ""
                if not status.running and status.exit != "OK":
                    log = await self.log_tail(upid, 100 if status.warnings else LOG_LINES)
            except ProxmoxUnavailable as error:
                status, trouble = TaskStatus(upid, running=True), f" (last answer: {error})"
            if not status.running:  # not inside the `try`: a task that failed without a quorum has ended
                return _task_warnings(status, log)
            left = until - time.monotonic()
            if left <= 0:
                raise TemporaryError(f"the task {upid} is not known to be over after {timeout:.0f} s{trouble}")
            await asyncio.sleep(min(poll, left))
            poll = min(poll * 1.5, LONGEST_PAUSE)

    async def halt(self, upid: str) -> str:
        """Stop the task `upid`, wait until it has ended and return its exit status.

        Raises ProxmoxUnavailable, Denied, or TemporaryError if it still runs after HALT seconds.
        """
        if (await self.task(upid)).running:
            await self.delete(f"/nodes/{Upid.parse(upid).node}/tasks/{upid}")
        until = time.monotonic() + HALT
        while time.monotonic() < until:
            status = await self.task(upid)
            if not status.running:
                return status.exit
            await asyncio.sleep(FIRST_PAUSE)
        raise TemporaryError(f"the task {upid} was stopped and still runs after {HALT:.0f} s")

    async def _call(self, method: str, path: str, params: dict[str, Any]) -> dict[str, Any]:
        path = _safe(path)
        if method != "GET":
            refuse_write(f"{VERBS.get(method, method)} {path}")
        started = time.monotonic()
        if (denied := self._session.denied) is not None:
            raise denied
        answer = await self._in_thread(method, path, encode(params))
        error = answer if isinstance(answer, AgentdError) else None
        if self._observe is not None:
            self._observe(VERBS.get(method, method), error.code if error else "ok", time.monotonic() - started)
        if isinstance(answer, dict):
            return answer
        raise await self._explain(path, answer)

    async def _explain(self, path: str, error: AgentdError) -> AgentdError:
        """Return a more precise error, from a list that Proxmox gives, or `error` itself.

        The list of nodes shows why a node did not answer; for a denied path, a list shows whether the object exists.
        If the API itself was not reached, no list is read.
        """
        if isinstance(error.__cause__, requests.RequestException) and was_not_sent(error.__cause__):
            return error
        source = object_of_path(str(error)) if isinstance(error, Denied) else None
        if source and path != source[1]:  # a request to the path of the list creates the object: it need not exist
            listed = await self._in_thread("GET", source[1], {})
            return (
                not_found_error(source, listed.get("data") or [], str(error)) or error
                if isinstance(listed, dict)
                else error
            )
        match = _NODE.match(path + "/")
        if match is None or not isinstance(error, ProxmoxUnavailable | NotFound) or isinstance(error, NoQuorum):
            return error
        if isinstance(error, NotFound) and "hostname lookup" not in str(error):
            return error
        answer = await self._in_thread("GET", "/nodes", {})
        entries = answer.get("data") if isinstance(answer, dict) else None
        return unreachable_reason(match[1], entries or []) or error

    async def _in_thread(self, method: str, path: str, params: dict[str, Any]) -> dict[str, Any] | AgentdError:
        """Run one call in a thread, within the limits.

        A call that is cancelled while it waits for a slot has sent nothing.  A call in flight ends by itself, and its
        slot is freed only then: the node's worker is busy until then.
        """
        held = self._limits(method, path)
        acquired: list[asyncio.Semaphore] = []
        try:
            for limit in held:
                await limit.acquire()
                acquired.append(limit)
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._session.send, method, path, params)
        except BaseException:
            for limit in acquired:
                limit.release()
            raise

        def give_back(_: object) -> None:
            for limit in acquired:
                limit.release()

        future.add_done_callback(give_back)
        return await asyncio.shield(future)

    def _limits(self, method: str, path: str) -> list[asyncio.Semaphore]:
        if method in VERBS:  # pveproxy does this alone: a file transfer occupies no worker of the node
            return [self._uploads, self._free_threads] if method == "UPLOAD" else [self._free_threads]
        if method == "GET" and (_UNCOUNTED.match(path) or not path.startswith("/nodes/")):
            return []
        match = _NODE.match(path + "/")
        node = match[1] if match else ""  # "" is the node that we are connected to
        counted = self._nodes.setdefault(node, asyncio.Semaphore(self.settings.calls_per_node))
        return [counted, self._free_threads]


def _task_warnings(status: TaskStatus, log: list[str]) -> list[str]:
    """Return the warnings of a task that has ended; raises the error if it failed."""
    if not status.succeeded:
        raise failure(status, log)
    if not status.warnings:
        return []
    return [line for line in log if re.match(r"warn(ing)?\b", line, re.IGNORECASE)] or [status.exit]
