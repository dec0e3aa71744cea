"""Reports the state of the service to systemd (sd_notify(3)).

The protocol is one datagram to a socket that the environment names, so it needs no library.
"""

from __future__ import annotations

import os
import socket
import time


class Systemd:
    """The connection to systemd; does nothing without systemd."""

    def __init__(self) -> None:
        """Open the socket named by NOTIFY_SOCKET; without it, all methods do nothing."""
        path = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if path else None
        if self._socket is not None:
            self._socket.settimeout(0)
        self._unsent = ""

    @property
    def watchdog(self) -> float | None:
        """Return the seconds of systemd's watchdog; None if it is off."""
        microseconds = os.environ.get("WATCHDOG_USEC")
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        return int(microseconds) / 1e6 if self._socket is not None and microseconds and own else None

    def ready(self, status: str) -> None:
        """Report that the service is ready."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Report in one line what the service does; `systemctl status` shows it."""
        self._send(f"STATUS={status}")

    def waiting(self, status: str, seconds: float) -> None:
        """Report that the start continues, and allow it `seconds` more from now."""
        self._send(f"STATUS={status}\nEXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def reloading(self) -> None:
        """Report that the configuration is being reloaded; `ready` ends the reload."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1\nSTATUS=finishing what runs")

    def alive(self) -> None:
        """Report that the event loop runs (watchdog)."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        text = f"{self._unsent}{text}"
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:  # the socket is full (systemd is busy) or gone: continue, the next message comes in a second
            self._unsent = "READY=1\n" if "READY=1" in text else ""
        else:
            self._unsent = ""
