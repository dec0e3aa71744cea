"""Fixtures of the tests of faults that were found on the built product."""

from __future__ import annotations

from plugins.conftest import bus, known, lab, laboratory, quiet_net, recorded, shelf, steered, tools

__all__ = ["bus", "known", "lab", "laboratory", "quiet_net", "recorded", "shelf", "steered", "tools"]
