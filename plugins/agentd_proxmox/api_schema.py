"""The endpoints of the Proxmox VE API, from the schema of the node itself; pure.

A node serves the schema of its own version as `apidoc.js`: one constant in JSON, then code.  The constant is extracted
and decoded; no JavaScript is run.  Decoded, the schema needs many times as much memory, so it is kept as lines, one for
each method (`METHOD path` and the method's JSON).  A `Catalogue` stores the offset of each line, and decodes only the
line that is requested.  A line is read with `read(offset, length)`, from a file or from bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from agentd import NotFound, Rejected, one_line
from agentd.similar import either, nearest

Read = Callable[[int, int], bytes]
Method = dict[str, Any]

REST: Final = frozenset({"volume", "cidr"})
"""Variables at the end of a path that may contain slashes: Proxmox uses the rest of the path as their value."""
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
VARIABLE: Final = re.compile(r"\{([^}]+)\}")
_CONSTANT: Final = re.compile(rb"(?:const|let|var)\s+\w+\s*=\s*(?=\[)")
_END: Final = re.compile(rb"^\]", re.MULTILINE)
_INDEXED: Final = re.compile(r"\[n\]\Z")


class _Item(msgspec.Struct):
    path: str
    info: dict[str, msgspec.Raw] = {}
    children: list[_Item] = []


def lines_of(script: bytes) -> list[bytes]:
    """Return the lines of the schema in `script`, the text of apidoc.js.

    Raises Rejected if it contains no schema.
    """
    found = _CONSTANT.search(script)
    if found is None:
        raise Rejected("apidoc.js: it has no constant with the schema")
    begin = found.end()
    end = _END.search(script, begin)  # JSON texts contain no bare line end: a `]` in the first column is the end
    try:
        if end is None:
            text = script[begin:].decode()
            part = text[: json.JSONDecoder().raw_decode(text)[1]].encode()
        else:
            part = script[begin : end.end()]
        items = msgspec.json.decode(part, type=list[_Item])
    except ValueError as error:
        raise Rejected(f"apidoc.js: the schema in it cannot be read: {one_line(error)}") from error
    lines = [line for item in items for line in _flat(item)]
    if not lines:
        raise Rejected("apidoc.js: the schema in it names no method")
    return sorted(lines)


def _flat(item: _Item) -> Iterator[bytes]:
    for name, raw in item.info.items():
        if name in METHODS:
            yield f"{name} {item.path}\t".encode() + msgspec.json.encode(_compact(msgspec.json.decode(raw)))
    for child in item.children:
        yield from _flat(child)


def _compact(method: Method) -> Method:
    """Return the needed parts of a method.

    Of the schema of a list's entries only the names of the fields are kept.
    """
    returns = method.get("returns") or {}
    items = returns.get("items") or {}
    shown = sorted(items.get("properties") or returns.get("properties") or {})
    parameters = method.get("parameters") or {}
    return {
        "name": method.get("name") or "",
        "description": method.get("description") or "",
        "parameters": parameters.get("properties") or {},
        "open": bool(parameters.get("additionalProperties")) if "additionalProperties" in parameters else False,
        "returns": {"type": returns.get("type") or "any", "fields": shown},
        "permissions": method.get("permissions") or {},
        "protected": bool(method.get("protected")),
        "token": bool(int(method.get("allowtoken", 1))),
    }


@dataclass(frozen=True)
class Endpoint:
    """One method of the API; `values` are the values of the variables in its path."""

    verb: str
    path: str
    info: Method
    values: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`METHOD path`, as the catalogue lists it."""
        return f"{self.verb} {self.path}"

    @property
    def variables(self) -> list[str]:
        """The variables of its path."""
        return VARIABLE.findall(self.path)

    @property
    def parameters(self) -> dict[str, Method]:
        """Its parameters, without the variables of its path."""
        known: dict[str, Method] = self.info["parameters"]
        return {name: schema for name, schema in known.items() if name not in self.variables}

    @property
    def answers_task(self) -> bool:
        """Whether it may return a UPID: writes that return text do, with few exceptions."""
        return self.verb != "GET" and self.info["returns"]["type"] in {"string", "any"}

    def parameter(self, name: str) -> Method | None:
        """Return the schema of a parameter; `net0` is one of `net[n]`."""
        known = self.parameters
        if name in known:
            return known[name]
        return known.get(re.sub(r"\d+\Z", "[n]", name)) if re.search(r"[a-z]\d+\Z", name) else None


