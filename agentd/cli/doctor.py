"""Checks whether this machine can work: NATS and its permissions, JetStream, clocks, Proxmox and its permissions.

Each finding says what to do; `agentd doctor` prints the findings and fails if one of them is bad.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from agentd import formats
from agentd.bus import capacity, provision
from agentd.bus.jetstream import Bus
from agentd.errors import AgentdError, BusError, ConfigError, NotProvisioned
from agentd.plugins import manager
from agentd.proxmox.client import Proxmox
from agentd.proxmox.responses import create_role_hint, role_for
from agentd.safety import freeze
from agentd.safety.policy import Policy
from agentd.wire import subjects
from agentd.wire.announcements import Heartbeat
from agentd.wire.codec import now
from agentd.wire.messages import MAX_STATE, Tier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentd.config.load import Config
    from agentd.proxmox.session import Access
    from agentd.telemetry.logs import Logger
    from agentd.tools.definition import Right

MAX_OFFSET = 2.0
"""Seconds that the local clock may differ from the NATS server's."""
OLDEST = (2, 15)
"""The oldest version of nats-server that supports what the streams need."""
ROLES = tuple((tier, f"Agentd{tier.capitalize()}") for tier in Tier)
"""The roles in Proxmox that `agentd doctor --roles` creates: one for each tier, with what the tools up to it need."""
GRANTS = "Permissions.Modify"
"""Allows its holder to grant any role to any user, also roles it does not have itself.

agentd's roles contain it only with `--grants`.
"""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check; `advice` says what to do if it is not good."""

    what: str
    good: bool
    text: str
    advice: str = ""


async def examine(config: Config, log: Logger) -> list[Finding]:
    """Run all checks; an error in one of them does not prevent the others."""
    findings = await _nats(config, log)
    if config.proxmox is not None:
        findings += await _proxmox(config)
    return findings


async def _nats(config: Config, log: Logger) -> list[Finding]:
    servers = config.bus.shown_servers
    bus = Bus(config.bus, f"doctor-{config.node.name}", log)
    try:
        await bus.connect(wait=5)
    except AgentdError as error:
        return [Finding("nats", good=False, text=str(error), advice="see [bus] in the configuration")]
    try:
        findings = [Finding("nats", good=True, text=f"connected to {servers}"), _version(bus)]
        return [*findings, *await _jetstream(bus, config)]
    finally:
        await bus.close()


def _version(bus: Bus) -> Finding:
    version = bus.server_version
    good = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST
    oldest = ".".join(str(part) for part in OLDEST)
    return Finding("nats version", good, version, "" if good else f"agentd needs {oldest} or newer")


async def _jetstream(bus: Bus, config: Config) -> list[Finding]:
    findings: list[Finding] = []
    for stream in provision.streams(config.bus.replicas):
        try:
            await bus.api(f"STREAM.INFO.{stream['name']}")
        except NotProvisioned:
            findings.append(Finding(f"stream {stream['name']}", good=False, text="missing", advice="agentd provision"))
        except BusError as error:
            findings.append(Finding(f"stream {stream['name']}", good=False, text=str(error), advice="see the NATS log"))
    if findings:
        return findings
    findings.append(Finding("streams", good=True, text="all there"))
    offset = await bus.measure_clock(subjects.WORKFLOWS)
    findings.append(
        Finding("clock", abs(offset) <= MAX_OFFSET, f"{offset:+.3f} s beside the NATS server's", "run an NTP client")
    )
    findings.append(await _freeze(bus))
    findings.append(await _may_write(bus))
    findings.append(_payload(bus))
    return [*findings, *await _storage(bus)]


async def _freeze(bus: Bus) -> Finding:
    """Report whether the network is frozen: a freeze is not a fault, but the administrator has to know of it."""
    try:
        found = await freeze.read(bus)
    except AgentdError as error:
        return Finding("freeze", good=False, text=str(error), advice="until it can be read nothing is changed")
    return Finding("freeze", good=True, text="not frozen" if found is None else freeze.describe(found))


def _payload(bus: Bus) -> Finding:
    """Check that one message can hold the state of a workflow."""
    good = bus.max_payload >= MAX_STATE
    text = f"messages of {bus.max_payload} bytes"
    advice = f"set max_payload of nats-server to 1MB: workflows whose state is larger than {bus.max_payload} bytes fail"
    return Finding("max_payload", good, text, "" if good else advice)


async def _storage(bus: Bus) -> list[Finding]:
    """Check how full NATS is, and report which streams use the space."""
    try:
        rooms, sizes = await capacity.all_limits(bus)
    except AgentdError as error:
        return [Finding("storage", good=False, text=str(error), advice="let this user ask $JS.API.INFO")]
    full = [room for room in rooms if room.share >= capacity.FULL]
    if full:
        return [Finding("storage", good=False, text=room.text, advice=capacity.advice(room, sizes)) for room in full]
    account = await capacity.account_limits(bus)
    used = f"{sum(sizes.values()) / capacity.MIB:.1f} MiB in use"
    unknown = f"{used}; no limit is configured: set max_file of the account, or max_storage under [bus]"
    return [Finding("storage", good=True, text="; ".join(room.text for room in account) or unknown)]


async def _may_write(bus: Bus) -> Finding:
    """Publish a heartbeat under doctor's own agent id: every agent may do this, other users may not."""
    subject = subjects.heartbeat(bus.agent)
    try:
        await bus.store(subject, Heartbeat(bus.agent, now(), "offline"))
    except AgentdError as error:
        return Finding("rights on the bus", good=False, text=str(error), advice=f"let this user publish {subject}")
    return Finding("rights on the bus", good=True, text=f"may publish {subject}")


