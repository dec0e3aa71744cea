"""Authentication: NKey, credentials file, password, TLS; and the errors of a refusal."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentd.bus.jetstream import Bus
from agentd.errors import BusUnavailable, ConfigError, Denied
from agentd.wire import subjects
from core.jetstream import Lines, connected, make_stream, settings
from harness import NatsServer, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey


def _seed(prefix: int) -> bytes:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix))


def _public(seed: bytes) -> str:
    key: str = nkeys.from_seed(bytearray(seed)).public_key.decode()
    return key


def _file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def _mode(path: Path, mode: int) -> None:
    path.chmod(mode)


async def _works(bus: Bus) -> None:
    await make_stream(bus, "WORK", "work")
    assert await bus.store("work", b"1") == 1


async def test_nkey(tmp_path: Path) -> None:
    """An NKey from a file, with the line's end that editors leave, is a login; the inbox has our name."""
    seed = _seed(nkeys.PREFIX_BYTE_USER)
    file = _file(tmp_path / "seed", seed + b"\n")
    with NatsServer(tmp_path, extra=f"authorization {{ users: [ {{ nkey: {_public(seed)} }} ] }}") as server:
        async with connected(server.url, nkey_file=file) as bus:
            await _works(bus)

            assert bus._inbox.startswith("_INBOX.tester.")  # noqa: SLF001 - permissions are given by it


async def test_a_directory_of_nkeys(tmp_path: Path) -> None:
    """Each user has its file in `nkey_dir`, the administrator too; a seed that every user can read is refused."""
    seeds = {name: _seed(nkeys.PREFIX_BYTE_USER) for name in ("tester", "admin")}
    for name, seed in seeds.items():
        _file(tmp_path / f"{name}.nk", seed)
    users = ", ".join(f"{{ nkey: {_public(seed)} }}" for seed in seeds.values())
    _mode(tmp_path, 0o755)
    with NatsServer(tmp_path, extra=f"authorization {{ users: [ {users} ] }}") as server:
        bus = Bus(settings(server.url, nkey_dir=str(tmp_path)), "tester", Lines())  # type: ignore[arg-type]
        await bus.connect(wait=10, login=bus.settings.admin_login())
        assert bus._inbox.startswith("_INBOX.admin.")  # noqa: SLF001 - permissions are given by it
        await bus.close()
        _mode(tmp_path / "tester.nk", 0o664)
        with pytest.raises(ConfigError, match=r"bus.nkey_dir: .*other users can write it .*chmod go-w .*tester.nk"):
            await bus.connect(wait=10)
    missing = Bus(settings(server.url, nkey_dir=str(tmp_path)), "foreign", Lines())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"bus.nkey_dir: cannot read .*foreign.nk"):
        await missing.connect(wait=10)


async def test_wrong_nkey(tmp_path: Path) -> None:
    """A key that the server does not know is refused within seconds, in a line that names the settings."""
    known, ours = _seed(nkeys.PREFIX_BYTE_USER), _seed(nkeys.PREFIX_BYTE_USER)
    file = _file(tmp_path / "seed", ours)
    with NatsServer(tmp_path, extra=f"authorization {{ users: [ {{ nkey: {_public(known)} }} ] }}") as server:
        bus = Bus(settings(server.url, nkey_file=file), "tester", Lines())  # type: ignore[arg-type]
        begun = time.monotonic()
        with pytest.raises(Denied, match=r"NATS refuses these credentials \(.*Authorization Violation.*nkey_file"):
            await bus.connect(wait=15)
        await bus.close()

    assert time.monotonic() - begun < 8


async def test_password(tmp_path: Path) -> None:
    """A user with the password from a file is a login; a wrong password is refused."""
    right, wrong = _file(tmp_path / "right", b"secret\n"), _file(tmp_path / "wrong", b"guess")
    extra = 'authorization { users: [ { user: "tester", password: "secret" } ] }'
    with NatsServer(tmp_path, extra=extra) as server:
        async with connected(server.url, user="tester", password_file=right) as bus:
            await _works(bus)
        bus = Bus(settings(server.url, user="tester", password_file=wrong), "tester", Lines())  # type: ignore[arg-type]
        with pytest.raises(Denied, match="refuses these credentials"):
            await bus.connect(wait=15)
        await bus.close()


