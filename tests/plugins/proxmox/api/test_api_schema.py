"""The API's schema, thought through without a server: every method can be found, explained, checked and has a tier."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd import errors
from agentd.wire.messages import Tier
from agentd_proxmox import api_schema
from agentd_proxmox.api import parameter_checks
from agentd_proxmox.api.descriptions import describe
from agentd_proxmox.api.request_parts import fill_path, upid_in
from agentd_proxmox.api.tools import WORKERS, page_of
from agentd_proxmox.api.tools import Get as Request
from agentd_proxmox.api_tiers import tier_of

if TYPE_CHECKING:
    from pathlib import Path


def method(**changes: Any) -> dict[str, Any]:
    """Return a method as apidoc.js writes it."""
    base = {
        "name": "m",
        "description": "Does something. And more.",
        "parameters": {"additionalProperties": 0, "properties": {}},
        "returns": {"type": "null"},
        "permissions": {"user": "all"},
    }
    return base | changes


def script(paths: dict[str, dict[str, Any]], *, indent: int | None = 1) -> bytes:
    """Return apidoc.js for these methods, as a node serves it: code before and after the constant."""
    items = [{"path": path, "text": path, "leaf": 1, "info": info} for path, info in paths.items()]
    return f"// generated\nconst apiSchema = {json.dumps(items, indent=indent)}\n;\n\nlet a = [1];\n".encode()


def catalogue(paths: dict[str, dict[str, Any]]) -> api_schema.Catalogue:
    """Return the catalogue of these methods."""
    return api_schema.Catalogue("9.9", b"\n".join(api_schema.lines_of(script(paths))))


@pytest.fixture(scope="module")
def real(facts: Path) -> api_schema.Catalogue:
    """Return the catalogue of the recorded schema of Proxmox VE 9.2."""
    recorded = json.loads((facts / "pve" / "pve-api-schema-9.2.json").read_text())
    paths: dict[str, dict[str, Any]] = {}
    for key, item in recorded.items():
        verb, _, path = key.partition(" ")
        if path:
            properties = {"properties": item["parameters"], "additionalProperties": item.get("additionalProperties", 0)}
            paths.setdefault(path, {})[verb] = item | {"parameters": properties}
    return catalogue(paths)


GUEST = {
    "vmid": {"type": "integer", "minimum": 100, "maximum": 999999999, "format": "pve-vmid"},
    "node": {"type": "string", "format": "pve-node"},
}
NET = {
    "model": {"type": "string", "enum": ["virtio", "e1000"], "default_key": 1},
    "virtio": {"alias": "macaddr"},
    "macaddr": {"type": "string", "optional": 1, "format": "mac-addr"},
    "bridge": {"type": "string", "optional": 1},
    "firewall": {"type": "boolean", "optional": 1},
    "tag": {"type": "integer", "optional": 1, "minimum": 1, "maximum": 4094},
}
CONFIG = {
    **GUEST,
    "cores": {"type": "integer", "optional": 1, "minimum": 1, "default": 1},
    "onboot": {"type": "boolean", "optional": 1},
    "net[n]": {"type": "string", "optional": 1, "format": NET},
    "name": {"type": "string", "optional": 1, "format": "dns-name"},
    "bios": {"type": "string", "optional": 1, "enum": ["seabios", "ovmf"]},
    "delete": {"type": "string", "optional": 1, "format": "pve-configid-list"},
    "description": {"type": "string", "optional": 1, "maxLength": 64},
    "keys": {"type": "array", "optional": 1, "items": {"type": "string"}},
    "tags": {"type": "string", "optional": 1, "format": "pve-tag-list"},
    "cipassword": {"type": "string", "optional": 1, "requires": "ciuser"},
    "ciuser": {"type": "string", "optional": 1, "pattern": "(?^i:[a-z]+)"},
}
SMALL = {
    "/nodes/{node}/qemu/{vmid}/config": {
        "GET": method(parameters={"properties": GUEST}),
        "POST": method(parameters={"properties": CONFIG}, returns={"type": "string"}),
    },
    "/nodes/{node}/storage/{storage}/content/{volume}": {
        "DELETE": method(parameters={"properties": {"node": {}, "storage": {}, "volume": {"type": "string"}}})
    },
    "/nodes/{node}/qemu/{vmid}/brandnew": {"POST": method(parameters={"properties": GUEST})},
}
AT = "/nodes/pve1/qemu/100/config"


def faults(**parameters: Any) -> list[str]:
    """Return what is wrong with a change of a VM's configuration."""
    return parameter_checks.check(catalogue(SMALL).resolve("POST", AT), parameters)[1]


