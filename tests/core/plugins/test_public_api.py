"""The public API of plugins: what `from agentd import NAME` gives."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import agentd

NAMES = sorted(agentd.__all__)
HEAVY = ("jinja2", "mcp", "msgspec", "nats", "pluggy", "prometheus_client", "proxmoxer", "pydantic", "starlette")


def _typed() -> dict[str, str]:
    """Return the names that type checkers see, and the module of each."""
    tree = ast.parse(Path(agentd.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname is None
            found[alias.name] = str(node.module)
    return found


def test_the_lists_agree() -> None:
    """The names that are loaded, that type checkers see and that are listed are the same, from the same modules."""
    origins = vars(agentd)["_ORIGINS"]
    homes = {name: origin.removesuffix(f".{name}") for name, origin in origins.items()}

    assert len(set(NAMES)) == len(NAMES)
    assert sorted([*origins, "__version__"]) == NAMES
    assert homes == _typed()
    assert dir(agentd) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_there_and_explained(name: str) -> None:
    """Each public name resolves; a module, class or function has a docstring of its own."""
    found = getattr(agentd, name)

    if inspect.ismodule(found) or inspect.isclass(found) or inspect.isroutine(found):
        assert inspect.cleandoc(vars(found).get("__doc__") or found.__doc__ or "")


def test_an_unknown_name() -> None:
    """What is not public is an ordinary AttributeError."""
    with pytest.raises(AttributeError, match="module 'agentd' has no attribute 'nonsense'"):
        vars(agentd)["__getattr__"]("nonsense")


def test_importing_is_cheap() -> None:
    """`import agentd` loads nothing but the version."""
    code = f"import sys, agentd; print([name for name in sys.modules if name.partition('.')[0] in {HEAVY!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
