"""Exact permissions in NATS: every act that a user must be able to do works, every other is denied.

The acts are generated from the table of `agentd permissions`.  Who owns which subject is stated here once more, by
hand: a table that gives too much fails, even if NATS enforces it.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import nats
import pytest
from nats.js.errors import APIError

from agentd.bus.jetstream import Bus
from agentd.bus.setup import permissions, probe, provision
from agentd.bus.setup.permissions import Kind, User
from agentd.config import load, settings
from agentd.errors import ConfigError, Denied
from agentd.plugins import bus_users, manager
from agentd.plugins.manager import every_plugin
from agentd.safety.signing import Signer
from agentd.telemetry import logs
from agentd.wire import subjects
from harness import SCRIPTS, NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROLES = ("orchestrator", "specialist", "monitor", "mcp-bridge")
CONFIG = """
[node]
name = "pve1"
[client]
principal = "alice"
[[bus.queues]]
name = "mcp-proxmox@pve1"
in_flight = 4
[[bus.queues]]
name = "mcp-proxmox@pve2"
in_flight = 4
[[bus.queues]]
name = "puller"
in_flight = 2
external = "pull"
[[bus.queues]]
name = "pusher"
in_flight = 2
external = "push"
[policy.principals]
bob = "destroy"
[web.tokens]
carol = "sha256:DIGEST"
"""


@pytest.fixture
def config(tmp_path: Path) -> load.Config:
    """Return a configuration with queues of nodes, external agents, and a principal with a token."""
    file = tmp_path / "agentd.toml"
    file.write_text(CONFIG.replace("DIGEST", "0" * 64))
    return load.load(file, {}, manager.installed())


@pytest.fixture
def users(config: load.Config) -> list[User]:
    """Return every user of a cluster of two nodes with all roles."""
    found = {user.name: user for user in bus_users.every_user(config, ROLES)}
    agents = [bus_users.agent(config, role, node) for node in ("pve1", "pve2") for role in ROLES]
    return permissions.users((found | {user.name: user for user in agents}).values())


@pytest.fixture
def server(tmp_path: Path, users: list[User]) -> Iterator[NatsServer]:
    """Run nats-server with exactly these users."""
    (tmp_path / "keys").mkdir(mode=0o700)
    keys = {user.name: Signer.new() for user in users}
    for name, key in keys.items():
        file = tmp_path / "keys" / f"{name}.nk"
        file.touch(mode=0o600)
        file.write_text(key.seed)
    text = permissions.nats_conf((user, keys[user.name].public) for user in users)
    with NatsServer(tmp_path, extra=f"authorization {{\n{text}}}") as running:
        yield running


@pytest.fixture
def login(server: NatsServer, tmp_path: Path) -> settings.Bus:
    """Return the settings with which every user connects."""
    return settings.Bus(servers=(server.url,), nkey_dir=str(tmp_path / "keys"))


async def _provisioned(login: settings.Bus, config: load.Config) -> Bus:
    bus = Bus(login, subjects.ADMIN, logs.get_logger())
    await bus.connect(wait=10, login=login.admin_login())
    services = await asyncio.to_thread(lambda: every_plugin(config).services())
    await provision.provision(bus, services, config.bus.queues)
    return bus


async def test_every_act_of_every_user(
    users: list[User], login: settings.Bus, config: load.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a user needs is allowed, what belongs to others is denied, and nothing is stored by trying."""
    admin = await _provisioned(login, config)
    sizes = {name: (await admin.api(f"STREAM.INFO.{name}"))["state"]["messages"] for name in permissions.STREAMS}
    tried = refused = 0
    for user in users:
        needed, foreign = probe.allowed(user), probe.forbidden(user, users)
        as_admin = login.admin_login() if user.kind is Kind.ADMIN else login
        denied = await probe.denied(login, as_admin, user.name, [*needed, *foreign])

        assert {act for act in needed if act in denied} == set(), user.name
        assert {act for act in foreign if act not in denied} == set(), user.name
        tried, refused = tried + len(foreign), refused + len(denied)
    after = {name: (await admin.api(f"STREAM.INFO.{name}"))["state"]["messages"] for name in permissions.STREAMS}
    durables = await admin.durables(subjects.WORKFLOWS)
    await admin.close()

    assert after == sizes
    assert {"orch-due", "mcp-proxmox@pve2", "puller"} <= durables
    assert tried == refused
    assert tried > 5000
    with capsys.disabled():
        sys.stdout.write(f"\n{len(users)} users, {tried} forbidden operations tried, {refused} denied\n")


