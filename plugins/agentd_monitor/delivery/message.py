"""A notification as receivers get it.  Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agentd import digest, one_line
from agentd_monitor.alerting.state import State

if TYPE_CHECKING:
    from agentd_monitor.alerting.book import Notification

RESOLVED: Final = "resolved"
APPROVAL: Final = "approval"
TITLE_SHOWN: Final = 120
"""Maximum characters of a title: mail subjects and phone notifications are cut behind them."""


class Message(msgspec.Struct, frozen=True):
    """A notification.

    id        identity of this notification; the same when it is sent again (idempotency key)
    incident  identity of the incident: the same for its firing, its reminders and its end
    reason    firing, worse, reminder or resolved; approval: a workflow waits for one
    digest    of what is to be approved
    requesters  who requested what is to be approved, and may not approve it
    """

    id: str
    incident: str
    fingerprint: str
    reason: str
    name: str
    severity: str
    labels: dict[str, str]
    text: str
    advice: str
    starts: float
    ends: float | None = None
    digest: str = ""
    requesters: tuple[str, ...] = ()

    @property
    def resolved(self) -> bool:
        """Return whether the incident has ended."""
        return self.reason == RESOLVED

    @property
    def title(self) -> str:
        """Return one line for a mail subject or a phone: control characters would be further headers."""
        state = self.reason if self.reason in {RESOLVED, APPROVAL} else self.severity
        return one_line(f"[{state}] {self.text or self.name}")[:TITLE_SHOWN]

    @property
    def kind(self) -> str:
        """Return what the message is about, in one word."""
        return "Workflow" if self.reason == APPROVAL else "Alert"

    @property
    def body(self) -> str:
        """Return the text for people."""
        labels = ", ".join(f"{name}={value}" for name, value in sorted(self.labels.items()))
        lines = [self.text, self.advice if not self.resolved else "", f"{self.kind}: {self.name} ({labels})"]
        lines.append(f"Since: {moment(self.starts)}")
        if self.ends is not None:
            lines.append(f"Until: {moment(self.ends)}")
        return "\n".join(line for line in lines if line)


def message(notification: Notification) -> Message:
    """Return the message of a notification."""
    record = notification.record
    item, starts = record.item, record.item.begun or 0.0
    incident = digest({"fingerprint": notification.fingerprint, "starts": starts})
    ended = item.state is State.RESOLVED or not item.open
    return Message(
        # Not the time: a monitor that dies before it has stored the notification makes the same message again.
        id=digest([incident, notification.reason, item.severity, notification.previous]),
        incident=incident,
        fingerprint=notification.fingerprint,
        reason=notification.reason,
        name=item.rule,
        severity=item.severity,
        labels=item.labels,
        text=item.text,
        advice=record.advice,
        starts=starts,
        ends=item.ended if ended else None,
    )


def moment(seconds: float) -> str:
    """Return a time in seconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
