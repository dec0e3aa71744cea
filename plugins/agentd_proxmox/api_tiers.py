"""Decide which tier a call of the API needs; pure.

The decision is made on what is sent: every value as the text that goes over the wire (checks.py encodes it).  A table,
api_tiers.json, holds each method of the API with its tier and the class of each parameter.  It is written by rules
(tests/api_table.py) and reviewed; what a newer Proxmox VE brings and the table does not know is of tier `destroy`.
Parameters can raise the tier, never lower it.
"""

from __future__ import annotations

import pkgutil
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentd.tools.raises import Raise, given, is_not_true
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentd_proxmox.api_schema import Endpoint

REFUSED: Final = "refused"
ORDER: Final = (Tier.READ, Tier.OPERATE, Tier.DESTROY, Tier.EXEC)
LEFT_OUT: Final = {"on-left-out", "off-left-out"}
HARMLESS: Final = {"plain", "net", "notes", "serial", "cmode"}
"""Classes of settings that may be removed (`delete`) without a second principal."""
_OWNED: Final = re.compile(
    r"(?<![^/:=])(?:vm|base|subvol|basevol|vzdump-(?:qemu|lxc|openvz))-(\d+)-|:(\d+)/|backup/(?:vm|ct)/(\d+)/"
)
_NO_CLASS: Final = frozenset({"tier", "why", "shown", "fields"})
_NEW: Final = re.compile(r"[^:/]+:\d+(?:\.\d+)?\Z")
_IMPORT: Final = re.compile(r"[^:/]+:import/[^/]+\Z")
_MEDIUM: Final = re.compile(r"[^:/]+:iso/[^/]+\Z")

Found = tuple[Tier, str] | None


TABLE: Final[dict[str, dict[str, Any]]] = msgspec.json.decode(
    pkgutil.get_data("agentd_proxmox", "api_tiers.json") or b"{}"  # read as the code itself is, at import
)
"""The reviewed table: `METHOD path`, its tier, why, and parameters by class."""


def class_of(key: str, name: str) -> str:
    """Return the class of a parameter, "" if the table does not know it; `net0` is one of `net[n]`."""
    row = TABLE.get(key, {})
    names = {name, re.sub(r"\d+\Z", "[n]", name)}
    return next((kind for kind, listed in row.items() if kind not in _NO_CLASS and names & {*listed}), "")


def listed(key: str) -> list[str]:
    """Return the parameters of a method that were reviewed."""
    return [name for kind, names in TABLE.get(key, {}).items() if kind not in _NO_CLASS for name in names]


def refused(endpoint: Endpoint, parameters: dict[str, Any]) -> str:
    """Return why no tool calls this method with these parameters, whatever the tier; "" if one does."""
    row = TABLE.get(endpoint.key, {})
    if row.get("tier") == REFUSED:
        return str(row["why"])
    for name, value in parameters.items():
        kind = class_of(endpoint.key, name)
        if kind == "secret":
            return f"parameter {name!r} is a secret"
        if kind == "refused-on" and is_on(value):
            return f"with {name!r} its answer holds a secret"
    return ""


def tier_of(endpoint: Endpoint, sent: dict[str, Any] | None = None) -> tuple[Tier, str]:
    """Return the tier that a call needs with what is sent, and why."""
    row = TABLE.get(endpoint.key)
    if row is None:
        return Tier.DESTROY, "it is not among the methods that were reviewed"
    found = Tier.EXEC if row["tier"] == REFUSED else Tier(row["tier"]), str(row["why"])
    for raised in _raises(endpoint, row, sent or {}):
        if raised is not None and ORDER.index(raised[0]) > ORDER.index(found[0]):
            found = raised
    return found


def _raises(endpoint: Endpoint, row: dict[str, Any], sent: dict[str, Any]) -> list[Found]:
    own = str(endpoint.values.get("vmid") or sent.get("vmid") or "")
    leaving = row.get("members", ()) if is_on(sent.get("delete", "0")) else ()  # `delete` raises by itself
    found = [_raised(endpoint.key, name, value, own) for name, value in sent.items() if name not in leaving]
    for kind in LEFT_OUT:
        left_out = [name for name in row.get(kind, ()) if name not in sent]
        found += [(Tier.DESTROY, f"`{name}` acts by default where it is left out") for name in left_out]
    return found