class TestScript:
    """apidoc.js."""

    @pytest.mark.parametrize("indent", [None, 1, 3])
    def test_read(self, indent: int | None) -> None:
        """The constant is found among code, however it is laid out, nested or flat."""
        nested = {"path": "/a", "children": [{"path": "/a/b", "info": {"GET": method(description="x]\n;")}}]}
        text = f"var pveapi = {json.dumps([nested], indent=indent)}\n;\nlet b = [];\n".encode()

        assert api_schema.Catalogue("1", b"\n".join(api_schema.lines_of(text))).keys() == ["GET /a/b"]

    @pytest.mark.parametrize("text", [b"", b"<html>", b"const a = [", b"const a = [1]\n;", b"const a = []\n;"])
    def test_none(self, text: bytes) -> None:
        """What holds no schema is refused by name, never half read."""
        with pytest.raises(errors.Rejected, match=r"apidoc\.js"):
            api_schema.lines_of(text)


class TestPaths:
    """From a path to its method."""

    def test_values(self) -> None:
        """A path with or without its variables filled in leads to the method; a volume holds slashes."""
        known = catalogue(SMALL)

        assert known.resolve("GET", AT).values == {"node": "pve1", "vmid": "100"}
        assert known.resolve("GET", "/nodes/{node}/qemu/{vmid}/config").values == {}
        volume = known.resolve("DELETE", "/nodes/pve1/storage/local/content/local:iso/a.iso")
        assert volume.values["volume"] == "local:iso/a.iso"

    def test_unknown(self) -> None:
        """An unknown path is distinguished from an unknown method, each with what there is."""
        known = catalogue(SMALL)

        with pytest.raises(errors.NotFound, match=r"is no path of Proxmox VE 9\.9; did you mean .*/config"):
            known.resolve("GET", "/nodes/pve1/qemu/100/configg")
        with pytest.raises(errors.NotFound, match="has no PUT; it has GET, POST"):
            known.resolve("PUT", AT)

    @pytest.mark.parametrize("value", ["..", "a/b", "a%2fb", "a b", "a\n", "a?b", "", "x" * 80])
    def test_traversal(self, value: str) -> None:
        """No value of a variable leads elsewhere."""
        known = catalogue(SMALL).resolve("POST", "/nodes/{node}/qemu/100/config")
        values, _ = fill_path(known, {"node": value})
        found = parameter_checks.check(api_schema.Endpoint(known.verb, known.path, known.info, values), {})[1]

        assert [fault for fault in found if fault.startswith("node: ")]


