"""The settings of the core: meaning, unit, reason for the default.

These are the validated values; `load.py` reads them from files, environment and credentials.  The sections [policy] and
[proxmox] have files of their own.
"""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from agentd import cron
from agentd.config.secret_files import read_secret
from agentd.config.section import Id, Section, as_id, is_loopback, user_name
from agentd.errors import InvalidMessage
from agentd.wire import subjects
from agentd.wire.names import check_queue


class Node(Section):
    """The machine that the daemon runs on."""

    name: Id = Field(
        default_factory=lambda: as_id(socket.gethostname().partition(".")[0]),
        description="name of this node in Proxmox, without a domain; it is part of every agent id. Default: the host "
        "name",
    )
    state_dir: Path = Field(
        default_factory=lambda: Path(os.environ.get("STATE_DIRECTORY") or Path.home() / ".local/state/agentd"),
        description="directory for the daemon's local state, such as notes of unfinished deliveries; set by "
        "StateDirectory= in the systemd unit",
    )


class Client(Section):
    """The principal of the command line."""

    principal: Id = Field(
        default_factory=user_name,
        description="principal of requests from the command line. Default: the user name. NATS lets a principal "
        "publish only under its own name",
    )


class Login(Section):
    """The identity for NATS.

    An NKey, a credentials file, or a user with a password; and the TLS files.
    """

    table: ClassVar = "bus"

    user: str | None = Field(default=None, description="NATS user name; with an NKey it is used only to name the inbox")
    nkey_file: str | None = Field(default=None, description="file with the seed of the NKey (SU...)")
    nkey_dir: str | None = Field(
        default=None,
        description="directory with a file USER.nk for each NATS user, which holds the seed of its NKey; USER is the "
        "agent id, the principal of the command line, or admin",
    )
    creds_file: str | None = Field(default=None, description="NATS credentials file (JWT and seed)")
    password_file: str | None = Field(default=None, description="file with the password of `user`")
    tls_ca_file: str | None = Field(
        default=None, description="CA certificate that the NATS servers' certificates are verified with"
    )
    tls_cert_file: str | None = Field(default=None, description="client certificate, if the NATS servers require one")
    tls_key_file: str | None = Field(default=None, description="private key for tls_cert_file")
    inbox_prefix: str | None = Field(
        default=None,
        pattern=r"^_INBOX(\.[A-Za-z0-9_-]+)*$",
        description="prefix of the subjects on which replies arrive, _INBOX.NAME; use a different one for each "
        "identity, because an identity can read all replies under its prefix",
    )

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = [key for key in ("nkey_file", "nkey_dir", "creds_file", "password_file") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if self.password_file and not self.user:
            raise ValueError("password_file needs user")
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ValueError("tls_cert_file and tls_key_file go together")
        return self

    def inbox(self, identity: str) -> str:
        """Return the prefix of our inboxes.

        It contains `user` or, without one, `identity` (agent id or principal).
        """
        if self.inbox_prefix:
            return self.inbox_prefix
        named = self.user or (identity if self.nkey_file or self.nkey_dir or self.creds_file else "")
        return f"_INBOX.{as_id(named)}" if named else "_INBOX"

    def named(self, identity: str) -> str:
        """Return the NATS user of a process with this identity (agent id or principal)."""
        return identity

    def key_of(self, user: str) -> str | None:
        """Return the path of the seed of `user` in `nkey_dir`, if that is set."""
        return str(Path(self.nkey_dir, f"{user}.nk")) if self.nkey_dir else None

    def nkey_seed(self) -> str | None:
        """Read the NKey's seed, if one is set."""
        return read_secret(self.nkey_file, f"{self.table}.nkey_file") if self.nkey_file else None

    def creds(self) -> str:
        """Read the credentials file, if one is set."""
        return read_secret(self.creds_file, f"{self.table}.creds_file") if self.creds_file else ""

    def password(self) -> str | None:
        """Read the password, if one is set."""
        return read_secret(self.password_file, f"{self.table}.password_file") if self.password_file else None


class Admin(Login):
    """The identity that `agentd provision` uses.

    It may create streams; the daemons may not.
    """

    table: ClassVar = "bus.admin"

    def named(self, identity: str) -> str:  # noqa: ARG002 - there is one administrator
        """Return the name of the administrator's NATS user."""
        return subjects.ADMIN


class Queue(Section):
    """An additional queue that `agentd provision` creates.

    Its consumer allows `in_flight` running tasks at once.
    """

    name: str = Field(description="name of the queue: <service>[@<node>][+<class>]")
    in_flight: int = Field(
        ge=1, description="number of tasks that may run at the same time, over all agents; for example 2 for migrations"
    )
    external: Literal["no", "pull", "push"] = Field(
        default="no",
        description="how the external agent of this name receives tasks. no: it is not an external agent. pull: it "
        "pulls from the durable consumer and acknowledges. push: the server publishes each task once to "
        "ai.tasks.assign.<name>, without the limit in_flight",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            return check_queue(value)
        except InvalidMessage as error:
            raise ValueError(str(error).removeprefix("queue: ")) from error

    @model_validator(mode="after")
    def _bare(self) -> Self:
        if self.external == "push" and not set("@+").isdisjoint(self.name):
            raise ValueError(f'{self.name}: external = "push" needs the name of the agent, without @ and +')
        return self


class Bus(Login):
    """The NATS servers."""

    servers: tuple[Annotated[str, Field(pattern=r"^(nats|tls|ws|wss)://[^\s,]+$")], ...] = Field(
        default=("nats://127.0.0.1:4222",),
        min_length=1,
        description="addresses of the NATS servers, such as nats://host:4222 or tls://host:4222; the first that "
        "answers is used",
    )
    replicas: Literal[1, 3] = Field(
        default=1, description="number of copies of each stream: 3 with three or more NATS servers, otherwise 1"
    )
    max_storage: int | None = Field(
        default=None,
        ge=1 << 20,
        description="bytes of storage that JetStream may use; set it if the NATS account has no limit of its own. At "
        "70 % an alert is raised and no new workflows are started",
    )
    timeout: float = Field(default=5.0, gt=0, le=60, description="seconds to wait for a reply from NATS")
    admin: Admin | None = Field(
        default=None,
        description="identity that `agentd provision` and `agentd dead-letters` use. Default: that of [bus]",
    )
    queues: tuple[Queue, ...] = Field(default=(), description="additional queues for `agentd provision` to create")

    def admin_login(self) -> Login:
        """Return the identity for `agentd provision`.

        It is [bus.admin], with the TLS files of [bus] where it has none; without it, `admin` in nkey_dir.
        """
        if self.admin is None and self.nkey_dir is None:
            return self
        admin = self.admin or Admin(nkey_dir=self.nkey_dir)
        tls = ("tls_ca_file", "tls_cert_file", "tls_key_file")
        inherited = {key: getattr(self, key) for key in tls if getattr(admin, key) is None}
        return admin.model_copy(update=inherited)

    @property
    def hosts(self) -> list[str]:
        """Return the hosts of the servers."""
        return [urlsplit(address).hostname or "" for address in self.servers]

    @property
    def shown_servers(self) -> str:
        """Return the addresses of the servers for output, without the logins in them."""
        return ", ".join(re.sub(r"://[^/@\s]*@", "://***@", address) for address in self.servers)


class Schedule(Section):
    """A workflow that is started repeatedly at given times.

    `agentd provision` activates the schedule.
    """

    workflow: str = Field(description="type of the workflow, as in `agentd submit TYPE`")
    cron: str = Field(description="minute hour day month weekday; a time that a clock change skips is not made up for")
    timezone: str = Field(default="UTC", description="time zone of `cron`, such as Europe/Berlin")
    parameters: dict[str, Any] = Field(default={}, description="parameters of the workflow")
    principal: Id = Field(
        default="cron", description="principal that requests the workflow; [policy] defines what it may do"
    )
    enabled: bool = Field(default=True, description="false: the schedule does not run")
    overlap: Literal["skip", "allow"] = Field(
        default="skip", description="skip: do not start while the previous run is unfinished; allow: start anyway"
    )
    start_by: float = Field(
        default=3600.0,
        gt=0,
        le=86_400,
        description="seconds after the scheduled time within which it may still start, for example after an outage",
    )
    timeout: float | None = Field(
        default=None, gt=0, description="seconds after which the workflow fails. Default: the limit of the workflow"
    )

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}; it is a name like UTC or Europe/Berlin") from error
        return value

    @field_validator("cron")
    @classmethod
    def _cron(cls, value: str) -> str:
        parsed = cron.parse(value)
        if cron.next_after(parsed, datetime.now(UTC), UTC) is None:
            raise ValueError(f"{value!r} never occurs")
        return value


def _schedule(value: str) -> str:
    if len(value) > 40:  # noqa: PLR2004 - the id of its workflow has a prefix and a number, and 64 characters
        raise ValueError(f"{value!r} is too long for a schedule; at most 40 characters")
    return value


ScheduleName = Annotated[Id, AfterValidator(_schedule)]
"""Name of a schedule; it is part of the ids of its workflows."""


class Web(Section):
    """The status page, the metrics and the HTTP API of this daemon."""

    allow_remote: bool = Field(default=False, description="allow `host` to be an address that other machines can reach")
    host: str = Field(
        default="127.0.0.1",
        description="address to listen on. On a loopback address pages and API need no login; on any other they need a "
        "token of [web.tokens], /healthz, /readyz and /metrics do not",
    )
    port: int | None = Field(
        default=None, ge=0, le=65535, description="TCP port; 0: any free port. Default: the port of the role"
    )
    enabled: bool = Field(default=True, description="false: no status page, no metrics and no HTTP API")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="additional host names accepted in the header Host, such as that of a proxy"
    )
    connections: int = Field(
        default=512,
        ge=16,
        le=65_536,
        description="number of open connections, at most half of the process's file descriptors. Above it, the oldest "
        "connection without a complete request is closed; /healthz is still answered",
    )
    connections_per_address: int = Field(
        default=128, ge=1, description="number of open connections from one address; loopback addresses are not limited"
    )
    tokens: dict[Id, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(
        default={},
        description="tokens for actions over HTTP and for MCP: principal, and the digest that `agentd token` prints",
    )

    @field_validator("host")
    @classmethod
    def _local(cls, value: str, info: ValidationInfo) -> str:
        if not info.data.get("allow_remote") and not is_loopback(value):
            raise ValueError(f"{value} can be reached by other machines; set web.allow_remote = true if that is meant")
        return value


class Log(Section):
    """The level and format of the log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged: debug, info, warning or error"
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="json: one JSON object per line; console: for people; auto: console on a terminal, otherwise json",
    )


class Drain(Section):
    """What happens when the daemon is stopped."""

    timeout: float = Field(
        default=30.0,
        ge=0,
        description="seconds that running tasks have to finish when the daemon stops; less than TimeoutStopSec of the "
        "unit",
    )


class InstanceSection(Section):
    """An instance whose name is not its role, or that needs its own settings."""

    roles: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="roles of the instance. Default: the role of the same name"
    )
    port: int | None = Field(
        default=None, ge=0, le=65535, description="TCP port of its status page. Default: [web] port"
    )
    slots: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="number of tasks that run at the same time; calls to Proxmox are limited by [proxmox] "
        "calls_per_node",
    )
