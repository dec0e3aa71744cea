# SPDX-License-Identifier: AGPL-3.0-or-later
"""Realms, and where the simulated cluster sends its notifications and figures.

fakepve answers these with its schema alone.  Parameters and fields are the schema's; what comes with Proxmox (the
realms pam and pve, the target `mail-to-root` and its matcher) is not deleted, and a target that a matcher names stays.
An OpenID realm answers its client key to who may look at it, as /etc/pve/domains.cfg holds it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from fakepve.routing import die

from pve.datacenter.access import Access

if TYPE_CHECKING:
    from pve.foreign import Data, Record, Routes, Values

NOTICES = "/cluster/notifications"
HIDDEN = ("realm", "password", "delete", "digest", "check-connection")


def digest_of(entry: Record) -> str:
    """Return the digest of an entry."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def changed(entry: Record, v: Values, besides: tuple[str, ...]) -> Record:
    """Return an entry with what a PUT says; real PVE: another digest than the file's is refused."""
    if v.get("digest") and v["digest"] != digest_of(entry):
        raise die("detected modified configuration - file changed by other user? Try again.")
    gone = v.get("delete") or []
    names = gone.split(",") if isinstance(gone, str) else gone
    kept = {key: value for key, value in entry.items() if key not in names}
    return kept | {key: value for key, value in v.items() if key not in besides}


