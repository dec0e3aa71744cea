"""Translate a login of the configuration to the options of nats-py."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import RawCredentials

from agentd import files
from agentd.config.secret_files import read_secret
from agentd.errors import ConfigError, UnsafeFile

if TYPE_CHECKING:
    from agentd.config.settings import Bus as BusSettings
    from agentd.config.settings import Login

_CUT: Final = ("broken pipe", "reset by peer", "eof", "connection lost")
"""Errors seen when a server requires a client certificate and closes the connection before its TLS alert arrives."""


def options(settings: BusSettings, login: Login, identity: str) -> dict[str, Any]:
    """Return nats-py's options for this login.

    Raises ConfigError for a file that cannot be read.
    """
    name = login.named(identity)
    found: dict[str, Any] = {"inbox_prefix": login.inbox(name)}
    if login.nkey_file:
        found["nkeys_seed_str"] = login.nkey_seed()
    elif path := login.key_of(name):
        found["nkeys_seed_str"] = read_secret(path, f"{login.table}.nkey_dir")
    elif login.creds_file:
        found["user_credentials"] = _credentials(login)
    elif login.user:
        found |= {"user": login.user, "password": login.password()}
    if _secure(settings) or login.tls_ca_file or login.tls_cert_file:
        found["tls"] = _tls(login)
    return found


def hint(settings: BusSettings, problem: str) -> str:
    """Return what to do about a `problem` that prevented the connection."""
    text = problem.lower()
    if "certificate" in text:
        return "see tls_ca_file and tls_cert_file under [bus]"
    if _secure(settings) and any(sign in text for sign in _CUT):
        return "does it want a certificate of ours? see tls_cert_file under [bus]"
    return "start it, or name it under [bus] servers"


def _secure(settings: BusSettings) -> bool:
    return any(url.startswith(("tls:", "wss:")) for url in settings.servers)


def _credentials(login: Login) -> RawCredentials:
    """Read the credentials file.

    nats-py would read it in the event loop, and without end if it holds no JWT.
    """
    text = login.creds()
    for part in ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"):
        if part not in text:
            raise ConfigError(f"bus.creds_file: {login.creds_file} is not a credentials file: it has no line {part!r}")
    return RawCredentials(text)


def _tls(login: Login) -> ssl.SSLContext:
    try:
        for name, secret in ((login.tls_ca_file, False), (login.tls_cert_file, False), (login.tls_key_file, True)):
            if name:
                files.check(Path(name), secret=secret, follow=not secret)
        context = ssl.create_default_context(cafile=login.tls_ca_file)
        if login.tls_cert_file:
            context.load_cert_chain(login.tls_cert_file, login.tls_key_file)
    except UnsafeFile as error:
        raise ConfigError(f"bus: {error}") from error
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"bus: cannot load the TLS files: {error}") from error
    return context