async def test_missing_seed(tmp_path: Path) -> None:
    """A file that is not there is an error of the configuration that names the key; nothing is connected."""
    bus = Bus(settings("nats://127.0.0.1:1", nkey_file=str(tmp_path / "none")), "tester", Lines())  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"nkey_file: cannot read .*none"):
        await bus.connect(wait=5)


def _jwt(claims: dict[str, Any], seed: bytes) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"jti": hashlib.sha256(repr(claims).encode()).hexdigest(), "iat": int(time.time()), **claims}
    claims["iss"] = _public(seed)
    text = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    signature = nkeys.from_seed(bytearray(seed)).sign(text.encode())
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


async def test_credentials_file(tmp_path: Path) -> None:
    """A credentials file (JWT and seed of a user of an operator's account) is a login."""
    operator, user = _seed(nkeys.PREFIX_BYTE_OPERATOR), _seed(nkeys.PREFIX_BYTE_USER)
    account, system = _seed(nkeys.PREFIX_BYTE_ACCOUNT), _seed(nkeys.PREFIX_BYTE_ACCOUNT)
    unlimited = {"subs": -1, "data": -1, "payload": -1}
    disk = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = unlimited | {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}
    operator_jwt = _jwt({"sub": _public(operator), "name": "O", "nats": {"type": "operator", "version": 2}}, operator)
    account_jwt, system_jwt = (
        _jwt(
            {"sub": _public(seed), "name": "A", "nats": {"limits": allowed, "type": "account", "version": 2}}, operator
        )
        for seed, allowed in ((account, limits | disk), (system, limits))
    )
    user_jwt = _jwt({"sub": _public(user), "name": "U", "nats": unlimited | {"type": "user", "version": 2}}, account)
    extra = (
        f'operator: "{operator_jwt}"\nresolver: MEMORY\nsystem_account: {_public(system)}\n'
        f'resolver_preload: {{ {_public(account)}: "{account_jwt}", {_public(system)}: "{system_jwt}" }}\n'
    )
    text = (
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
    )
    with NatsServer(tmp_path, extra=extra) as server:
        async with connected(server.url, creds_file=_file(tmp_path / "creds", text.encode())) as bus:
            await _works(bus)


async def test_a_file_that_holds_no_credentials(tmp_path: Path) -> None:
    """A credentials file without a JWT is an error of the configuration (nats-py would read it for ever)."""
    file = _file(tmp_path / "creds", b"just a seed\n")
    bus = Bus(settings("nats://127.0.0.1:1", creds_file=file), "tester", Lines())  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="is not a credentials file"):
        await bus.connect(wait=5)


PERMISSIONS = """
authorization { users: [
  { user: "admin", password: "secret" }
  { user: "tester", password: "secret",
    permissions: { publish: ["work", "$JS.API.INFO", "ok.>"], subscribe: ["_INBOX.tester.>", "ok.>"] } }
] }
"""


async def test_permissions(tmp_path: Path) -> None:
    """A subject that NATS does not allow is refused at once and named; the connection goes on working."""
    password = _file(tmp_path / "password", b"secret")
    lines = Lines()
    with NatsServer(tmp_path, extra=PERMISSIONS) as server:
        async with connected(server.url, user="admin", password_file=password) as admin:
            await make_stream(admin, "WORK", "work", subjects.event("*"))
        async with connected(server.url, log=lines, user="tester", password_file=password) as bus:
            begun = time.monotonic()
            with pytest.raises(Denied, match=r"NATS does not allow tester to publish ai\.workflows\.event\.w1"):
                await bus.store(subjects.event("w1"), b"1")
            with pytest.raises(Denied, match=r"\$JS\.API\.STREAM\.DELETE\.WORK"):
                await bus.api("STREAM.DELETE.WORK")
            took = time.monotonic() - begun
            await bus.subscribe("_INBOX.admin.>", _ignore)

            assert await bus.store("work", b"1") == 1
            assert bus.counters["reconnects"] == 0
            assert took < 1.5, "not by a time-out"

            async def reported() -> bool:
                return len(lines.events("warning")) == 3

            await eventually(reported, "each refusal is in the log, a subscription's too")