class Catalogue:
    """Every method of one version of the API."""

    def __init__(self, version: str, data: bytes, read: Read | None = None) -> None:
        """Index `data`, the joined lines; without `read`, keep `data` in memory."""
        self.version = version
        self._read: Read = read or (lambda offset, length: data[offset : offset + length])
        self._at: dict[str, tuple[int, int]] = {}
        self._size = len(data)
        offset = 0
        for line in data.splitlines(keepends=True):
            key, tab, _ = line.partition(b"\t")
            if tab:
                self._at[key.decode()] = (offset, len(line))
            offset += len(line)

    def __len__(self) -> int:
        return len(self._at)

    def keys(self) -> list[str]:
        """Return `METHOD path` of every method, sorted."""
        return sorted(self._at)

    def info(self, key: str) -> Method:
        """Return the decoded schema of the method `METHOD path`."""
        found: Method = msgspec.json.decode(self._read(*self._at[key]).partition(b"\t")[2])
        return found

    def lines(self) -> Iterator[bytes]:
        """Yield every line; all are read at once and not kept."""
        yield from self._read(0, self._size).splitlines()

    def paths(self) -> set[str]:
        """Return every path, with its variables."""
        return {key.partition(" ")[2] for key in self._at}

    def resolve(self, verb: str, path: str) -> Endpoint:
        """Return the endpoint of `path`, with its variables filled in or not.

        Raises NotFound with different texts for an unknown path (with the nearest paths) and for an unknown method of a
        known path.
        """
        matches = sorted(found for known in self.paths() if (found := match(known, path)) is not None)
        if not matches:
            raise NotFound(f"{one_line(path)[:200]!r} is no path of Proxmox VE {self.version}{self._nearest(path)}")
        for _, known, values in matches:
            if f"{verb} {known}" in self._at:
                return Endpoint(verb, known, self.info(f"{verb} {known}"), dict(values))
        there = ", ".join(method for method in METHODS if f"{method} {matches[0][1]}" in self._at)
        raise NotFound(f"{matches[0][1]} has no {verb}; it has {there}")

    def _nearest(self, path: str) -> str:
        near = nearest(path, sorted(self.paths()), cutoff=0.5)
        return f"; did you mean {either(near)}?" if near else "; api_find searches them"


def match(known: str, path: str) -> tuple[int, str, tuple[tuple[str, str], ...]] | None:
    """Return the number of variables, `known` and their values, if `path` matches.

    Return None if the path `known`, which contains variables, does not match `path`.
    """
    wanted, given = known.strip("/").split("/"), path.strip("/").split("/")
    last = wanted[-1].strip("{}")
    if wanted[-1].startswith("{") and last in REST and len(given) > len(wanted):
        given = [*given[: len(wanted) - 1], "/".join(given[len(wanted) - 1 :])]
    if len(wanted) != len(given):
        return None
    values: list[tuple[str, str]] = []
    for want, have in zip(wanted, given, strict=True):
        if not want.startswith("{"):
            if want != have:
                return None
        elif want != have:
            values.append((want.strip("{}"), have))
    return known.count("{"), known, tuple(values)


def rank(key: str, info: Method, words: list[str]) -> int:
    """Return the score of a method for `words`; 0 if it lacks one of them."""
    path, text, names = key.lower(), info["description"].lower(), " ".join(info["parameters"]).lower()
    score = 0
    for word in words:
        parts = re.split(r"[/{}\s_-]+", path)
        found = 8 * (word in parts) or 4 * (word in path) or 2 * (word in names.split()) or (word in text + names)
        if not found:
            return 0
        score += found
    return score * 100 - len(key) // 4


def summary(info: Method, length: int = 90) -> str:
    """Return the first sentence of a method's description."""
    text = one_line(info["description"] or info["name"]).partition(". ")[0]
    return text if len(text) <= length else text[: length - 1] + "…"
