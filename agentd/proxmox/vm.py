"""The parameters of a VM, for vm_deployment and the specialist's tools.

They are here because plugins do not import each other.  A new option of a VM is one field in this file; it must also be
a parameter of update_vm or create_vm (a test compares them).
"""

from __future__ import annotations

from typing import Final

import msgspec


class BasicOptions(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The options that every VM can have; None: not changed."""

    cores: int | None = None
    memory: int | None = None
    tags: list[str] | None = None


class VmOptions(BasicOptions, frozen=True, kw_only=True):
    """The options that a deployment sets with update_vm."""

    ciuser: str | None = None
    sshkeys: str | None = None
    ipconfig0: str | None = None
    nameserver: str | None = None


class VmParameters(VmOptions, frozen=True):
    """The requested VM; only the name is required.

    template   VMID or name of the template to clone; without it, the VM is new and empty
    full       true: a full copy of the template; false: a linked clone, which is quick and depends on the template
    memory     MiB; disk: GiB, of the first disk; both as in the template if left out
    iso        the ISO image that an empty VM boots from, for example local:iso/debian.iso
    sshkeys    public keys, one per line; ipconfig0: for example ip=dhcp or ip=192.0.2.5/24,gw=192.0.2.1
    """

    name: str
    vmid: int | None = None
    node: str | None = None
    template: int | str | None = None
    full: bool = True
    disk: int | None = None
    storage: str | None = None
    bridge: str | None = None
    iso: str | None = None
    pool: str | None = None
    description: str = ""
    start: bool = True


CLOUD_INIT: Final = tuple(name for name in VmOptions.__struct_fields__ if name not in BasicOptions.__struct_fields__)
"""Options that need cloud-init in the guest."""