AGENT = re.compile(r"(orchestrator|specialist|monitor|mcp-bridge)-pve[12]")
OWNERS: tuple[tuple[str, str], ...] = (
    (r"ai\.workflows\.request", "plain|admin"),
    (r"ai\.workflows\.request\.(?P<who>.+)", "{who}|orchestrator-.*|admin"),
    (r"ai\.workflows\.signal\.(?P<who>[^.]+)\..*", "{who}|orchestrator-.*|admin"),
    (r"ai\.control\.network\.(?P<who>.+)", "{who}"),
    (r"ai\.control\.(accept|agent)\.(?P<who>[^.]+)\..*", "{who}"),
    (r"ai\.control\.[^.]+", "admin"),
    (r"ai\.tools\.call\.(?P<who>[^.]+)\..*", "{who}"),
    (r"ai\.tools\.step\.(?P<who>[^.]+)\..*", "{who}"),
    (r"ai\.tasks\.complete", "puller|pusher|admin"),
    (r"ai\.tasks\.complete\.(?P<who>[^.]+)\..*", "{who}|admin"),
    (r"ai\.tasks\.(assign|stop)\..*", "orchestrator-.*"),
    (r"ai\.workflows\.(event|response)\..*|ai\.workflows\.response", "orchestrator-.*"),
    (r"ai\.workflows\.timer\..*\._\.cron", "orchestrator-.*|admin"),
    (r"ai\.workflows\.timer\..*", "orchestrator-.*"),
    (r"ai\.workflows\.due\..*", "admin"),
    (r"ai\.effects\.specialist\..*", "orchestrator-.*|specialist-.*"),
    (r"ai\.effects\.mcp-proxmox\..*", "orchestrator-.*|mcp-bridge-.*"),
    (r"ai\.effects\.monitor\..*", "orchestrator-.*|monitor-.*"),
    (r"ai\.effects\..*", "orchestrator-.*"),
    (r"ai\.critical_errors\.orchestrator", "orchestrator-.*"),
    (r"ai\.(audit|heartbeat|metrics|critical_errors)\.(?P<who>.+)", "{who}"),
    (r"\$KV\.live\.(?P<who>.+)", "{who}|orchestrator-.*"),
    (r"\$KV\.audit\.(key|head)\.(?P<who>.+)", "{who}"),
    (r"\$KV\.results\.(?P<who>[^.]+-pve[12])\..*", "{who}"),
    (r"\$KV\.(conf|freeze)\..*", "orchestrator-.*"),
    (r"\$KV\.(alerts|monitor)\..*|ai\.alerts\..*", "monitor-.*"),
    (r"\$KV\.budget\..*", "specialist-.*|mcp-bridge-.*|monitor-.*"),
    (r"ai\.dead\.mark\..*", "admin"),
    (r"\$JS\.API\.STREAM\.(CREATE|UPDATE|DELETE|PURGE|SNAPSHOT|RESTORE|MSG\.DELETE|PEER).*", "admin"),
    (r"\$JS\.SNAPSHOT\..*", "admin"),
    (r"\$JS\.API\.CONSUMER\.(CREATE|DURABLE|DELETE|PAUSE|RESET).*", "admin"),
    (r"\$JS\.API\.STREAM\.MSG\.GET\.AI_REQUESTS", "admin"),
    (r"\$JS\.API\.STREAM\.MSG\.GET\.AI_INPUT", "orchestrator-.*|admin"),
    (r"\$JS\.API\.DIRECT\.GET\.(AI_(REQUESTS|INPUT|WORKFLOWS)|KV_live)", "admin"),
    (r"\$JS\.API\.DIRECT\..*", "(orchestrator|specialist|monitor|mcp-bridge)-.*|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\.(AI_REQUESTS|AI_INPUT)\..*", "orchestrator-.*|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\..*\.mcp-proxmox@(?P<who>pve[12]).*", "mcp-bridge-{who}|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\..*\.mcp-proxmox(\+urgent)?(\..*)?", "mcp-bridge-.*|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\..*\.specialist(\+urgent)?(\..*)?", "specialist-.*|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\..*\.monitor(\+urgent)?(\..*)?", "monitor-.*|admin"),
    (r"\$JS\.API\.CONSUMER\.MSG\.NEXT\..*\.puller(\..*)?", "puller|admin"),
    (r"\$JS\.ACK\.(_\.hash\.)?(AI_REQUESTS|AI_INPUT)\..*", "orchestrator-.*"),
    (r"\$JS\.ACK\..*\.mcp-proxmox@(?P<who>pve[12]).*", "mcp-bridge-{who}"),
    (r"\$JS\.ACK\..*\.mcp-proxmox(\+urgent)?(\..*)?", "mcp-bridge-.*"),
    (r"\$JS\.ACK\..*\.specialist(\+urgent)?(\..*)?", "specialist-.*"),
    (r"\$JS\.ACK\..*\.monitor(\+urgent)?(\..*)?", "monitor-.*"),
    (r"\$JS\.ACK\..*\.puller(\..*)?", "puller"),
    (r"_INBOX\..*", "(orchestrator|specialist|monitor|mcp-bridge)-.*"),
    (r"\$SYS\..*|agentd\.probe|\$JS\.EVENT\..*", ""),
)  # fmt: skip
"""Who may publish what: a subject, and the names of the users; by the first line that matches."""
REPRESENTED = {"carol": AGENT, "mcp": re.compile("mcp-bridge-pve[12]")}
"""Principals in whose name daemons ask: those of [web.tokens] by every page, MCP's clients by the bridge."""


