"""Files with secrets.

A setting names the file of a secret, and the file is read only when the secret is needed, so that no secret is in
memory, in a traceback or in `agentd config show` without need.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from agentd import files
from agentd.errors import ConfigError, UnsafeFile
from agentd.wire.secrets import is_secret_name

CREDENTIAL: Final = "credential:"
"""`token_file = "credential:NAME"` names a systemd credential (LoadCredential=, LoadCredentialEncrypted=)."""
LARGEST_SECRET: Final = 64 * 1024
"""Largest size in bytes of a file with a secret; a credentials file of NATS has some hundred bytes."""
_SECRET: Final = re.compile(
    r"(passw(or)?d|passphrase|token|secret|seed|authorization|cookie|ticket|credentials?|(api|private|ssh)_?keys?|\bnkeys?|_nkeys?)$",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Return whether a value of this name must never be shown.

    For example `cipassword` is secret, `token_file` is not.
    """
    return _SECRET.search(name) is not None or is_secret_name(name)


def read_secret(path: str, setting: str) -> str:
    """Return the content of the file `path` without the line end.

    An error names the `setting`, not the secret.
    """
    if path.startswith(CREDENTIAL):
        name = path.removeprefix(CREDENTIAL)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ConfigError(
                f"{setting}: {path}: there is no CREDENTIALS_DIRECTORY; the systemd unit needs LoadCredential={name}"
            )
        path = str(Path(directory, name))
    try:
        secret = files.read(Path(path), secret=True, most=LARGEST_SECRET).decode("utf-8").strip()
    except UnsafeFile as error:
        raise ConfigError(f"{setting}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{setting}: cannot read {path}: {reason}") from error
    if not secret:
        raise ConfigError(f"{setting}: {path} is empty")
    return secret
