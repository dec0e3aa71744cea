"""Use the guest agent in a VM.

The tools test it, read facts about the system, run a command, and read and write a file.  Output of a guest is data: it
is cut to a limit and stripped of control characters.  A tool that runs commands, or reads or writes files inside a
guest has the tier `exec` and takes the name of the guest.  A command leaves no trace that identifies it, so if its
outcome is unknown, a person decides; a file is read before and after it is written.  Files are sent in base64, because
Proxmox treats text as Latin-1.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta

from agentd import (
    AgentdError,
    Call,
    Found,
    NotFound,
    PermanentError,
    ProxmoxUnavailable,
    Rejected,
    Repeat,
    TaskFailed,
    Tier,
    one_line,
    tool,
)
from agentd_proxmox import area, changes, targets
from agentd_proxmox.guests.agent import guest_output
from agentd_proxmox.guests.agent.answers import (
    Executed,
    Filesystem,
    Interface,
    decoded_content,
    executed_of,
    filesystem_of,
    interface_of,
)
from agentd_proxmox.inventory import MARGIN
from agentd_proxmox.model import fields
from agentd_proxmox.model.fields import GuestName, GuestSelector

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]

WRITABLE: Final = 46_080
"""Maximum size of a file in bytes: Proxmox takes 61,440 characters of base64."""
INFO: Final = "info"
"""The command that tests whether an agent answers: unlike `ping` it is a GET, which a dry run may send."""
_NO_AGENT: Final = re.compile(r"guest agent|not running", re.IGNORECASE)

Path = Annotated[str, Meta(min_length=1, max_length=4096, description="absolute path in the guest")]
Output = Annotated[int, Meta(ge=1, le=200_000, description="characters of each output that are shown")]
Bytes = Annotated[int, Meta(ge=1, le=200_000, description="bytes that are read")]
Words = Annotated[list[str], Meta(min_length=1, max_length=256)]


class AgentPing(msgspec.Struct, frozen=True):
    """Whether the agent answers; if not, the reason and what to do."""

    vmid: int
    name: str
    node: str
    answers: bool
    version: str = ""
    reason: str = ""


class AgentInfo(msgspec.Struct, frozen=True):
    """Facts that the guest reports about itself: data, not trusted.

    `unread` has the commands that it did not answer, with the reason.
    """

    vmid: int
    name: str
    node: str
    hostname: str
    system: str
    kernel: str
    machine: str
    interfaces: list[Interface]
    filesystems: list[Filesystem]
    unread: dict[str, str]


class ExecInGuest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The command, and the guest by VMID and name.

    command   the program and its arguments; no shell interprets them
    stdin     input of the command
    patience  how long to wait for its end (s); the command continues after that
    """

    vmid: fields.Vmid
    guest: GuestName
    command: Words
    stdin: Annotated[str, Meta(max_length=60_000)] = ""
    patience: fields.Seconds = 60
    limit: Output = 16_000


class ReadGuestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file to read from byte `offset` on, and the guest by VMID and name.

    offset: not supported by Proxmox VE 8
    """

    vmid: fields.Vmid
    guest: GuestName
    path: Path
    offset: Annotated[int, Meta(ge=0)] = 0
    limit: Bytes = 16_000


class FileContent(msgspec.Struct, frozen=True):
    """A part of a file, which is data.

    text: without control characters; base64: the content if it is not text
    """

    vmid: int
    path: str
    size: int
    truncated: bool
    text: str = ""
    base64: str = ""


class WriteGuestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file, its complete new content, and the guest by VMID and name.

    Proxmox does not take empty content.
    """

    vmid: fields.Vmid
    guest: GuestName
    path: Path
    content: Annotated[str, Meta(min_length=1)]


class WrittenFile(msgspec.Struct, frozen=True):
    """The file as it was read back; `changed` is false if it already had this content."""

    vmid: int
    path: str
    size: int
    changed: bool


