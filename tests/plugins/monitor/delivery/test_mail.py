"""Mails: what a mail server gets, from the settings of a receiver or from a notification target of Proxmox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from agentd_monitor.delivery import formats, receivers
from agentd_monitor.delivery.message import Message
from agentd_monitor.delivery.proxmox_target import MailRoute, route
from agentd_monitor.delivery.receivers import ReceiverSettings
from agentd_monitor.delivery.transport import SendFailed, send_mail
from plugins.monitor.mail_server import mail_server

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = Message("m1", "i1", "f1", "firing", "zfs_health", "critical", {"pool": "rpool"}, "rpool is bad", "Act.", 0.0)
TARGETS = [
    {"name": "mail-to-root", "type": "sendmail"},
    {"name": "relay", "type": "smtp"},
    {"name": "login", "type": "smtp"},
    {"name": "off", "type": "smtp", "disable": 1},
    {"name": "chat", "type": "gotify"},
    {"name": "empty", "type": "sendmail"},
]
RESPONSES: dict[str, Any] = {
    "targets": TARGETS,
    "endpoints/sendmail/mail-to-root": {"mailto-user": ["root@pam", "eve@pve"]},
    "endpoints/sendmail/empty": {"mailto-user": ["eve@pve"]},
    "endpoints/smtp/relay": {
        "server": "127.0.0.1",
        "mode": "insecure",
        "mailto": ["ops@example.org"],
        "from-address": "pve@example.org",
    },
    "endpoints/smtp/login": {"server": "mail.example.org", "username": "u", "mailto": ["ops@example.org"]},
}
USERS = {"root@pam": {"email": "root@example.org"}, "eve@pve": {}}


def reader(**changed: Any) -> Callable[[str], Any]:
    """Return a function that responds as the API of Proxmox; `changed` are other values of the target `relay`."""

    def read(path: str) -> Any:
        if path.startswith("/access/users/"):
            return USERS[path.removeprefix("/access/users/")]
        found = RESPONSES[path.removeprefix("/cluster/notifications/")]
        return found | changed if path.endswith("/relay") else found

    return read


def no_api(path: str) -> Any:
    """Fail: these settings need no API."""
    raise AssertionError(path)


def test_mail() -> None:
    """All recipients get the mail, with the alert and what to do."""
    with mail_server() as server:
        settings = ReceiverSettings(
            type="mail",
            server="127.0.0.1",
            port=server.port,
            starttls=False,
            sender="agentd@example.org",
            recipients=("a@example.org", "b@example.org"),
        )
        receivers.send("team", settings, "", no_api, MESSAGE)
    ((recipients, mail),) = server.mails

    assert recipients == ["a@example.org", "b@example.org"]
    assert (mail["From"], mail["Subject"]) == ("agentd@example.org", "[critical] rpool is bad")
    assert "Act." in str(mail.get_payload())


def test_target_of_proxmox() -> None:
    """A mail through a target of Proxmox goes to its recipients, from its address, through its server."""
    with mail_server() as server:
        receivers.send("pve", ReceiverSettings(type="proxmox", target="relay"), "", reader(port=server.port), MESSAGE)
    ((recipients, mail),) = server.mails

    assert (recipients, mail["From"]) == (["ops@example.org"], "pve@example.org")


def test_routes() -> None:
    """The addresses of users, and the port of the mode, are those of Proxmox."""
    assert route(reader(), "mail-to-root", "root@pve1") == MailRoute(
        "127.0.0.1", 25, "insecure", "root@pve1", ("root@example.org",)
    )
    assert route(reader(), "login", "root@pve1") == MailRoute(
        "mail.example.org", 465, "tls", "root@pve1", ("ops@example.org",), "u"
    )
    assert route(reader(mode="starttls"), "relay", "").port == 587


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("none", "no notification target none"),
        ("off", "is disabled"),
        ("chat", "type gotify"),
        ("empty", "no recipient"),
    ],
)
def test_unusable_targets(target: str, reason: str) -> None:
    """A target that cannot be used is refused with the reason."""
    with pytest.raises(SendFailed, match=reason) as error:
        route(reader(), target, "")
    assert error.value.refused


def test_refused() -> None:
    """A recipient that is refused is no success, and a password is not sent without TLS."""
    with mail_server("550 no such user") as server:
        settings = ReceiverSettings(type="proxmox", target="relay")
        with pytest.raises(SendFailed, match="refused every recipient"):
            receivers.send("pve", settings, "", reader(port=server.port), MESSAGE)
        plain = MailRoute("127.0.0.1", server.port, "insecure", "a@b", ("c@d",), "user")
        with pytest.raises(SendFailed, match="needs TLS"):
            send_mail(formats.mail("a@b", ["c@d"], MESSAGE, "host"), plain, "secret")
    with pytest.raises(SendFailed, match="set password_file"):
        receivers.send("pve", ReceiverSettings(type="proxmox", target="login"), "", reader(), MESSAGE)
    with pytest.raises(ValidationError, match="type proxmox needs target"):
        ReceiverSettings(type="proxmox")
