#!/usr/bin/python3
"""The command pveum of a Proxmox VE node, for a node of the lab: it calls the simulated API.

Real pveum calls the same methods.  `{URL}` and `{TOKEN}` are replaced when it is copied to the node.
"""

import json
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request

URL = "{URL}"
TOKEN = "{TOKEN}"  # noqa: S105 - replaced by that of the simulator
COMMANDS = {
    ("user", "list"): ("GET", "/access/users", ()),
    ("user", "add"): ("POST", "/access/users", ("userid",)),
    ("user", "token", "list"): ("GET", "/access/users/{userid}/token", ("userid",)),
    ("user", "token", "add"): ("POST", "/access/users/{userid}/token/{tokenid}", ("userid", "tokenid")),
    ("user", "token", "remove"): ("DELETE", "/access/users/{userid}/token/{tokenid}", ("userid", "tokenid")),
    ("role", "list"): ("GET", "/access/roles", ()),
    ("role", "add"): ("POST", "/access/roles", ("roleid",)),
    ("role", "modify"): ("PUT", "/access/roles/{roleid}", ("roleid",)),
    ("acl", "list"): ("GET", "/access/acl", ()),
    ("acl", "modify"): ("PUT", "/access/acl", ("path",)),
    ("acl", "delete"): ("PUT", "/access/acl", ("path",)),
}


def main(words: list[str]) -> None:
    """Call the method of a command; print its answer as JSON."""
    command = next(key for key in COMMANDS if tuple(words[: len(key)]) == key)
    method, path, names = COMMANDS[command]
    given = words[len(command) :]
    values = dict(zip(names, given, strict=False))
    options = given[len(names) :]
    values |= {option.lstrip("-"): value for option, value in zip(options[::2], options[1::2], strict=True)}
    values.pop("output-format", None)
    if command == ("acl", "delete"):
        values["delete"] = "1"
    for name in names:
        if f"{{{name}}}" in path:
            path = path.replace(f"{{{name}}}", urllib.parse.quote(values.pop(name)))
    body = urllib.parse.urlencode(values).encode() if method in {"POST", "PUT"} else None
    request = urllib.request.Request(f"{URL}/api2/json{path}", body, method=method)  # noqa: S310 - https
    request.add_header("Authorization", f"PVEAPIToken={TOKEN}")
    try:
        with urllib.request.urlopen(request, context=ssl._create_unverified_context()) as answer:  # noqa: S310, S323, SLF001
            print(json.dumps(json.load(answer)["data"]))  # noqa: T201
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code} {error.reason} {error.read().decode()}")


main(sys.argv[1:])
