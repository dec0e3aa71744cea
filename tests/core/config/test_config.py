"""The configuration: its layers, and its errors in one line."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.config import load as configuration
from agentd.config import settings as config_settings
from agentd.config.load import Config, load, plugin_settings
from agentd.config.section import Section, as_id, is_loopback, user_name
from agentd.errors import ConfigError
from agentd.wire.messages import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLUGINS = ("orchestrator", "monitor", "mcp-bridge")


class Settings(BaseModel):
    """What a plugin of the tests may have set."""

    model_config = ConfigDict(extra="forbid")

    interval: float = Field(default=10.0, gt=0, description="seconds between two looks")
    disks: tuple[str, ...] = ()


def written(where: Path, text: str, env: Mapping[str, str] | None = None) -> Config:
    """Load `text` as agentd.toml."""
    path = where / "agentd.toml"
    path.write_text(text)
    return load(path, env or {}, PLUGINS)


def test_no_file_means_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the daemon has every default, and no Proxmox."""
    monkeypatch.setattr(configuration, "DEFAULT_PATH", tmp_path / "agentd.toml")
    config = load(None, {}, PLUGINS)

    assert config.bus.servers == ("nats://127.0.0.1:4222",)
    assert config.proxmox is None
    assert config.policy.default_tier is Tier.READ
    assert config.web.host == "127.0.0.1"
    assert config.principal == user_name()
    assert "." not in config.node.name


def test_named_file_must_exist(tmp_path: Path) -> None:
    """A file that was named and is not there is an error with its whole path."""
    path = tmp_path / "away.toml"
    with pytest.raises(ConfigError) as by_argument:
        load(path, {}, PLUGINS)
    with pytest.raises(ConfigError) as by_variable:
        load(None, {"AGENTD_CONFIG": str(path)}, PLUGINS)

    assert str(by_argument.value) == f"{path}: cannot be read: No such file or directory"
    assert str(by_variable.value) == f"{by_argument.value} (AGENTD_CONFIG names it)"
    assert by_argument.value.exit_code == 78


def test_layers_come_in_order(tmp_path: Path) -> None:
    """conf.d overrides the file, in the order of names, and the environment overrides both."""
    parts = tmp_path / "conf.d"
    parts.mkdir()
    (parts / "20-b.toml").write_text('[bus]\ntimeout = 3\n[log]\nlevel = "error"')
    (parts / "10-a.toml").write_text("[bus]\ntimeout = 2\nmax_storage = 2000000")
    config = written(tmp_path, "[bus]\ntimeout = 1\nreplicas = 3", {"AGENTD_LOG__LEVEL": "debug"})

    assert (config.bus.replicas, config.bus.timeout, config.log.level) == (3, 3.0, "debug")
    assert config.bus.max_storage == 2_000_000
    assert config.origins["bus.replicas"] == "agentd.toml"
    assert config.origins["bus.timeout"] == "conf.d/20-b.toml"
    assert config.origins["log.level"] == "AGENTD_LOG__LEVEL"


tables = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | inner, max_size=3),
    max_leaves=8,
)


def leaves(table: dict[str, Any], prefix: str = "") -> dict[str, int]:
    """Return each value by its dotted key."""
    found: dict[str, int] = {}
    for key, value in table.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@given(tables, tables)
def test_merge_keeps_what_is_not_replaced(below: dict[str, Any], above: dict[str, Any]) -> None:
    """Each value of the upper layer is in force, what it does not name stays, and twice is as once."""
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    configuration.merge(merged, below, "below", origins)
    configuration.merge(merged, above, "above", origins)
    again = copy.deepcopy(merged)
    configuration.merge(again, above, "above", {})

    assert leaves(above).items() <= leaves(merged).items()
    assert all(origins[key] == "above" for key in leaves(above))
    assert all(merged[key] == value for key, value in below.items() if key not in above)
    assert merged.keys() == below.keys() | above.keys()
    assert again == merged


