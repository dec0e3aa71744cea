"""Create agentd's user, roles and API token in Proxmox VE: python3 access.py [--check] TOKEN_ID < COMMANDS.

COMMANDS is what `agentd doctor --roles` prints: a `pveum role add` for each role, and a `pveum acl modify` for the user
and for the token.  Only what is missing or differs is changed.  Prints JSON: `changed`, a line for each change, and
`secret`, the secret of a token that was created; Proxmox shows it only then.
"""

import json
import shlex
import subprocess
import sys


def pveum(*arguments: str) -> str:
    """Run pveum; return what it prints."""
    done = subprocess.run(["pveum", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pveum {' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout


def listed(*arguments: str) -> list[dict[str, str]]:
    """Return a list of pveum."""
    return list(json.loads(pveum(*arguments, "--output-format", "json")))


def value_of(words: list[str], option: str) -> str:
    """Return the value of an option of a command."""
    return words[words.index(option) + 1]


OWN = {f"Agentd{tier}" for tier in ("Read", "Operate", "Destroy", "Exec")}
"""The roles of agentd, one for each tier."""


class Access:
    """The changes of one run."""

    def __init__(self, *, check: bool) -> None:
        """Change nothing yet; never with `check`."""
        self.check = check
        self.changed: list[str] = []

    def run(self, *arguments: str) -> str:
        """Run a command that changes something."""
        self.changed.append(shlex.join(["pveum", *arguments]))
        return "" if self.check else pveum(*arguments)

    def role(self, words: list[str]) -> None:
        """Create a role, or give it the privileges that it should have."""
        name, wanted = words[2], set(value_of(words, "-privs").split(","))
        held = {role["roleid"]: set(role.get("privs", "").split(",")) for role in listed("role", "list")}
        if name not in held:
            self.run(*words)
        elif held[name] != wanted:
            self.run("role", "modify", *words[2:])

    def grant(self, words: list[str]) -> None:
        """Grant a role to the user or to the token, and take back a role of another tier."""
        kind = "users" if "--users" in words else "tokens"
        path, role, holder = words[2], value_of(words, "--roles"), value_of(words, f"--{kind}")
        held = {entry["roleid"] for entry in listed("acl", "list") if (entry["path"], entry["ugid"]) == (path, holder)}
        if role not in held:
            self.run(*words)
        for old in sorted(OWN & (held - {role})):
            self.run("acl", "delete", path, f"--{kind}", holder, "--roles", old)

    def token(self, token_id: str) -> str:
        """Create the user and the token if they are missing; return the secret of a new token."""
        user, _, name = token_id.partition("!")
        known = user in {entry["userid"] for entry in listed("user", "list")}
        if not known:
            self.run("user", "add", user, "--comment", "agentd")
        if known and name in {entry["tokenid"] for entry in listed("user", "token", "list", user)}:
            return ""
        created = self.run("user", "token", "add", user, name, "--privsep", "1", "--output-format", "json")
        return str(json.loads(created)["value"]) if created else ""


access = Access(check="--check" in sys.argv)
secret = access.token(sys.argv[-1])
for line in sys.stdin.read().splitlines():
    command = shlex.split(line)[1:]
    if command[:1] == ["role"]:
        access.role(command)
    elif command[:1] == ["acl"]:
        access.grant(command)
print(json.dumps({"changed": access.changed, "secret": secret}))
