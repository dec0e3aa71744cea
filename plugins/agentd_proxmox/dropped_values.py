"""What a change sends where Proxmox drops a value: a switch that is off by default, or a text that is empty.

Pure.  A false switch of an HA rule that is sent as 0 stays as it was (measured on 9.2.11), and an empty value never
arrives (proxmox.md, Requests).  To delete the option means the same everywhere, so that is what is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def sent(wanted: Mapping[str, Any], now: Mapping[str, Any], off: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of a change; None is left alone.

    now  the entry as Proxmox lists it: what it has not is not deleted
    off  the switches that are off by default
    """
    gone = [key for key, value in wanted.items() if value in ("", []) or (value is False and key in off)]
    kept = {key: value for key, value in wanted.items() if value is not None and key not in gone}
    return kept | {"delete": ",".join(sorted(key for key in gone if key in now)) or None}
