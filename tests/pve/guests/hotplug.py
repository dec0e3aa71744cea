# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a configuration change does to a running guest, and what it changes beside the options that it names.

From qemu-server 9.2 and pve-container: a device that is taken off leaves the boot order; a network card without a MAC
address gets a random one; tags are lower-cased, sorted and separated by `;`; some options of a running VM change at
once, and one whose hotplug fails stays pending although the change is refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fakepve.qemu import with_mac

if TYPE_CHECKING:
    from pve.foreign import Guest

CLOUD = re.compile(
    r"(hotplug|ciuser|cipassword|citype|cicustom|ciupgrade|sshkeys|nameserver|searchdomain|ipconfig\d+)\Z"
)
NET = re.compile(r"net\d+\Z")
BRIDGE = re.compile(r"(?:^|,)bridge=([^,]+)")
DEVICE = re.compile(r"(scsi|virtio|net)\d+\Z")


def written(key: str, value: object) -> object:
    """Return the value of an option as the real API writes it."""
    if NET.match(key):
        return str(with_mac(value))
    if key == "tags":
        return ";".join(sorted({tag.lower() for tag in re.split(r"[;, \t]+", str(value)) if tag}))
    return value


def without(vm: Guest, keys: list[str]) -> str | None:
    """Return the boot order without the devices that are deleted; None if it does not change."""
    boot = str(vm.pending.get("boot") or vm.config.get("boot") or "")
    if not boot.startswith("order="):
        return None
    before = boot.removeprefix("order=").split(";")
    after = [device for device in before if device not in keys or device not in vm.config]
    if after == before:
        return None
    return "order=" + ";".join(after) if after else ""


def problem(vm: Guest, key: str, bridges: set[str]) -> str:
    """Return why a network card cannot be plugged: its bridge does not exist."""
    found = BRIDGE.search(str(vm.pending.get(key) or ""))
    if not NET.match(key) or found is None or found[1] in bridges:
        return ""
    return f"hotplug problem - bridge '{found[1]}' does not exist"


def plug(vm: Guest, bridges: set[str]) -> dict[str, str]:
    """Change what a running VM can change at once; returns the problems, whose values stay pending."""
    errors: dict[str, str] = {}
    if vm.config.get("hotplug") == "0":
        return errors  # simpler than the real API, which changes parts of a network card all the same
    for key in list(vm.pending):
        value = vm.pending[key]
        media = "media=cdrom" in str(value) or "media=cdrom" in str(vm.config.get(key))
        hot = CLOUD.match(key) or (DEVICE.match(key) and not media)
        if DEVICE.match(key) and not NET.match(key) and value is not None and key in vm.config:
            hot = None  # most options of a drive that is there change at the next start
        if not hot:
            continue
        if text := problem(vm, key, bridges):
            errors[key] = text
            continue
        del vm.pending[key]
        if value is None:
            vm.config.pop(key, None)
        else:
            vm.config[key] = value
    for key in [key for key, value in vm.pending.items() if value is not None and vm.config.get(key) == value]:
        del vm.pending[key]
    return errors
