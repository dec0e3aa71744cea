"""A plugin's own settings: what an error about one of them says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import Field

from agentd import ConfigError, Settings
from agentd.config.load import plugin_settings
from harness import Net

if TYPE_CHECKING:
    from pathlib import Path


class Hello(Settings):
    """Settings of a plugin."""

    times: int = Field(default=1, ge=1)
    """Greetings of one call."""


def test_an_error_explains_the_setting(tmp_path: Path) -> None:
    """The docstring below a setting is the explanation in the error, as the description of a setting of the core is."""
    config = Net(tmp_path, "nats://127.0.0.1:1").config().model_copy(update={"plugins": {"hello": {"times": 0}}})

    with pytest.raises(ConfigError, match=r"hello\.times: should be .* 1, not 0: Greetings of one call"):
        plugin_settings(config, "hello", Hello)