class Agent(area.Area):
    """Tools for the guest agent of VMs."""

    needs: ClassVar[area.Needs] = {area.EVERY: {("VM.Audit", "/vms/{vmid}")}}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def ping_guest_agent(self, call: Call, p: GuestSelector) -> AgentPing:
        """Check whether the guest agent of a VM answers, and what to do if it does not."""
        at = await self.inventory.find(p.vmid, p.name, vm=True)
        try:
            info = await self._ask(at, INFO)
        except (Rejected, ProxmoxUnavailable) as error:
            return AgentPing(at.vmid, at.name, at.node, answers=False, reason=one_line(error))
        version = guest_output.word(guest_output.record(info.get("result")).get("version"))
        return AgentPing(at.vmid, at.name, at.node, answers=True, version=version)

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def get_guest_agent_info(self, call: Call, p: GuestSelector) -> AgentInfo:
        """Show what the guest agent of a VM reports: system, addresses, file systems."""
        at = await self.inventory.find(p.vmid, p.name, vm=True)
        await self._ask(at, INFO)
        commands = ("get-osinfo", "get-host-name", "network-get-interfaces", "get-fsinfo")
        answers = await asyncio.gather(*(self._ask(at, command) for command in commands), return_exceptions=True)
        results = {c: a.get("result") for c, a in zip(commands, answers, strict=True) if isinstance(a, dict)}
        unread = {c: guest_output.word(a) for c, a in zip(commands, answers, strict=True) if isinstance(a, AgentdError)}
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, AgentdError):
                raise answer
        system, host = guest_output.record(results.get("get-osinfo")), guest_output.record(results.get("get-host-name"))
        return AgentInfo(
            vmid=at.vmid,
            name=at.name,
            node=at.node,
            hostname=guest_output.word(host.get("host-name")),
            system=guest_output.word(system.get("pretty-name") or system.get("name")),
            kernel=guest_output.word(system.get("kernel-release")),
            machine=guest_output.word(system.get("machine")),
            interfaces=[interface_of(entry) for entry in guest_output.records(results.get("network-get-interfaces"))],
            filesystems=[filesystem_of(entry) for entry in guest_output.records(results.get("get-fsinfo"))],
            unread=unread,
        )

    @tool(tier=Tier.EXEC, repeat=Repeat.UNSAFE, capability="vm_management")
    async def exec_in_guest(self, call: Call, p: ExecInGuest) -> Executed:
        """Run a command in a VM through its guest agent and wait for its end.

        Its effects cannot be undone.  Unsafe to repeat: if the answer is lost, nothing outside the VM shows whether the
        command has run.
        """
        at = await self._named_guest(p.vmid, p.guest)
        pid: list[int] = []

        async def check() -> None:
            await self._ask(at, INFO)
            call.target(
                await targets.guest_target(
                    self.inventory, at, f"whatever this does in it: {guest_output.command(p.command)}"
                )
            )

        async def apply() -> None:
            sent = {"command": p.command, "input-data": p.stdin or None}
            answer = await self._ask(at, "exec", sent, write=True)
            if (number := guest_output.number(answer.get("pid"))) is None:
                raise PermanentError(f"the guest agent of {at.title} does not return the user of the command")
            pid.append(number)

        await call.ensure(check, apply)
        return await self._ended(call, at, pid[0], p)

    @tool(tier=Tier.EXEC, repeat=Repeat.IDEMPOTENT, capability="vm_management")
    async def read_guest_file(self, call: Call, p: ReadGuestFile) -> FileContent:
        """Read a part of a file in a VM through its guest agent."""
        at = await self._named_guest(p.vmid, p.guest)
        read: list[tuple[bytes, bool]] = []

        async def check() -> None:  # never returns Found: each call reads again
            call.target(await targets.guest_target(self.inventory, at))

        async def apply() -> None:
            read.append(await self._read(at, p.path, p.offset, p.limit))

        await call.ensure(check, apply)
        content, more = read[0]
        text = guest_output.file_text(content)
        return FileContent(
            vmid=at.vmid,
            path=p.path,
            size=len(content),
            truncated=more,
            text=guest_output.printable_text(text) if text is not None else "",
            base64="" if text is not None else base64.b64encode(content).decode(),
        )

    @tool(tier=Tier.EXEC, repeat=Repeat.PROBED, capability="vm_management")
    async def write_guest_file(self, call: Call, p: WriteGuestFile) -> WrittenFile:
        """Write a file in a VM through its guest agent, and read it back.

        The previous content of the file is overwritten.
        """
        content = p.content.encode()
        if len(content) > WRITABLE:
            raise Rejected(f"content: {len(content)} bytes; Proxmox takes {WRITABLE} at once")
        at = await self._named_guest(p.vmid, p.guest)

        sent = {"file": p.path, "content": base64.b64encode(content).decode(), "encode": False}

        async def plan() -> changes.Planned:
            if await self._has_content(at, p.path, content):
                return Found()
            call.target(
                await targets.guest_target(self.inventory, at, f"what {guest_output.word(p.path)} in it holds now")
            )
            return lambda: self._ask(at, "file-write", sent, write=True)

        found = await changes.change(call, plan)
        if not await self._has_content(at, p.path, content):
            raise TaskFailed(f"Proxmox reports success, but {p.path} of {at.title} holds something else")
        return WrittenFile(at.vmid, p.path, len(content), changed=not found.adopted)

    async def _named_guest(self, vmid: int, guest: str) -> GuestLocation:
        at = await self.inventory.find(vmid, vm=True)
        targets.check_name(at, guest)
        return at

    async def _ask(self, at: GuestLocation, command: str, params: Entry | None = None, *, write: bool = False) -> Entry:
        """Return the answer of the agent.

        Raise Rejected with what to do if no agent answers.
        """
        ask = self.proxmox.post if write else self.proxmox.get
        try:
            answer = dict(await ask(f"{at.path}/agent/{command}", **(params or {})) or {})
        except PermanentError as error:
            if type(error) is not PermanentError or not _NO_AGENT.search(str(error)):
                raise
            raise Rejected(
                f"{at.title} has no guest agent that answers ({one_line(error)}): it must run, have qemu-guest-agent "
                "installed and started, and `agent: enabled=1` in its configuration since its last start"
            ) from error
        refused = guest_output.record(guest_output.record(answer.get("result")).get("error"))
        if refused:  # the agent's error is the result of an answer with status 200
            text = f"{guest_output.word(refused.get('class'))}: {guest_output.word(refused.get('desc'))}".strip(": ")
            raise Rejected(f"the guest agent of {at.title} does not do {command} ({text})")
        return answer

    async def _ended(self, call: Call, at: GuestLocation, pid: int, p: ExecInGuest) -> Executed:
        """Wait for the end of a command.

        While Proxmox cannot be reached the wait continues, because the command must not be started again.
        """
        until, pause = time.monotonic() + min(p.patience, max(0.0, call.left() - MARGIN)), 0.1
        while True:
            try:
                answer = await self._ask(at, "exec-status", {"pid": pid})
            except ProxmoxUnavailable as error:
                answer = {"exited": 0}
                call.progress(f"the command runs as {pid} in {at.title}, which cannot be queried now: {error}")
            else:
                call.progress(f"the command runs as {pid} in {at.title}")
            if guest_output.flag(answer.get("exited")):
                return executed_of(at, pid, answer, p.limit)
            if time.monotonic() >= until:
                call.warn(f"the command still runs as {pid} in {at.title}; its later output is not read")
                return Executed(at.vmid, at.name, pid, exited=False)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 2.0)

    async def _read(self, at: GuestLocation, path: str, offset: int, limit: int) -> tuple[bytes, bool]:
        """Return a part of a file, and whether there is more.

        Proxmox VE 8 sends the whole file, as Latin-1.
        """
        part = {"file": path, "decode": False, "count": limit, "offset": offset or None}
        try:
            answer = await self._ask(at, "file-read", part)
        except Rejected as error:
            if "not defined in schema" not in str(error) or offset:
                raise
            answer = await self._ask(at, "file-read", {"file": path})
            content = str(answer.get("content") or "").encode("latin-1", "replace")
        else:
            content = decoded_content(answer, path)
        return content[:limit], guest_output.flag(answer.get("truncated")) or len(content) > limit

    async def _has_content(self, at: GuestLocation, path: str, content: bytes) -> bool:
        try:
            return await self._read(at, path, 0, max(1, len(content))) == (content, False)
        except (PermanentError, NotFound) as error:
            if isinstance(error, Rejected) or "No such file" not in str(error):
                raise
            return False
