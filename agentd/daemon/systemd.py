"""Tells systemd how the service stands: READY, RELOADING, STOPPING, STATUS, WATCHDOG (sd_notify(3)).

The protocol is one datagram to a socket that the environment names, so it takes no library.
"""

from __future__ import annotations

import os
import socket
import time


class Systemd:
    """The service manager, if there is one."""

    def __init__(self) -> None:
        """Find the socket; without one, everything here does nothing."""
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            self._socket.settimeout(0)
        self._unsent = ""

    @property
    def watchdog(self) -> float | None:
        """Return the seconds within which systemd wants to hear WATCHDOG=1, None if it does not."""
        microseconds = os.environ.get("WATCHDOG_USEC")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return int(microseconds) / 1e6 if self._socket is not None and microseconds and mine else None

    def ready(self, status: str) -> None:
        """Say that the service works."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Say in a line what the service does; `systemctl status` shows it."""
        self._send(f"STATUS={status}")

    def waiting(self, status: str, seconds: float) -> None:
        """Say that the start takes longer, but goes on."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the service is going."""
        self._send("STOPPING=1\nSTATUS=finishing what runs")

    def alive(self) -> None:
        """Say that the event loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        text = f"{self._unsent}{text}"
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:  # full (systemd is busy) or gone: no reason to end the work; the next message comes in a second
            self._unsent = "READY=1\n" if "READY=1" in text else ""
        else:
            self._unsent = ""
