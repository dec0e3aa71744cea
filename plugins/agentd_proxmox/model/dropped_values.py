"""Build the parameters of a change for values that Proxmox would drop; pure.

Proxmox drops two kinds of values: a switch of an HA rule that is set to false by sending 0 stays as it was (measured on
9.2.11), and an empty text never arrives (proxmox.md, Requests).  For a switch that is off by default and for a text,
deleting the option has the same meaning everywhere.  So `delete` is sent instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def changed_parameters(wanted: Mapping[str, Any], now: Mapping[str, Any], off: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of a change; a value None means no change.

    now  the current entry as Proxmox lists it: options that it does not have are not deleted
    off  the switches that are off by default
    """
    gone = [key for key, value in wanted.items() if value in ("", []) or (value is False and key in off)]
    kept = {key: value for key, value in wanted.items() if value is not None and key not in gone}
    return kept | {"delete": ",".join(sorted(key for key in gone if key in now)) or None}