def _owner(name: str, subject: str) -> bool | None:
    """Return whether the user may publish the subject; None if no line says it."""
    for pattern, owners in OWNERS:
        found = re.fullmatch(pattern, subject)
        if found:
            who = found.groupdict().get("who", "")
            may = re.fullmatch(owners.format(who=re.escape(who)) or "(?!)", name) is not None
            asked = re.match(r"ai\.(workflows\.(request|signal)|control\.(network|agent)|tools\.call)\.", subject)
            if asked and who in REPRESENTED and not (who == "mcp" and "control.agent" in subject):
                bridge = name.startswith("mcp-bridge") or not subject.startswith("ai.tools.")
                may = may or (bridge and REPRESENTED[who].fullmatch(name) is not None)
            return may
    return None


def test_the_owners_of_every_subject(users: list[User]) -> None:
    """The table gives each subject to its owners and to no other user."""
    subjects_ = {act.subject for user in users for act in probe.forbidden(user, users) if act.verb == "publish"}
    wrong, stated = [], 0
    for user in users:
        for subject in subjects_:
            owner = _owner(user.name, subject)
            stated += owner is not None
            if owner is not None and owner != user.may_publish(subject):
                wrong.append(f"{user.name} {'may' if user.may_publish(subject) else 'may not'} publish {subject}")

    assert wrong == []
    assert stated > 3000


def test_every_inbox_has_one_reader(users: list[User]) -> None:
    """No user but its owner can subscribe an inbox, an assignment or a control subject."""
    for user in users:
        foreign = [other for other in users if other is not user]
        assert user.may_subscribe(f"_INBOX.{user.name}.abc.1")
        assert not [other.name for other in foreign if other.may_subscribe(f"_INBOX.{user.name}.abc.1")]
        assert not [other.name for other in foreign if other.may_subscribe(f"ai.control.{user.name}")]
        assert not [other.name for other in foreign if other.may_subscribe(subjects.assign_plain(user.name))]


@pytest.mark.parametrize("subject", ["ai.workflows.request.alice", "ai.workflows.signal.alice.w1"])
async def test_a_rollup_deletes_nothing(login: settings.Bus, config: load.Config, tmp_path: Path, subject: str) -> None:
    """A principal cannot replace the requests and signals of others by a roll-up header."""
    admin = await _provisioned(login, config)
    await admin.store("ai.workflows.request.bob", b"{}")
    client = await nats.connect(
        login.servers[0], nkeys_seed=str(tmp_path / "keys" / "alice.nk"), inbox_prefix=b"_INBOX.alice"
    )
    for scope in ("all", "sub"):
        with pytest.raises(APIError):
            await client.jetstream().publish(subject, b"{}", headers={"Nats-Rollup": scope})
    with pytest.raises(APIError):
        await client.jetstream().publish(
            subject, b"{}", headers={"Nats-Schedule": "@at 2099-01-01T00:00:00Z", "Nats-Schedule-Target": "ai.audit.x"}
        )
    left = (await admin.api(f"STREAM.INFO.{subjects.REQUESTS}"))["state"]["messages"]
    await client.close()
    await admin.close()

    assert left == 1


