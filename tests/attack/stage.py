"""What an attack runs on: a daemon, a simulated Proxmox, principals at the command line, and a raw NATS client.

NATS has no users here: an attack shows what the code holds without permissions.  What these hold is in
tests/hardening/bus/test_permissions.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import nats

from agentd.safety import tokens
from harness import SCRIPTS, NatsServer, eventually, free_port
from pve.client import FakePve

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from nats.aio.client import Client

CONFIG = """\
[node]
name = "pve1"
state_dir = "{folder}/state"

[bus]
servers = ["nats://127.0.0.1:{nats}"]

[client]
principal = "{principal}"

[proxmox]
url = "{url}"
token_id = "{token_id}"
token_file = "{folder}/token"
ca_file = "{ca}"

[policy]
protected = ["guest/102", "tag/keep", "pool/core"]

[policy.principals]
alice = "exec"
bob = "exec"
oscar = "operate"
mcp = "operate"
cron = "operate"

[web]
port = {web}

[web.tokens]
alice = "{alice}"
bob = "{bob}"

[orchestrator]
workflows_dir = "{folder}/workflows"

[instances.all]
roles = ["orchestrator", "specialist", "monitor", "mcp-bridge"]
"""
GUESTS = (
    {
        "vmid": 102,
        "name": "core-db",
        "node": "pve1",
        "status": "running",
        "config": {"tags": "keep", "cores": 2, "memory": "2048", "scsi0": "local-lvm:vm-102-disk-0,size=16G"},
    },
    {
        "vmid": 105,
        "name": "shop",
        "node": "pve1",
        "status": "stopped",
        "config": {"cores": 2, "memory": "2048", "scsi0": "local-lvm:vm-105-disk-0,size=8G"},
    },
)
"""The victims: one that is protected and runs, one that is not protected."""
START = 40.0
"""Seconds for `agentd up` to be ready on a busy machine."""


class Breach(Exception):
    """An attack has done what it should not; the text says what."""


@dataclass(frozen=True)
class Done:
    """The end of a command: exit code and everything that it printed."""

    code: int
    text: str

    def json(self) -> Any:
        """Return what it printed as JSON."""
        return json.loads(self.text)


class Stage:
    """A network to attack."""

    def __init__(self, folder: Path) -> None:
        """Keep where everything is written."""
        self.folder = folder
        self.web_port = free_port()
        self.url = f"http://127.0.0.1:{self.web_port}"
        self.tokens: dict[str, str] = {}
        self.number = 0
        self._log_begins = 0
        self._guests: dict[int, Any] = {}

    async def __aenter__(self) -> Self:
        """Start the simulated Proxmox, NATS, a daemon and a raw client; return when the daemon is ready."""
        self._stack = contextlib.ExitStack()
        self.pve = self._stack.enter_context(FakePve(directory=self.folder / "pve"))
        (self.folder / "workflows").mkdir(mode=0o755)
        self.server = self._stack.enter_context(NatsServer(self.folder))
        self._write_configuration()
        provisioned = await self.run("alice", "provision")
        assert provisioned.code == 0, provisioned.text
        self._stack.enter_context(self._daemon())
        await self._ready()
        self.raw: Client = await nats.connect(self.server.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop everything, in the reverse order."""
        await self.raw.close()
        self._stack.close()

    def _write_configuration(self) -> None:
        token_id, _, secret = self.pve.tokens["full"].partition("=")
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secret)
        digests: dict[str, str] = {}
        for name in ("alice", "bob"):
            self.tokens[name], digests[name] = tokens.new_token()
        for principal in ("alice", "bob", "oscar", "rita"):
            text = CONFIG.format(
                folder=self.folder,
                nats=self.server.port,
                principal=principal,
                url=self.pve.url,
                token_id=token_id,
                ca=self.pve.ca,
                web=self.web_port,
                **digests,
            )
            file = self.config_of(principal)
            file.touch(mode=0o600)
            file.write_text(text)

    def config_of(self, principal: str) -> Path:
        """Return the configuration file with which `principal` runs commands."""
        return self.folder / f"{principal}.toml"

    @contextlib.contextmanager
    def _daemon(self) -> Any:
        command = [str(SCRIPTS / "agentd"), "--config", str(self.config_of("alice")), "run", "all"]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    async def _ready(self) -> None:
        for _ in range(int(START / 0.2)):
            with contextlib.suppress(OSError):
                if (await self.http("GET", "/readyz"))[0] == 200:
                    return
            await asyncio.sleep(0.2)
        raise AssertionError("the daemon is not ready: " + (self.folder / "log").read_text()[-2000:])

    # -- what attackers use ---------------------------------------------------------------------------------------

    async def run(self, principal: str, *arguments: str, seconds: float = 60) -> Done:
        """Run `agentd …` as a principal."""
        command = [str(SCRIPTS / "agentd"), "--config", str(self.config_of(principal)), *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise Breach(f"`agentd {' '.join(arguments)}` had no answer within {seconds:.0f} s") from error
        return Done(process.returncode or 0, output.decode(errors="replace"))

    async def http(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send a request to the daemon; return status and text."""

        def send() -> tuple[int, str]:
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(self.url + path, data, headers or {}, method=method)  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        return await asyncio.to_thread(send)

    async def plan(self, principal: str, tool: str, *pairs: str) -> tuple[str, Done]:
        """Ask for a destructive call; return the id of its plan, "" if it was refused at once, and what was printed."""
        done = await self.run(principal, "--json", "call", tool, *pairs, seconds=90)
        with contextlib.suppress(ValueError):
            found = json.loads(done.text[done.text.index("{") :])
            if found.get("status") == "waiting_approval":
                return str(found["workflow_id"]), done
        return "", done

    async def refusals(self) -> float:
        """Return how many answers the daemon has refused to publish where a message asked for them."""
        _, text = await self.http("GET", "/metrics")
        found = re.search(r"^agentd_bus_refused_replies_total (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    async def until_refused(self, before: float, count: int, seconds: float = 5) -> None:
        """Wait until `count` answers more are refused; a daemon that publishes them instead is found out afterwards."""

        async def refused() -> bool:
            return await self.refusals() >= before + count

        with contextlib.suppress(AssertionError):
            await eventually(refused, f"{count} refusals", seconds)

    async def until_shown(self, workflow: str, seconds: float = 15) -> str:
        """Return what the daemon says of a workflow once it waits for an approval or is over."""

        async def shown() -> str:
            status, text = await self.http("GET", f"/api/workflows/{workflow}")
            return text if status == 200 and json.loads(text).get("status") not in {"planned", "running"} else ""

        return await eventually(shown, f"{workflow} is shown", seconds)

    async def finished(self, workflow: str, seconds: float = 45) -> dict[str, Any]:
        """Return a workflow once it is over."""
        for _ in range(int(seconds / 0.3)):
            status, text = await self.http("GET", f"/api/workflows/{workflow}")
            found: dict[str, Any] = json.loads(text) if status == 200 else {}
            if found.get("status") not in {
                None,
                "planned",
                "running",
                "waiting_approval",
                "compensating",
                "cancelling",
            }:
                return found
            await asyncio.sleep(0.3)
        raise Breach(f"{workflow} is not over after {seconds:.0f} s")

    # -- what is checked ------------------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Put the victims where they were, and remember what there is."""
        self.number += 1
        await asyncio.to_thread(self._reset)
        self._guests = await asyncio.to_thread(self.guests)
        self._log_begins = len(await asyncio.to_thread(self.pve.log))

    def _reset(self) -> None:
        self.pve.reset()
        for guest in GUESTS:
            self.pve.guest(**guest)

    def guests(self) -> dict[int, Any]:
        """Return every guest as it is, without what changes by itself."""
        return {guest["vmid"]: guest for guest in self.pve.inventory()["guests"]}

    def writes(self) -> list[str]:
        """Return every write that Proxmox has received since the attack began, as `METHOD path`."""
        lines = self.pve.log()[self._log_begins :]
        return [f"{line['method']} {line['path']} {line.get('body', '')}" for line in lines if line["method"] != "GET"]

    async def check(self) -> None:
        """Raise Breach if a victim has changed or the network does not work any more."""
        now = await asyncio.to_thread(self.guests)
        for vmid, guest in self._guests.items():
            if now.get(vmid) != guest:
                raise Breach(f"guest {vmid} was {guest}, is {now.get(vmid)}; {await asyncio.to_thread(self.writes)}")
        done = await self.run("oscar", "--json", "call", "list_guests")
        if done.code:
            raise Breach(f"the network does not answer any more: {done.text[-300:]}")
        status, text = await self.http("GET", "/api/workflows")
        if status != 200:
            raise Breach(f"/api/workflows answers {status}: {text[:200]}")

    async def nothing_written(self) -> None:
        """Raise Breach if Proxmox has received any write."""
        writes = await asyncio.to_thread(self.writes)
        if writes:
            raise Breach(f"Proxmox received {writes}")


def refused(done: Done, what: str) -> None:
    """Raise Breach if a command that must be refused has ended well."""
    if done.code == 0:
        raise Breach(f"{what} was accepted: {done.text[-300:]}")
