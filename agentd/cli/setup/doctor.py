"""Checks of this machine: NATS, JetStream, clocks, Proxmox, permissions.

Each finding says what to do; `agentd doctor` prints the findings and fails if one of them is bad.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from agentd import formats
from agentd.bus import capacity
from agentd.bus.setup import permissions
from agentd.cli.setup import doctor_bus
from agentd.cli.setup.doctor_bus import Finding
from agentd.errors import AgentdError, ConfigError
from agentd.plugins import bus_users, manager
from agentd.proxmox.client import Proxmox
from agentd.proxmox.responses import create_role_hint, role_for
from agentd.safety.policy import Policy
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from agentd.config.load import Config
    from agentd.proxmox.session import Access
    from agentd.telemetry.logs import Logger
    from agentd.tools.definition import Right

MIN_FREE: Final = 100 << 20
"""Bytes that have to be free for the state of the daemons."""
ROLES: Final = tuple((tier, f"Agentd{tier.capitalize()}") for tier in Tier)
"""The roles in Proxmox that `agentd doctor --roles` creates: one for each tier, with what the tools up to it need."""
GRANTS: Final = "Permissions.Modify"
"""Allows its holder to grant any role to any user, also roles it does not have itself.

agentd's roles contain it only with `--grants`.
"""


async def run_checks(config: Config, log: Logger, instance: str | None = None) -> list[Finding]:
    """Run all checks; an error in one of them does not prevent the others.

    instance  check with the login of this agent on this node; None: with that of the command line's principal
    """
    if instance is None:
        user = permissions.principal(config.principal)
    else:
        user = await asyncio.to_thread(bus_users.agent, config, instance, config.node.name)
    findings = [await asyncio.to_thread(_disk, config), *await doctor_bus.examine(config, log, user)]
    findings += await asyncio.to_thread(_certificates, config)
    if config.proxmox is not None:
        findings += await _proxmox(config)
    return findings


def _disk(config: Config) -> Finding:
    """Check that there is space for the state of the daemons on this machine."""
    there = config.node.state_dir
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    text = f"{free / capacity.MIB:.0f} MiB free for {config.node.state_dir}"
    good = free >= MIN_FREE
    return Finding("disk", good, text, "" if good else "free some space: a daemon that cannot write stops")


def _certificates(config: Config) -> list[Finding]:
    """Check when the certificates that the configuration names end."""
    named = {"[bus] tls_cert_file": config.bus.tls_cert_file, "[bus] tls_ca_file": config.bus.tls_ca_file}
    if config.proxmox is not None:
        named["[proxmox] ca_file"] = config.proxmox.ca_file
    findings = []
    for what, file in named.items():
        if file:
            try:
                end = ssl._ssl._test_decode_cert(file)["notAfter"]  # type: ignore[attr-defined]  # noqa: SLF001
            except (OSError, ssl.SSLError) as error:
                findings.append(Finding(what, good=False, text=f"{file}: {error}", advice="name a certificate (PEM)"))
            else:
                findings.append(doctor_bus.certificate(what, end))
    return findings


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
        findings += [await _clocks(proxmox), *compare(config.proxmox.token_id, held, needed)]
        return [*findings, *_grants(held, grants)]
    except AgentdError as error:
        return [Finding("proxmox", good=False, text=str(error), advice="see [proxmox] in the configuration")]
    finally:
        await proxmox.close()


async def _clocks(proxmox: Proxmox) -> Finding:
    """Compare the clock of each node that is online with that of this machine."""
    far, nodes = [], [node["node"] for node in await proxmox.get("/nodes") if node.get("status") == "online"]
    for node in nodes:
        before = time.time()
        try:
            there = float((await proxmox.get(f"/nodes/{node}/time"))["time"])
        except AgentdError as error:
            far.append(f"{node}: {error}")
            continue
        offset = there + 0.5 - (before + time.time()) / 2  # Proxmox gives whole seconds
        if abs(offset) > doctor_bus.MAX_OFFSET:
            far.append(f"{node} {offset:+.0f} s")
    text = f"differ: {', '.join(far)}" if far else f"those of {len(nodes)} nodes agree with this machine's"
    return Finding("proxmox clocks", not far, text, "run an NTP client on every node" if far else "")


def _grants(held: dict[str, list[str]], needed: list[Right]) -> list[Finding]:
    """Report the tools that are disabled because the token may not grant roles."""
    tools = sorted({tool for right in needed for tool in right.tools if not _held(held, right)})
    text = f"{', '.join(tools)} are off: the token lacks {GRANTS} (agentd doctor --roles --grants includes it)"
    return [Finding("proxmox grants", good=True, text=text)] if tools and any(held.values()) else []


async def roles(config: Config, *, grants: bool = False) -> list[str]:
    """Return the commands that create the tools' roles and grant them to the token.

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
    return [*lines, *(_acl_command("/", kind, who, granted) for kind, who in _user_and_token(token))]


class _WithoutToken:
    """The section [proxmox] for requests that need no token."""

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
    """Return the highest tier that the policy grants: the token needs no more."""
    policy = Policy.of(config.policy)
    tiers = {policy.default_tier, policy.anonymous_tier, *policy.principals.values()}
    return next(tier for tier in reversed(Tier) if tier in tiers)


async def _needed(config: Config, proxmox: Proxmox) -> list[Right]:
    learned = await asyncio.to_thread(_rights_readers, config, proxmox)
    return [right for learn in learned for right in await learn()]


def _rights_readers(config: Config, proxmox: Proxmox) -> list[Callable[[], Awaitable[list[Right]]]]:
    return manager.every_plugin(config).rights(config.node.name, proxmox)


def _privileges(needed: Iterable[Right], tier: Tier) -> list[str]:
    return sorted({right.privilege for right in needed if tier.covers(right.tier)})


def _user_and_token(token: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("users", formats.user_of(token)), ("tokens", token)  # with privilege separation both need the role


def _acl_command(path: str, kind: str, who: str, role: str) -> str:
    return f"pveum acl modify {path} --{kind} '{who}' --roles {role}"


def compare(token: str, held: dict[str, list[str]], needed: list[Right]) -> list[Finding]:
    """Compare the token's rights with those that the tools need."""
    if not any(held.values()):
        advice = f"{_acl_command('/', 'tokens', token, 'PVEAuditor')} (and its user the same)"
        return [
            Finding("proxmox rights", good=False, text=f"{token} is blind: it has no right anywhere", advice=advice)
        ]
    missing = [right for right in needed if not _held(held, right)]
    if not missing:
        return [Finding("proxmox rights", good=True, text=f"{token} has all that the tools need")]
    return [_missing(token, right) for right in missing]


def _held(held: dict[str, list[str]], right: Right) -> bool:
    """Return whether the privilege is held on the path, or above or below it."""
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
        advice=" && ".join(_acl_command(root, kind, who, role) for kind, who in _user_and_token(token))
        + create_role_hint(role),
    )