def _raised(key: str, name: str, value: Any, own: str) -> Found:  # noqa: ANN401 - text or a list
    kind = class_of(key, name)
    if not kind:
        return Tier.DESTROY, f"`{name}` is not among the parameters that were reviewed"
    if kind == "delete":
        return _deleted(key, name, value)
    if kind == "disk":
        return _disk(name, str(value), own)
    rule = RULES.get(kind)
    if rule is None or not rule[0](value):
        return None
    return rule[1], f"`{name}` {rule[2]}"


def is_on(value: object) -> bool:
    """Return whether a value is true for Proxmox; what cannot be read counts as true."""
    return str(value).strip().lower() not in {"0", "0.0", "off", "no", "false", ""}


def is_off(value: object) -> bool:
    """Return whether a value is false for Proxmox; what cannot be read counts as false."""
    return str(value).strip().lower() not in {"1", "1.0", "on", "yes", "true"}


def is_surely_off(value: object) -> bool:
    """Return whether a value is false for Proxmox; what cannot be read counts as true."""
    return not is_on(value)


def is_surely_on(value: object) -> bool:
    """Return whether a value is true for Proxmox; what cannot be read counts as false."""
    return not is_off(value)


def _prunes(value: object) -> bool:
    return str(value).strip() not in {"keep-all", "keep-all=1", "keep-all=true", "keep-all=yes", "keep-all=on"}


def _open(value: object) -> bool:
    """Return whether a network card that is plugged in is left without the firewall, which is Proxmox' default."""
    given = dict(part.partition("=")[::2] for part in str(value).split(","))
    return is_off(given.get("firewall", "0")) and not is_surely_on(given.get("link_down", "0"))


RULES: Final[dict[str, tuple[Callable[[Any], bool], Tier, str]]] = {
    "exec": (lambda _: True, Tier.EXEC, "becomes a command, a device of the node, a login or a right"),
    "exec-off": (is_off, Tier.EXEC, "gives all rights of the user"),
    "members": (lambda _: True, Tier.EXEC, "brings the rights that are given on the pool"),
    "serial": (lambda value: str(value) != "socket", Tier.EXEC, "is a device of the node"),
    "cmode": (lambda value: str(value) == "shell", Tier.EXEC, "opens a root shell without a login on the console"),
    "on": (is_on, Tier.DESTROY, "overrides a guard, interrupts or removes what there is"),
    "on-left-out": (is_on, Tier.DESTROY, "removes what there is"),
    "off": (is_off, Tier.DESTROY, "takes a guard away"),
    "off-left-out": (is_off, Tier.DESTROY, "takes a guard away"),
    "given": (lambda _: True, Tier.DESTROY, "changes another guest, or what is kept or covered"),
    "prune": (_prunes, Tier.DESTROY, "removes backups"),
    "net": (_open, Tier.DESTROY, "leaves the card without the firewall"),
}
"""Class, when it raises the tier, to which, and why; what `delete` and disks raise is decided by functions."""


def names_in(value: object) -> list[str]:
    """Return the names in a list of Proxmox: texts with commas, semicolons or blanks between them."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return [name for name in re.split(r"[,;\s\0]+", text) if name]


def _deleted(key: str, name: str, value: object) -> Found:
    for each in names_in(value):
        kind = class_of(key, each)
        if kind not in HARMLESS:
            what = "removes a volume, a guard or a setting with an effect of its own"
            return Tier.DESTROY, f"`{name}` with {each[:40]!r} {what}"
    return None


def owners(text: object) -> set[str]:
    """Return the VMIDs of the guests that own the volumes which a value names."""
    return {found[1] or found[2] or found[3] for found in _OWNED.finditer(str(text))}


def _disk(name: str, value: str, own: str) -> Found:
    """Return what a drive or a mount point raises: only new, own and empty ones are the guest's alone."""
    parts = value.split(",")
    given = {key: rest for key, equals, rest in (part.partition("=") for part in parts) if equals}
    volume = next((part for part in parts if "=" not in part), given.get("file") or given.get("volume") or "")
    sources = [volume, given.get("import-from", "")]
    if any(source.startswith("/") for source in sources) or volume == "cdrom":
        return Tier.EXEC, f"`{name}` is a device or a directory of the node"
    if given.get("import-from") or owners(value) - {own}:
        return Tier.DESTROY, f"`{name}` takes the volume of another guest"
    harmless = _NEW.match(volume) or _MEDIUM.match(volume) or volume == "none" or volume.endswith(":cloudinit")
    if harmless or owners(volume) == {own}:
        return None
    return Tier.DESTROY, f"`{name}` names a volume of which the owner is not known"


