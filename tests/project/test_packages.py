"""The packages of agentd: every list of them that a tool needs agrees with the folders."""

from __future__ import annotations

import configparser
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from agentd.plugins import manager
from harness import ALL_ROLES, Net

ROOT: Final = Path(__file__).parents[2]
PLUGINS: Final = {folder.parent.name for folder in (ROOT / "plugins").glob("*/__init__.py")}
CONTRACTS: Final = {"plugins": "modules", "roleless": "forbidden_modules", "face": "source_modules"}
"""The contracts about all plugins, and the key of their list."""


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _contracts() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / ".importlinter", encoding="utf-8")
    return found


def _modules(section: str, key: str) -> set[str]:
    return set(_contracts()[section][key].split())


def test_every_package_is_installed_and_measured() -> None:
    """Each folder is a plugin with an entry point, part of the wheel, and counted in the coverage."""
    project = _project()
    built = {Path(path).name for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}

    assert set(project["project"]["entry-points"]["agentd"].values()) == PLUGINS
    assert built == set(project["tool"]["coverage"]["run"]["source_pkgs"]) == {"agentd", *PLUGINS}


@pytest.mark.parametrize("contract", sorted(CONTRACTS))
def test_every_plugin_is_in_the_contracts(contract: str) -> None:
    """A contract about all plugins names each of them."""
    assert _modules(f"importlinter:contract:{contract}", CONTRACTS[contract]) == PLUGINS


def test_every_plugin_has_a_contract_about_the_core() -> None:
    """Each plugin uses the public API alone, or is one of those for which the contract names more packages."""
    assert _modules("importlinter", "root_packages") == {"agentd", *PLUGINS}
    api, engine = (_modules(f"importlinter:contract:{name}", "source_modules") for name in ("api", "engine"))

    assert api | engine == PLUGINS
    assert api & engine == set()


def test_the_roles_of_the_tests(tmp_path: Path) -> None:
    """The tests run every role that agentd brings; the others serve nothing unless it is configured."""
    config = Net(tmp_path, "nats://127.0.0.1:1").config()

    assert set(manager.every_plugin(config).roles()) - {"filesystem", "mounts", "cloud"} == set(ALL_ROLES)