class TestChecks:
    """Parameters against the schema."""

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"core": 2}, "core: unknown; did you mean cores?"),
            ({"cores": "two"}, "cores: 'two' is not an integer"),
            ({"cores": True}, "cores: 'True' is not an integer"),
            ({"cores": 0}, "cores: 0 is below 1"),
            ({"onboot": "maybe"}, "onboot: 'maybe' is not true or false"),
            ({"bios": "efi"}, "bios: 'efi' is none of seabios, ovmf"),
            ({"description": "x" * 65}, "description: has 65 characters; 64 may be"),
            ({"description": ""}, "description: an empty text is not sent"),
            ({"description": "a\x00b"}, "description: holds a control character"),
            ({"name": "-bad-"}, "name: '-bad-' is not a DNS name"),
            ({"ciuser": "7"}, "ciuser: '7' does not fit the pattern"),
            ({"cipassword": "x"}, "cipassword: can only be given with ciuser"),
            ({"delete": ["net0", "a b"]}, "delete: 'a b' cannot be part of a list"),
            ({"delete": "net0,!"}, "delete: '!' is not a name"),
            ({"net0": "virtio,bridgge=vmbr0"}, "net0: 'bridgge' is no property; did you mean bridge?"),
            ({"net0": "virtio,tag=9999"}, "net0: tag: 9999 is above 4094"),
            ({"net0": "virtio,tag=1,tag=2"}, "net0: tag is given twice"),
            ({"net0": {"model": "virtio", "bridge": "a,b"}}, "net0: bridge: a ',' "),
            ({"keys": []}, "keys: an empty list cannot be sent"),
            ({"cores": None}, "cores: null cannot be sent"),
            ({"cores": [1]}, "cores: takes one value"),
            ({"description": "x" * 300_000}, "longer than"),
            ({"vmid": 101}, "vmid: is in the path already"),
        ],
    )
    def test_fault(self, parameters: dict[str, Any], words: str) -> None:
        """Each fault names its parameter and says what would be right."""
        assert [fault for fault in faults(**parameters) if words in fault]

    def test_all_at_once(self) -> None:
        """Every fault is named in one answer."""
        assert len(faults(core=2, cores=0, onboot="maybe", net0="x=1")) == 4

    def test_encoded(self) -> None:
        """Booleans, lists, tags and objects arrive as Proxmox reads them."""
        sent, found = parameter_checks.check(
            catalogue(SMALL).resolve("POST", AT),
            {
                "onboot": True,
                "cores": 2,
                "tags": ["a", "b"],
                "delete": ["net1", "net2"],
                "keys": ["a=b", "c"],
                "net0": {"model": "virtio", "bridge": "vmbr0", "firewall": True},
                "net1": "virtio=BC:24:11:00:00:01,bridge=vmbr0",
            },
        )

        assert found == []
        assert sent["onboot"] == "1"
        assert sent["tags"] == "a;b"
        assert sent["delete"] == "net1,net2"
        assert sent["keys"] == ["a=b", "c"]
        assert sent["net0"] == "model=virtio,bridge=vmbr0,firewall=1"

    def test_no_endless_pattern(self, real: api_schema.Catalogue) -> None:
        """Every pattern of the real schema is used, but for those that could run for ever."""
        found = {
            parameter["pattern"]
            for key in sorted(real.keys())
            for parameter in real.info(key)["parameters"].values()
            if isinstance(parameter.get("pattern"), str)
        }
        left_out = [item for item in found if parameter_checks.compiled(item) is None]

        assert len(found) > 40
        assert len(left_out) == 3
        assert all("]*)[" in item or "]*)*" in item for item in left_out)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.text(max_size=12),
            st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4),
        )
    )
    def test_any_value(self, parameters: dict[str, Any]) -> None:
        """Any value is either sent as text or is a fault."""
        sent, found = parameter_checks.check(catalogue(SMALL).resolve("POST", AT), parameters)

        assert found or all(isinstance(message, str | list) for message in sent.values())


class TestTiers:
    """Which tier a call needs."""

    @pytest.mark.parametrize(
        ("key", "parameters", "tier"),
        [
            ("GET /nodes/{node}/qemu/{vmid}/config", {}, Tier.READ),
            ("GET /nodes/{node}/qemu/{vmid}/agent/file-read", {}, Tier.EXEC),
            ("GET /nodes/{node}/qemu/{vmid}/agent/exec-status", {}, Tier.EXEC),
            ("GET /nodes/{node}/vncwebsocket", {}, Tier.EXEC),
            ("POST /nodes/{node}/qemu/{vmid}/status/start", {}, Tier.OPERATE),
            ("POST /nodes/{node}/qemu", {}, Tier.OPERATE),
            ("POST /nodes/{node}/qemu", {"archive": "local:backup/x", "force": True}, Tier.DESTROY),
            ("PUT /nodes/{node}/qemu/{vmid}/config", {"cores": 2}, Tier.OPERATE),
            ("PUT /nodes/{node}/qemu/{vmid}/config", {"delete": "scsi1"}, Tier.DESTROY),
            ("PUT /nodes/{node}/qemu/{vmid}/config", {"delete": ["description"]}, Tier.OPERATE),
            ("PUT /nodes/{node}/qemu/{vmid}/config", {"protection": False}, Tier.DESTROY),
            ("POST /nodes/{node}/qemu/{vmid}/config", {"hookscript": "local:snippets/x"}, Tier.EXEC),
            ("POST /nodes/{node}/qemu/{vmid}/move_disk", {"delete": 1}, Tier.DESTROY),
            ("POST /nodes/{node}/vzdump", {"prune-backups": "keep-last=1"}, Tier.DESTROY),
            ("POST /nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback", {}, Tier.DESTROY),
            ("DELETE /nodes/{node}/qemu/{vmid}", {}, Tier.DESTROY),
            ("PUT /nodes/{node}/disks/wipedisk", {}, Tier.DESTROY),
            ("DELETE /nodes/{node}/disks/zfs/{name}", {}, Tier.DESTROY),
            ("POST /nodes/{node}/disks/zfs", {}, Tier.DESTROY),
            ("POST /nodes/{node}/status", {}, Tier.DESTROY),
            ("DELETE /cluster/config/nodes/{node}", {}, Tier.DESTROY),
            ("PUT /access/acl", {}, Tier.EXEC),
            ("POST /nodes/{node}/execute", {}, Tier.EXEC),
            ("POST /nodes/{node}/qemu/{vmid}/agent/exec", {}, Tier.EXEC),
            ("POST /nodes/{node}/qemu/{vmid}/monitor", {}, Tier.EXEC),
            ("POST /nodes/{node}/lxc/{vmid}/termproxy", {}, Tier.EXEC),
            ("POST /access/ticket", {}, Tier.EXEC),
        ],
    )
    def test_reviewed(self, real: api_schema.Catalogue, key: str, parameters: dict[str, Any], tier: Tier) -> None:
        """The tiers of what matters most are these."""
        verb, _, path = key.partition(" ")

        assert tier_of(real.resolve(verb, path), parameters)[0] is tier

    def test_unknown_is_destroy(self) -> None:
        """A write that was not reviewed, as a newer version brings, is refused until it is."""
        assert tier_of(catalogue(SMALL).resolve("POST", "/nodes/a/qemu/100/brandnew"))[0] is Tier.DESTROY

    def test_lists_are_real(self, real: api_schema.Catalogue) -> None:
        """Everything in the reviewed lists and the table of tasks exists in the real API."""
        keys = real.keys()

        assert set(WORKERS) <= set(keys)
        assert all(real.resolve(*key.split(" ", 1)).answers_task for key in WORKERS)


