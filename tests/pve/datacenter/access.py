# SPDX-License-Identifier: AGPL-3.0-or-later
"""Users, tokens, roles and access lists of the simulated cluster."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fakepve import FakePve
from fakepve.routing import die, param_error, split_list
from fakepve.shapes import PRIVILEGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pve.foreign import Data, Routes, Values

EVERYTHING = frozenset(PRIVILEGES)
VM_USER = (
    "VM.Audit VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.GuestAgent.Audit "
    "VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt VM.GuestAgent.FileWrite VM.PowerMgmt"
)
AUDITOR = "Datastore.Audit Mapping.Audit Pool.Audit SDN.Audit Sys.Audit VM.Audit VM.GuestAgent.Audit"
BUILT_IN = {
    "Administrator": EVERYTHING,
    "NoAccess": frozenset(),
    "PVEAuditor": frozenset(AUDITOR.split()),
    "PVEVMUser": frozenset(VM_USER.split()),
    "PVEVMAdmin": frozenset(priv for priv in EVERYTHING if priv.startswith("VM.")),
    "PVEDatastoreAdmin": frozenset(priv for priv in EVERYTHING if priv.startswith("Datastore.")),
    "PVEDatastoreUser": frozenset({"Datastore.AllocateSpace", "Datastore.Audit"}),
    "PVEPoolAdmin": frozenset({"Pool.Allocate", "Pool.Audit"}),
    "PVESDNUser": frozenset({"SDN.Audit", "SDN.Use"}),
}
# The paths that real PVE reports besides those of the access list.
STANDARD_PATHS = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")


def ancestors(path: str) -> Iterable[str]:
    """Yield `/`, then each longer piece of the path."""
    yield "/"
    parts = [part for part in path.split("/") if part]
    for count in range(1, len(parts) + 1):
        yield "/" + "/".join(parts[:count])


class Access(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: permissions by access list, with privilege-separated tokens."""

    def __init__(self, *args: Data, **kwargs: Data) -> None:
        """Start with root@pam alone."""
        super().__init__(*args, **kwargs)
        # Not None: fakepve checks permissions at all.
        self.acl: dict[str, Any] = {}
        self.reset_access()

    def reset_access(self) -> None:
        """Forget all users, tokens, roles and access list entries."""
        self.accounts: dict[str, dict[str, Any]] = {"root@pam": {"enable": 1, "expire": 0}}
        self.apitokens: dict[str, str] = {}
        self.token_info: dict[str, dict[str, Any]] = {}
        self.roles: dict[str, frozenset[str]] = dict(BUILT_IN)
        self.entries: list[dict[str, Any]] = []
        self.user_groups: dict[str, dict[str, Any]] = {}

    def _routes_sim_access(self) -> Routes:
        user, token = "/access/users/{userid}", "/access/users/{userid}/token/{tokenid}"
        return [
            ("GET", "/access/acl", self._acl_list),
            ("PUT", "/access/acl", self._acl_change),
            ("GET", "/access/roles", self._role_list),
            ("POST", "/access/roles", self._role_create),
            ("GET", "/access/roles/{roleid}", self._role_show),
            ("PUT", "/access/roles/{roleid}", self._role_change),
            ("DELETE", "/access/roles/{roleid}", self._role_delete),
            ("GET", "/access/users", self._user_list),
            ("POST", "/access/users", self._user_create),
            ("GET", user, self._user_show),
            ("PUT", user, self._user_change),
            ("DELETE", user, self._user_delete),
            ("GET", "/access/groups", self._user_group_list),
            ("POST", "/access/groups", self._user_group_create),
            ("DELETE", "/access/groups/{groupid}", self._user_group_delete),
            ("GET", user + "/token", self._token_list),
            ("GET", token, self._token_show),
            ("POST", token, self._token_create),
            ("DELETE", token, self._token_delete),
        ]

    # -------------------------------------------------------------- permissions

    def add_token(self, tokenid: str, secret: str, *, privsep: bool) -> None:
        """Make a token and, where it is new, its user."""
        self.accounts.setdefault(tokenid.partition("!")[0], {"enable": 1, "expire": 0})
        self.apitokens[tokenid] = secret
        self.token_info[tokenid] = {"expire": 0, "privsep": int(privsep)}

    def permit(self, holder: str, path: str, role: str, *, propagate: bool = True) -> None:
        """Add an entry to the access list."""
        entry = {"path": path, "ugid": holder, "roleid": role, "propagate": int(propagate)}
        entry["type"] = "token" if "!" in holder else "user" if "@" in holder else "group"
        if entry not in self.entries:
            self.entries.append(entry)

    def _granted(self, holder: str, path: str) -> frozenset[str]:
        """Add up the roles on the path; real PVE: an entry on a deeper path replaces those above it."""
        held: frozenset[str] = frozenset()
        for level in ancestors(path):
            names = {holder, *self.accounts.get(holder, {}).get("groups", [])}
            here = [
                e for e in self.entries
                if e["ugid"] in names and e["path"] == level and (e["propagate"] or level == path)
            ]  # fmt: skip
            if here:
                roles = [self.roles.get(e["roleid"], frozenset()) for e in here]
                held = frozenset().union(*roles)
        return held

    def privileges(self, holder: str, path: str) -> frozenset[str]:
        """Return what a user or token may do on a path, by itself and by the pools that hold it."""
        account, _, token = holder.partition("!")
        held = EVERYTHING if account == "root@pam" else self._granted(account, path)
        if token and self.token_info.get(holder, {}).get("privsep", 1):
            # Real PVE: a privilege-separated token has what both it and its user were given.
            held &= self._granted(holder, path)
        return held

    def allowed(self, user: str, path: str, priv: str) -> bool:
        """Say whether the user or token holds the privilege on the path."""
        if user == "root@pam" or priv in self.privileges(user, path):
            return True
        return any(priv in self.privileges(user, "/pool/" + name) for name in self._pools_of(path))

    def _pools_of(self, path: str) -> list[str]:
        kind, _, name = path.strip("/").partition("/")
        if kind == "vms" and name.isdigit():
            return [pool for pool, ids in self.pools.items() if int(name) in ids]
        if kind == "storage":
            return [pool for pool, info in self.pool_info.items() if name in info["storage"]]
        return []

    def check_permissions(self, user: str | None, perms: Data, values: Data, declared: Data = None) -> None:
        """Check the schema's rule; fakepve lets every token of root@pam pass, privilege-separated or not."""
        if user is not None and user.startswith("root@pam!") and self.token_info[user]["privsep"]:
            perms = perms or {"check": ["none"]}
            if "check" in perms and not self._check(user, perms["check"], values, declared)[0]:
                raise self.denied(self._check(user, perms["check"], values, declared)[1])
            return
        super().check_permissions(user, perms, values, declared)

    async def _permissions(self, v: Values, user: str) -> dict[str, dict[str, int]]:
        """Answer GET /access/permissions: a token without rights gets an empty object."""
        holder = v.get("userid") or user
        paths = [v["path"]] if v.get("path") else sorted({*STANDARD_PATHS, *(e["path"] for e in self.entries)})
        held = {path: sorted(self.privileges(holder, path)) for path in paths}
        return {path: dict.fromkeys(privs, 1) for path, privs in held.items() if privs}

    # ---------------------------------------------------------------- access list

    async def _acl_list(self, _v: Values, user: str) -> list[dict[str, Any]]:
        """List the entries; real PVE: all of them with Sys.Audit on /access, else where rights may be changed."""
        everything = self.allowed(user, "/access", "Sys.Audit")
        return [
            dict(entry)
            for entry in self.entries
            if everything or self.allowed(user, entry["path"], "Permissions.Modify")
        ]

    async def _acl_change(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        for role in split_list(v["roles"]):
            if role not in self.roles:
                raise die(f"role '{role}' does not exist")
            for holder in split_list(v.get("users")) + split_list(v.get("tokens")) + split_list(v.get("groups")):
                if v.get("delete"):
                    found = (v["path"], holder, role)
                    self.entries = [e for e in self.entries if (e["path"], e["ugid"], e["roleid"]) != found]
                elif holder not in self.accounts and holder not in self.apitokens and holder not in self.user_groups:
                    raise die(f"user '{holder}' does not exist" if "!" not in holder else f"no such token '{holder}'")
                else:
                    self.permit(holder, v["path"], role, propagate=bool(v.get("propagate", 1)))

    def need_access_quorum(self) -> None:
        """Real PVE: without a quorum, changes of users and rights fail on the lock of user.cfg."""
        if not self.quorate:
            raise die("cfs-lock 'file-user_cfg' error: no quorum!")

    # ---------------------------------------------------------------------- roles

    async def _role_list(self, _v: Values, _user: str) -> list[dict[str, Any]]:
        return [
            {"roleid": name, "privs": ",".join(sorted(privs)), "special": int(name in BUILT_IN)}
            for name, privs in sorted(self.roles.items())
        ]

    async def _role_show(self, v: Values, _user: str) -> dict[str, int]:
        return dict.fromkeys(sorted(self._role(v)), 1)

    def _role(self, v: Values) -> frozenset[str]:
        if v["roleid"] not in self.roles:
            raise die(f"role '{v['roleid']}' does not exist")
        return self.roles[v["roleid"]]

    @staticmethod
    def _privs(v: Values) -> frozenset[str]:
        privs = frozenset(split_list(v.get("privs")))
        unknown = sorted(privs - EVERYTHING)
        if unknown:
            raise param_error(privs=f"invalid format - invalid privilege '{unknown[0]}'\n")
        return privs

    async def _role_create(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        if v["roleid"] in self.roles:
            raise die(f"create role failed: role '{v['roleid']}' already exists")
        self.roles[v["roleid"]] = self._privs(v)

    async def _role_change(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        before = self._role(v) if v.get("append") else frozenset()
        self.roles[v["roleid"]] = before | self._privs(v)

    async def _role_delete(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        self._role(v)
        del self.roles[v["roleid"]]
        self.entries = [e for e in self.entries if e["roleid"] != v["roleid"]]

    # ------------------------------------------------------------ users and tokens

    def _tokens_of(self, userid: str) -> list[dict[str, Any]]:
        return [
            {"tokenid": full.partition("!")[2], **info}
            for full, info in sorted(self.token_info.items())
            if full.startswith(userid + "!")
        ]

    async def _user_list(self, v: Values, user: str) -> list[dict[str, Any]]:
        rights = ("User.Modify", "Sys.Audit")
        all_users = any(self.allowed(user, "/access/groups", priv) for priv in rights)
        items = []
        for userid, info in sorted(self.accounts.items()):
            if all_users or userid == user:
                item = {"userid": userid, "realm-type": userid.rpartition("@")[2], **info}
                groups = ",".join(item.pop("groups", []))
                items.append(item | {"tokens": self._tokens_of(userid), "groups": groups} if v.get("full") else item)
        return items

    async def _user_show(self, v: Values, _user: str) -> dict[str, Any]:
        """Answer one user; real PVE: groups are a list here and a text in the full list, tokens go by their names."""
        userid = self._account(v)
        tokens = {item.pop("tokenid"): item for item in self._tokens_of(userid)}
        return {"groups": [], **self.accounts[userid], "tokens": tokens}

    async def _user_change(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        account = self.accounts[self._account(v)]
        account |= {key: v[key] for key in ("comment", "email", "enable", "expire") if key in v}
        if "groups" in v:
            wanted = split_list(v["groups"])
            unknown = [item for item in wanted if item not in self.user_groups]
            if unknown:
                raise die(f"update user failed: no such group '{unknown[0]}'")
            account["groups"] = sorted({*wanted, *(account.get("groups", []) if v.get("append") else ())})

    # --------------------------------------------------------------- groups, realms

    async def _user_group_list(self, _v: Values, _user: str) -> list[dict[str, Any]]:
        found = []
        for name, info in self.user_groups.items():
            members = sorted(holder for holder, account in self.accounts.items() if name in account.get("groups", []))
            found.append({"groupid": name, "users": ",".join(members), **info})
        return found

    async def _user_group_create(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        if v["groupid"] in self.user_groups:
            raise die(f"create group failed: group '{v['groupid']}' already exists")
        self.user_groups[v["groupid"]] = {"comment": v["comment"]} if v.get("comment") else {}

    async def _user_group_delete(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        if v["groupid"] not in self.user_groups:
            raise die(f"delete group failed: no such group '{v['groupid']}'")
        del self.user_groups[v["groupid"]]
        for info in self.accounts.values():
            info["groups"] = [item for item in info.get("groups", []) if item != v["groupid"]]
        self.entries = [e for e in self.entries if e["ugid"] != v["groupid"]]

    async def _user_create(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        if v["userid"] in self.accounts:
            raise die(f"create user failed: user '{v['userid']}' already exists")
        keep = ("comment", "email", "enable", "expire")
        self.accounts[v["userid"]] = {"enable": 1, "expire": 0} | {key: v[key] for key in keep if key in v}
        if v.get("password"):
            self.users[v["userid"]] = v["password"]

    def _account(self, v: Values) -> str:
        if v["userid"] not in self.accounts:
            raise die(f"no such user ('{v['userid']}')")
        return str(v["userid"])

    async def _user_delete(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        userid = self._account(v)
        del self.accounts[userid]
        for full in [full for full in self.apitokens if full.startswith(userid + "!")]:
            self._drop_token(full)
        self.entries = [e for e in self.entries if e["ugid"] != userid]

    def _drop_token(self, full: str) -> None:
        del self.apitokens[full], self.token_info[full]
        self.entries = [e for e in self.entries if e["ugid"] != full]

    def _token(self, v: Values) -> str:
        full = f"{self._account(v)}!{v['tokenid']}"
        if full not in self.apitokens:
            raise die(f"no such token '{v['tokenid']}' for user '{v['userid']}'")
        return full

    async def _token_list(self, v: Values, _user: str) -> list[dict[str, Any]]:
        return self._tokens_of(self._account(v))

    async def _token_show(self, v: Values, _user: str) -> dict[str, Any]:
        return dict(self.token_info[self._token(v)])

    async def _token_create(self, v: Values, _user: str) -> dict[str, Any]:
        """Make a token; real PVE: privsep is 1 unless it is set, and the secret is shown this once."""
        self.need_access_quorum()
        full = f"{self._account(v)}!{v['tokenid']}"
        if full in self.apitokens:
            raise param_error(tokenid="Token already exists.")
        secret = str(uuid.uuid4())
        self.add_token(full, secret, privsep=bool(v.get("privsep", 1)))
        info = {"privsep": str(v.get("privsep", 1))}
        if v.get("comment"):
            info["comment"] = self.token_info[full]["comment"] = v["comment"]
        return {"full-tokenid": full, "info": info, "value": secret}

    async def _token_delete(self, v: Values, _user: str) -> None:
        self.need_access_quorum()
        self._drop_token(self._token(v))