class Realms(Access):
    """Mixin of the simulator: /access/domains, /cluster/notifications, /cluster/metrics/server."""

    directories: dict[str, str]

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start as Proxmox is installed."""
        super().__init__(*args, **kwargs)
        self.reset_directories()

    def reset_directories(self) -> None:
        """Put everything back as it was at first."""
        self.realms: dict[str, Record] = {}
        self.receivers: dict[str, Record] = {
            "mail-to-root": {"type": "sendmail", "mailto-user": ["root@pam"], "origin": "builtin"}
        }
        self.matchers: dict[str, Record] = {
            "default-matcher": {"target": ["mail-to-root"], "mode": "all", "origin": "builtin"}
        }
        self.meters: dict[str, Record] = {}

    def _routes_sim_directories(self) -> Routes:
        realm, matcher, meter = "/access/domains/{realm}", f"{NOTICES}/matchers/{{name}}", "/cluster/metrics/server"
        return [
            ("GET", "/access/domains", self._realm_list),
            ("POST", "/access/domains", self._realm_make),
            ("GET", realm, self._realm_show),
            ("PUT", realm, self._realm_change),
            ("DELETE", realm, self._realm_delete),
            ("GET", f"{NOTICES}/targets", self._receiver_list),
            ("POST", f"{NOTICES}/targets/{{name}}/test", self._receiver_test),
            *(("POST", f"{NOTICES}/endpoints/{kind}", self._receiver_make(kind)) for kind in ("sendmail", "smtp")),
            *(("GET", f"{NOTICES}/endpoints/{kind}/{{name}}", self._receiver_show) for kind in ("sendmail", "smtp")),
            *(
                ("DELETE", f"{NOTICES}/endpoints/{kind}/{{name}}", self._receiver_delete)
                for kind in ("sendmail", "smtp", "gotify", "webhook")
            ),
            ("GET", f"{NOTICES}/matchers", self._matcher_list),
            ("POST", f"{NOTICES}/matchers", self._matcher_make),
            ("GET", matcher, self._matcher_show),
            ("PUT", matcher, self._matcher_change),
            ("DELETE", matcher, self._matcher_delete),
            ("GET", meter, self._meter_list),
            ("POST", f"{meter}/{{id}}", self._meter_make),
            ("GET", f"{meter}/{{id}}", self._meter_show),
            ("DELETE", f"{meter}/{{id}}", self._meter_delete),
        ]

    # ---------------------------------------------------------------------- realms

    def all_realms(self) -> dict[str, Record]:
        """Return the realms that come with Proxmox, those that a test has given, and those that were made."""
        first: dict[str, Record] = {
            "pam": {"type": "pam", "comment": "Linux PAM standard authentication"},
            "pve": {"type": "pve", "comment": "Proxmox VE authentication server"},
        }
        return first | {name: {"type": kind} for name, kind in self.directories.items()} | self.realms

    def _known_realm(self, name: str) -> Record:
        found = self.all_realms().get(name)
        if found is None:
            raise die(f"authentication domain '{name}' does not exist")
        return found

    async def _realm_list(self, _v: Values, _user: str) -> list[Record]:
        fields = ("type", "comment", "tfa", "default")
        found = self.all_realms()
        return [{"realm": name, **{key: item[key] for key in fields if key in item}} for name, item in found.items()]

    async def _realm_make(self, v: Values, _user: str) -> None:
        if v["realm"] in self.all_realms():
            raise die(f"authentication domain '{v['realm']}' already exists")
        self.realms[v["realm"]] = {key: value for key, value in v.items() if key not in HIDDEN}

    async def _realm_show(self, v: Values, _user: str) -> Record:
        found = self._known_realm(v["realm"])
        return found | {"digest": digest_of(found)}

    async def _realm_change(self, v: Values, _user: str) -> None:
        self.realms[v["realm"]] = changed(self._known_realm(v["realm"]), v, HIDDEN)

    async def _realm_delete(self, v: Values, _user: str) -> None:
        if self._known_realm(v["realm"])["type"] in {"pam", "pve"}:
            raise die(f"unable to delete built-in realm '{v['realm']}'")
        self.realms.pop(v["realm"], None)
        self.directories.pop(v["realm"], None)

    # --------------------------------------------------------------- notifications

    async def _receiver_list(self, _v: Values, _user: str) -> list[Record]:
        fields = ("type", "origin", "comment", "disable")
        return [
            {"name": name, **{key: receiver[key] for key in fields if key in receiver}}
            for name, receiver in self.receivers.items()
        ]

    async def _receiver_show(self, v: Values, _user: str) -> Record:
        if v["name"] not in self.receivers:
            raise die(f"endpoint '{v['name']}' does not exist")
        return {"name": v["name"], **self.receivers[v["name"]]}

    async def _receiver_test(self, v: Values, _user: str) -> None:
        if v["name"] not in self.receivers:
            raise die(f"endpoint '{v['name']}' does not exist")

    def _receiver_make(self, kind: str) -> Data:
        async def make(v: Values, _user: str) -> None:
            if v["name"] in self.receivers:
                raise die(f"could not create endpoint '{v['name']}': it exists already")
            answer = {key: value for key, value in v.items() if key not in {"name", "password"}}
            self.receivers[v["name"]] = answer | {"type": kind, "origin": "user-created"}

        return make

    async def _receiver_delete(self, v: Values, _user: str) -> None:
        users = [name for name, matcher in self.matchers.items() if v["name"] in matcher.get("target", [])]
        if users:
            raise die(f"cannot delete '{v['name']}', referenced by: {', '.join(users)}")
        if self.receivers.pop(v["name"], None) is None:
            raise die(f"endpoint '{v['name']}' does not exist")

    def _known_matcher(self, name: str) -> Record:
        if name not in self.matchers:
            raise die(f"matcher '{name}' does not exist")
        return self.matchers[name]

    async def _matcher_list(self, _v: Values, _user: str) -> list[Record]:
        return [{"name": name, **matcher} for name, matcher in self.matchers.items()]

    async def _matcher_make(self, v: Values, _user: str) -> None:
        if v["name"] in self.matchers:
            raise die(f"could not create matcher '{v['name']}': it exists already")
        self._targets_exist(v)
        answer = {key: value for key, value in v.items() if key != "name"}
        self.matchers[v["name"]] = answer | {"origin": "user-created"}

    def _targets_exist(self, v: Values) -> None:
        missing = [item for item in v.get("target") or [] if item not in self.receivers]
        if missing:
            raise die(f"notification target '{missing[0]}' does not exist")

    async def _matcher_show(self, v: Values, _user: str) -> Record:
        found = self._known_matcher(v["name"])
        return {"name": v["name"], "digest": digest_of(found), **found}

    async def _matcher_change(self, v: Values, _user: str) -> None:
        self._targets_exist(v)
        self.matchers[v["name"]] = changed(self._known_matcher(v["name"]), v, ("name", "digest", "delete"))

    async def _matcher_delete(self, v: Values, _user: str) -> None:
        self._known_matcher(v["name"])
        del self.matchers[v["name"]]

    # --------------------------------------------------------------------- figures

    async def _meter_list(self, _v: Values, _user: str) -> list[Record]:
        fields = ("type", "server", "port", "disable")
        return [
            {"id": name, **{key: meter[key] for key in fields if key in meter}} for name, meter in self.meters.items()
        ]

    async def _meter_make(self, v: Values, _user: str) -> None:
        if v["id"] in self.meters:
            raise die(f"Metric server '{v['id']}' already exists")
        self.meters[v["id"]] = {key: value for key, value in v.items() if key not in {"id", "token"}}

    async def _meter_show(self, v: Values, _user: str) -> Record:
        if v["id"] not in self.meters:
            raise die(f"status server entry '{v['id']}' does not exist")
        return self.meters[v["id"]]

    async def _meter_delete(self, v: Values, _user: str) -> None:
        if self.meters.pop(v["id"], None) is None:
            raise die(f"Metric server '{v['id']}' does not exist")
