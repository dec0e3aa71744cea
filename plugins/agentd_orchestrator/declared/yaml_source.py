"""A strict YAML reader that keeps the position of each value.

PyYAML builds the tree of nodes; their values are determined here according to YAML 1.2, with one more rule: a value
that YAML 1.1 (Ansible, most tools) reads differently from 1.2 is a fault, because the author of `no` or `010` may have
meant either.  Keys are strings, a repeated key is a fault, tags and merge keys are not accepted.  An alias has the
value of its anchor; values are counted with every alias expanded, so that a small file cannot become a large tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from agentd import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 128 * 1024
"""Largest file in bytes: a thousand tasks fit, and reading it takes a second."""
MAX_NODES: Final = 20_000
"""Maximum of values in one file, with every alias expanded."""
MAX_DEPTH: Final = 32
MAX_FAULTS: Final = 100
"""Maximum of faults that are reported for one file."""
MAX_INT: Final = 2**63 - 1

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_HEX: Final = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NO_NUMBER: Final = re.compile(r"[-+]?\.(inf|Inf|INF)\Z|\.(nan|NaN|NAN)\Z")
_AMBIGUOUS: Final = {
    r"(yes|Yes|YES|on|On|ON)\Z": "is true for some and a text for others; write true, or put it in quotes",
    r"(no|No|NO|off|Off|OFF)\Z": "is false for some and a text for others; write false, or put it in quotes",
    r"[-+]?0o?[0-9_]+\Z": "is octal for some and decimal for others; write it without 0, or put it in quotes",
    r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?\Z": "is a number to base 60 for some; put it in quotes",
    r"[-+]?[0-9]+_[0-9_]*\Z": "is a number for some and a text for others; write it without _, or in quotes",
}
_KINDS: Final = {"map": dict, "seq": list, "str": str}


@dataclass(frozen=True)
class Position:
    """The position of a value; line and column count from 1."""

    line: int
    column: int


@dataclass
class Value:
    """A value of the file: a scalar, or a list or map of Values, with key positions."""

    at: Position
    value: Any
    keys: dict[str, Position] = field(default_factory=dict)
    block: bool = False
    """A block string after `|` or `>`: it starts on the next line."""

    @property
    def plain(self) -> Any:  # noqa: ANN401 - JSON
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: item.plain for key, item in self.value.items()}
        return [item.plain for item in self.value] if isinstance(self.value, list) else self.value


class Report:
    """Collects the faults of one file."""

    def __init__(self, file: str, text: str = "") -> None:
        """Start without faults."""
        self.file = file
        self.lines = text.splitlines()
        self._faults: dict[Fault, None] = {}

    def add(self, at: Position, where: str, text: str) -> None:
        """Add a fault."""
        self._faults[Fault(self.file, at.line, at.column, where, text)] = None

    def find(self, value: Value, line: int, word: str) -> Position:
        """Return the position of `word` in line `line` of a string value.

        If it is not found there, return the position of the value.
        """
        number = value.at.line + line - (0 if value.block else 1)
        if not word or not 0 < number <= len(self.lines):
            return (
                value.at if line == 1 and not value.block else Position(number, 1 if value.block else value.at.column)
            )
        start = value.at.column - 1 if number == value.at.line else 0
        ends = (r"(?<!\w)" if word[0].isalnum() else "", r"(?!\w)" if word[-1].isalnum() else "")
        match = re.compile(re.escape(word).join(ends)).search(self.lines[number - 1], start)
        return value.at if match is None else Position(number, match.start() + 1)

    @property
    def faults(self) -> list[Fault]:
        """Return the faults in the order of the file."""
        return sorted(self._faults)[:MAX_FAULTS]


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML without interpretation of tags and plain scalars."""

    def __init__(self, stream: str) -> None:
        Reader.__init__(self, stream)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)


def read(data: bytes, report: Report) -> Value | None:
    """Return the parsed `data`, or None; faults are in the report."""
    if len(data) > MAX_BYTES:
        report.add(Position(1, 1), "", f"the file has {len(data)} bytes; at most {MAX_BYTES} are read")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        report.add(Position(data.count(b"\n", 0, error.start) + 1, 1), "", "this is not UTF-8; save the file as UTF-8")
        return None
    report.lines = text.splitlines()
    node = _compose(text, report)
    return None if node is None else _Conversion(report).value(node, "", 0)