ERRORS = {
    "[bus]\nserver = 1": "bus.server: unknown key; did you mean servers?",
    "[bsu]\nx = 1": "bsu: unknown section; did you mean bus?",
    "[web]\nqqq = 1": "web.qqq: unknown key; there are allow_remote, host, port, enabled, allowed_hosts, connections, "
    "connections_per_address, tokens",
    "[bus]\ntimeout = 'soon'": 'bus.timeout: should be a number, not "soon"',
    "[bus]\nservers = 'nats://a'": 'bus.servers: should be a list, not "nats://a"',
    "[bus]\nservers = []": "bus.servers: should not be empty: addresses of the NATS servers, such as "
    "nats://host:4222 or tls://host:4222; the first that answers is used",
    "[bus]\nservers = ['nats://u:p@h,x']": 'bus.servers[0]: cannot be "nats://***@h,x": addresses of the NATS '
    "servers, such as nats://host:4222 or tls://host:4222; the first that answers is used",
    "bus = 3": "bus: should be a table, not 3",
    "[bus]\nreplicas = 2": "bus.replicas: should be 1 or 3, not 2: number of copies of each stream: 3 with three or "
    "more NATS servers, otherwise 1",
    "[bus]\nnkey_file = 'a'\ncreds_file = 'b'": "bus: nkey_file and creds_file exclude each other",
    "[bus]\npassword_file = 'a'": "bus: password_file needs user",
    "[bus]\ntls_key_file = 'a'": "bus: tls_cert_file and tls_key_file go together",
    "[bus.admin]\nnkey = 'SU'": "bus.admin.nkey: unknown key; did you mean nkey_dir or nkey_file?",
    "[[bus.queues]]\nname = 'a b'\nin_flight = 2": "bus.queues[0].name: 'a b' is not <service>[@<node>][+<class>]",
    "[[bus.queues]]\nname = 'a+b'\nin_flight = 2\nexternal = 'push'": (
        'bus.queues[0]: a+b: external = "push" needs the name of the agent, without @ and +'
    ),
    "[[bus.queues]]\nname = 'ab'\nin_flght = 2": "bus.queues[0].in_flght: unknown key; did you mean in_flight?",
    "[proxmox]\ntoken_id = 'a@pve!b'": "proxmox.url: is missing: address of the API, of one node or of a name that "
    "covers all nodes: https://pve1:8006",
    "[proxmox]\nurl = 'http://pve1:8006'": "proxmox.url: should be https://host:8006; http would show the token to "
    "the network",
    "[proxmox]\nurl = 'https://a'\ntimeout = 10": "proxmox.timeout: should be greater than or equal to 35, not 10: "
    "seconds to wait for a response; at least 35, because Proxmox waits up to 30 s for a dead node",
    "[proxmox]\nurl = 'https://a'\ncalls_per_node = 3": "proxmox.calls_per_node: should be less than or equal to 2, "
    "not 3: number of API calls to one node at the same time; 3 would occupy all workers of pvedaemon",
    "[proxmox]\nurl = 'https://a'\nvmid_min = 500\nvmid_max = 300": "proxmox: vmid_min 500 is above vmid_max 300",
    "[policy.principals]\nbob = 'opera'": "policy.principals.bob: should be 'read', 'operate', 'destroy' or 'exec', "
    'not "opera"',
    "[policy.principals]\n'bob.x' = 'read'": "policy.principals.bob.x: 'bob.x' is not an id; use 1 to 64 of "
    "A-Z a-z 0-9 _ and -",
    "[web]\nhost = '0.0.0.0'": "web.host: 0.0.0.0 can be reached by other machines; set web.allow_remote = true if "
    "that is meant",
    "[instances.a]\nroles = ['moniter']": "instances.a.roles: no role 'moniter' is installed; did you mean monitor?",
}


@pytest.mark.parametrize(("text", "line"), ERRORS.items(), ids=[text.replace("\n", " ") for text in ERRORS])
def test_error_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    """A fault is reported in one line that names file, dotted key and what would be right."""
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, text)

    assert str(caught.value) == f"agentd.toml: {line}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("policy.plans_last", "approval_timeout"),
        ("policy.protected_from", "protected"),
        ("policy.destroys_per_hour", "destructive_per_hour"),
        ("policy.plain_tier", "anonymous_tier"),
        ("policy.plain_agents", "external_agents"),
    ],
)
def test_an_old_name_names_the_new_one(tmp_path: Path, old: str, new: str) -> None:
    """The error for a name of an earlier version contains the present name."""
    section, _, key = old.partition(".")
    with pytest.raises(ConfigError, match=f"{old}: unknown key; .*{new}"):
        written(tmp_path, f"[{section}]\n{key} = 1")


