"""Ownership and differences of a guest, decided without a server."""

from __future__ import annotations

from typing import Any

import pytest

from agentd_proxmox.model import guest_model


class TestLook:
    """Judging without a server."""

    @pytest.mark.parametrize(
        ("config", "owner"),
        [
            (None, guest_model.VmidOwner.FREE),
            ({}, guest_model.VmidOwner.FOREIGN),
            ({"description": "x\nagentd:k.t\n"}, guest_model.VmidOwner.OURS),
            ({"description": "agentd:k.t", "lock": "clone"}, guest_model.VmidOwner.OURS),
            ({"description": "agentd:k.t2"}, guest_model.VmidOwner.FOREIGN),
            ({"description": "see agentd:k.t"}, guest_model.VmidOwner.FOREIGN),
            ({"lock": "create"}, guest_model.VmidOwner.UNDECIDED),
            ({"lock": "clone", "description": " qmclone temporary file"}, guest_model.VmidOwner.UNDECIDED),
            ({"lock": "clone", "description": "agentd:other"}, guest_model.VmidOwner.FOREIGN),
            ({"lock": "backup"}, guest_model.VmidOwner.FOREIGN),
        ],
    )
    def test_judge(self, config: dict[str, Any] | None, owner: guest_model.VmidOwner) -> None:
        """The mark and the lock show the owner of a VMID."""
        assert guest_model.owner_of(config, "k.t") is owner

    def test_changes(self) -> None:
        """Only what differs is changed, in all the ways in which Proxmox writes it."""
        config = {"memory": "current=2048", "tags": "b;a", "onboot": 1, "agent": "enabled=1,type=virtio", "cores": 1}

        assert guest_model.changes(config, {"memory": 2048, "tags": ["a", "b"], "onboot": True, "agent": True}) == {}
        assert guest_model.changes(config, {"cores": 1, "name": None, "ciuser": ""}) == {}
        assert guest_model.changes(config, {"tags": [], "agent": False, "cores": 2}) == {
            "agent": False,
            "cores": 2,
            "delete": "tags",
        }

    def test_sizes(self) -> None:
        """Sizes are read in every unit."""
        sizes = {"a,size=1G": 1, "a,size=512M": 0.5, "a,size=2T": 2048, "size=1048576K": 1, "a": 0}

        assert {drive: guest_model.disk_size(drive) for drive in sizes} == sizes
