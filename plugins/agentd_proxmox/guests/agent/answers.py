"""What the guest agent answers, as Structs."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import msgspec

from agentd import PermanentError, one_line
from agentd_proxmox.guests.agent import guest_output

if TYPE_CHECKING:
    from agentd_proxmox.inventory import GuestLocation

    Entry = dict[str, Any]


class Interface(msgspec.Struct, frozen=True):
    """A network interface of a guest; addresses with their prefix length."""

    name: str
    mac: str
    addresses: list[str]


class Filesystem(msgspec.Struct, frozen=True):
    """A file system of a guest; sizes in GiB."""

    mountpoint: str
    type: str
    total: float
    used: float


class Executed(msgspec.Struct, frozen=True):
    """The outcome of a command; its output is data.

    `exited` is false while it still runs as `pid` in the guest.
    """

    vmid: int
    name: str
    pid: int
    exited: bool
    exitcode: int | None = None
    signal: int | None = None
    out: str = ""
    err: str = ""
    truncated: bool = False


def decoded_content(answer: Entry, path: str) -> bytes:
    """Return the content of a file.

    Raises PermanentError for an answer that is not base64.
    """
    try:
        return base64.b64decode(str(answer.get("content") or ""))
    except binascii.Error as error:
        raise PermanentError(f"the guest agent answers for {one_line(path)} with what is no base64: {error}") from error


def executed_of(at: GuestLocation, pid: int, answer: Entry, limit: int) -> Executed:
    """Return what a command in the guest did."""
    out, err = (
        guest_output.printable_text(guest_output.decode_latin1(str(answer.get(key) or "")))
        for key in ("out-data", "err-data")
    )
    cut = any(guest_output.flag(answer.get(key)) for key in ("out-truncated", "err-truncated"))
    return Executed(
        vmid=at.vmid,
        name=at.name,
        pid=pid,
        exited=True,
        exitcode=guest_output.number(answer.get("exitcode")),
        signal=guest_output.number(answer.get("signal")),
        out=out[:limit],
        err=err[:limit],
        truncated=cut or max(len(out), len(err)) > limit,
    )


def interface_of(entry: Entry) -> Interface:
    """Return a network interface of the guest."""
    addresses = [
        f"{guest_output.word(e.get('ip-address'))}/{guest_output.word(e.get('prefix'))}"
        for e in guest_output.records(entry.get("ip-addresses"))
    ]
    return Interface(guest_output.word(entry.get("name")), guest_output.word(entry.get("hardware-address")), addresses)


def filesystem_of(entry: Entry) -> Filesystem:
    """Return a file system of the guest."""
    total, used = (round(guest_output.size(entry.get(key)) / 2**30, 2) for key in ("total-bytes", "used-bytes"))
    return Filesystem(guest_output.word(entry.get("mountpoint")), guest_output.word(entry.get("type")), total, used)
