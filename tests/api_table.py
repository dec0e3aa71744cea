"""Write plugins/agentd_proxmox/api_tiers.json: the tier of every method and the class of every parameter of the API.

    python tests/api_table.py SCHEMA.json ...

A SCHEMA.json maps `METHOD path` to the method's schema.  The rules below were written kind by kind: for each kind of
effect the methods and parameters that have it.  What no rule names is of tier `destroy` (a method that writes) or has
no effect on the tier (a parameter, listed as `plain`).  Review the difference of the file, line by line, when a new
version of Proxmox VE brings a method or a parameter: until it is in the table, a call of it is of tier `destroy`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from agentd.wire.secrets import is_secret_of

TABLE = Path(__file__).parent.parent / "plugins/agentd_proxmox/api_tiers.json"
GUEST = r"/nodes/{node}/(qemu|lxc)/{vmid}"
NODE = r"/nodes/{node}"

Rules = tuple[tuple[str, str], ...]

REFUSED: Rules = (
    (r"POST .*/(termproxy|vncproxy|vncshell|spiceshell|spiceproxy)", "it opens a console and answers its ticket"),
    (r"POST .*/(mtunnel|remote_migrate)", "it takes or answers the credentials of a tunnel"),
    (r"GET .*/(vncwebsocket|mtunnelwebsocket)", "it is the stream of a console or a tunnel"),
    (r"POST /access/(ticket|vncticket|openid/.*)", "it takes or answers a session"),
    (r"POST /access/tfa/{userid}", "its answer holds a secret, a second factor"),
    (r"POST /access/users/{userid}/token/{tokenid}", "its answer holds a secret, that of the token"),
    (r"POST /cluster/config/(join|nodes/{node})", "it takes or answers the keys of the cluster"),
    (r"POST /cluster/sdn/lock", "its answer holds a secret, the token of the lock"),
    (rf"GET {NODE}/report", "the report holds the configuration of the node with all passwords and keys in it"),
    (rf"GET {NODE}/ceph/cfg/(db|raw|value)", "the configuration of Ceph may hold keys and passwords"),
    (r"GET .*/cloudinit/dump", "the data for cloud-init may hold the hash of a password"),
    (rf"GET {NODE}/vzdump/extractconfig", "the configuration inside a backup may hold the hash of a password"),
)
"""Methods that no tool calls, whatever the tier: the ticket or the secret would be stored."""

EXEC: Rules = (
    (r"POST .*/(execute|monitor|dbus-vmstate)", "it runs commands"),
    (r"PUT .*/sendkey", "it types on the console of a guest"),
    (r"POST .*/agent(/(exec|file-write|set-user-password))?", "it acts inside a guest"),
    (r"GET .*/agent/(exec-status|file-read)", "it shows the inside of a guest"),
    (r"GET .*/file-restore/(list|download)", "it shows the files inside a backup"),
    (r"(POST|PUT) /access/roles(/{roleid})?", "it changes what everyone with the role may do"),
    (r"PUT /access/acl", "it gives rights"),
    (r"(POST|PUT) /access/domains(/{realm})?(/sync)?", "a realm decides who may log in and into which groups"),
    (r"(POST|PUT) /cluster/jobs/realm-sync/{id}", "a realm decides who may log in and into which groups"),
    (r"(POST|PUT) /cluster/mapping/dir(/{id})?", "it gives guests a directory of a node"),
    (rf"(POST|PUT) {NODE}/apt/repositories", "what a repository offers is run at the next upgrade"),
)

CONTACT: Rules = (
    (rf"GET {NODE}/scan/(cifs|iscsi|nfs|pbs)", "a node contacts an address of the caller's choice"),
    (rf"GET {NODE}/(query-url-metadata|query-oci-repo-tags)", "a node contacts an address of the caller's choice"),
    (r"GET /cluster/acme/(tos|meta)", "a node contacts an address of the caller's choice"),
)
"""Reads of tier `operate`."""

OPERATE: Rules = (
    (rf"POST {NODE}/(qemu|lxc)", "it makes something new"),
    (rf"POST {GUEST}/(clone|snapshot)", "it makes something new"),
    (rf"POST {GUEST}/(migrate|move_disk|move_volume|config)", "it can be changed back"),
    (rf"PUT {GUEST}/(config|cloudinit|snapshot/{{snapname}}/config)", "it can be changed back"),
    (rf"PUT {GUEST}/resize", "a disk only grows"),
    (rf"POST {GUEST}/status/(start|stop|shutdown|reboot|reset|suspend|resume)", "a guest can be started again"),
    (rf"POST {GUEST}/agent/(ping|fsfreeze-status|fsfreeze-thaw|fstrim|shutdown)", "it changes no data of a guest"),
    (rf"POST {GUEST}/agent/(suspend-disk|suspend-hybrid|suspend-ram)", "a guest can be resumed"),
    (r"POST /cluster/firewall/groups", "a new group is empty and used by no guest"),
    (rf"POST {NODE}/(vzdump|aplinfo)", "it makes something new"),
    (rf"POST {NODE}/(startall|apt/update|wakeonlan)", "it starts what is off, or reads again"),
    (rf"POST {NODE}/services/{{service}}/(start|reload)", "the service keeps running"),
    (rf"POST {NODE}/storage/{{storage}}/(content|download-url|oci-registry-pull)", "it makes something new"),
    (rf"POST {NODE}/storage/{{storage}}/content/{{volume}}", "it makes a copy"),
    (rf"PUT {NODE}/storage/{{storage}}/content/{{volume}}", "it can be changed back"),
    (rf"PUT {NODE}/(time|config)", "it can be changed back"),
    (rf"POST {NODE}/ceph/(start|osd/{{osdid}}/(in|scrub))", "data only becomes safer"),
    (rf"POST {NODE}/replication/{{id}}/schedule_now", "it makes another copy"),
    (rf"(POST|PUT) {NODE}/certificates/acme/certificate", "a new certificate is ordered"),
    (r"(POST|PUT) /cluster/(backup|replication|mapping/(pci|usb))(/{id})?", "it can be changed back"),
    (r"(POST|PUT) /cluster/ha/(groups|resources|rules)(/{(group|sid|rule)})?", "it can be changed back"),
    (r"POST /cluster/ha/(resources/{sid}/(migrate|relocate)|status/arm-ha)", "it can be changed back"),
    (r"POST /cluster/notifications/targets/{name}/test", "it sends one message"),
    (r"POST /cluster/bulk-action/guest/start", "it starts what is off"),
    (r"(POST|PUT) /cluster/sdn/(vnets|zones|controllers)(/{(vnet|zone|controller)})?", "it waits until it is applied"),
    (r"(POST|PUT) /cluster/sdn/vnets/{vnet}/subnets(/{subnet})?", "it waits until it is applied"),
    (r"(POST|PUT) /pools(/{poolid})?", "it can be changed back"),
)
"""Writes that were reviewed: each can be taken back, or makes something new beside what there is."""

DESTROY: Rules = (
    (r"DELETE .*", "it deletes"),
    (rf"POST {NODE}/storage/{{storage}}/upload", "it overwrites a file of the same name without a word"),
    (rf"(POST|PUT) {NODE}/network(/{{iface}})?", "what is pending takes effect at the next boot of the node"),
    (rf"PUT {NODE}/dns", "names lead elsewhere, also those of servers that are given secrets"),
    (r"(POST|PUT) .*/firewall/.*", "it opens or closes something"),
    (r"(POST|PUT) /cluster/sdn/vnets/{vnet}/ips", "it acts at once, unlike the rest of SDN"),
    (r"(POST|PUT) /cluster/sdn/(dns|ipams)(/.*)?", "its stored secret is sent to the address"),
    (r"(POST|PUT) /cluster/metrics/server/{id}", "data of the cluster is sent to the address"),
    (r"(POST|PUT) /cluster/notifications/.*", "messages of the cluster are sent elsewhere, or no longer"),
    (r"(POST|PUT) /storage(/{storage})?", "nodes use what the address or the directory holds"),
    (r"(POST|PUT) /access/.*", "it changes who may log in"),
)

CONFIG = rf"(POST|PUT) {GUEST}/config"
NEW = rf"POST {NODE}/(qemu|lxc)"
BOTH = rf"({CONFIG}|{NEW})"
JOB = rf"(POST {NODE}/vzdump|(POST|PUT) /cluster/backup(/{{id}})?)"
STORED = (
    r"/access/(domains|users|tfa)(/{(realm|userid)}(/{id})?)?|/storage(/{storage})?"
    r"|/cluster/(acme/(account|plugins)|backup|metrics/server|replication|ha/resources)(/{(name|id|sid)})?"
    r"|/cluster/notifications/(endpoints/(gotify|sendmail|smtp|webhook)|matchers)(/{name})?|/cluster/options"
    r"|/cluster/jobs/realm-sync/{id}|/cluster/sdn/(dns|ipams|controllers)(/{(dns|ipam|controller)})?"
    rf"|{GUEST}/(config|snapshot/{{snapname}}/config)|{NODE}/(config|subscription)"
)
"""Paths that answer what a write has stored."""
USUAL = {
    "digest",
    "id",
    "name",
    "type",
    "pending",
    "state",
    "path",
    "meta",
    "parent",
    "snaptime",
    "snapstate",
    "vmstate",
}
USUAL |= {"runningmachine", "runningcpu", "running-nets-host-mtu", "lxc", "origin", "realm", "sid", "storage", "jobnum"}
USUAL |= {"unused[n]", "next-run", "last-run", "plugin", "status", "productname", "level", "vmid"}
"""Fields of stored objects that no write gives."""

FREE = (
    r"/access/permissions|/cluster/(acme/tos|ceph/(flags/{flag}|status)|config/(apiversion|qdevice|totem)|log|nextid)"
    r"|/cluster/ha/(groups/{group}|status/manager_status)|/cluster/mapping/(dir|pci|usb)/{id}|.*/firewall/.*"
    r"|/cluster/sdn/(prefix-lists.*|vnets/{vnet}/subnets.*|ipams/{ipam}/status)|.*/rrddata"
    rf"|{NODE}/(aplinfo|apt/changelog|ceph/(crush|status)|journal|netstat|query-oci-repo-tags|replication/{{id}}/.*)"
    rf"|{GUEST}/agent/(get-.*|info|network-get-interfaces|file-read)|{NODE}/storage/{{storage}}/file-restore/download"
)
"""Paths of reads whose answers have fields of any name, and were reviewed: nothing in them is a secret by its place."""
CLASSES = (
    # Commands, devices and sessions.
    ("exec", BOTH, r"hookscript|args|cicustom|ciuser|sshkeys|ssh-public-keys|entrypoint|features"),
    ("exec", BOTH, r"(hostpci|parallel|virtiofs|dev|usb)\[n\]|ivshmem|amd-sev|intel-tdx"),
    ("serial", BOTH, r"serial\[n\]"),
    ("cmode", BOTH, r"cmode"),
    ("exec", JOB, r"script|dumpdir|tmpdir"),
    ("exec", r"(POST|PUT) /storage(/{storage})?", r"path|content-dirs|mountpoint|options|export"),
    ("exec", r"PUT /cluster/options", r"http_proxy"),
    ("exec", r"(POST|PUT) /access/users(/{userid})?", r"groups"),
    ("exec-off", r"PUT /access/users/{userid}/token/{tokenid}", r"privsep"),
    ("refused-on", r"PUT /access/users/{userid}/token/{tokenid}", r"regenerate"),
    ("members", r"PUT /pools(/{poolid})?", r"vms|storage"),
    # Left out they act: the default of the schema counts as if it were given.
    ("on-left-out", rf"(POST {NODE}/vzdump|POST /cluster/backup)", r"remove"),
    ("off-left-out", rf"POST {NODE}/lxc", r"unprivileged"),
    # Switches.
    ("on", r"PUT /(pools.*|access/acl)", r"delete|allow-move"),
    ("on", r"POST .*/(move_disk|move_volume)", r"delete"),
    ("on", r".*", r"force|skiplock|force-stop|forceStop|overrule-shutdown|purge|keepActive|force-cpu"),
    ("on", r".*", r"allow-move|regenerate|cleanup.*|remove.*|destroy-unreferenced-disks|overwrite|append"),
    ("on", JOB, r"stop|stdout"),
    ("on", CONFIG, r"template"),
    ("on", rf"POST {GUEST}/status/resume", r"nocheck"),
    ("off", CONFIG, r"protection"),
    ("off", r"PUT .*/content/{volume}", r"protected"),
    ("off", r".*", r"verify-certificates|verify-certificate|verify"),
    ("off", r"PUT /cluster/backup/{id}", r"enabled"),
    # Given at all.
    (
        "given",
        r".*",
        r"remove-vanished|maxfiles|target-vmid|target-disk|target-volume|remove_job|migratedfrom|stateuri",
    ),
    ("given", BOTH, r"lock|unused\[n\]"),
    ("given", JOB, r"mailto"),
    ("given", r"PUT /cluster/backup/{id}", r"vmid|all|pool|node|exclude"),
    ("given", r"PUT /cluster/replication/{id}", r"source"),
    ("prune", r".*", r"prune-backups"),
    ("delete", r".*", r"delete|revert"),
    ("disk", BOTH, r"(ide|sata|scsi|virtio|mp)\[n\]|efidisk0|tpmstate0|rootfs|cdrom"),
    ("net", CONFIG, r"net\[n\]"),
    ("notes", r".*", r"description|notes|notes-template"),
)
"""Class, methods, parameters: the first that fits.  tiers.py says what each class means."""


def fits(pattern: str, text: str) -> bool:
    """Return whether `pattern`, in which a path is written as it is, fits the whole of `text`."""
    return re.fullmatch(re.sub(r"\{(?=[a-z])|(?<=[a-z])\}", r"\\\g<0>", pattern), text) is not None


def tier(key: str) -> tuple[str, str]:
    """Return the tier of a method without parameters, and why."""
    lists = [("refused", REFUSED), ("exec", EXEC), ("operate", CONTACT)]
    if not key.startswith("GET "):
        lists += [("operate", OPERATE), ("destroy", DESTROY)]
    for name, rules in lists:
        why = next((why for pattern, why in rules if fits(pattern, key)), "")
        if why:
            return name, why
    return ("read", "it reads") if key.startswith("GET ") else ("destroy", "it was not reviewed as harmless")


def kind(key: str, name: str) -> str:
    """Return the class of a parameter."""
    if is_secret_of(key.partition(" ")[2], name):
        return "secret"
    if key.startswith("GET "):
        return "plain"
    return next((found for found, where, names in CLASSES if fits(where, key) and fits(names, name)), "plain")


def shown(key: str, methods: dict[str, dict[str, Any]]) -> list[str] | None:
    """Return the fields of an answer that may be shown; None where a read answers no stored configuration.

    What a write stores may be a secret, so of such an object only the fields are shown that the schema knows.
    """
    verb, path = key.split(" ")
    if verb != "GET" or not fits(STORED, path):
        return None
    config = path.partition("/snapshot/")[0] + "/config" if "/snapshot/" in path else path
    returns = methods[key].get("returns") or {}
    names = set((returns.get("items") or {}).get("properties") or returns.get("properties") or {}) | USUAL
    for item in {config, path, path.rpartition("/")[0], f"{path}/{{id}}", f"{path}/{{name}}", f"{path}/{{storage}}"}:
        for write in (f"{method} {item}" for method in ("POST", "PUT")):
            names |= set(parameters(methods.get(write, {})))
    return sorted(name for name in names if kind(key, name) != "secret")


def fields(key: str, methods: dict[str, dict[str, Any]]) -> list[str] | None:
    """Return the fields that a read answers and that are no secrets; None where they may have any name."""
    verb, path = key.split(" ")
    if verb != "GET" or fits(FREE, path):
        return None
    returns = methods[key].get("returns") or {}
    names = (returns.get("items") or {}).get("properties") or returns.get("properties") or {}
    return sorted(name for name in names if kind(key, name) != "secret")


def parameters(method: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a method, nested or not."""
    known = method.get("parameters") or {}
    return known.get("properties", known) if isinstance(known.get("properties", known), dict) else {}


def line(key: str, methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the table says of a method."""
    name, why = tier(key)
    found: dict[str, Any] = {"tier": name, "why": why}
    for parameter in sorted(parameters(methods[key])):
        if f"{{{parameter}}}" not in key:
            found.setdefault(kind(key, parameter), []).append(parameter)
    answer = shown(key, methods)
    if answer is not None:
        return found | {"shown": answer}
    known = fields(key, methods)
    return found | ({} if known is None or name == "refused" else {"fields": known})


def main() -> None:
    """Write the table from the schemas that are named."""
    methods: dict[str, dict[str, Any]] = {}
    for file in sys.argv[1:]:
        for key, info in json.loads(Path(file).read_text()).items():
            if " " in key:
                known = methods.setdefault(key, {**info, "parameters": {}})
                known["parameters"] |= parameters(info)
    rows = [f"{json.dumps(key)}: {json.dumps(line(key, methods))}" for key in sorted(methods)]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
