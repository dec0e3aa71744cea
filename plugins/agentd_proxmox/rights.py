"""Which rights the tools need, from what they call and from what the node's schema says of each method; pure.

CALLS says which methods a tool calls; a test runs the tools and compares it with what arrived.  The schema's
permission checks turn that into privileges.  Where the schema says `user: all` and tells the rest in words, or takes
any of several privileges by what is changed, WORDS says what the tool needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentd.errors import NotFound
from agentd.messages import Tier
from agentd.tools import Right

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentd_proxmox.schema import Catalogue

    Needed = set[tuple[str, str]]
    """Privilege and the path that it is needed on, with variables."""

_RESOURCES = "GET /cluster/resources"
_PERMISSIONS = "GET /access/permissions"
_TASK = ("GET /nodes/{node}/tasks/{upid}/status", "GET /nodes/{node}/tasks/{upid}/log")
_TASKS = "GET /nodes/{node}/tasks"
_PLACES = (_RESOURCES, _PERMISSIONS)


def _guest(*suffixes: str) -> tuple[str, ...]:
    """Return methods of both kinds of guests: `GET /config` and so on."""
    pairs = (each.split(" ") for each in suffixes)
    return tuple(f"{verb} /nodes/{{node}}/{kind}/{{vmid}}{rest}" for verb, rest in pairs for kind in ("qemu", "lxc"))


_READ = (*_PLACES, *_guest("GET /config", "GET /status/current"))
_POWER = (*_READ, *_TASK, _TASKS)
_RESUME = ("resume", "start")

CALLS: dict[str, tuple[Tier, tuple[str, ...]]] = {
    "list_nodes": (Tier.READ, ("GET /nodes", "GET /cluster/status")),
    "get_node": (Tier.READ, ("GET /nodes", "GET /nodes/{node}/status")),
    "list_storages": (Tier.READ, _PLACES),
    "list_bridges": (Tier.READ, ("GET /nodes/{node}/network",)),
    "list_tasks": (Tier.READ, (_TASKS, "GET /cluster/tasks")),
    "get_task": (Tier.READ, _TASK),
    "list_vms": (Tier.READ, _PLACES),
    "list_templates": (Tier.READ, _PLACES),
    "get_vm": (Tier.READ, _READ),
    "next_vmids": (Tier.READ, _PLACES),
    "start_vm": (Tier.OPERATE, (*_POWER, *_guest("POST /status/start"))),
    "stop_vm": (Tier.OPERATE, (*_POWER, *_guest("POST /status/stop"))),
    "shutdown_vm": (Tier.OPERATE, (*_POWER, *_guest("POST /status/shutdown"))),
    "reboot_vm": (Tier.OPERATE, (*_POWER, *_guest("POST /status/reboot"))),
    "update_vm": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/config")),
    "resize_disk": (Tier.OPERATE, (*_POWER, "PUT /nodes/{node}/qemu/{vmid}/resize")),
    "create_vm": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu", "POST /nodes/{node}/qemu/{vmid}/clone")),
    "create_container": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/lxc")),
    "clone_container": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/lxc/{vmid}/clone")),
    "update_container": (
        Tier.OPERATE,
        (*_POWER, "PUT /nodes/{node}/lxc/{vmid}/config", "GET /nodes/{node}/lxc/{vmid}/pending"),
    ),
    "move_disk": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/move_disk")),
    "detach_disk": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/config")),
    "attach_disk": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/config")),
    "console_hint": (Tier.READ, _PLACES),
    "regenerate_cloudinit": (Tier.OPERATE, (*_POWER, "PUT /nodes/{node}/qemu/{vmid}/cloudinit")),
    "delete_guest": (
        Tier.DESTROY,
        (*_POWER, "GET /nodes", "GET /nodes/{node}/storage/{storage}/content", *_guest("DELETE ", "GET /snapshot")),
    ),
    "discard_guest": (Tier.OPERATE, (*_POWER, *_guest("DELETE ", "POST /status/stop"))),
    "suspend_vm": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/status/suspend")),
    "resume_vm": (Tier.OPERATE, (*_POWER, *(f"POST /nodes/{{node}}/qemu/{{vmid}}/status/{e}" for e in _RESUME))),
    "reset_vm": (Tier.OPERATE, (*_POWER, "POST /nodes/{node}/qemu/{vmid}/status/reset")),
    "make_template": (Tier.DESTROY, (*_POWER, *_guest("GET /snapshot", "POST /template"))),
    "set_tags": (
        Tier.OPERATE,
        (*_POWER, "POST /nodes/{node}/qemu/{vmid}/config", "PUT /nodes/{node}/lxc/{vmid}/config"),
    ),
    "pending_changes": (Tier.READ, (*_PLACES, *_guest("GET /pending"))),
}
"""What each tool may call, with its tier."""

_AGENT = (*_PLACES, "GET /nodes/{node}/qemu/{vmid}/agent/info")
_EXEC, _FILES = (("POST", ""), ("GET", "-status")), (("GET", "read"), ("POST", "write"))
_AGENT_INFO = ("get-osinfo", "get-host-name", "network-get-interfaces", "get-fsinfo")
_HA_LISTS = tuple(f"GET /cluster/ha/{each}" for each in ("status/current", "resources", "rules", "groups"))
_HA, _HA_RULES = (*_PLACES, *_HA_LISTS[:2]), (*_PLACES, *_HA_LISTS[1:])
_CHECKS = (*_guest("GET /migrate"), "GET /nodes/{node}/network", "GET /nodes/{node}/status", *_HA_LISTS)
_REPLICA = (*_PLACES, "GET /cluster/replication", "GET /cluster/replication/{id}", "GET /nodes/{node}/replication")
_POOL = (*_PLACES, "GET /pools")
CALLS |= {
    "migration_preflight": (Tier.READ, (*_READ, *_CHECKS)),
    "migrate_guest": (Tier.OPERATE, (*_POWER, *_CHECKS, *_guest("POST /migrate"))),
    "agent_ping": (Tier.READ, _AGENT),
    "agent_info": (Tier.READ, (*_AGENT, *(f"GET /nodes/{{node}}/qemu/{{vmid}}/agent/{each}" for each in _AGENT_INFO))),
    "agent_exec": (
        Tier.EXEC,
        (*_AGENT, *_READ, *(f"{each} /nodes/{{node}}/qemu/{{vmid}}/agent/exec{rest}" for each, rest in _EXEC)),
    ),
    "agent_read_file": (Tier.EXEC, (*_READ, "GET /nodes/{node}/qemu/{vmid}/agent/file-read")),
    "agent_write_file": (
        Tier.EXEC,
        (*_READ, *(f"{each} /nodes/{{node}}/qemu/{{vmid}}/agent/file-{rest}" for each, rest in _FILES)),
    ),
    "list_ha": (Tier.READ, (*_PLACES, *_HA_LISTS)),
    "add_ha_resource": (Tier.OPERATE, (*_HA, "POST /cluster/ha/resources")),
    "update_ha_resource": (Tier.OPERATE, (*_HA, "PUT /cluster/ha/resources/{sid}")),
    "remove_ha_resource": (Tier.DESTROY, (*_HA, *_READ, "DELETE /cluster/ha/resources/{sid}")),
    "create_ha_rule": (Tier.OPERATE, (*_HA_RULES, "POST /cluster/ha/rules")),
    "update_ha_rule": (Tier.OPERATE, (*_HA_RULES, "PUT /cluster/ha/rules/{rule}")),
    "delete_ha_rule": (Tier.DESTROY, (*_HA_RULES, "DELETE /cluster/ha/rules/{rule}")),
    "set_ha_group": (Tier.OPERATE, (*_HA_RULES, "POST /cluster/ha/groups", "PUT /cluster/ha/groups/{group}")),
    "delete_ha_group": (Tier.DESTROY, (*_HA_RULES, "DELETE /cluster/ha/groups/{group}")),
    "list_replications": (Tier.READ, _REPLICA),
    "replication_status": (Tier.READ, (*_REPLICA, "GET /nodes/{node}/replication/{id}/log")),
    "run_replication": (Tier.OPERATE, (*_REPLICA, "POST /nodes/{node}/replication/{id}/schedule_now")),
    "create_replication": (Tier.OPERATE, (*_REPLICA, "POST /cluster/replication")),
    "update_replication": (Tier.OPERATE, (*_REPLICA, "PUT /cluster/replication/{id}")),
    "delete_replication": (Tier.DESTROY, (*_REPLICA, "DELETE /cluster/replication/{id}")),
    "list_pools": (Tier.READ, _POOL),
    "get_pool": (Tier.READ, _POOL),
    "create_pool": (Tier.OPERATE, (*_POOL, "POST /pools")),
    "update_pool": (Tier.OPERATE, (*_POOL, "PUT /pools")),
    "delete_pool": (Tier.DESTROY, (*_POOL, "DELETE /pools")),
}
OPTIONAL = {"migration_preflight": frozenset(_guest("GET /migrate"))}
"""What a tool does without where it may not, and says so: a preflight needs no right to migrate."""

_CONFIG = ("CPU", "Cloudinit", "Memory", "Network", "Options")
WORDS: dict[str, Needed] = {
    "create_container": {
        ("VM.Allocate", "/vms/{vmid}"),
        ("Datastore.AllocateSpace", "/storage/{storage}"),
        ("SDN.Use", "/sdn/zones/{zone}/{bridge}"),
        *((f"VM.Config.{each}", "/vms/{vmid}") for each in ("CPU", "Disk", "Memory", "Network", "Options")),
    },
    "clone_container": {("Datastore.AllocateSpace", "/storage/{storage}"), ("SDN.Use", "/sdn/zones/{zone}/{bridge}")},
    "update_container": {(f"VM.Config.{each}", "/vms/{vmid}") for each in ("CPU", "Memory", "Network", "Options")},
    "move_disk": {("Datastore.AllocateSpace", "/storage/{storage}")},
    "detach_disk": {("VM.Config.Disk", "/vms/{vmid}")},
    "attach_disk": {("VM.Config.Disk", "/vms/{vmid}"), ("Datastore.AllocateSpace", "/storage/{storage}")},
    "suspend_vm": {("VM.Config.Disk", "/vms/{vmid}"), ("Datastore.AllocateSpace", "/storage/{storage}")},
    "set_tags": {("VM.Config.Options", "/vms/{vmid}")},
    "list_vms": {("VM.Audit", "/vms/{vmid}")},
    "list_templates": {("VM.Audit", "/vms/{vmid}")},
    "next_vmids": {("VM.Audit", "/vms/{vmid}")},
    "list_storages": {("Datastore.Audit", "/storage/{storage}")},
    "list_nodes": {("Sys.Audit", "/nodes/{node}")},
    "list_tasks": {("Sys.Audit", "/nodes/{node}")},
    "update_vm": {(f"VM.Config.{each}", "/vms/{vmid}") for each in _CONFIG},
    **{each: {("VM.Audit", "/vms/{vmid}")} for each in CALLS if each.startswith(("migrat", "agent_"))},
    **{each: {("VM.Audit", "/vms/{vmid}")} for each in CALLS if "replication" in each},
    **{each: {("VM.Replicate", "/vms/{vmid}")} for each in ("run_replication", "update_replication")},
    "create_replication": {("VM.Replicate", "/vms/{vmid}"), ("VM.Audit", "/vms/{vmid}")},
    "delete_replication": {("VM.Replicate", "/vms/{vmid}"), ("VM.Audit", "/vms/{vmid}")},
    "migrate_guest": {("Datastore.AllocateSpace", "/storage/{storage}")},
    **{each: {("Pool.Audit", "/pool/{pool}")} for each in CALLS if "_pool" in each},
    "update_pool": {
        ("Pool.Audit", "/pool/{pool}"),
        ("VM.Allocate", "/vms/{vmid}"),
        ("Datastore.Allocate", "/storage/{storage}"),
    },
    "resize_disk": {("Datastore.AllocateSpace", "/storage/{storage}")},
    "create_vm": {
        ("VM.Allocate", "/vms/{vmid}"),
        ("Datastore.AllocateSpace", "/storage/{storage}"),
        ("SDN.Use", "/sdn/zones/{zone}/{bridge}"),
        *((f"VM.Config.{each}", "/vms/{vmid}") for each in (*_CONFIG, "CDROM", "Disk", "HWType")),
    },
}
"""What the schema says in words alone, or leaves to what is changed: a bridge without SDN lies under /sdn/zones too."""


def needed(check: Any) -> Needed:  # noqa: ANN401 - nested lists of the schema
    """Return what a permission check of the schema asks for: of alternatives the first.

    One of several privileges (`any`) is for WORDS to name, unless there is only one.
    """
    if not isinstance(check, list) or not check:
        return set()
    if check[0] == "perm":
        if "any" in check and len(check[2]) > 1:
            # The guest agent's: the first suffices, the last is for everything in the guest.
            return {(check[2][0], check[1])} if check[2][-1] == "VM.GuestAgent.Unrestricted" else set()
        return {(each, check[1]) for each in check[2]}
    if check[0] == "and":
        return {each for part in check[1:] for each in needed(part)}
    return needed(check[1]) if check[0] == "or" else set()


def rights(catalogue: Catalogue) -> list[Right]:
    """Return the privileges that the tools need, each with its path and who needs it.

    A method that this version does not have needs none.
    """
    found: dict[tuple[str, str], tuple[Tier, list[str]]] = {}
    for tool, (tier, keys) in CALLS.items():
        for privilege, path in sorted(_of(catalogue, tool, keys)):
            lowest, tools = found.get((privilege, path), (tier, []))
            found[privilege, path] = (lowest if tier.covers(lowest) else tier, [*tools, tool])
    return [Right(privilege, path, tier, tuple(tools)) for (privilege, path), (tier, tools) in sorted(found.items())]


def _of(catalogue: Catalogue, tool: str, keys: Iterable[str]) -> Needed:
    needs = set(WORDS.get(tool, set()))
    for key in set(keys) - OPTIONAL.get(tool, frozenset()):
        verb, _, path = key.partition(" ")
        try:
            info = catalogue.resolve(verb, path).info
        except NotFound:
            continue
        needs |= {
            (each, where.replace("{newid}", "{vmid}")) for each, where in needed(info["permissions"].get("check"))
        }
    return needs
