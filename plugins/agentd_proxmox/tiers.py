"""Say which tier a call of the API needs; pure.

Decided here, and it errs on the careful side: a write is `destroy` unless its path stands in the reviewed list OPERATE,
so that an endpoint which a newer Proxmox brings is refused until somebody has looked at it.  What runs commands, opens
a console or hands out a session is `exec`, whatever its method.  Parameters can raise the tier, never lower it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from agentd.messages import Tier

if TYPE_CHECKING:
    from agentd_proxmox.schema import Endpoint

_GUEST = r"/nodes/\{node\}/(qemu|lxc)/\{vmid\}"
_NODE = r"/nodes/\{node\}"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{'|'.join(patterns)})\Z")


EXEC = _any(
    r"POST .*/(execute|termproxy|vncproxy|vncshell|spiceshell|spiceproxy|monitor)",
    r"POST .*/(mtunnel|remote_migrate|dbus-vmstate)",
    r"GET .*(vncwebsocket|mtunnelwebsocket)",
    r"PUT .*/sendkey",
    r"POST .*/agent",
    r"(POST|GET) .*/agent/(exec|exec-status|file-read|file-write|set-user-password)",
    r"POST /access/(ticket|vncticket|openid/.*)",
)
"""Commands, consoles, keystrokes, files of a guest, and whatever hands out a session."""

OPERATE = _any(
    rf"POST {_NODE}/(qemu|lxc)",
    rf"POST {_GUEST}/(clone|migrate|move_disk|move_volume|snapshot|config)",
    rf"PUT {_GUEST}/(config|resize|cloudinit|snapshot/\{{snapname\}}/config)",
    rf"POST {_GUEST}/status/(start|stop|shutdown|reboot|reset|suspend|resume)",
    rf"POST {_GUEST}/agent/(ping|fsfreeze-status|fsfreeze-thaw|fstrim|shutdown)",
    rf"POST {_GUEST}/agent/(suspend-disk|suspend-hybrid|suspend-ram)",
    r"POST /cluster/firewall/groups",
    rf"POST {_NODE}/(vzdump|startall|aplinfo|apt/update|wakeonlan)",
    rf"POST {_NODE}/services/\{{service\}}/(start|reload)",
    rf"POST {_NODE}/storage/\{{storage\}}/(content|upload|download-url|oci-registry-pull)",
    rf"(POST|PUT) {_NODE}/storage/\{{storage\}}/content/\{{volume\}}",
    rf"POST {_NODE}/network",
    rf"PUT {_NODE}/(network/\{{iface\}}|dns|time|config)",
    rf"POST {_NODE}/ceph/(start|osd/\{{osdid\}}/(in|scrub))",
    rf"POST {_NODE}/replication/\{{id\}}/schedule_now",
    rf"(POST|PUT) {_NODE}/certificates/acme/certificate",
    r"(POST|PUT) /cluster/(backup|replication|mapping/\w+|metrics/server)(/\{id\})?",
    r"(POST|PUT) /cluster/ha/(groups|resources|rules)(/\{(group|sid|rule)\})?",
    r"POST /cluster/ha/(resources/\{sid\}/(migrate|relocate)|status/arm-ha)",
    r"(POST|PUT) /cluster/notifications/(endpoints/\w+|matchers)(/\{name\})?",
    r"POST /cluster/notifications/targets/\{name\}/test",
    r"POST /cluster/bulk-action/guest/start",
    r"(POST|PUT) /cluster/sdn/(vnets|zones|controllers|dns|ipams)(/.*(?<!/options))?",
    r"POST /cluster/sdn/lock",
    r"(POST|PUT) /pools(/\{poolid\})?",
    r"POST /storage",
)
"""Writes that were reviewed: each can be taken back, or makes something new beside what there is."""

_COMMANDS = frozenset({"hookscript", "args", "script"})
_CAREFUL = frozenset({"force", "skiplock", "remove-vanished", "overwrite"})
_PRUNING = frozenset({"prune-backups", "maxfiles", "remove"})
_GUARDS = frozenset({"protection", "protected"})
_DISK = re.compile(r"(?:^|[,;\s])(?:(?:scsi|virtio|sata|ide|mp|unused|efidisk|tpmstate)\d+|rootfs)(?:$|[,;\s])")
_EXEC_RIGHTS = frozenset({"VM.GuestAgent.Unrestricted", "VM.GuestAgent.FileRead", "VM.GuestAgent.FileWrite"})


def tier_of(endpoint: Endpoint, parameters: dict[str, Any] | None = None) -> tuple[Tier, str]:
    """Return the tier that a call needs, and why."""
    if EXEC.match(endpoint.key) or _only_exec(endpoint.info["permissions"].get("check")):
        return Tier.EXEC, "it runs commands, opens a console or hands out a session"
    if endpoint.verb == "GET":
        return Tier.READ, "it reads"
    raised = _raised(parameters or {})
    if raised is not None and raised[0] is Tier.EXEC:
        return raised
    if endpoint.verb == "DELETE":
        return Tier.DESTROY, "it deletes"
    if not OPERATE.match(endpoint.key):
        return Tier.DESTROY, "it is not among the writes that were reviewed as harmless"
    return raised or (Tier.OPERATE, "it changes something that can be changed back")


def _only_exec(check: Any) -> bool:  # noqa: ANN401 - nested lists of the schema
    """Tell whether a permission check asks for nothing but rights to run or to see the inside of a guest."""
    return isinstance(check, list) and check[:1] == ["perm"] and bool(check[2]) and set(check[2]) <= _EXEC_RIGHTS


def _raised(parameters: dict[str, Any]) -> tuple[Tier, str] | None:
    for name, value in parameters.items():
        on = str(value).lower() not in {"0", "false"}
        if name in _COMMANDS:
            return Tier.EXEC, f"`{name}` lets the node run a command"
        if name in _CAREFUL | _PRUNING and on:
            return Tier.DESTROY, f"`{name}` overrides a guard or removes what there is"
        if name in _GUARDS and not on:
            return Tier.DESTROY, f"`{name}` takes a guard away"
        if name == "delete" and (value is True or str(value) == "1" or _names_disk(value)):
            return Tier.DESTROY, "`delete` removes a volume or takes a disk away"
    return None


def _names_disk(value: Any) -> bool:  # noqa: ANN401 - text or a list
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return _DISK.search(text) is not None or "protection" in text
