"""Looks whether this machine could work: NATS and its rights, JetStream, clocks, Proxmox and its rights.

Each finding says what to do; `agentd doctor` prints them and fails if one is bad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agentd import provision, storage, subjects
from agentd.bus import Bus
from agentd.errors import AgentdError, BusError, NotProvisioned
from agentd.messages import MAX_STATE, Heartbeat, now
from agentd.proxmox import Proxmox

if TYPE_CHECKING:
    from agentd.config import Config
    from agentd.logs import Logger

MAX_OFFSET = 2.0
"""Seconds that our clock may differ from the server's."""
OLDEST = (2, 15)
"""The oldest nats-server that has what the streams need."""
NEEDED = {"VM.Audit", "VM.Allocate", "VM.PowerMgmt", "Datastore.Audit", "Datastore.AllocateSpace", "Sys.Audit"}
"""Rights on `/` that a deployment needs; a narrower path is enough for one who knows what it deploys."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at; `advice` says what to do when it is not good."""

    what: str
    good: bool
    text: str
    advice: str = ""


async def examine(config: Config, log: Logger) -> list[Finding]:
    """Look at everything; a fault in one place does not keep the others from being looked at."""
    findings = await _nats(config, log)
    if config.proxmox is not None:
        findings += await _proxmox(config)
    return findings


async def _nats(config: Config, log: Logger) -> list[Finding]:
    servers = ", ".join(config.bus.servers)
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
    good = tuple(int(each) for each in version.split(".")[:2]) >= OLDEST
    wanted = ".".join(str(each) for each in OLDEST)
    return Finding("nats version", good, version, "" if good else f"agentd needs {wanted} or newer")


async def _jetstream(bus: Bus, config: Config) -> list[Finding]:
    findings: list[Finding] = []
    for each in provision.streams(config.bus.replicas):
        try:
            await bus.api(f"STREAM.INFO.{each['name']}")
        except NotProvisioned:
            findings.append(Finding(f"stream {each['name']}", good=False, text="missing", advice="agentd provision"))
        except BusError as error:
            findings.append(Finding(f"stream {each['name']}", good=False, text=str(error), advice="see the NATS log"))
    if findings:
        return findings
    findings.append(Finding("streams", good=True, text="all there"))
    offset = await bus.measure_clock(subjects.WORKFLOWS)
    findings.append(
        Finding("clock", abs(offset) <= MAX_OFFSET, f"{offset:+.3f} s beside the NATS server's", "run an NTP client")
    )
    findings.append(await _may_write(bus))
    findings.append(_payload(bus))
    return [*findings, *await _storage(bus)]


def _payload(bus: Bus) -> Finding:
    """Look whether one message can hold the state of a workflow."""
    good = bus.max_payload >= MAX_STATE
    text = f"messages of {bus.max_payload} bytes"
    advice = f"set max_payload of nats-server to 1MB: workflows whose state is larger than {bus.max_payload} bytes fail"
    return Finding("max_payload", good, text, "" if good else advice)


async def _storage(bus: Bus) -> list[Finding]:
    """Look how full NATS is, and what takes the room."""
    try:
        rooms, sizes = await storage.everything(bus)
    except AgentdError as error:
        return [Finding("storage", good=False, text=str(error), advice="let this user ask $JS.API.INFO")]
    full = [each for each in rooms if each.share >= storage.FULL]
    if full:
        return [Finding("storage", good=False, text=each.text, advice=storage.advice(each, sizes)) for each in full]
    account = await storage.account(bus)
    used = f"{sum(sizes.values()) / storage.MIB:.1f} MiB in use"
    unknown = f"{used}, of nobody knows how much: set max_file of the account, or max_storage under [bus]"
    return [Finding("storage", good=True, text="; ".join(each.text for each in account) or unknown)]


async def _may_write(bus: Bus) -> Finding:
    """Publish a heartbeat of our own: what every agent and no stranger may."""
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
        return [*findings, _rights(config.proxmox.token_id, await proxmox.permissions())]
    except AgentdError as error:
        return [Finding("proxmox", good=False, text=str(error), advice="see [proxmox] in the configuration")]
    finally:
        await proxmox.close()


def _rights(token: str, permissions: dict[str, list[str]]) -> Finding:
    """Tell a token that may see nothing from a cluster that has nothing."""
    held = {right for rights in permissions.values() for right in rights}
    if not held:
        advice = f"pveum acl modify / --tokens '{token}' --roles PVEAuditor (and its user the same)"
        return Finding("proxmox rights", good=False, text=f"{token} is blind: it has no right anywhere", advice=advice)
    missing = sorted(NEEDED - held)
    if missing:
        advice = f"pveum acl modify / --tokens '{token}' --roles PVEVMAdmin,PVEDatastoreUser,PVEAuditor"
        return Finding("proxmox rights", good=False, text=f"{token} lacks {', '.join(missing)}", advice=advice)
    return Finding("proxmox rights", good=True, text=f"{token} has what a deployment needs")
