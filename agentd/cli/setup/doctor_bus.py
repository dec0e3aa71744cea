"""The checks of NATS in `agentd doctor`."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agentd.bus import capacity
from agentd.bus.jetstream import Bus
from agentd.bus.setup import probe, provision
from agentd.client import queries
from agentd.config.section import is_loopback
from agentd.errors import AgentdError
from agentd.plugins import bus_users
from agentd.plugins.manager import every_plugin
from agentd.safety import freeze
from agentd.version import __version__
from agentd.wire import subjects
from agentd.wire.messages import MAX_STATE

if TYPE_CHECKING:
    from agentd.bus.setup.permissions import User
    from agentd.config.load import Config
    from agentd.config.settings import Login
    from agentd.telemetry.logs import Logger

MAX_OFFSET: Final = 2.0
"""Seconds that two clocks may differ."""
OLDEST: Final = (2, 15)
"""The oldest version of nats-server that supports what the streams need."""
SOON: Final = 14 * 86_400.0
"""Seconds before the end of a certificate from which on it is a fault."""
SHOWN: Final = 3
"""Number of subjects that a finding names."""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check; `advice` says what to do if it is not good."""

    what: str
    good: bool
    text: str
    advice: str = ""


async def examine(config: Config, log: Logger, user: User, login: Login | None = None) -> list[Finding]:
    """Check NATS with the login of `user`."""
    bus = Bus(config.bus, user.name, log)
    try:
        await bus.connect(wait=5, login=login)
    except AgentdError as error:
        return [Finding("nats", good=False, text=str(error), advice="see [bus] in the configuration")]
    findings: list[Finding] = []
    try:
        findings += [Finding("nats", good=True, text=f"connected to {config.bus.shown_servers}"), _version(bus)]
        findings += [certificate("nats certificate", end) for end in [bus.certificate_end] if end]
        findings += await _permissions(config, user)
        return [*findings, *await _jetstream(bus, config, log)]
    except AgentdError as error:
        return [*findings, Finding("nats", good=False, text=str(error), advice="see the log of nats-server")]
    finally:
        await bus.close()


def certificate(what: str, end: str) -> Finding:
    """Report when a certificate ends; `end` is as in `ssl.SSLSocket.getpeercert`."""
    left = ssl.cert_time_to_seconds(end) - time.time()
    text = f"valid until {end}"
    return Finding(what, left > SOON, text, "" if left > SOON else "replace it before it ends")


def _version(bus: Bus) -> Finding:
    version = bus.server_version
    good = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST
    oldest = ".".join(str(part) for part in OLDEST)
    return Finding("nats version", good, version, "" if good else f"agentd needs {oldest} or newer")


# -- permissions ----------------------------------------------------------------------------------------------------


async def _permissions(config: Config, user: User) -> list[Finding]:
    """Try the user's permissions: what it needs, and what it must not have."""
    bus, what = config.bus, f"permissions of {user.name}"
    if not (bus.nkey_file or bus.nkey_dir or bus.creds_file or bus.user):
        near = all(is_loopback(host) for host in bus.hosts)
        text = "NATS is used without a login: any client that reaches it may do everything"
        advice = "give NATS users (agentd permissions --nats-conf), and set nkey_file under [bus]"
        return [Finding(what, near, text, "" if near else advice)]
    every_user = await asyncio.to_thread(_every_user, config)
    needed = probe.allowed(user)
    foreign = probe.forbidden(user, every_user)
    denied = await probe.denied(bus, bus, user.name, [*needed, *foreign])
    lacking = [operation.subject for operation in needed if operation in denied]
    wide = [operation.subject for operation in foreign if operation not in denied]
    advice = "write the users of NATS again: agentd permissions --nats-conf"
    if lacking or wide:
        missing = [Finding(what, good=False, text=f"lacks {_some(lacking)}", advice=advice)] if lacking else []
        extra = [Finding(what, good=False, text=f"may, and must not: {_some(wide)}", advice=advice)] if wide else []
        return [*missing, *extra]
    return [Finding(what, good=True, text=f"{len(needed)} operations allowed, {len(foreign)} forbidden ones denied")]