def test_error_names_the_file_that_set_it(tmp_path: Path) -> None:
    """A fault in conf.d is reported for that file, not of the main one."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/10-log.toml").write_text('[log]\nlevel = "loud"')
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, '[log]\nlevel = "info"')

    assert str(caught.value) == (
        "conf.d/10-log.toml: log.level: should be 'debug', 'info', 'warning' or 'error', not \"loud\": "
        "lowest level that is logged: debug, info, warning or error"
    )


def test_broken_toml_is_reported_with_its_place(tmp_path: Path) -> None:
    """A file that is not TOML is reported with its path and the parser's reason."""
    with pytest.raises(ConfigError, match=r"agentd\.toml: is not TOML: .*line 1"):
        written(tmp_path, "[bus\nx = 1")


def test_environment_sets_lists_and_numbers(tmp_path: Path) -> None:
    """A list is separated by commas in the environment, and numbers are read."""
    env = {"AGENTD_BUS__SERVERS": "nats://a:4222, nats://b:4222", "AGENTD_BUS__TIMEOUT": "2.5"}
    config = written(tmp_path, "", env)

    assert config.bus.servers == ("nats://a:4222", "nats://b:4222")
    assert config.bus.timeout == 2.5


def test_environment_finds_names_with_dashes_and_capitals(tmp_path: Path) -> None:
    """A variable sets a key that is spelt with dashes or capitals, because variables have neither."""
    env = {
        "AGENTD_MCP_BRIDGE__INTERVAL": "2",
        "AGENTD_INSTANCES__MCP_BRIDGE__PORT": "9001",
        "AGENTD_POLICY__PRINCIPALS__BOB": "operate",
        "AGENTD_MCP_BRIDGE__DISKS": "sda,sdb",
    }
    config = written(tmp_path, "[policy.principals]\nBob = 'read'", env)
    settings = plugin_settings(config, "mcp-bridge", Settings)

    assert settings == Settings(interval=2, disks=("sda", "sdb"))
    assert config.instance("mcp-bridge").port == 9001
    assert config.policy.principals == {"Bob": Tier.OPERATE}


@pytest.mark.parametrize(
    ("variable", "line"),
    [
        ("AGENTD_BUS__SERVER", "AGENTD_BUS__SERVER: bus.server: unknown key; did you mean servers?"),
        ("AGENTD_BUZ__SERVERS", "AGENTD_BUZ__SERVERS: buz: unknown section; did you mean bus?"),
        ("AGENTD_BUS_SERVERS", "AGENTD_BUS_SERVERS: unknown variable; did you mean AGENTD_BUS__SERVERS?"),
        ("AGENTD_QQQ", "AGENTD_QQQ: unknown variable; settings are AGENTD_<SECTION>__<KEY>"),
        ("AGENTD_BUS__TIMEOUT", 'AGENTD_BUS__TIMEOUT: bus.timeout: should be a number, not "x"'),
    ],
)
def test_misspelt_variable_is_an_error(tmp_path: Path, variable: str, line: str) -> None:
    """A variable that sets nothing is an error, and reserved ones are not."""
    reserved = {"AGENTD_FACTS": "x", "AGENTD_PVE_PYTHON": "x", "AGENTD_TEST_CRASH": "x", "PATH": "x"}
    written(tmp_path, "", reserved)
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, "", {variable: "x", **reserved})

    assert str(caught.value) == line


def test_plugin_settings_are_checked_as_the_core(tmp_path: Path) -> None:
    """A plugin's section has the same errors, and defaults where it is absent."""
    config = written(tmp_path, "[monitor]\nintervals = 3")
    with pytest.raises(ConfigError) as unknown:
        plugin_settings(config, "monitor", Settings)
    with pytest.raises(ConfigError) as small:
        plugin_settings(written(tmp_path, "[monitor]\ninterval = 0"), "monitor", Settings)

    assert str(unknown.value) == "agentd.toml: monitor.intervals: unknown key; did you mean interval?"
    assert str(small.value) == (
        "agentd.toml: monitor.interval: should be greater than 0, not 0: seconds between two looks"
    )
    assert plugin_settings(config, "orchestrator", Settings) == Settings()


def test_instance_is_its_role_by_default(tmp_path: Path) -> None:
    """An instance without a section plays the role of its name; one with a section plays what it says."""
    config = written(tmp_path, "[web]\nport = 1\n[instances.all]\nroles = ['orchestrator', 'monitor']\nslots = 4")

    assert config.instance("monitor") == configuration.Instance("monitor", ("monitor",), 1, 32)
    assert config.instance("all") == configuration.Instance("all", ("orchestrator", "monitor"), 1, 4)
    assert config.instance("late", ["late"]).roles == ("late",)


