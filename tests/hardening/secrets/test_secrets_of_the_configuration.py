"""Secrets of the configuration stay where they are: in no output, error, log, page or message."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from agentd.safety import tokens
from harness import ALL_ROLES, SCRIPTS, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Net

PAGES = ("/", "/healthz", "/readyz", "/metrics", "/api/agents", "/api/plugins", "/api/services", "/api/openapi.json")


def agentd(file: Path, *words: str) -> str:
    """Return all that a command prints."""
    command = [str(SCRIPTS / "agentd"), "--config", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def get(url: str) -> str:
    """Return a page with its status and its headers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - loopback
            return f"{answer.status} {answer.headers}{answer.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers}{error.read().decode()}"


def planted(net: Net) -> dict[str, str]:
    """Put a secret into each setting that can hold one; return them by the setting's name."""
    assert net.pve is not None
    found = {name: f"{name}-{secrets.token_hex(8)}" for name in ("password", "webtoken")}
    found["proxmox"] = net.pve.tokens["full"].rpartition("=")[2]
    address = net.nats_url.removeprefix("nats://")
    net.settings["bus"]["servers"] = [f"nats://agentd:{found['password']}@{address}"]
    net.settings["web"] = {"port": free_port(), "tokens": {"alice": tokens.token_digest(found["webtoken"])}}
    return found


async def test_a_daemon_that_works(net: Net) -> None:
    """The commands that show the configuration, the debug log and every page show none of them."""
    found = planted(net)
    file = net.config_file()
    reply = {"provision": await asyncio.to_thread(agentd, file, "provision")}
    with net.daemon("all", ALL_ROLES) as daemon:
        for words in (
            ["config", "check"],
            ["--json", "config", "check"],
            ["config", "show"],
            ["doctor"],
            ["agents"],
            ["tools"],
        ):
            reply[" ".join(words)] = await asyncio.to_thread(agentd, file, *words)
        port = net.settings["web"]["port"]
        for page in PAGES:
            reply[page] = await asyncio.to_thread(get, f"http://127.0.0.1:{port}{page}")
        reply["log"] = daemon.log.read_text()

    assert reply["/"].startswith("200 ")
    assert "available" in reply["agents"], reply["agents"]
    assert [(name, where) for where, text in reply.items() for name, value in found.items() if value in text] == []


@pytest.mark.parametrize(
    "change",
    [
        '[bus]\nservers = ["nats://u:{secret}@127.0.0.1 4222"]',
        '[bus]\nserver = "nats://u:{secret}@127.0.0.1:4222"',
        '[bus]\nservers = "nats://u:{secret}@127.0.0.1:bad"',
        '[bus]\npassword = "{secret}"',
        '[proxmox]\nurl = "https://u:{secret}@pve1"\ntoken_id = "a@pve!b"',
        '[proxmox]\nurl = "https://pve1:8006"\ntoken_id = "a@pve!b={secret}"',
        '[proxmox]\nurl = "https://pve1:8006"\ntoken_id = "a@pve!b"\ntoken = "{secret}"',
        '[web.tokens]\nalice = "{secret}"',
        '[web]\ntokens = "{secret}"',
        '[monitor]\npassword = "{secret}"',
        '[schedules.x]\nworkflow = "health_check"\ncron = "1 1 * * *"\nparameters = {{ token = "{secret}" }}',
        '[schedules.x]\nworkflow = "health_check"\ncron = "1 1 * * *"\nparameters = {{ node = "https://{secret}@b" }}',
    ],
)
def test_a_configuration_that_is_wrong(tmp_path: Path, change: str) -> None:
    """An error names the setting, and not its value."""
    secret = f"planted-{secrets.token_hex(8)}"
    file = tmp_path / "agentd.toml"
    file.write_text(change.format(secret=secret))
    file.chmod(0o600)
    reply = {
        " ".join(words): agentd(file, *words) for words in (["config", "check"], ["config", "show"], ["provision"])
    }

    assert all(reply.values())
    assert [where for where, text in reply.items() if secret in text] == []


def test_an_unreachable_server(tmp_path: Path) -> None:
    """The error of a server that cannot be reached names it without the login in its address."""
    secret = f"planted-{secrets.token_hex(8)}"
    file = tmp_path / "agentd.toml"
    file.write_text(f'[bus]\nservers = ["nats://u:{secret}@127.0.0.1:{free_port()}"]\n')
    file.chmod(0o600)
    reply = agentd(file, "doctor") + agentd(file, "agents")

    assert "nats://***@127.0.0.1" in reply
    assert secret not in reply
