"""One call of each tool for realms and for notifications."""

from __future__ import annotations

from typing import Any

REALM: dict[str, Any] = {"id": "walked"}
LDAP: dict[str, Any] = {"server1": "ldap.example.com", "base_dn": "dc=example,dc=com", "user_attr": "uid"}
METER: dict[str, Any] = {"name": "walked", "type": "graphite", "server": "192.0.2.7", "port": 2003}
WALK: list[tuple[str, Any]] = [
    ("create_realm", {**REALM, "type": "ldap", "settings": LDAP}),
    ("get_realm", REALM),
    ("update_realm", {**REALM, "settings": {"comment": "x"}}),
    ("delete_realm", REALM),
    ("create_mail_target", {"name": "walked", "type": "sendmail", "to": ["ops@example.com"]}),
    ("set_notification_matcher", {"name": "walked", "targets": ["walked"]}),
    ("set_notification_matcher", {"name": "walked", "targets": ["walked"], "severities": ["error"]}),
    ("delete_notification_matcher", {"name": "walked"}),
    ("delete_notification_target", {"name": "walked"}),
    ("create_metric_server", METER),
    ("delete_metric_server", {"name": "walked"}),
]