def test_unknown_instance_lists_the_known_instances(tmp_path: Path) -> None:
    """An unknown instance is an error that names the nearest, or all."""
    config = written(tmp_path, "[instances.all]\nroles = ['monitor']")
    with pytest.raises(ConfigError) as near:
        config.instance("orchestartor")
    with pytest.raises(ConfigError) as far:
        config.instance("x")

    assert str(near.value) == "instance 'orchestartor' is not known; did you mean orchestrator?"
    assert str(far.value) == "instance 'x' is not known; there are all, mcp-bridge, monitor, orchestrator"


def test_every_identity_has_its_own_inbox() -> None:
    """Each identity has its own inbox, so that no other principal reads its replies."""
    assert config_settings.Bus().inbox("monitor-pve1") == "_INBOX"
    assert config_settings.Bus(user="n.1").inbox("monitor-pve1") == "_INBOX.n_1"
    assert config_settings.Bus(nkey_file="f").inbox("monitor-pve1") == "_INBOX.monitor-pve1"
    assert config_settings.Bus(inbox_prefix="_INBOX.mine", nkey_file="f").inbox("x") == "_INBOX.mine"
    with pytest.raises(ValidationError, match="inbox_prefix"):
        config_settings.Bus(inbox_prefix="ai.audit.x")


def test_admin_login_takes_the_tls_of_the_bus() -> None:
    """[bus.admin] needs no second copy of the CA, and without it the daemon's identity is used."""
    bus = config_settings.Bus(tls_ca_file="ca", admin=config_settings.Admin(nkey_file="adm"))

    assert (bus.admin_login().nkey_file, bus.admin_login().tls_ca_file) == ("adm", "ca")
    assert config_settings.Bus().admin_login() == config_settings.Bus()


def test_every_setting_has_a_description() -> None:
    """Each setting of the core has a description, which the errors show."""
    sections = _sections(Section)

    assert {"Bus", "Policy", "Proxmox", "Web"} <= {kind.__name__ for kind in sections}
    for kind in sections:
        for name, field in kind.model_fields.items():
            assert field.description, f"{kind.__name__}.{name}"


def _sections(kind: type[Section]) -> list[type[Section]]:
    """Return the sections of the core that are made from `kind`, but not the whole configuration."""
    found = [section for made in kind.__subclasses__() for section in [made, *_sections(made)]]
    return [section for section in found if section.__module__.startswith("agentd.config.") and section is not Config]


def test_remote_page_can_be_meant(tmp_path: Path) -> None:
    """An address that others can reach is accepted once allow_remote is set."""
    config = written(tmp_path, "[web]\nhost = '0.0.0.0'\nallow_remote = true")

    assert config.web.host == "0.0.0.0"  # noqa: S104


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("pve1", False)])
def test_loopback_is_known(host: str, local: bool) -> None:  # noqa: FBT001
    """Only addresses of this machine count as loopback."""
    assert is_loopback(host) is local


def test_user_without_a_name_has_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that /etc/passwd does not know is named by its number."""
    monkeypatch.setattr(os, "getuid", lambda: 999_999)

    assert user_name() == "uid999999"
    assert as_id("a b@c") == "a_b_c"


def test_user_file(tmp_path: Path) -> None:
    """Without --config: $AGENTD_CONFIG, then the user's own file, which is checked as every other one."""

    def placed(where: str, principal: str) -> Path:
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'[client]\nprincipal = "{principal}"\n')
        return path

    named = placed("named.toml", "named")
    variable = placed("variable.toml", "variable")
    home = placed(".config/agentd/agentd.toml", "home")
    placed("xdg/agentd/agentd.toml", "xdg")
    env = {"HOME": str(tmp_path)}
    xdg = env | {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    assert load(None, env).principal == "home"
    assert load(None, xdg).principal == "xdg"
    assert load(None, xdg | {"AGENTD_CONFIG": str(variable)}).principal == "variable"
    assert load(named, xdg | {"AGENTD_CONFIG": str(variable)}).principal == "named"
    assert load(None, {"XDG_CONFIG_HOME": "relative"}).principal == load(None, {}).principal
    home.chmod(0o666)
    with pytest.raises(ConfigError, match=r"other users can write it .*chmod go-w"):
        load(None, env)