def _compose(text: str, report: Report) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Position(1, 1) if mark is None else Position(mark.line + 1, mark.column + 1)
        report.add(at, "", f"this is not YAML: {'; '.join(filter(None, (error.context, error.problem)))}")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        report.add(Position(line, 1), "", f"this is not YAML: the character {error.character!r} is not allowed")
    except RecursionError:
        report.add(Position(1, 1), "", f"it is nested too deeply; at most {MAX_DEPTH} levels are read")
    else:
        if node is None:
            report.add(Position(1, 1), "", "the file is empty; it needs a description and tasks")
        return node
    return None


class _Conversion:
    """Converts PyYAML's nodes into Values, and counts them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._left = MAX_NODES

    def value(self, node: yaml.Node, where: str, depth: int) -> Value | None:
        """Return the value of `node`, or None if it cannot be used because of a fault."""
        at = _place(node)
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            if self._left >= -1:
                what = f"more than {MAX_NODES} values" if self._left < 0 else f"nested more than {MAX_DEPTH} deep"
                self._report.add(at, where[:80], f"this is {what}: are there aliases (*) of aliases?")
            return None
        kind = str(node.tag).rpartition(":")[2] if str(node.tag).startswith("tag:yaml.org,2002:") else ""
        if kind not in _KINDS:
            self._report.add(
                at, where, f"tags are not accepted: leave {node.tag.replace('tag:yaml.org,2002:', '!!')} out"
            )
            return None
        if isinstance(node, yaml.MappingNode):
            return self._map(node, where, depth)
        if isinstance(node, yaml.SequenceNode):
            items = [self.value(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(node.value)]
            return Value(at, [item for item in items if item is not None])
        return self._scalar(node, where) if isinstance(node, yaml.ScalarNode) else None

    def _map(self, node: yaml.MappingNode, where: str, depth: int) -> Value | None:
        if any(isinstance(key, yaml.MappingNode) for key, _ in node.value):
            self._report.add(_place(node), where, 'an expression must be in quotes: "{{ … }}"')
            return None
        result = Value(_place(node), {})
        for key, child in self._pairs(node, where):
            name = str(key.value)
            inner = f"{where}.{name}" if where else name
            if name in result.keys:
                first = result.keys[name]
                self._report.add(_place(key), inner, f"is there twice; it is in line {first.line} already")
                continue
            result.keys[name] = _place(key)
            value = self.value(child, inner, depth + 1)
            if value is not None:
                result.value[name] = value
        return result

    def _pairs(self, node: yaml.MappingNode, where: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report.add(_place(key), where, "a key is a text")
            elif key.value == "<<" and key.style is None:
                self._report.add(_place(key), where, "merge keys (<<) are not accepted; write the values out")
            else:
                yield key, value

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Value | None:
        at, text = _place(node), str(node.value)
        if node.style is not None:
            return Value(at, text, block=node.style in {"|", ">"})
        for pattern, problem in _AMBIGUOUS.items():
            if re.match(pattern, text):
                self._report.add(at, where, f"{text} {problem}")
                return None
        try:
            return Value(at, _plain(text))
        except ValueError as error:
            self._report.add(at, where, str(error))
            return None


def _plain(text: str) -> Any:  # noqa: ANN401 - a scalar
    """Return the value of a scalar without quotes; raises ValueError."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _NO_NUMBER.match(text):
        raise ValueError(f"{text} is not a finite number; put it in quotes if it is a text")
    if not (_INT.match(text) or _HEX.match(text)):
        return _float(text) if _FLOAT.match(text) else text
    if len(text) > 20 or abs(int(text, 0)) > MAX_INT:  # noqa: PLR2004 - digits of MAX_INT, and a sign
        raise ValueError(f"{text[:20]}… is too large a number; put it in quotes if it is a text")
    return int(text, 0)


def _float(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{text[:20]} is too large a number")
    return number


def _place(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)
