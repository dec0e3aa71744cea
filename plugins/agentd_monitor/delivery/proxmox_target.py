"""A notification target of Proxmox as a receiver of mails.  Pure but for `read`, which asks the API.

Proxmox sends only its own notifications through its targets: the API has no call for others, and never shows the
secrets of a target.  So agentd reads a mail target, and sends to the same recipients through the same server.  Targets
of the types gotify and webhook cannot be used: they are nothing without their tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agentd_monitor.delivery.transport import SendFailed

if TYPE_CHECKING:
    from collections.abc import Callable

PATH: Final = "/cluster/notifications"
PORTS: Final = {"tls": 465, "starttls": 587, "insecure": 25}
"""Ports of the modes of a target of type smtp, unless it names another one."""
LOCAL: Final = "127.0.0.1"
"""The mail server of a node, which a target of type sendmail uses."""


class MailRoute(NamedTuple):
    """Where a mail goes; `mode` is one of PORTS."""

    server: str
    port: int
    mode: str
    sender: str
    recipients: tuple[str, ...]
    user: str = ""


def route(read: Callable[[str], Any], name: str, sender: str) -> MailRoute:
    """Return the route of a mail target; raises SendFailed if it cannot be used.

    read    returns the response of a path of the API
    sender  the address for a target that has none
    """
    known = {str(target.get("name")): target for target in read(f"{PATH}/targets") or []}
    if name not in known:
        raise SendFailed(f"Proxmox has no notification target {name}", refused=True)
    kind = str(known[name].get("type"))
    if kind not in {"smtp", "sendmail"}:
        raise SendFailed(
            f"the notification target {name} is of type {kind}: only mail targets can be used", refused=True
        )
    if known[name].get("disable"):
        raise SendFailed(f"the notification target {name} is disabled in Proxmox", refused=True)
    target = read(f"{PATH}/endpoints/{kind}/{name}") or {}
    users = [read(f"/access/users/{user}") or {} for user in target.get("mailto-user") or []]
    recipients = [*(target.get("mailto") or []), *(str(user["email"]) for user in users if user.get("email"))]
    if not recipients:
        raise SendFailed(f"the notification target {name} has no recipient with an address", refused=True)
    sender = str(target.get("from-address") or sender)
    if kind == "sendmail":
        return MailRoute(LOCAL, PORTS["insecure"], "insecure", sender, tuple(recipients))
    mode = str(target.get("mode") or "tls")
    port = int(target.get("port") or PORTS[mode])
    return MailRoute(str(target["server"]), port, mode, sender, tuple(recipients), str(target.get("username") or ""))
