"""The requests to receivers: webhook, ntfy, Alertmanager, mail.  Pure."""

from __future__ import annotations

import hashlib
import hmac
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from agentd_monitor.delivery.message import APPROVAL, RESOLVED, Message, moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentd_monitor.alerting.book import Record

RESEND: Final = 60.0
"""Seconds between two requests with the firing alerts to Alertmanager."""
VALID: Final = 4 * RESEND
"""Seconds for which a firing alert is valid in Alertmanager: several requests may be lost."""
ENDED: Final = 900.0
"""Seconds for which a resolved alert is sent again: an Alertmanager that was restarted notifies it then."""
BATCH: Final = 500
"""Maximum number of alerts in one request to Alertmanager."""
PRIORITIES: Final = {"critical": "5", "warning": "4", "info": "3"}
SIGNATURE: Final = "X-Agentd-Signature"


class HttpRequest(NamedTuple):
    """A POST request."""

    url: str
    body: bytes
    headers: Mapping[str, str]


def webhook(url: str, message: Message, at: float, secret: str = "") -> HttpRequest:
    """Return the request of a webhook.

    The signature is `v1=` with the HMAC-SHA256 of "<timestamp>.<body>"; the receiver compares the timestamp with its
    clock, so that a recorded request cannot be sent again later.  Idempotency-Key is the same in each attempt.
    """
    status = message.reason if message.reason in {RESOLVED, APPROVAL} else "firing"
    body = msgspec.json.encode({"version": 1, "status": status, "alert": message})
    timestamp = str(int(at))
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": message.id,
        "X-Agentd-Incident": message.incident,
        "X-Agentd-Timestamp": timestamp,
    }
    if secret:
        headers[SIGNATURE] = f"v1={sign(secret, timestamp, body)}"
    return HttpRequest(url, body, headers)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of a timestamp and a body."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def ntfy(  # noqa: PLR0913, PLR0917 - the message, and how it is sent
    url: str, topic: str, message: Message, token: str = "", link: str = "", approver: str = ""
) -> HttpRequest:
    """Return the request to ntfy, in its JSON format.

    Titles in headers would be limited to ASCII.

    link      address of a status page
    approver  web token of the person who gets the message: a request for approval has buttons that decide with it
    """
    content: dict[str, Any] = {
        "topic": topic,
        "title": message.title,
        "message": message.body,
        "priority": 3 if message.resolved else int(PRIORITIES.get(message.severity, "3")),
        "tags": ["white_check_mark" if message.resolved else "warning", message.name],
    }
    if link:
        content["click"] = link
    if link and message.reason == APPROVAL:
        content["click"] = f"{link}/workflows/{message.labels['workflow']}"
        if approver:
            content["actions"] = [_decision(message, link, action, approver) for action in ("approve", "reject")]
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    return HttpRequest(url, msgspec.json.encode(content), headers)


def _decision(message: Message, link: str, action: str, approver: str) -> dict[str, Any]:
    """Return a button of ntfy that approves or rejects exactly what the message shows."""
    body = {"task": message.labels["task"], "digest": message.digest, "reason": "decided in a notification"}
    return {
        "action": "http",
        "label": action.capitalize(),
        "url": f"{link}/api/workflows/{message.labels['workflow']}/{action}",
        "method": "POST",
        "headers": {"Authorization": f"Bearer {approver}", "Content-Type": "application/json"},
        "body": msgspec.json.encode(body).decode(),
        "clear": True,
    }


def mail(sender: str, recipients: Iterable[str], message: Message, host: str) -> EmailMessage:
    """Return a mail; all mails about one incident are one thread."""
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = sender, ", ".join(recipients), message.title
    made["Message-ID"] = f"<{message.id}@{host}>"
    thread = f"<{message.incident}@{host}>"
    made["References"] = made["In-Reply-To"] = thread
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(message.body)
    return made


def alertmanager(url: str, records: Iterable[Record], at: float, link: str = "") -> list[HttpRequest]:
    """Return the requests to one Alertmanager, with all alerts that were notified.

    They are sent every RESEND seconds to every member: the next request has what a member missed.  An alert that is
    unknown is still sent as firing, because Alertmanager would resolve it otherwise; an annotation says so.
    """
    alerts = [alert for record in records if (alert := _alert(record, at, link)) is not None]
    return [
        HttpRequest(
            f"{url.rstrip('/')}/api/v2/alerts",
            msgspec.json.encode(alerts[place : place + BATCH]),
            {"Content-Type": "application/json"},
        )
        for place in range(0, len(alerts), BATCH)
    ]


def _alert(record: Record, at: float, link: str) -> dict[str, Any] | None:
    """Return an alert for Alertmanager.

    Return None if it was not notified, or was resolved long ago.
    """
    item = record.item
    if record.notified is None or item.begun is None:
        return None
    if not item.open and (item.ended is None or at - item.ended > ENDED):
        return None
    annotations = {"summary": item.text}
    if record.advice:
        annotations["description"] = record.advice
    if item.state == "unknown":
        annotations["no_data_since"] = moment(item.known)
    return {
        # Not the severity: it may change, and would then be another alert for Alertmanager.
        "labels": {**item.labels, "alertname": item.rule},
        "annotations": {**annotations, "severity": item.severity},
        "startsAt": moment(item.begun),
        "endsAt": moment(at + VALID if item.ended is None or item.open else item.ended),
        **({"generatorURL": link} if link else {}),
    }
