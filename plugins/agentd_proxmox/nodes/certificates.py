"""Certificates of nodes: how long they are valid, and ordering them through ACME."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from agentd import Call, Found, Rejected, Repeat, Target, TaskFailed, Tier, one_line, tool
from agentd_proxmox import area, blind_token, changes, targets
from agentd_proxmox.model import convert, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

SOON: Final = 14
"""Days before expiry from which on a certificate is reported."""
DUE: Final = 30
"""Days before expiry from which on Proxmox renews a certificate (API2/ACME.pm)."""
FRESH: Final = timedelta(hours=3)
"""A certificate younger than this is the one that was ordered: providers date theirs back by an hour."""
OURS: Final = "pveproxy-ssl.pem"
"""The certificate that Proxmox obtained for the node, besides that of the cluster's own CA."""


class Certificate(msgspec.Struct, frozen=True):
    """A certificate of the node; days: until it expires."""

    file: str
    subject: str
    issuer: str
    names: list[str]
    since: datetime
    until: datetime
    days: int
    fingerprint: str


class Certificates(msgspec.Struct, frozen=True):
    """The certificates of a node."""

    node: str
    certificates: list[Certificate]


class CertificateTools(area.Area):
    """The tools for certificates."""

    shown_to: ClassVar[area.ShownTo] = {"list_certificates": blind_token.NODES}

    @tool(tier=Tier.READ, repeat=Repeat.IDEMPOTENT, capability="node_management")
    async def list_certificates(self, call: Call, p: fields.NodeSelector) -> Certificates:
        """List a node's certificates with their remaining days; warn of early expiry."""
        found = await self._read(p.node)
        for certificate in found:
            if certificate.days < SOON:
                call.warn(
                    f"{certificate.file} of {p.node} ends in {certificate.days} days ({certificate.until:%Y-%m-%d})"
                )
        return Certificates(p.node, found)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="node_management")
    async def renew_certificate(self, call: Call, p: fields.NodeSelector) -> Certificates:
        """Order a node's certificate by ACME, or renew it in its last 30 days.

        A certificate that is valid for longer is left unchanged. The node's web server loads the new one by itself.
        """
        call.target(Target(f"certificate/{p.node}", f"certificate of {p.node}", labels=[f"node/{p.node}"]))

        async def plan() -> changes.Planned:
            if running := await targets.running_tasks(self.inventory, p.node, {"acmenewcert", "acmerenew"}, ""):
                return Found(running[0].text)
            found = await self._read(p.node)
            existing = [certificate for certificate in found if certificate.file == OURS]
            if existing and (existing[0].days >= DUE or datetime.now(UTC) - existing[0].since < FRESH):
                return Found()
            await self._orderable(p.node, found)
            send = self.proxmox.put if existing else self.proxmox.post
            return lambda: send(f"/nodes/{p.node}/certificates/acme/certificate")

        await self.inventory.finish(call, await changes.change(call, plan))
        found = await self._read(p.node)
        if all(certificate.file != OURS for certificate in found):
            raise TaskFailed(f"the task succeeded, but {p.node} has no certificate {OURS}")
        return Certificates(p.node, found)

    async def _orderable(self, node: str, found: list[Certificate]) -> None:
        """Refuse an order that Proxmox could not place, or that would lock agentd out."""
        config: Entry = await self.proxmox.get(f"/nodes/{node}/config") or {}
        if not any(key.startswith("acmedomain") for key in config) and "domains=" not in str(config.get("acme") or ""):
            raise Rejected(
                f"{node} has no domain to ask an ACME provider for: a person registers an account and sets the domain "
                f"(pvenode acme account register, pvenode config set --acmedomain0 {node}.example.com)"
            )
        pinned = (self.proxmox.settings.fingerprint or "").upper()
        if pinned and pinned in {certificate.fingerprint.upper() for certificate in found}:
            raise Rejected(
                f"{node}: [proxmox] fingerprint pins a certificate of this node, and a new one could shut agentd out; "
                "use ca_file instead"
            )

    async def _read(self, node: str) -> list[Certificate]:
        now = datetime.now(UTC)
        found = [_certificate(entry, now) for entry in await self.proxmox.get(f"/nodes/{node}/certificates/info") or []]
        return sorted(found, key=lambda certificate: (certificate.until, certificate.file))


def _certificate(entry: Entry, now: datetime) -> Certificate:
    since, until = (datetime.fromtimestamp(int(entry.get(key) or 0), UTC) for key in ("notbefore", "notafter"))
    return convert.entry(
        Certificate,
        entry,
        {"file": "filename"},
        names=[one_line(name) for name in entry.get("san") or []],
        since=since,
        until=until,
        days=(until - now).days,
    )