class TestWhole:
    """The recorded schema of Proxmox VE 9.2."""

    def test_every_method(self, real: api_schema.Catalogue) -> None:
        """Each of the 675 methods is found by its path, explained in few words, and has a tier."""
        tiers: Counter[str] = Counter()
        for key in sorted(real.keys()):
            endpoint = real.resolve(*key.split(" ", 1))
            answer = describe(endpoint)
            tiers[tier_of(endpoint)[0]] += 1

            assert endpoint.key == key
            assert answer.permissions
            assert set(answer.parameters) == set(endpoint.info["parameters"])

        assert len(real) == 675
        assert tiers == {Tier.READ: 317, Tier.OPERATE: 95, Tier.DESTROY: 206, Tier.EXEC: 57}

    @pytest.mark.parametrize(
        ("words", "first"),
        [
            ("snapshot rollback qemu", "POST /nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback"),
            ("replication create", "POST /cluster/replication"),
            ("acl", "PUT /access/acl"),
            ("wipedisk", "PUT /nodes/{node}/disks/wipedisk"),
            ("zfs create", "POST /nodes/{node}/disks/zfs"),
        ],
    )
    def test_found(self, real: api_schema.Catalogue, words: str, first: str) -> None:
        """What a person would search for is among the first."""
        ranked = sorted(real.keys(), key=lambda key: -api_schema.rank(key, real.info(key), words.split()))

        assert first in ranked[:3]


class TestAnswers:
    """What comes back."""

    def test_pages(self) -> None:
        """A list comes as pages that together are the list, in one order however Proxmox shuffles it."""
        listed = [{"vmid": number, "name": "x"} for number in range(100, 130)]
        first = page_of(listed, Request("/x", limit=20, fields=["vmid"]))
        second = page_of(listed[::-1], Request("/x", limit=20, cursor=first.next, fields=["vmid"]))

        assert (first.total, first.next, second.next) == (30, "20", "")
        assert [item["vmid"] for item in [*first.data, *second.data]] == list(range(100, 130))

    def test_upid(self) -> None:
        """A UPID is distinguished from other texts, also from such as begin like one."""
        upid = "UPID:pve1:000001DF:00033DD8:6B02BFBE:qmcreate:101:agent@pve!full:"

        assert upid_in(upid) == upid
        assert [upid_in(item) for item in ("UPID:x", "acme", None, {"upid": upid})] == [None] * 4

    def test_clean(self) -> None:
        """Control characters of guests and logs do not come through."""
        assert page_of({"a": ["x\x1b[31m"]}, Request("/x")).data == {"a": ["x [31m"]}
