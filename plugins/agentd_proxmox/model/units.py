"""Format sizes for people, in the same way everywhere.  Pure."""

from __future__ import annotations

from typing import Final

UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(amount: float) -> str:
    """Return a number of bytes in a suitable unit: 1073741824 is `1 GiB`."""
    unit = 0
    while abs(round(amount, 2)) >= 1024 and unit < len(UNITS) - 1:  # noqa: PLR2004 - binary units
        amount, unit = amount / 1024, unit + 1
    number = f"{amount:.2f}".rstrip("0").rstrip(".")
    return f"{number} {UNITS[unit]}"


def gib(amount: float) -> str:
    """Return a number of GiB in a suitable unit."""
    return size(amount * 2**30)