async def test_an_unknown_client(server: NatsServer) -> None:
    """Without a key there is no connection."""
    bus = Bus(settings.Bus(servers=(server.url,)), "foreign", logs.get_logger())

    with pytest.raises(Denied, match="refuses these credentials"):
        await bus.connect(wait=10)
    await bus.close()


# -- the command ----------------------------------------------------------------------------------------------------


def _agentd(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / "agentd"), "--config", str(tmp_path / "agentd.toml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_one_file_for_nats(config: load.Config, tmp_path: Path) -> None:
    """The file for nats-server has every user with its key, and is the same for the same input."""
    del config
    agents = [{"instance": role, "node": "pve1", "nkey": Signer.new().public} for role in ROLES]
    keys = {"agents": agents, "principals": {"alice": Signer.new().public}, "external": {"pusher": Signer.new().public}}
    file = tmp_path / "users.json"
    file.write_text(json.dumps(keys | {"admin": Signer.new().public}))

    first = _agentd(tmp_path, "permissions", "--users", str(file), "--nats-conf")
    second = _agentd(tmp_path, "permissions", "--users", str(file), "--nats-conf")

    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.count("nkey: U") == 7
    with NatsServer(tmp_path, extra=f"accounts {{ AGENTD {{ jetstream: enabled\n{first.stdout} }} }}"):
        pass


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"admin": "SUABC"}, "admin: 'SUABC' is not the public NKey of a user"),
        ({"principals": {"monitor-pve1": "{key}"}}, "'monitor-pve1' is the name of two NATS users (agent, principal)"),
        ({"external": {"foreign": "{key}"}}, "'foreign' is no external agent"),
        ({"agents": [{"instance": "monitr", "node": "pve1", "nkey": "{key}"}]}, "did you mean monitor?"),
        ({"agents": [{"instance": "monitor", "nkey": "{key}"}]}, "node"),
        ({"principals": {"a b": "{key}"}}, "'a b' is not an id"),
        ({"admin": "{same}"}, "have the same NKey"),
        ({"key": {}}, "key"),
    ],
)
def test_a_wrong_file(config: load.Config, tmp_path: Path, change: dict[str, object], text: str) -> None:
    """A fault in the file is named, and nothing is printed for nats-server."""
    del config
    same = Signer.new().public
    keys: dict[str, object] = {"agents": [{"instance": "monitor", "node": "pve1", "nkey": same}]}
    file = tmp_path / "users.json"
    whole = json.dumps(keys | change).replace("{key}", Signer.new().public).replace("{same}", same)
    file.write_text(whole)

    done = _agentd(tmp_path, "permissions", "--users", str(file), "--nats-conf")

    assert done.returncode in {ConfigError.exit_code, 65, 1, 2}
    assert done.stdout == ""
    assert text in done.stderr


def test_as_text_and_json(config: load.Config, tmp_path: Path) -> None:
    """One user or all, as text or JSON; a key is written once."""
    del config
    one_user = _agentd(tmp_path, "permissions", "--principal", "alice")
    script = _agentd(tmp_path, "--json", "permissions", "--role", "monitor", "--node", "pve2.example.org")
    new, old = (_agentd(tmp_path, "nkey", "--out", str(tmp_path / "alice.nk")) for _ in range(2))

    assert "principal alice\n" in one_user.stdout
    assert "  publish    ai.workflows.request.alice\n" in one_user.stdout
    (monitor,) = json.loads(script.stdout)
    assert monitor["name"] == "monitor-pve2"
    assert "ai.alerts.*" in monitor["publish"]
    assert new.stdout == old.stdout
    assert (tmp_path / "alice.nk").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("pattern", "subject", "covered"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.*", "a.b.c", False),
        ("a.b", "a.*", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a.>", True),
        ("a.>", "a", False),
        (">", "a.>", True),
        ("a.*.c", "a.b.>", False),
    ],
)
def test_patterns(pattern: str, subject: str, *, covered: bool) -> None:
    """A pattern covers what NATS would let through, wildcards in the subject included."""
    assert permissions.covers(pattern, subject) is covered
