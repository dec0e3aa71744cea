"""docs/security.md claims nothing that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_named_test_exists() -> None:
    """Every test file and test function that the threat model names is there."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = _NAMED.findall(text)
    missing = [
        f"{file}::{function}"
        for file, function in named
        if not (ROOT / file).is_file()
        or (function and not re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.MULTILINE))
    ]

    assert len(named) >= 20
    assert missing == []
