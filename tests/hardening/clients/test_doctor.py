"""`agentd doctor` finds what is wrong with NATS: permissions, drift, certificates, disk; and says what to do."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from agentd.bus.jetstream import Bus
from agentd.bus.setup import permissions, provision
from agentd.bus.setup.permissions import User
from agentd.cli.setup import doctor, doctor_bus
from agentd.config import load
from agentd.plugins import bus_users, manager
from agentd.plugins.manager import every_plugin
from agentd.safety.signing import Signer
from agentd.telemetry import logs
from agentd.wire import subjects
from core.bus.nats.test_login import authority
from harness import NatsServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentd.cli.setup.doctor_bus import Finding

CONFIG = """
[node]
name = "pve1"
state_dir = "{folder}/state"
[client]
principal = "alice"
[bus]
servers = ["{url}"]
nkey_dir = "{folder}/keys"
[instances.worker]
roles = ["specialist"]
"""
EVENT = "ai.workflows.event.*"
REQUEST = "ai.workflows.request.alice"


def _same(user: User) -> User:
    return user


def _with_event(user: User) -> User:
    return User(user.name, user.kind, (*user.publish, EVENT), user.subscribe)


def _without_request(user: User) -> User:
    return User(user.name, user.kind, tuple(set(user.publish) - {REQUEST}), user.subscribe)


def _reading_inboxes(user: User) -> User:
    return User(user.name, user.kind, user.publish, (*user.subscribe, "_INBOX.>"))


class Place(NamedTuple):
    """A server whose users are made by a function of what they should be, and the configuration of alice."""

    server: NatsServer
    config: load.Config


def _load(file: Path) -> load.Config:
    return load.load(file, {}, manager.installed())


def _place(folder: Path, change: Callable[[User], User]) -> Place:
    folder.joinpath("keys").mkdir(mode=0o700)
    file = folder / "agentd.toml"
    file.write_text(CONFIG.format(folder=folder, url="nats://127.0.0.1:1"))
    users = bus_users.every_user(_load(file), ["worker"])
    keys = {user.name: Signer.new() for user in users}
    for name, key in keys.items():
        seed = folder / "keys" / f"{name}.nk"
        seed.touch(mode=0o600)
        seed.write_text(key.seed)
    given = [change(user) if user.name == "alice" else user for user in users]
    text = permissions.nats_conf((user, keys[user.name].public) for user in given)
    server = NatsServer(folder, extra=f"authorization {{\n{text}}}")
    file.write_text(CONFIG.format(folder=folder, url=server.url))
    return Place(server, _load(file))


async def _provisioned(config: load.Config) -> Bus:
    bus = Bus(config.bus, subjects.ADMIN, logs.get_logger())
    await bus.connect(wait=10, login=config.bus.admin_login())
    services = await asyncio.to_thread(lambda: every_plugin(config).services())
    await provision.provision(bus, services, config.bus.queues)
    return bus


async def _faults(config: load.Config, instance: str | None = None) -> list[Finding]:
    return [found for found in await doctor.run_checks(config, logs.get_logger(), instance) if not found.good]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_with_event, "may, and must not: ai.workflows.event.probe"),
        (_reading_inboxes, "may, and must not: _INBOX.*.*.*, _INBOX.*.>, _INBOX.>"),
        (_without_request, f"lacks {REQUEST}"),
    ],
)
async def test_permissions_of_another_kind(tmp_path: Path, change: Callable[[User], User], text: str) -> None:
    """A permission too many and one too few are both named, with the command that writes them again."""
    server, config = await asyncio.to_thread(_place, tmp_path, change)
    with server:
        await (await _provisioned(config)).close()
        (found,) = await _faults(config)

    assert found.what == "permissions of alice"
    assert found.text.startswith(text)
    assert "agentd permissions --nats-conf" in found.advice


async def test_a_correct_network_and_drift(tmp_path: Path) -> None:
    """A principal and an agent find nothing wrong; a changed stream or consumer is named, and provision repairs it."""
    server, config = await asyncio.to_thread(_place, tmp_path, _same)
    with server:
        missing = await _faults(config)
        admin = await _provisioned(config)
        good = [await _faults(config), await _faults(config, "worker")]
        consumer = (await admin.api("CONSUMER.INFO.AI_INPUT.orch"))["config"]
        body = {"stream_name": "AI_INPUT", "config": consumer | {"max_ack_pending": 7}}
        await admin.api("CONSUMER.DURABLE.CREATE.AI_INPUT.orch", body)
        drifted = await _faults(config)
        repaired = await provision.provision(admin, await asyncio.to_thread(lambda: every_plugin(config).services()))
        stream = (await admin.api("STREAM.INFO.AI_DEAD"))["config"]
        await admin.api("STREAM.UPDATE.AI_DEAD", stream | {"max_bytes": 1 << 20})
        changed = await _faults(config)
        repaired += await provision.provision(admin, await asyncio.to_thread(lambda: every_plugin(config).services()))
        after = await _faults(config)
        await admin.close()

    assert {found.text for found in missing} >= {"stream AI_AUDIT is missing"}
    assert good == [[], []]
    assert [found.text for found in drifted] == ["consumer orch of AI_INPUT differs: max_ack_pending"]
    assert [found.text for found in changed] == ["stream AI_DEAD differs: max_bytes"]
    assert {found.advice for found in [*missing, *drifted, *changed]} == {"agentd provision"}
    assert repaired == ["changed consumer orch of AI_INPUT", "changed stream AI_DEAD: max_bytes"]
    assert after == []


async def test_no_room_and_a_certificate_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little free space, and a certificate with less than two weeks left, are faults."""
    server, config = await asyncio.to_thread(_place, tmp_path, _same)
    (tmp_path / "ca.pem").write_bytes(authority("ours").pem())
    (tmp_path / "none.pem").write_text("no certificate")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # noqa: SLF001
    with server:
        await (await _provisioned(config)).close()
        found = []
        for name in ("ca.pem", "none.pem"):
            login = config.bus.model_copy(update={"tls_ca_file": str(tmp_path / name)})
            found += doctor._certificates(config.model_copy(update={"bus": login}))  # noqa: SLF001
        (disk,) = await _faults(config)

    assert disk.what == "disk"
    assert [one.good for one in found] == [False, False]
    assert found[0].text.startswith("valid until ")
    assert found[0].advice == "replace it before it ends"
    assert "none.pem" in found[1].text


async def test_without_a_login(nats_server: NatsServer, tmp_path: Path) -> None:
    """NATS without users is reported; beyond this machine it is a fault."""
    file = tmp_path / "agentd.toml"
    file.write_text(f'[bus]\nservers = ["{nats_server.url}"]\n')
    near = await asyncio.to_thread(_load, file)
    far = near.model_copy(update={"bus": near.bus.model_copy(update={"servers": ("nats://nats.example.org:4222",)})})
    user = permissions.principal(near.principal)
    (here,) = await doctor_bus._permissions(near, user)  # noqa: SLF001
    (there,) = await doctor_bus._permissions(far, user)  # noqa: SLF001

    assert here.good
    assert not there.good
    assert "without a login" in there.text
