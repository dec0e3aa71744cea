"""Change the HA rules of Proxmox VE 9 and the HA groups of Proxmox VE 8."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from agentd import Call, Found, NotFound, Rejected, Repeat, Target, TaskFailed, Tier, formats, tool
from agentd_proxmox import area, changes
from agentd_proxmox.availability.ha_model import (
    GROUPS,
    OF_GROUP,
    OF_RULE,
    RULES,
    Rule,
    describe,
    differences,
    node_list,
    old_values,
    rules,
    service,
    target,
)
from agentd_proxmox.model import dropped_values, fields

if TYPE_CHECKING:
    Entry = dict[str, Any]

RuleName = Annotated[formats.ConfigId, Meta(description="name of the rule or group")]
Priority = Annotated[int, Meta(ge=0, le=1000)]
Nodes = Annotated[dict[fields.Node, Priority], Meta(description="node: priority, the highest is preferred")]
Kind = Literal["node-affinity", "resource-affinity"]


class CreateHaRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new HA rule of Proxmox VE 9.

    type      node-affinity: the guests belong on `nodes`, with `strict` on no others
              resource-affinity: they belong together (positive) or apart (negative)
    guests    all of them must be under HA already
    """

    name: RuleName
    type: Kind
    guests: list[fields.Vmid]
    nodes: Nodes = {}
    strict: bool = False
    affinity: Literal["positive", "negative"] | None = None
    comment: fields.Comment = ""
    enabled: bool = True


class UpdateHaRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the rule to change; an omitted one is kept.

    digest  from list_ha: the call is refused if the rule has changed since
    """

    name: RuleName
    guests: list[fields.Vmid] | None = None
    nodes: Nodes | None = None
    strict: bool | None = None
    affinity: Literal["positive", "negative"] | None = None
    comment: fields.Comment | None = None
    enabled: bool | None = None
    digest: str = ""


class SetHaGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of an HA group of Proxmox VE 8.

    restricted  its guests run on no other nodes
    failback    its guests move back to the preferred node
    digest      from list_ha: the call is refused if the group has changed since
    """

    name: RuleName
    nodes: Nodes
    restricted: bool = False
    failback: bool = True
    comment: fields.Comment = ""
    digest: str = ""


class DeleteRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rule or group to delete.

    digest  from list_ha: the call is refused if the rule or group has changed since
    """

    name: RuleName
    digest: str = ""


class HaRules(area.Area):
    """The tools for HA rules and groups."""

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def create_ha_rule(self, call: Call, p: CreateHaRule) -> Rule:
        """Create an HA rule (Proxmox VE 9): keep guests on nodes, together, or apart."""
        labels = [f"guest/{vmid}" for vmid in p.guests]
        call.target(Target(f"ha-rule/{p.name}", f"HA rule {p.name}", labels=labels))
        _fits(p)
        resources = await self._services(p.guests)
        wanted = {
            "type": p.type,
            "resources": resources,
            "nodes": node_list(p.nodes),
            "strict": True if p.strict else None,
            "affinity": p.affinity,
            "comment": p.comment or None,
            "disable": None if p.enabled else True,
        }

        async def find() -> Rule | None:
            return _one(await self._all("rules"), p.name)

        def same(rule: Rule) -> None:
            if other := differences(rule, wanted):
                raise Rejected(
                    f"there is an HA rule {p.name} with another {', '.join(other)}: update_ha_rule changes it"
                )

        rule, send = changes.Item("HA rule", p.name, find), partial(self.proxmox.post, RULES, rule=p.name, **wanted)
        await changes.create(call, rule, send, ("delete_ha_rule", {"name": p.name}), same)
        return await self._there("rules", p.name, wanted)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def update_ha_rule(self, call: Call, p: UpdateHaRule) -> Rule:
        """Change an HA rule (Proxmox VE 9), or switch it on or off."""
        if p.nodes == {}:
            raise Rejected("nodes: a rule without nodes; delete_ha_rule, or enabled=false")
        wanted = {
            "resources": None if p.guests is None else await self._services(p.guests),
            "nodes": None if p.nodes is None else node_list(p.nodes),
            "strict": p.strict,
            "affinity": p.affinity,
            "comment": p.comment,
            "disable": None if p.enabled is None else not p.enabled,
        }
        if all(value is None for value in wanted.values()):
            raise Rejected("update_ha_rule: give what to change")

        async def plan() -> changes.Planned:
            was = await self._known("rules", p.name)
            call.target(target("rule", was))
            if not (other := differences(was, wanted)):
                return Found()
            changes.check_unchanged(p.name, p.digest, was.digest)
            call.inverse("update_ha_rule", {"name": p.name} | old_values(was, other))
            sent = dropped_values.changed_parameters(wanted, wanted, {"disable", "strict"})
            return lambda: self.proxmox.put(f"{RULES}/{p.name}", type=was.type, digest=was.digest or None, **sent)

        await changes.change(call, plan)
        return await self._there("rules", p.name, wanted)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_ha_rule(self, call: Call, p: DeleteRule) -> changes.Deleted:
        """Delete an HA rule (Proxmox VE 9); it no longer restricts its guests."""
        return await self._delete(call, "rules", p)

    @tool(tier=Tier.OPERATE, repeat=Repeat.PROBED, capability="cluster_management")
    async def set_ha_group(self, call: Call, p: SetHaGroup) -> Rule:
        """Create an HA group, or change it to the given settings (Proxmox VE 8)."""
        call.target(Target(f"ha-group/{p.name}", f"HA group {p.name}"))
        if not p.nodes:
            raise Rejected("nodes: a group has at least one node")
        wanted = {
            "nodes": node_list(p.nodes),
            "restricted": p.restricted,
            "nofailback": not p.failback,
            "comment": p.comment,
        }

        async def plan() -> changes.Planned:
            group = _one(await self._all("groups"), p.name)
            given = {key: value for key, value in wanted.items() if value != ""}
            if group is None:
                call.inverse("delete_ha_group", {"name": p.name})
                return lambda: self.proxmox.post(GROUPS, group=p.name, **given)
            if not differences(group, wanted):
                return Found()
            changes.check_unchanged(p.name, p.digest, group.digest)
            call.inverse("set_ha_group", {"name": p.name} | old_values(group, OF_GROUP))
            settings = wanted if group.comment else given
            sent = dropped_values.changed_parameters(wanted, settings, {"restricted", "nofailback"})
            return lambda: self.proxmox.put(f"{GROUPS}/{p.name}", digest=group.digest or None, **sent)

        await changes.change(call, plan)
        return await self._there("groups", p.name, wanted)

    @tool(tier=Tier.DESTROY, repeat=Repeat.PROBED, capability="cluster_management")
    async def delete_ha_group(self, call: Call, p: DeleteRule) -> changes.Deleted:
        """Delete an HA group that has no resources (Proxmox VE 8)."""
        return await self._delete(call, "groups", p)

    async def _delete(self, call: Call, source: str, p: DeleteRule) -> changes.Deleted:
        kind = source.removesuffix("s")

        async def find() -> Rule | None:
            return _one(await self._all(source), p.name)

        async def plan(rule: Rule) -> changes.Send:
            changes.check_unchanged(p.name, p.digest, rule.digest)
            if source == "groups" and rule.resources:
                named = ", ".join(rule.resources)
                raise Rejected(f"the HA group {p.name} is that of {named}: update_ha_resource gives them another one")
            call.target(target(kind, rule, describe(rule)))
            again = ("set_ha_group", OF_GROUP) if source == "groups" else ("create_ha_rule", ("type", *OF_RULE))
            call.inverse(again[0], {"name": p.name} | old_values(rule, again[1]))
            return lambda: self.proxmox.delete(f"/cluster/ha/{source}/{p.name}")

        return await changes.delete(call, changes.Item(f"HA {kind}", p.name, find), plan)

    async def _services(self, vmids: list[int]) -> str:
        """Return the HA service IDs of guests, joined by commas.

        Raises NotFound for an unknown guest, and Rejected for one that is not under HA.
        """
        if not vmids:
            raise Rejected("guests: name at least one")
        places = {place.vmid: place for place in await self.inventory.places()}
        if missing := sorted(set(vmids) - set(places)):
            raise NotFound(f"guests: there is no guest {missing[0]}, or {self.proxmox.user} may not see it (VM.Audit)")
        managed = {str(entry["sid"]) for entry in await self.proxmox.get("/cluster/ha/resources") or []}
        if others := [places[vmid].title for vmid in sorted(set(vmids)) if service(places[vmid]) not in managed]:
            raise Rejected(f"guests: {', '.join(others)} not under HA: create_ha_resource puts it there")
        return ",".join(sorted(service(places[vmid]) for vmid in set(vmids)))

    async def _all(self, source: str) -> list[Rule]:
        """Return the rules or the groups; raise Rejected if the cluster has the others."""
        found = await rules(self.proxmox)
        if found.source != source:
            raise Rejected(f"this cluster has HA {found.source}, not {source}: use the tools for {found.source}")
        return found.rules

    async def _known(self, source: str, name: str) -> Rule:
        found = await self._all(source)
        rule = _one(found, name)
        if rule is None:
            raise NotFound(f"there is no HA rule {name}; there are {', '.join(e.name for e in found) or 'none'}")
        return rule

    async def _there(self, source: str, name: str, wanted: Entry) -> Rule:
        rule = await self._known(source, name)
        if other := differences(rule, wanted):
            raise TaskFailed(f"Proxmox reports success, but {name} has another {', '.join(other)}")
        return rule


def _one(found: list[Rule], name: str) -> Rule | None:
    return next((rule for rule in found if rule.name == name), None)


def _fits(p: CreateHaRule) -> None:
    """Reject settings that belong to the other type of rule."""
    on_nodes = p.type == "node-affinity"
    if on_nodes and (not p.nodes or p.affinity):
        raise Rejected("create_ha_rule: a node-affinity rule has nodes, and no affinity")
    if not on_nodes and (p.nodes or p.strict or not p.affinity or len(set(p.guests)) < 2):  # noqa: PLR2004
        raise Rejected("create_ha_rule: a resource-affinity rule has an affinity and two guests or more, and no nodes")