def _every_user(config: Config) -> list[User]:
    """Return the users of this configuration, and an agent of each role."""
    return bus_users.every_user(config, {*config.instances, *bus_users.roles(config)})


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# -- JetStream ------------------------------------------------------------------------------------------------------


async def _jetstream(bus: Bus, config: Config, log: Logger) -> list[Finding]:
    findings = await _provisioned(bus, config, log)
    if any(finding.text.startswith("stream ") and finding.text.endswith(" is missing") for finding in findings):
        return findings
    offset = await bus.measure_clock(subjects.WORKFLOWS)
    findings.append(
        Finding("clock", abs(offset) <= MAX_OFFSET, f"{offset:+.3f} s from the NATS server's", "run an NTP client")
    )
    findings.append(await _freeze(bus))
    findings.append(_payload(bus))
    findings.append(await _agents(bus))
    return [*findings, *await _storage(bus)]


async def _provisioned(bus: Bus, config: Config, log: Logger) -> list[Finding]:
    """Compare streams and consumers with those that `agentd provision` would create.

    Consumers are visible to the administrator only, so they are compared if its login is at hand.
    """
    streams = await provision.provision_streams(bus, change=False)
    findings = [Finding("streams", good=False, text=line, advice="agentd provision") for line in streams]
    findings = findings or [Finding("streams", good=True, text="all as they should be")]
    login = config.bus.admin_login()
    if login is config.bus and (config.bus.nkey_file or config.bus.creds_file or config.bus.user):
        return [*findings, Finding("consumers", good=True, text="not compared: needs the login of [bus.admin]")]
    admin = Bus(config.bus, bus.agent, log)
    try:
        await admin.connect(wait=5, login=login)
        services = await asyncio.to_thread(lambda: every_plugin(config).services())
        consumers = await provision.provision_consumers(admin, services, config.bus.queues, change=False)
    except AgentdError as error:
        return [*findings, Finding("consumers", good=True, text=f"not compared: {error}")]
    finally:
        await admin.close()
    found = [Finding("consumers", good=False, text=line, advice="agentd provision") for line in consumers]
    return [*findings, *(found or [Finding("consumers", good=True, text="all as they should be")])]


async def _freeze(bus: Bus) -> Finding:
    """Report whether the network is frozen, which is not a fault."""
    try:
        found = await freeze.read(bus)
    except AgentdError as error:
        return Finding("freeze", good=False, text=str(error), advice="until it can be read nothing is changed")
    return Finding("freeze", good=True, text="not frozen" if found is None else freeze.describe(found))


async def _agents(bus: Bus) -> Finding:
    """Report agents of other versions: during an upgrade that is no fault."""
    agents = await queries.agents(bus)
    others = sorted(f"{agent.agent_id} {agent.version}" for agent in agents if agent.version not in {"", __version__})
    text = f"agentd {__version__}; agents that run: {len(agents)}"
    return Finding("versions", good=True, text=f"{text}, other versions: {_some(others)}" if others else text)


def _payload(bus: Bus) -> Finding:
    """Check that one message can hold the state of a workflow."""
    good = bus.max_payload >= MAX_STATE
    text = f"messages of {bus.max_payload} bytes"
    advice = f"set max_payload of nats-server to 1MB: workflows whose state is larger than {bus.max_payload} bytes fail"
    return Finding("max_payload", good, text, "" if good else advice)


async def _storage(bus: Bus) -> list[Finding]:
    """Check how full NATS is, and report which streams use the space."""
    try:
        uses, sizes = await capacity.all_limits(bus)
    except AgentdError as error:
        return [Finding("storage", good=False, text=str(error), advice="allow this user to request $JS.API.INFO")]
    full = [use for use in uses if use.share >= capacity.FULL]
    if full:
        return [Finding("storage", good=False, text=use.text, advice=capacity.advice(use, sizes)) for use in full]
    account = await capacity.account_limits(bus)
    used = f"{sum(sizes.values()) / capacity.MIB:.1f} MiB in use"
    unknown = f"{used}; no limit is configured: set max_file of the account, or max_storage under [bus]"
    return [Finding("storage", good=True, text="; ".join(use.text for use in account) or unknown)]