async def _ignore(_: object) -> None:
    """Take what comes."""


@dataclass
class Authority:
    """A certificate authority with a key of its own."""

    name: x509.Name
    key: EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """Return its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Return certificate and key for `name` at 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        built = _certificate(_name(name), key.public_key(), self.name).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        built = built.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return built.sign(self.key, hashes.SHA256()).public_bytes(pem), private


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _certificate(name: x509.Name, key: Any, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, name, key, x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


def authority(name: str) -> Authority:
    """Make a certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    built = (
        _certificate(_name(name), key.public_key(), _name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(_name(name), key, built.sign(key, hashes.SHA256()))


@dataclass
class Tls:
    """The files of a server that asks its clients for a certificate, and of one of its clients."""

    extra: str
    login: dict[str, str]
    other_ca: str


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    """Make two authorities, the server's certificate and ours."""
    ours, other = authority("ours"), authority("other")
    ca = _file(tmp_path / "ca.pem", ours.pem())
    server_cert, server_key = (
        _file(tmp_path / name, item) for name, item in zip(("s.pem", "s.key"), ours.issue("server"), strict=True)
    )
    cert, key = (
        _file(tmp_path / name, item) for name, item in zip(("c.pem", "c.key"), ours.issue("client"), strict=True)
    )
    extra = f'tls {{ cert_file: "{server_cert}", key_file: "{server_key}", ca_file: "{ca}", verify: true }}'
    login = {"tls_ca_file": ca, "tls_cert_file": cert, "tls_key_file": key}
    return Tls(extra, login, _file(tmp_path / "other.pem", other.pem()))


async def test_tls(tmp_path: Path, tls: Tls) -> None:
    """With our CA and our certificate the connection is encrypted, and it comes back after a restart."""
    with NatsServer(tmp_path, extra=tls.extra, scheme="tls") as server:
        async with connected(server.url, **tls.login) as bus:
            await _works(bus)
            server.kill()
            server.start()

            async def back() -> bool:
                return bus.connected and bus.counters["reconnects"] > 0

            await eventually(back, "the connection is back")
            assert await bus.last("WORK", "work")


@pytest.mark.parametrize("case", ["another CA", "no client certificate"])
async def test_tls_refused(tmp_path: Path, tls: Tls, case: str) -> None:
    """A server of another CA, or one that wants a certificate, is not connected to; a line says what is wrong."""
    login, answer = {
        "another CA": (tls.login | {"tls_ca_file": tls.other_ca}, "certificate .*tls_ca_file"),
        "no client certificate": (
            {"tls_ca_file": tls.login["tls_ca_file"]},
            "tls_cert_file under \\[bus\\]",
        ),
    }[case]
    with NatsServer(tmp_path, extra=tls.extra, scheme="tls") as server:
        bus = Bus(settings(server.url, **login), "tester", Lines())  # type: ignore[arg-type]
        with pytest.raises(BusUnavailable, match=answer):
            await bus.connect(wait=2)
        await bus.close()


async def test_tls_files_that_are_none(tmp_path: Path) -> None:
    """A CA file that is no certificate is an error of the configuration."""
    bad = _file(tmp_path / "ca.pem", b"no certificate")
    bus = Bus(settings("tls://127.0.0.1:1", tls_ca_file=bad), "tester", Lines())  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="cannot load the TLS files"):
        await bus.connect(wait=5)
