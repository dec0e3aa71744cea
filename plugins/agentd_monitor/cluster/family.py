"""Building metric families from values of the Proxmox API.  Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

TOTAL: Final = "_total"


class Page:
    """The families of one page, in the order of their table; a family without a sample is left out.

    help      the help text of each family, by name
    counters  names of the families that are counters; all others are gauges
    """

    def __init__(self, help_texts: Mapping[str, str], counters: frozenset[str]) -> None:
        self._help = help_texts
        self._counters = counters
        self._families: dict[str, Metric] = {}

    def add(self, name: str, value: Any, /, **labels: Any) -> None:  # noqa: ANN401 - any JSON from Proxmox
        """Add a sample; a value that is not a finite number is left out."""
        figure = number(value)
        if figure is None:
            return
        family = self._families.get(name)
        if family is None:
            kind = "counter" if name in self._counters else "gauge"
            # The writer adds the suffix to the name of a counter.
            stem = name.removesuffix(TOTAL) if kind == "counter" else name
            family = self._families[name] = Metric(stem, self._help[name], kind)
        family.add_sample(name, {label: text(held) for label, held in labels.items()}, figure)

    def families(self) -> list[Metric]:
        """Return the families that have samples."""
        return [self._families[name] for name in self._help if name in self._families]


def number(value: Any) -> float | None:  # noqa: ANN401 - any JSON from Proxmox
    """Return a value of the API as a finite number.

    Return None if it is none.  Proxmox sends some numbers as text.
    """
    if not isinstance(value, str | int | float):  # bool is an int
        return None
    try:
        figure = float(value)
    except (ValueError, OverflowError):
        return None
    return figure if math.isfinite(figure) else None


def text(value: Any) -> str:  # noqa: ANN401 - any JSON from Proxmox
    """Return a value of the API as the text of a label; "" for a missing value."""
    return "" if value is None else str(value)