_CONFIG: Final = ("POST /nodes/{node}/qemu/{vmid}/config", "PUT /nodes/{node}/lxc/{vmid}/config")
NEW_GUESTS: Final = ("create_vm", "create_container", "clone_container")
"""Tools whose guest is new: its first settings take nothing from anyone."""


def of_options(parameters: Mapping[str, Any]) -> Tier:
    """Return the tier that options of a guest need, as set_guest_options writes and removes them.

    A VM and a container count alike, since the kind is not known before the guest is read.
    """
    written, removed = parameters.get("options") or {}, parameters.get("remove") or []
    if not isinstance(written, dict) or not isinstance(removed, list):
        return Tier.EXEC  # text, which only the tool reads, or a template of a workflow
    own = str(parameters.get("vmid") or "")
    pairs = [*written.items(), *(("delete", name) for name in removed)]
    known = [(key, name, value) for name, value in pairs for key in _CONFIG if class_of(key, name)]
    found = [_raised(key, name, value, own) for key, name, value in known]
    if {name for name, _ in pairs} - {name for _, name, _ in known}:
        return Tier.EXEC  # an option that was not reviewed; the tool refuses it
    return max((each[0] for each in found if each is not None), key=ORDER.index, default=Tier.OPERATE)


def _is_no_medium(parameters: Mapping[str, Any]) -> bool:
    """Return whether `iso` or `image` can be the disk of another guest."""
    iso, image = parameters.get("iso"), parameters.get("image")
    return bool((iso and not _MEDIUM.match(str(iso))) or (image and not _IMPORT.match(str(image))))


def _opens(parameters: Mapping[str, Any]) -> bool:
    """Return whether set_guest_network can let traffic through that was not before."""
    if is_surely_on(parameters.get("firewall", "0")):
        return False
    plugged = parameters.get("connected")
    connects = plugged is not None and not is_surely_off(plugged)
    return connects or any(parameters.get(name) is not None for name in ("firewall", "bridge", "tag"))


OPTIONS: Final = (
    Raise(
        Tier.DESTROY,
        "a guard or a card without the firewall among the options",
        lambda p: of_options(p) is not Tier.OPERATE,
    ),
    Raise(
        Tier.EXEC,
        "features, a login or a command among the options",
        lambda p: of_options(p) is Tier.EXEC,
        made=NEW_GUESTS,
    ),
)
"""Of set_guest_options."""
LOGIN: Final = (Raise(Tier.EXEC, "ciuser or sshkeys", given("ciuser", "sshkeys"), made=NEW_GUESTS),)
"""Of update_vm: cloud-init makes the login, and runs again at the next boot."""
FEATURES: Final = Raise(Tier.EXEC, "features", lambda p: bool(p.get("features")))
FEATURES_CHANGED: Final = Raise(Tier.EXEC, "features", given("features"), made=NEW_GUESTS)
PRIVILEGED: Final = Raise(Tier.DESTROY, "unprivileged=false", is_not_true("unprivileged"))
MEDIUM: Final = Raise(Tier.DESTROY, "an iso or image that is a disk", _is_no_medium)
NETWORK: Final = Raise(
    Tier.DESTROY,
    "firewall=false, and with bridge, tag or connected=true unless firewall=true",
    _opens,
    made=NEW_GUESTS,
)
UNVERIFIED: Final = Raise(Tier.DESTROY, "verify_certificates=false", is_not_true("verify_certificates"))
