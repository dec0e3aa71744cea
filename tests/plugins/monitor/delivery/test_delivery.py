"""The delivery of notifications: order, attempts, restarts, and the requests that receivers get."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd_monitor.alerting.book import AlertRule, AlertStates
from agentd_monitor.alerting.state import Observation, Rule, Verdict
from agentd_monitor.delivery import formats
from agentd_monitor.delivery.message import Message, message
from agentd_monitor.delivery.outbox import KEEP, LONGEST, MOST, Delivery, Outbox
from agentd_monitor.delivery.sender import Sender
from agentd_monitor.delivery.transport import SendFailed, post
from plugins.monitor.receiver import receiver

LABELS = {"guest": "qemu/100"}


def made(reason: str = "firing", incident: str = "i1", number: int = 0) -> Message:
    """Return a message."""
    ends = 20.0 if reason == "resolved" else None
    text = "guest 100 (web): CPU 97 %"
    return Message(
        f"{incident}-{reason}-{number}",
        incident,
        "f1",
        reason,
        "guest_cpu",
        "warning",
        LABELS,
        text,
        "Act.",
        10.0,
        ends,
    )


def sent(outbox: Outbox, at: float) -> list[tuple[str, str]]:
    """Return what is due, short."""
    return [(delivery.receiver, delivery.message.reason) for delivery in outbox.due(at)]


def test_order_within_an_incident() -> None:
    """The end of an incident waits for its beginning; another incident does not."""
    outbox = Outbox()
    outbox.add("hook", made(), 0)
    outbox.add("hook", made("resolved"), 1)
    outbox.add("hook", made(incident="i2"), 2)
    first, other = outbox.due(2)
    outbox.failed(first, "no answer", 2)
    outbox.accepted(other)

    assert not outbox.due(3)
    assert sent(outbox, 2 + LONGEST) == [("hook", "firing")]
    outbox.accepted(first)
    assert sent(outbox, 2 + LONGEST) == [("hook", "resolved")]


def test_receivers_are_independent() -> None:
    """A receiver that hangs delays no other."""
    outbox = Outbox()
    outbox.add("dead", made(), 0)
    outbox.add("hook", made(), 0)
    outbox.due(0)  # both are being sent; only the second is accepted
    outbox.accepted(outbox.deliveries()["hook.i1-firing-0"])
    outbox.add("hook", made("resolved"), 1)

    assert sent(outbox, 1) == [("hook", "resolved")]


def test_once() -> None:
    """A message that is queued twice is one; a reminder behind a message that waits is superfluous."""
    outbox = Outbox()
    for _ in range(3):
        outbox.add("hook", made(), 0)
    outbox.add("hook", made("reminder"), 1)

    assert len(outbox.deliveries()) == 1
    assert sent(outbox, 1) == [("hook", "firing")]
    assert not sent(outbox, 1)


def test_attempts() -> None:
    """The pauses grow to the longest one; a receiver that refuses is tried again after the longest; then it is lost."""
    outbox = Outbox()
    outbox.add("hook", made(), 0)
    at, pauses = 0.0, []
    for _ in range(12):
        (delivery,) = outbox.due(at)
        outbox.failed(delivery, "no answer", at)
        (waiting,) = outbox.deliveries().values()
        pauses.append(waiting.next_at - at)
        at = waiting.next_at
    (delivery,) = outbox.due(at)
    outbox.failed(delivery, "401", at, refused=True)
    (waiting,) = outbox.deliveries().values()

    assert pauses[:3] == [5, 10, 20]
    assert pauses[-1] == waiting.next_at - at == LONGEST
    assert not outbox.due(KEEP + 1)
    assert outbox.lost == {"hook": 1}
    assert not outbox.deliveries()


def test_restart() -> None:
    """After a restart the same messages wait, in their order, and a restart is not an attempt."""
    outbox = Outbox()
    outbox.add("hook", made(), 0)
    outbox.add("hook", made("resolved"), 1)
    (delivery,) = outbox.due(1)
    outbox.failed(delivery, "no answer", 1)
    again = Outbox()
    again.restore(
        msgspec.json.decode(msgspec.json.encode(held), type=Delivery)
        for held in reversed(list(outbox.deliveries().values()))
    )

    assert again.deliveries() == outbox.deliveries()
    assert not again.due(2)
    assert sent(again, 10) == [("hook", "firing")]


def test_clock_set_back() -> None:
    """If the clock is set back by a day, messages do not wait for a day."""
    outbox = Outbox()
    outbox.add("hook", made(), 100_000)
    (delivery,) = outbox.due(100_000)
    outbox.failed(delivery, "no answer", 100_000)

    assert sent(outbox, 0) == [("hook", "firing")]


def test_flood() -> None:
    """10,000 messages are queued in a few seconds; beyond the maximum they are counted as lost."""
    outbox, begin = Outbox(), time.perf_counter()
    for place in range(MOST + 5):
        outbox.add("hook", made(incident=f"i{place}"), 0)

    assert time.perf_counter() - begin < 10
    assert outbox.lost == {"hook": 5}
    assert len(outbox.due(0)) == MOST


@given(st.lists(st.tuples(st.sampled_from(["i1", "i2"]), st.booleans(), st.booleans()), max_size=40))
def test_nothing_is_lost_or_reordered(steps: list[tuple[str, bool, bool]]) -> None:
    """Whatever fails and however often the queue is restarted, each message is accepted once, in its order."""
    outbox, at, queued, accepted = Outbox(), 0.0, [], []
    for number, (incident, works, restart) in enumerate(steps):
        at += LONGEST
        outbox.add("hook", made("worse", incident, number), at)
        queued.append((incident, number))
        if restart:
            before, outbox = outbox, Outbox()
            outbox.restore(before.deliveries().values())
        for delivery in outbox.due(at):
            if works:
                outbox.accepted(delivery)
                accepted.append(delivery)
            else:
                outbox.failed(delivery, "no answer", at)
    while outbox.deliveries():
        at += LONGEST
        for delivery in outbox.due(at):
            outbox.accepted(delivery)
            accepted.append(delivery)
    seen = [(delivery.message.incident, int(delivery.message.id.rpartition("-")[2])) for delivery in accepted]

    assert sorted(seen) == sorted(queued)
    for incident in ("i1", "i2"):
        assert [one for one in seen if one[0] == incident] == [one for one in queued if one[0] == incident]


# -- formats --------------------------------------------------------------------------------------------------------


def alerts(resolved: bool = False) -> AlertStates:  # noqa: FBT001, FBT002 - the two states
    """Return one alert that was notified."""
    found = AlertStates([AlertRule(Rule("guest_cpu"), "performance")])
    found.observe("guest_cpu", LABELS, Observation(Verdict.BAD, 1000, "critical", "CPU 97 %"), "Act.")
    found.due(1000)
    if resolved:
        found.observe("guest_cpu", LABELS, Observation(Verdict.GOOD, 1060, text="CPU 20 %"))
    return found


def test_one_incident() -> None:
    """The beginning and the end of an incident have one incident id, and different message ids."""
    found = AlertStates([AlertRule(Rule("guest_cpu"), "performance")])
    found.observe("guest_cpu", LABELS, Observation(Verdict.BAD, 1000, text="CPU 97 %"))
    (firing,) = map(message, found.due(1000))
    found.observe("guest_cpu", LABELS, Observation(Verdict.GOOD, 1060, text="CPU 20 %"))
    (resolved,) = map(message, found.due(1060))

    assert firing.incident == resolved.incident
    assert firing.id != resolved.id
    assert (firing.ends, resolved.starts, resolved.ends) == (None, 1000, 1060)


def test_signature() -> None:
    """The signature covers the time and the body; another secret has another one."""
    request = formats.webhook("https://hook.example/x", made(), 1234.5, "secret")
    expected = hmac.new(b"secret", b"1234." + request.body, hashlib.sha256).hexdigest()

    assert request.headers[formats.SIGNATURE] == f"v1={expected}"
    assert request.headers["Idempotency-Key"] == "i1-firing-0"
    assert formats.SIGNATURE not in formats.webhook("https://hook.example/x", made(), 1234.5).headers


def test_alertmanager_firing() -> None:
    """A firing alert is valid for four intervals; the severity is no label, so that it may change."""
    (request,) = formats.alertmanager("http://am:9093/", alerts().records().values(), 1100)
    (alert,) = json.loads(request.body)

    assert request.url == "http://am:9093/api/v2/alerts"
    assert alert["labels"] == {"guest": "qemu/100", "alertname": "guest_cpu"}
    assert alert["startsAt"] == "1970-01-01T00:16:40+00:00"
    assert alert["endsAt"] == "1970-01-01T00:22:20+00:00"


def test_alertmanager_resolved() -> None:
    """A resolved alert is sent for fifteen minutes with its end; one that was never notified is not sent."""
    records = list(alerts(resolved=True).records().values())
    (request,) = formats.alertmanager("http://am:9093", records, 1100)

    assert json.loads(request.body)[0]["endsAt"] == "1970-01-01T00:17:40+00:00"
    assert not formats.alertmanager("http://am:9093", records, 1061 + formats.ENDED)
    assert not formats.alertmanager("http://am:9093", [msgspec.structs.replace(records[0], notified=None)], 1100)


def test_alertmanager_unknown() -> None:
    """An alert without data is still sent as firing, with a note: Alertmanager would resolve it otherwise."""
    found = alerts()
    found.tick(9000)
    (request,) = formats.alertmanager("http://am:9093", found.records().values(), 9000)
    (alert,) = json.loads(request.body)

    assert alert["endsAt"] == "1970-01-01T02:34:00+00:00"
    assert alert["annotations"]["no_data_since"] == "1970-01-01T00:16:40+00:00"


def test_mail() -> None:
    """All mails about an incident are one thread; a name with a line end adds no header."""
    hostile = msgspec.structs.replace(made(), text="web\r\nBcc: all@example.org")
    written = formats.mail("agentd@pve1", ["ops@example.org"], hostile, "pve1").as_string()

    assert "\nBcc:" not in written.partition("\n\n")[0]
    assert formats.mail("a@b", ["c@d"], made(), "pve1")["References"] == "<i1@pve1>"


def test_ntfy() -> None:
    """A message for a phone has a priority, and the link to the page."""
    content = json.loads(formats.ntfy("https://ntfy.sh", "pve", made(), "token", "https://pve1/alerts").body)

    assert (content["topic"], content["priority"], content["click"]) == ("pve", 4, "https://pve1/alerts")


# -- a real receiver ------------------------------------------------------------------------------------------------


def hook(url: str, timeout: float = 10.0) -> Any:
    """Return the function that sends a message to a webhook."""
    return lambda sent: post(formats.webhook(url, sent, time.time(), "secret"), timeout=timeout)


@pytest.mark.parametrize(("answer", "refused"), [(500, False), (429, False), (401, True), (302, True)])
def test_errors_of_a_receiver(answer: int, refused: bool) -> None:  # noqa: FBT001 - what is expected
    """A status other than 2xx is a failed attempt; a redirect is not followed."""
    with receiver(answer) as running, pytest.raises(SendFailed) as failed:
        hook(running.url)(made())

    assert failed.value.refused is refused
    assert str(answer) in str(failed.value)


async def test_delivered_after_errors() -> None:
    """A receiver that answers 500 twice gets the message at the third attempt, with the same key; then never again."""
    outbox, now = Outbox(), [0.0]
    with receiver(500, 500, 200) as running:
        sender = Sender(outbox, {"hook": hook(running.url)}, lambda: now[0])
        outbox.add("hook", made(), 0)
        async with asyncio.timeout(20):
            while outbox.deliveries():
                sender.send_due()
                await asyncio.sleep(0.05)
                now[0] += LONGEST
        sender.send_due()
        await sender.close()
        keys = [headers["Idempotency-Key"] for headers, _ in running.bodies]

    assert keys == ["i1-firing-0"] * 3


async def test_a_hanging_receiver_blocks_no_other() -> None:
    """While one receiver does not answer, the other gets all its messages."""
    outbox = Outbox()
    with receiver(0) as dead, receiver(200) as alive:
        sender = Sender(outbox, {"dead": hook(dead.url, 1.0), "alive": hook(alive.url)}, time.time)
        for place in range(20):
            for name in ("dead", "alive"):
                outbox.add(name, made(incident=f"i{place}"), time.time())
        sender.send_due()
        async with asyncio.timeout(20):
            while len(alive.bodies) < 20:  # noqa: ASYNC110 - a server in a thread counts
                await asyncio.sleep(0.02)
        waiting = {delivery.receiver for delivery in outbox.deliveries().values()}
        await sender.close()

    assert "dead" in waiting
