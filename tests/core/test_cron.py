"""Cron expressions: what people write is what the server takes, and when it comes next is when it fires."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from agentd import cron

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    """Return a moment of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def nexts(text: str, start: str, zone: ZoneInfo, count: int) -> list[str]:
    """Return the next firings on the clock of the zone."""
    parsed, moment, found = cron.parse(text), at(start), []
    for _ in range(count):
        following = cron.next_after(parsed, moment, zone)
        assert following is not None
        moment = following
        found.append(f"{moment.astimezone(zone):%m-%d %H:%M:%S %Z}")
    return found


@pytest.mark.parametrize(
    ("written", "taken"),
    {
        "30 2 * * *": "0 30 2 * * *",
        "*/15 * * * * *": "*/15 * * * * *",
        "0 3 * * 7": "0 0 3 * * 0",
        "0 3 * * 5-7": "0 0 3 * * 0,5,6",
        "0 3 * * MON-fri": "0 0 3 * * MON-fri",
        "0 0 1 jan ?": "0 0 0 1 jan ?",
        " @daily ": "0 0 0 * * *",
    }.items(),
)
def test_the_expression_for_the_server(written: str, taken: str) -> None:
    """Five fields become six, Sunday becomes 0, names and steps stay."""
    assert cron.parse(written).text == taken


@pytest.mark.parametrize(
    ("written", "answer"),
    {
        "": "'' has 0 fields; it takes five (minute hour day month weekday), or six from second",
        "* * * *": "has 4 fields",
        "@every 5m": "'@every 5m' is not accepted; there are @yearly",
        "61 * * * *": "'61' in the field minute: it is from 0 to 59",
        "* 24 * * *": "'24' in the field hour",
        "* * 0 * *": "'0' in the field day of the month",
        "* * * 13 *": "'13' in the field month",
        "* * * * 8": "'8' in the field day of the week",
        "* * L * *": "'L' in the field day of the month: write a number",
        "* * * foo *": "'foo' in the field month",
        "5-1 * * * *": "'5-1' in the field minute",
        "*/0 * * * *": "'*/0' in the field minute",
        "1, * * * *": "'' in the field minute",
        "-1 * * * *": "'-1' in the field minute",
        "\u0661 * * * *": "in the field minute",
    }.items(),
)
def test_a_wrong_field_is_named(written: str, answer: str) -> None:
    """An expression that cannot be is refused with the field and what it takes."""
    with pytest.raises(ValueError, match=re.escape(answer)):
        cron.parse(written)


def test_when_clocks_go_forward() -> None:
    """A time that does not exist is left out that day; the next day it comes again."""
    assert nexts("30 2 * * *", "2027-03-26T12:00", BERLIN, 3) == [
        "03-27 02:30:00 CET",
        "03-29 02:30:00 CEST",
        "03-30 02:30:00 CEST",
    ]


def test_when_clocks_go_back() -> None:
    """A time that comes twice counts once; what is meant by the hour comes each hour."""
    assert nexts("30 2 * * *", "2026-10-24T12:00", BERLIN, 2) == ["10-25 02:30:00 CEST", "10-26 02:30:00 CET"]
    assert nexts("30 * * * *", "2026-10-24T23:00", BERLIN, 3) == [
        "10-25 01:30:00 CEST",
        "10-25 02:30:00 CEST",
        "10-25 02:30:00 CET",
    ]
    assert cron.is_repeated(cron.parse("30 2 * * *"), at("2026-10-25T01:30:00"), BERLIN)
    assert not cron.is_repeated(cron.parse("30 2 * * *"), at("2026-10-25T00:30:00"), BERLIN)
    assert not cron.is_repeated(cron.parse("30 */2 * * *"), at("2026-10-25T01:30:00"), BERLIN)


def test_days() -> None:
    """Of two restricted day fields one is enough, as cron has it; leap days are found, what never comes is not."""
    utc = ZoneInfo("UTC")

    assert nexts("0 0 13 * fri", "2026-11-01T00:00", utc, 3) == [
        "11-06 00:00:00 UTC",
        "11-13 00:00:00 UTC",
        "11-20 00:00:00 UTC",
    ]
    assert nexts("0 0 */10 * *", "2026-11-01T12:00", utc, 3) == [
        "11-11 00:00:00 UTC",
        "11-21 00:00:00 UTC",
        "12-01 00:00:00 UTC",
    ]
    assert nexts("0 0 29 2 *", "2026-11-01T00:00", utc, 1) == ["02-29 00:00:00 UTC"]
    assert cron.next_after(cron.parse("0 0 30 2 *"), at("2026-11-01T00:00"), utc) is None


def test_every_second_over_a_clock_change() -> None:
    """From one hour into the next, and over both changes of clocks, no second is left out and none comes twice."""
    parsed = cron.parse("* * * * * *")
    for moment in ("2026-10-25T00:59:58", "2026-10-25T01:59:58", "2027-03-28T00:59:58", "2026-12-31T22:59:58"):
        now = at(moment)
        for _ in range(4):
            following = cron.next_after(parsed, now, BERLIN)

            assert following == now + timedelta(seconds=1)
            now = following
