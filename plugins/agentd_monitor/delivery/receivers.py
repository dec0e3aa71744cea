"""The receivers of notifications, as the settings describe them; sending blocks, and runs in a thread.

Secrets are read from their files for each message, so that a rotated one is used at once.
"""

from __future__ import annotations

import os
import platform
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, model_validator

from agentd import Settings, Tier, read_secret
from agentd_monitor.delivery import formats, proxmox_target
from agentd_monitor.delivery.message import APPROVAL
from agentd_monitor.delivery.proxmox_target import MailRoute
from agentd_monitor.delivery.transport import SUBMISSIONS, post, send_mail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from agentd import Policy
    from agentd_monitor.alerting.book import Record
    from agentd_monitor.delivery.message import Message

CREDENTIAL: Final = "credential:"
NEEDED: Final = {
    "webhook": ("url",),
    "ntfy": ("url", "topic"),
    "alertmanager": ("urls",),
    "mail": ("server", "sender", "recipients"),
    "proxmox": ("target",),
}
"""The settings that each type of receiver needs."""


class ReceiverSettings(Settings):
    """One receiver of notifications."""

    type: Literal["webhook", "ntfy", "mail", "proxmox", "alertmanager"] = Field(
        description="kind of receiver; proxmox: the recipients and the mail server of a notification target of Proxmox"
    )
    url: str = Field(
        default="", pattern="^(https?://[^ ]+)?$", description="address of a webhook, or of the ntfy server"
    )
    urls: tuple[str, ...] = Field(
        default=(), description="addresses of all members of an Alertmanager cluster, such as http://127.0.0.1:9093"
    )
    topic: str = Field(default="", description="topic of ntfy")
    secret_file: str | None = Field(default=None, description="file with the key that signs the requests of a webhook")
    token_file: str | None = Field(default=None, description="file with the access token of ntfy")
    ca_file: Path | None = Field(default=None, description="certificate authority of a receiver with https")
    target: str = Field(
        default="",
        pattern="^([A-Za-z][A-Za-z0-9_-]*)?$",
        description="name of a notification target of Proxmox, of type smtp or sendmail; the token of [proxmox] needs "
        "Mapping.Audit on /mapping/notifications",
    )
    server: str = Field(default="", description="name of the mail server")
    port: int = Field(default=587, ge=1, le=65535, description="port of the mail server; 465 means TLS from the start")
    starttls: bool = Field(default=True, description="encrypt the connection to the mail server")
    sender: str = Field(default="", description="address that mails are from")
    recipients: tuple[str, ...] = Field(default=(), description="addresses that mails are sent to")
    user: str = Field(default="", description="user of the mail server")
    password_file: str | None = Field(
        default=None, description="file with the password of `user`, or of the user of a target of Proxmox"
    )
    severity: Literal["warning", "critical"] = Field(
        default="warning", description="the least severity of alerts that the receiver gets"
    )
    approvals: bool = Field(
        default=False, description="also send the workflows that wait for an approval that `principal` may give"
    )
    principal: str = Field(default="", description="principal who reads this receiver; needed with `approvals`")
    approver_file: str | None = Field(
        default=None,
        description="file with the web token of `principal`: ntfy then shows buttons that approve and reject. Anyone "
        "who can read the topic can use them, so the topic must be private",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in NEEDED[self.type] if not getattr(self, name)]
        if missing:
            raise ValueError(f"a receiver of type {self.type} needs {' and '.join(missing)}")
        if self.approvals and not self.principal:
            raise ValueError("approvals needs principal: only a principal who may approve gets the requests")
        return self

    def takes(self, message: Message, policy: Policy) -> bool:
        """Return whether this receiver gets a message from the queue."""
        if self.type == "alertmanager":
            return False
        if message.reason == APPROVAL:
            tier = Tier(message.labels["tier"])
            return self.approvals and policy.may_approve(self.principal, tier, message.requesters)
        return self.severity == "warning" or message.severity == "critical"


def send(name: str, settings: ReceiverSettings, link: str, read: Callable[[str], Any], message: Message) -> None:
    """Send one message; raises SendFailed, or ConfigError if a file cannot be read.

    read  returns the response of a path of the Proxmox API
    """
    host = platform.node() or "agentd"
    if settings.type in {"mail", "proxmox"}:
        if settings.type == "mail":
            mode = "tls" if settings.port == SUBMISSIONS else "starttls" if settings.starttls else "insecure"
            route = MailRoute(settings.server, settings.port, mode, settings.sender, settings.recipients, settings.user)
        else:
            route = proxmox_target.route(read, settings.target, settings.sender or f"root@{host}")
        password = _secret(name, "password_file", settings.password_file)
        send_mail(formats.mail(route.sender, route.recipients, message, host), route, password)
    elif settings.type == "ntfy":
        token = _secret(name, "token_file", settings.token_file)
        approver = _secret(name, "approver_file", settings.approver_file)
        post(formats.ntfy(settings.url, settings.topic, message, token, link, approver), _tls(settings))
    else:
        secret = _secret(name, "secret_file", settings.secret_file)
        post(formats.webhook(settings.url, message, time.time(), secret), _tls(settings))


def send_all(settings: ReceiverSettings, url: str, link: str, records: Iterable[Record]) -> None:
    """Send all alerts to one member of an Alertmanager cluster; raises SendFailed."""
    for request in formats.alertmanager(url, records, time.time(), link):
        post(request, _tls(settings))


def _tls(settings: ReceiverSettings) -> ssl.SSLContext | None:
    return None if settings.ca_file is None else ssl.create_default_context(cafile=str(settings.ca_file))


def _secret(name: str, setting: str, path: str | None) -> str:
    if path is None:
        return ""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and path.startswith(CREDENTIAL):
        path = str(Path(directory, path.removeprefix(CREDENTIAL)))
    return read_secret(path, f"monitor.receivers.{name}.{setting}")
