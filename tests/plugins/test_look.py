"""Whose a guest is and what of it differs, told without a server."""

from __future__ import annotations

from typing import Any

import pytest

from agentd_proxmox import guest_model


class TestLook:
    """Judging without a server."""

    @pytest.mark.parametrize(
        ("config", "seat"),
        [
            (None, guest_model.Seat.FREE),
            ({}, guest_model.Seat.STRANGER),
            ({"description": "x\nagentd:k.t\n"}, guest_model.Seat.OURS),
            ({"description": "agentd:k.t", "lock": "clone"}, guest_model.Seat.OURS),
            ({"description": "agentd:k.t2"}, guest_model.Seat.STRANGER),
            ({"description": "see agentd:k.t"}, guest_model.Seat.STRANGER),
            ({"lock": "create"}, guest_model.Seat.UNDECIDED),
            ({"lock": "clone", "description": " qmclone temporary file"}, guest_model.Seat.UNDECIDED),
            ({"lock": "clone", "description": "agentd:other"}, guest_model.Seat.STRANGER),
            ({"lock": "backup"}, guest_model.Seat.STRANGER),
        ],
    )
    def test_judge(self, config: dict[str, Any] | None, seat: guest_model.Seat) -> None:
        """Who sits on a VMID is told by the mark and the lock."""
        assert guest_model.judge(config, "k.t") is seat

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
