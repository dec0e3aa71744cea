"""Install what is compared, each into an environment of its own, and run it for one case."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.client import Client
from mcp_types import TextContent

from bench.peers.contestants import OURS, Answer, Contestant, Ground, Parameters, Peer, Step
from harness import free_port, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[3]
LIMIT = 120.0
"""Seconds for one call."""
CONFIG = """\
[node]
name = "pve1"

[bus]
servers = ["nats://127.0.0.1:{bus}"]
nkey_dir = "{keys}"

[proxmox]
url = "{url}"
token_id = "{token}"
token_file = "{secret}"
ca_file = "{ca}"

[web]
port = {port}
"""


@dataclass
class Record:
    """What one server did in one case: every call as it was, what is so afterwards, and the cell of the table."""

    case: str
    server: str
    cell: str = ""
    good: bool | None = None
    facts: Parameters = field(default_factory=dict)
    calls: list[Parameters] = field(default_factory=list)


def installed(contestant: Contestant, cache: Path, python: Path, *, keep: bool) -> tuple[Path, Parameters]:
    """Install a package as its users do, fresh; return its `bin` and the versions that came."""
    place = cache / contestant.package
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    what = f"{ROOT}[server,mcp]" if contestant is OURS else contestant.package
    if not (keep and place.exists()):
        subprocess.run([python, "-m", "venv", "--clear", place], check=True)
        subprocess.run([*pip, "install", "-qq", what], check=True)
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, text=True).stdout
    versions = {load["name"]: load["version"] for load in json.loads(listed)}
    return place / "bin", {name: versions.get(name, "") for name in (contestant.package, "mcp", "proxmoxer")}


class Session:
    """A client of one server; keeps every call in a record."""

    def __init__(self, client: Client, contestant: Contestant, record: Record) -> None:
        """Keep whom to ask and where to write it down."""
        self.client = client
        self.contestant = contestant
        self.record = record

    async def call(self, step: Step) -> Answer:
        """Call a tool."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(LIMIT):
                result = await self.client.call_tool(step.tool, step.arguments)
        except Exception as error:  # noqa: BLE001 - a server may fail in any way, and that is what is measured
            answer, raw = Answer(error=True, text=f"{type(error).__name__}: {error}", structured=None), ""
        else:
            texts = [volume.text for volume in result.content if isinstance(volume, TextContent)]
            answer = Answer(bool(result.is_error), "\n".join(texts), result.structured_content)
            raw = result.model_dump_json(by_alias=True, exclude_none=True, exclude={"meta"})
        self.record.calls.append(
            {
                "tool": step.tool,
                "arguments": step.arguments,
                "seconds": round(time.monotonic() - begun, 2),
                "bytes": len(raw.encode()),
                "error": answer.error,
                "text": answer.text if len(answer.text) < 4000 else f"{answer.text[:4000]}…",
            }
        )
        return answer

    async def said(self, step: Step) -> tuple[str, str]:
        """Call a tool, ask for its task until that is over where there is a tool for it; what it says at both times."""
        answer = await self.call(step)
        first = last = self.contestant.verdict(answer)
        for _ in range(20):
            follow = self.contestant.follow(answer)
            if last != "under way" or follow is None:
                break
            await asyncio.sleep(0.5)
            last = self.contestant.verdict(await self.call(follow))
        return first, last


@asynccontextmanager
async def session(contestant: Contestant, binaries: Path, ground: Ground, record: Record) -> AsyncIterator[Session]:
    """Start the server, yield a client of it, and stop it."""
    if contestant is OURS:
        with daemon(binaries, ground) as port:
            async with Client(f"http://127.0.0.1:{port}/mcp") as client:
                yield Session(client, contestant, record)
        return
    peer: Peer = contestant  # type: ignore[assignment] # whatever is not ours is a peer over stdio
    async with Client(peer.command(binaries, ground)) as client:
        yield Session(client, contestant, record)


@contextmanager
def daemon(binaries: Path, ground: Ground) -> Iterator[int]:
    """Run `agentd up`, every role with a nats-server of its own; yield the port of its web server."""
    who, _, secret = ground.credential.partition("=")
    port, bus = free_port(), free_port()
    values = {"url": ground.pve.url, "ca": ground.pve.ca, "token": who, "port": port, "bus": bus}
    values["keys"] = ground.scratch / "state" / "keys"
    config = ground.secret("agentd.toml", CONFIG.format(**values, secret=ground.secret("token", secret)))
    state = str(ground.scratch / "state")
    command = [str(binaries / "agentd"), "--config", str(config), "up", "--state", state, "--port", str(bus)]
    with (
        (ground.scratch / "log").open("ab") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=ground.environment) as process,
    ):
        try:
            until(lambda: process.poll() is not None or _is_ready(port), "agentd up", 60)
            assert process.poll() is None, (ground.scratch / "log").read_text(encoding="utf-8")
            yield port
        finally:
            process.terminate()
            process.wait(45)


def cli(binaries: Path, ground: Ground, *words: str) -> tuple[int, str]:
    """Run a command of agentd beside the daemon of the same ground; return its exit code and what it says."""
    command = [str(binaries / "agentd"), "--config", str(ground.scratch / "agentd.toml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ground.environment, timeout=LIMIT, check=False)
    return done.returncode, done.stdout + done.stderr


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def number_in(answer: Answer) -> int:
    """Return the VMID that an answer to `draw` names."""
    found: Any = answer.structured
    if isinstance(found, dict):
        found = found.get("vmids", [found.get("data")])[0]
    digits = "".join(filter(str.isdigit, str(found))) or "".join(filter(str.isdigit, answer.text))
    return int(digits)


def python_of(given: str) -> Path:
    """Return the interpreter that environments are made with."""
    return Path(os.path.abspath(given))  # noqa: PTH100 - resolve() would leave its environment
