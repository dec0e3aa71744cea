"""What the sections of the configuration share: their base class, and ids."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from agentd.errors import InvalidMessage
from agentd.wire.names import check_id


def _id(value: str) -> str:
    try:
        return check_id(value, "")
    except InvalidMessage as error:
        raise ValueError(str(error).removeprefix(": ")) from error


Id = Annotated[str, AfterValidator(_id)]
"""One token of a NATS subject."""


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def as_id(name: str) -> str:
    """Return `name` as an id: each character that an id may not have is replaced by _."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "_"


def user_name() -> str:
    """Return the name of the user that this process runs as, converted to an id."""
    try:
        return as_id(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # a container's user need not be in /etc/passwd
        return f"uid{os.getuid()}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
