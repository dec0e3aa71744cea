"""The rules and the dashboard for Prometheus: they use names that the monitor serves; promtool tests the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd_monitor.cluster.exporter_families import LEGACY_GAUGES
from agentd_monitor.cluster.families import HELP

FILES = Path(__file__).parents[3] / "ansible" / "roles" / "monitoring" / "files"
NAME = re.compile(r"\b(?:[a-z]+:)?pve_[a-z0-9_]+(?::[a-z0-9]+)?")


def rules() -> list[dict[str, Any]]:
    """Return every rule."""
    read = yaml.safe_load((FILES / "pve_rules.yml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Return every expression of the rules and of the dashboard."""
    board = json.loads((FILES / "pve_dashboard.json").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*(rule["expr"] for rule in rules()), *shown]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_names(expression: str) -> None:
    """Each name is a family that is served by default, or the result of a recording rule."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set(NAME.findall(expression))

    assert used
    assert used <= recorded | set(HELP) - set(LEGACY_GAUGES.values())


def test_alerts_say_what_to_do() -> None:
    """Each alert has a severity, a summary and a description."""
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert {"summary", "description"} == set(rule["annotations"])


@pytest.mark.parametrize("command", [["check", "rules", "pve_rules.yml"], ["test", "rules", "pve_rules_test.yml"]])
def test_promtool(command: list[str]) -> None:
    """Prometheus accepts the rules, and they fire when they should."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    ran = subprocess.run([promtool, *command], cwd=FILES, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
