"""Parse cron expressions for the NATS server and calculate when they fire; pure.

The server (server/cron.go and scheduler.go of 2.15) requires six fields, seconds first, with Sunday as 0, and fires
whenever the wall clock of the time zone matches.  People write five fields, and Sunday as 7: both are accepted here and
converted.  On the days when the clocks change, the rule of the server means: a time that does not exist on that day is
left out, and a time that occurs twice fires twice.  The orchestrator that handles the firing drops the second one
(`is_repeated`), unless the hour is `*` or `*/n`: then the schedule means hours, not a time of day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import tzinfo

MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS: Final = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, DAYS),
)
NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
YEARS: Final = 5
"""Years to search for a match; the server does the same."""


@dataclass(frozen=True)
class Cron:
    """A validated cron expression.

    `text` is for the server, the sets are the values that it matches.
    """

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    """One of the two day fields is `*`: a day has to match both fields; otherwise one match is enough."""
    hourly: bool
    """The hour is `*` or `*/n`."""

    def matches(self, day: date) -> bool:
        """Return whether it fires on this day."""
        if day.month not in self.months:
            return False
        found = (day.day in self.days, day.isoweekday() % 7 in self.weekdays)
        return all(found) if self.any_day else any(found)


def parse(text: str) -> Cron:
    """Return the parsed expression; raises ValueError, which names the wrong field."""
    if text.strip().startswith("@") and text.strip().lower() not in NAMED:
        raise ValueError(
            f"{text!r} is not accepted; there are {', '.join(NAMED)} and five fields: minute hour day month weekday"
        )
    fields = NAMED.get(text.strip().lower(), text).split()
    if len(fields) not in {len(FIELDS) - 1, len(FIELDS)}:
        raise ValueError(
            f"{text!r} has {len(fields)} fields; it takes five (minute hour day month weekday), or six from second"
        )
    fields = fields if len(fields) == len(FIELDS) else ["0", *fields]
    seconds, minutes, hours, days, months, weekdays = (
        _values(field, *bounds) for field, bounds in zip(fields, FIELDS, strict=True)
    )
    if 7 in weekdays:  # noqa: PLR2004 - Sunday, as people write it
        weekdays = weekdays - {7} | {0}
        fields[5] = ",".join(str(weekday) for weekday in sorted(weekdays))
    starred = any(part in {"*", "?", "*/1", "?/1"} for field in (fields[3], fields[5]) for part in field.split(","))
    return Cron(
        " ".join(fields), seconds, minutes, hours, days, months, weekdays, any_day=starred, hourly=fields[2][0] in "*?"
    )


def _values(field: str, name: str, lowest: int, highest: int, names: tuple[str, ...]) -> frozenset[int]:
    """Return the numbers that a field matches; raises ValueError."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        low, dash, high = span.partition("-")
        try:
            every = int(step) if slash else 1
            if low in {"*", "?"} and not dash:
                first, last = lowest, min(highest, 6) if names is DAYS else highest
            else:
                first = _number(low, names, lowest)
                last = _number(high, names, lowest) if dash else first
                last = highest if slash and not dash else last
        except ValueError:
            raise ValueError(
                f"{part!r} in the field {name}: write a number, a-b, *, */n, or names of months and weekdays"
            ) from None
        if not lowest <= first <= last <= highest or every < 1:
            raise ValueError(
                f"{part!r} in the field {name}: it is from {lowest} to {highest}, rising, in steps of 1 or more"
            )
        if slash and every > last - first:
            raise ValueError(
                f"{part!r} in the field {name}: a step of {every} is longer than {first} to {last}, so it would mean "
                f"{first} alone; write {first}, or a step from 1 to {max(last - first, 1)}"
            )
        found.update(range(first, last + 1, every))
    return frozenset(found)


def _number(text: str, names: tuple[str, ...], lowest: int) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + lowest
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def next_after(cron: Cron, at: datetime, zone: tzinfo) -> datetime | None:
    """Return the next time after `at` when it fires, in UTC.

    None if there is none within five years.
    """
    local = at.astimezone(zone)
    for number in range(YEARS * 366):
        day = local.date() + timedelta(days=number)
        if not cron.matches(day):
            continue
        for hour in sorted(cron.hours):
            if not number and hour < local.hour - 1:
                continue
            for moment in _in_hour(cron, day, hour, zone):
                if moment > at:
                    return moment
    return None


def _in_hour(cron: Cron, day: date, hour: int, zone: tzinfo) -> list[datetime]:
    """Return the times of one local hour, which may not exist or occur twice."""

    def moments() -> Iterator[datetime]:
        for minute, second in product(cron.minutes, cron.seconds):
            for fold in (0, 1):
                wall = datetime.combine(day, time(hour, minute, second), zone).replace(fold=fold)
                moment = wall.astimezone(UTC)
                exists = moment.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None)
                if exists and not is_repeated(cron, moment, zone):
                    yield moment

    return sorted(set(moments()))


def is_repeated(cron: Cron, at: datetime, zone: tzinfo) -> bool:
    """Return whether this is the second occurrence of a time of day.

    That happens on the day when the clock is put back.

    It is always false if the hour is `*` or `*/n`.
    """
    return not cron.hourly and at.astimezone(zone).fold == 1
