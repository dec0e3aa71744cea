"""Sends one request or mail; blocking, so it runs in a thread.

Python's own http.client and smtplib are used: `requests` is for the Proxmox client alone, and httpx2 is only installed
with the bridge.  Redirects are not followed: a redirect would send the token and the signed body to another host.
"""

from __future__ import annotations

import smtplib
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from email.message import EmailMessage

    from agentd_monitor.delivery.formats import HttpRequest
    from agentd_monitor.delivery.proxmox_target import MailRoute

TIMEOUT: Final = 10.0
"""Seconds to wait for the receiver, for each step."""
ANSWER_SHOWN: Final = 200
"""Maximum bytes of an error response that are read."""
TEMPORARY: Final = frozenset({408, 425, 429})
"""Status codes below 500 after which another attempt is useful."""
SUBMISSIONS: Final = 465
"""Port of SMTP with TLS from the start."""


class SendFailed(Exception):
    """The receiver did not accept a message.

    refused  another attempt is useless until a configuration changes
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


def post(request: HttpRequest, context: ssl.SSLContext | None = None, timeout: float = TIMEOUT) -> None:
    """Send a POST request; raises SendFailed if the response is not 2xx."""
    parts = urlsplit(request.url)
    host, path = parts.hostname or "", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection: HTTPConnection
    if parts.scheme == "https":
        connection = HTTPSConnection(host, parts.port, timeout=timeout, context=context or ssl.create_default_context())
    else:
        connection = HTTPConnection(host, parts.port, timeout=timeout)
    try:
        connection.request("POST", path, request.body, dict(request.headers))
        response = connection.getresponse()
        sentence = response.read(ANSWER_SHOWN).decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise SendFailed(f"{host}: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    if not 200 <= response.status < 300:  # noqa: PLR2004 - the class of success
        refused = response.status < 500 and response.status not in TEMPORARY  # noqa: PLR2004 - errors of the client
        raise SendFailed(f"{host} answered {response.status}: {sentence}", refused=refused)


def send_mail(message: EmailMessage, route: MailRoute, password: str = "", timeout: float = TIMEOUT) -> None:
    """Send a mail; raises SendFailed.  A password is never sent without TLS."""
    host = route.server
    if route.user and not password:
        raise SendFailed(f"the user {route.user} of {host} needs a password: set password_file", refused=True)
    if route.user and route.mode == "insecure":
        raise SendFailed("a password needs TLS: set starttls, or use port 465", refused=True)
    try:
        with _mail_server(route, timeout) as server:
            if route.user:
                server.login(route.user, password)
            server.send_message(message)
    except smtplib.SMTPResponseException as error:
        refused = error.smtp_code >= 500  # noqa: PLR2004 - permanent errors of SMTP
        raise SendFailed(f"{host} answered {error.smtp_code}", refused=refused) from error
    except smtplib.SMTPRecipientsRefused as error:
        raise SendFailed(f"{host} refused every recipient", refused=True) from error
    except (OSError, smtplib.SMTPException) as error:
        raise SendFailed(f"{host}: {str(error) or type(error).__name__}") from error


def _mail_server(route: MailRoute, timeout: float) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if route.mode == "tls":
        return smtplib.SMTP_SSL(route.server, route.port, timeout=timeout, context=context)
    server = smtplib.SMTP(route.server, route.port, timeout=timeout)
    if route.mode == "starttls":
        try:
            server.starttls(context=context)
        except BaseException:
            server.close()
            raise
    return server