async def _proxmox(config: Config) -> list[Finding]:
    if config.proxmox is None:
        return []
    proxmox = Proxmox(config.proxmox)
    try:
        version = await proxmox.get("/version")
        findings = [Finding("proxmox", good=True, text=f"{config.proxmox.url}: version {version['version']}")]
        if not config.proxmox.verify:
            advice = "set ca_file and remove verify = false"
            findings.append(Finding("proxmox certificate", good=False, text="is not verified", advice=advice))
        if proxmox.local:
            advice = "see [proxmox] url; until then nothing can be changed"
            text = f"{config.proxmox.url} is not reachable, pvesh has answered in its place"
            return [*findings[1:], Finding("proxmox", good=False, text=text, advice=advice)]
        held = await proxmox.permissions()
        granted = _granted(config)
        needed = [right for right in await _needed(config, proxmox) if granted.covers(right.tier)]
        grants = [right for right in needed if right.privilege == GRANTS]
        needed = [right for right in needed if right.privilege != GRANTS]
        return [*findings, *compare(config.proxmox.token_id, held, needed), *_grants(held, grants)]
    except AgentdError as error:
        return [Finding("proxmox", good=False, text=str(error), advice="see [proxmox] in the configuration")]
    finally:
        await proxmox.close()


def _grants(held: dict[str, list[str]], needed: list[Right]) -> list[Finding]:
    """Report the tools that are disabled because the token may not grant roles, which is the default."""
    tools = sorted({tool for right in needed for tool in right.tools if not _held(held, right)})
    text = f"{', '.join(tools)} are off: the token lacks {GRANTS} (agentd doctor --roles --grants includes it)"
    return [Finding("proxmox grants", good=True, text=text)] if tools and any(held.values()) else []


