"""Secrets of the configuration: where they are read, and that they are not shown."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel

from agentd.config import settings as config_settings
from agentd.config.load import plugin_settings
from agentd.config.proxmox import Proxmox
from agentd.config.secret_files import read_secret
from agentd.config.show import show
from agentd.errors import ConfigError
from core.config.test_config import written

if TYPE_CHECKING:
    from pathlib import Path


def test_credentials_are_found_without_being_asked_for(tmp_path: Path) -> None:
    """Credentials of systemd stand in for secrets that are not set, and are read when they are needed."""
    (tmp_path / "agentd-proxmox-token").write_text("agentd@pve!full=5ec2e7\n")
    (tmp_path / "agentd-bus-password").write_text("hunter2\n")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = written(tmp_path, "[bus]\nuser = 'n1'\n[proxmox]\nurl = 'https://a:8006/'", env)

    assert config.proxmox is not None
    assert config.proxmox.token() == "5ec2e7"
    assert config.bus.password() == "hunter2"
    assert config.bus.nkey_seed() is None
    assert config.proxmox.url == "https://a:8006"
    assert config.origins["proxmox.token_file"] == "credential agentd-proxmox-token"


def test_set_secret_wins_over_a_credential(tmp_path: Path) -> None:
    """A credential that exists there does not replace what the configuration says."""
    (tmp_path / "agentd-bus-nkey").write_text("SU")
    (tmp_path / "agentd-bus-password").write_text("x")
    config = written(tmp_path, "[bus]\ncreds_file = 'c'", {"CREDENTIALS_DIRECTORY": str(tmp_path)})

    assert (config.bus.creds_file, config.bus.nkey_file, config.bus.password_file) == ("c", None, None)


def test_named_credential_needs_its_directory(tmp_path: Path) -> None:
    """`credential:NAME` is resolved under systemd; without it the error says what the unit lacks."""
    (tmp_path / "tok").write_text("s")
    text = "[proxmox]\nurl = 'https://a'\ntoken_file = 'credential:tok'"
    inside = written(tmp_path, text, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).proxmox
    outside = written(tmp_path, text).proxmox

    assert inside is not None
    assert inside.token() == "s"
    assert outside is not None
    with pytest.raises(ConfigError) as caught:
        outside.token()
    assert str(caught.value) == (
        "proxmox.token_file: credential:tok: there is no CREDENTIALS_DIRECTORY; the systemd unit needs "
        "LoadCredential=tok"
    )


def test_a_credential_of_a_plugins_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`credential:NAME` is also resolved in settings of plugins, when the secret is read."""
    (tmp_path / "lab").write_text("s3cret\n")
    (tmp_path / "lab").chmod(0o600)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert read_secret("credential:lab", "cloud.accounts.lab.secret_file") == "s3cret"


def test_secret_that_cannot_be_read_names_its_setting(tmp_path: Path) -> None:
    """A secret's file that is missing, empty or not text is an error of one line."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    login = config_settings.Login(user="u", nkey_file=str(tmp_path / "away"))
    admin = config_settings.Admin(user="u", password_file=str(tmp_path / "empty"))
    with pytest.raises(ConfigError) as missing:
        login.nkey_seed()
    with pytest.raises(ConfigError) as empty:
        admin.password()
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_secret(str(tmp_path / "binary"), "x")
    with pytest.raises(ConfigError, match=r"^proxmox\.token_file: not set"):
        Proxmox(url="https://a").token()

    assert str(missing.value) == f"bus.nkey_file: cannot read {tmp_path}/away: No such file or directory"
    assert str(empty.value) == f"bus.admin.password_file: {tmp_path}/empty is empty"


def test_show_is_toml_without_secrets(tmp_path: Path) -> None:
    """What is shown can be parsed, says where each value came from, and holds no secret."""
    text = """
        [proxmox]
        url = "https://pve1:8006"
        [policy.principals]
        bob = "operate"
        [[bus.queues]]
        name = "mcp-proxmox+migrate"
        in_flight = 2
        [monitor]
        webhook = "https://u:hunter2@hook"
        targets = [{ api_token = "hunter2", name = "a\\"b" }]
        "odd key" = true
        [monitor.mail]
        password = "hunter2"
    """
    shown = show(written(tmp_path, text, {"AGENTD_BUS__SERVERS": "nats://u:hunter2@a:4222"}))
    parsed = tomllib.loads(shown)

    assert "hunter2" not in shown
    assert 'servers = ["nats://***@a:4222"]  # AGENTD_BUS__SERVERS\n' in shown
    assert "calls_per_node = 2  # default\n" in shown
    assert parsed["bus"]["queues"] == [{"name": "mcp-proxmox+migrate", "in_flight": 2, "external": "no"}]
    assert parsed["policy"]["principals"] == {"bob": "operate"}
    assert parsed["monitor"]["targets"] == [{"api_token": "***", "name": 'a"b'}]
    assert parsed["monitor"]["mail"] == {"password": "***"}
    assert parsed["monitor"]["odd key"] is True


def test_wrong_value_of_a_secret_is_not_repeated(tmp_path: Path) -> None:
    """An error does not say the value of a key that is named like a secret."""

    class Mail(BaseModel):
        password: int

    config = written(tmp_path, "[monitor]\npassword = 'hunter2'")
    with pytest.raises(ConfigError) as caught:
        plugin_settings(config, "monitor", Mail)

    assert str(caught.value) == 'agentd.toml: monitor.password: should be a whole number, not "***"'
