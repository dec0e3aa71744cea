# SPDX-License-Identifier: AGPL-3.0-or-later
"""Disks that are copies of images: the drive option import-from, which fakepve takes for nothing.

As qemu-server's API: the volume must be there and of content `images` or `import`, the new disk is as large as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fakepve import FakePve
from fakepve.lxc import format_size
from fakepve.qemu import join_drive, split_drive, volume_ref
from fakepve.routing import die, param_error

if TYPE_CHECKING:
    from pve.foreign import Values

KINDS = ("images", "import")


class Imports(FakePve):  # type: ignore[misc] # untyped
    """Mixin of the simulator: scsi0=STORAGE:0,import-from=VOLUME."""

    async def _qm_create(self, v: Values, user: str) -> str:
        for key, value in v.items():
            source = split_drive(str(value))[1].get("import-from") if key.startswith("scsi") else None
            if source and self._source(source)["content"] not in KINDS:
                kind = self._source(source)["content"]
                raise param_error(**{key: f"{source} has wrong type '{kind}' - needs to be 'images' or 'import'"})
        return str(await super()._qm_create(v, user))

    def _source(self, volid: str) -> Values:
        sid, name = volume_ref(volid)
        found = self._volumes(sid).get(name) if sid in self.storages else None
        if found is None:
            raise die(f"volume '{volid}' does not exist")
        return dict(found)

    def _qm_new_drive(self, vmid: int, key: str, value: str, default: str | None) -> tuple[str, list[str]]:
        volume, props = split_drive(value)
        source = dict(props).pop("import-from", None)
        if source is None:
            return super()._qm_new_drive(vmid, key, value, default)  # type: ignore[no-any-return]
        size = int(self._source(source).get("size") or 0)
        volid, _ = self._qm_alloc(volume.partition(":")[0], vmid, None, size)
        return join_drive(volid, {"size": format_size(size)}), [volid]