async def roles(config: Config, *, grants: bool = False) -> list[str]:
    """Return the commands that create the roles that the tools need and grant them to the token; raises AgentdError.

    grants  the roles include Permissions.Modify, which allows to grant any right to any user
    """
    if config.proxmox is None:
        raise ConfigError("there is no [proxmox] in the configuration: no rights are needed")
    proxmox = Proxmox(_WithoutToken(config.proxmox))
    try:
        needed = await _needed(config, proxmox)
    finally:
        await proxmox.close()
    needed = [right for right in needed if grants or right.privilege != GRANTS]
    lines = [f"pveum role add {role} -privs '{','.join(_privileges(needed, tier))}'" for tier, role in ROLES]
    token, granted = config.proxmox.token_id, dict(ROLES)[_granted(config)]
    return [*lines, *(_modify("/", kind, who, granted) for kind, who in _both(token))]


class _WithoutToken:
    """The section [proxmox] for requests that need no token: the roles are created before a working token exists."""

    def __init__(self, section: Access) -> None:
        self._section = section

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a setting
        return getattr(self._section, name)

    def token(self) -> str:
        """Return the secret of the token, or an invalid one if it cannot be read."""
        try:
            return self._section.token()
        except ConfigError:
            return "00000000-0000-0000-0000-000000000000"


def _granted(config: Config) -> Tier:
    """Return the highest tier that the policy grants to any principal; the token needs no rights beyond it."""
    policy = Policy.of(config.policy)
    tiers = {policy.default_tier, policy.anonymous_tier, *policy.principals.values()}
    return next(tier for tier in reversed(Tier) if tier in tiers)


async def _needed(config: Config, proxmox: Proxmox) -> list[Right]:
    learned = await asyncio.to_thread(_learners, config, proxmox)
    return [right for learn in learned for right in await learn()]


def _learners(config: Config, proxmox: Proxmox) -> list[Callable[[], Awaitable[list[Right]]]]:
    return manager.Plugins(config, set(manager.installed())).rights(config.node.name, proxmox)


def _privileges(needed: Iterable[Right], tier: Tier) -> list[str]:
    return sorted({right.privilege for right in needed if tier.covers(right.tier)})


def _both(token: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("users", formats.user_of(token)), ("tokens", token)  # with privilege separation both need the role


def _modify(path: str, kind: str, who: str, role: str) -> str:
    return f"pveum acl modify {path} --{kind} '{who}' --roles {role}"


def compare(token: str, held: dict[str, list[str]], needed: list[Right]) -> list[Finding]:
    """Compare the rights of the token with those that the tools need; a token without any right is reported as such."""
    if not any(held.values()):
        advice = f"{_modify('/', 'tokens', token, 'PVEAuditor')} (and its user the same)"
        return [
            Finding("proxmox rights", good=False, text=f"{token} is blind: it has no right anywhere", advice=advice)
        ]
    missing = [right for right in needed if not _held(held, right)]
    if not missing:
        return [Finding("proxmox rights", good=True, text=f"{token} has all that the tools need")]
    return [_missing(token, right) for right in missing]


def _held(held: dict[str, list[str]], right: Right) -> bool:
    """Return whether the privilege is held on the path, above it, or on a part of it (if it has a placeholder)."""
    root = right.path.partition("{")[0].rstrip("/") or "/"
    above = {"/"} | {root[:end] for end in range(1, len(root) + 1) if root[end : end + 1] in {"", "/"}}
    below = (root + "/", "/pool/") if root in {"/vms", "/storage"} else (root + "/",)
    parts = below if "{" in right.path else ()
    return any(right.privilege in found for path, found in held.items() if path in above or path.startswith(parts))


def _missing(token: str, right: Right) -> Finding:
    root = right.path.partition("{")[0].rstrip("/") or "/"
    role = role_for(right.privilege)
    role = dict(ROLES)[right.tier] if create_role_hint(role) else role
    tools = ", ".join(right.tools[:4]) + (" and others" if len(right.tools) > len(right.tools[:4]) else "")
    return Finding(
        "proxmox rights",
        good=False,
        text=f"{token} lacks {right.privilege} on {right.path}, which {tools} need",
        advice=" && ".join(_modify(root, kind, who, role) for kind, who in _both(token)) + create_role_hint(role),
    )
