"""The simulator starts, ends, lets the right ones in, and reads requests as the real API does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pve.client import FakePve, available
from pve.tests.api import Api, poll

pytestmark = pytest.mark.skipif(not available(), reason="the simulator's environment is not there (.venv-pve)")


def test_starts_and_stops_cleanly_on_a_signal(tmp_path: Path) -> None:
    """The launcher says where it serves in one line and ends with code 0 on SIGTERM."""
    pve = FakePve(directory=tmp_path).start()
    process = pve.process
    try:
        assert pve.ca == tmp_path / "ca.pem"
        assert pve.pid == process.pid if process else False
        assert set(pve.tokens) == {"full", "audit", "blind"}
    finally:
        pve.stop()

    assert process is not None
    assert process.returncode == 0


def test_ends_with_its_parent(tmp_path: Path) -> None:
    """A simulator does not outlive the process that started it, however that one ended."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pve.client import FakePve;"
        "pve = FakePve().start(); print(pve.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).resolve().parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait(10)

    poll(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that is dead and not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_certificate_is_verified_strictly(pve: FakePve) -> None:
    """A client that does not know the CA refuses to connect to the simulator."""
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.exceptions.SSLError):
            session.get(pve.url + "/api2/json/version", timeout=5)


def test_cluster_from_a_file_with_an_empty_node(tmp_path: Path) -> None:
    """A cluster can be described in a JSON file, with nodes that hold nothing."""
    described = {"nodes": [{"name": "a"}, {"name": "b"}], "guests": [{"vmid": 500, "name": "only", "node": "a"}]}
    (tmp_path / "cluster.json").write_text(json.dumps(described))
    with FakePve(cluster=str(tmp_path / "cluster.json")) as pve:
        api = Api(pve)

        assert [node["node"] for node in api.data("GET", "/nodes")] == ["a", "b"]
        assert api.data("GET", "/nodes/b/qemu") == []
        assert [vm["vmid"] for vm in api.data("GET", "/nodes/a/qemu")] == [500]
        api.session.close()


@pytest.mark.parametrize(
    ("header", "reason"), [("", "No ticket"), ("PVEAPIToken=agentd@pve!full=wrong", "Authentication failed!")]
)
def test_wrong_token_is_401_with_empty_body(api: Api, header: str, reason: str) -> None:
    """A missing or wrong token gets 401, the real reason and no body."""
    api.session.headers["Authorization"] = header
    answer = api("GET", "/version")

    assert (answer.status_code, answer.reason, answer.text) == (401, reason, "")


def test_blind_token_sees_empty_lists(blind: Api) -> None:
    """A privilege-separated token without an entry gets empty lists, not errors."""
    assert blind.data("GET", "/nodes/pve1/qemu") == []
    assert blind.data("GET", "/nodes/pve1/storage") == []
    assert blind.data("GET", "/access/permissions") == {}
    assert {item["type"] for item in blind.data("GET", "/cluster/resources")} == {"node"}
    assert all("mem" not in node for node in blind.data("GET", "/nodes"))


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("POST", "/nodes/pve1/qemu/100/status/start", "Permission check failed (/vms/100, VM.PowerMgmt)"),
        ("GET", "/nodes/pve1/qemu/100/config", "Permission check failed (/vms/100, VM.Audit)"),
        ("POST", "/nodes/pve1/qemu/999/status/start", "Permission check failed (/vms/999, VM.PowerMgmt)"),
    ],
)
def test_blind_token_is_refused_with_the_missing_right(blind: Api, method: str, path: str, reason: str) -> None:
    """A 403 names the path and the privilege, before it says whether the guest exists."""
    answer = blind(method, path)

    assert (answer.status_code, answer.reason) == (403, reason)


def test_audit_token_reads_and_changes_nothing(audit: Api) -> None:
    """A token with PVEAuditor sees everything and changes nothing."""
    assert len(audit.data("GET", "/cluster/resources?type=vm")) == 9
    assert audit("POST", "/nodes/pve1/qemu/101/status/start").status_code == 403
    assert audit("PUT", "/nodes/pve1/qemu/101/config", onboot=1).status_code == 403
    assert "VM.PowerMgmt" not in audit.data("GET", "/access/permissions")["/"]


def test_full_token_has_every_privilege(api: Api) -> None:
    """The full token's permissions are the 47 privileges of an Administrator, path by path."""
    permissions = api.data("GET", "/access/permissions")

    assert {len(privileges) for privileges in permissions.values()} == {47}


def test_tokens_and_roles_are_kept(api: Api, pve: FakePve) -> None:
    """A role, user, token and entry made over the API really give the rights they say."""
    api.data("POST", "/access/roles", roleid="Starter", privs="VM.Audit,VM.PowerMgmt")
    api.data("POST", "/access/users", userid="bob@pve")
    made = api.data("POST", "/access/users/bob@pve/token/t1", privsep=1)
    api.data("PUT", "/access/acl", path="/vms/101", roles="Starter", users="bob@pve")
    bob = Api(pve)
    bob.session.headers["Authorization"] = f"PVEAPIToken={made['full-tokenid']}={made['value']}"

    assert bob("POST", "/nodes/pve1/qemu/101/status/start").status_code == 403
    api.data("PUT", "/access/acl", path="/vms/101", roles="Starter", tokens="bob@pve!t1")
    assert bob.exit("POST", "/nodes/pve1/qemu/101/status/start") == "OK"
    assert [vm["vmid"] for vm in bob.data("GET", "/cluster/resources", type="vm")] == [101]
    bob.session.close()


def test_unknown_path_is_501(api: Api) -> None:
    """An unknown path or method is 501 with the real text; there is no 404."""
    answer = api("GET", "/nosuch")

    assert (answer.status_code, answer.reason) == (501, "Method 'GET /nosuch' not implemented")
    assert api("POST", "/version").status_code == 501


def test_unknown_node_fails_by_name_lookup(api: Api) -> None:
    """A node that does not exist fails as a failing name lookup."""
    reason = "hostname lookup 'x' failed - failed to get address info for: x: Name or service not known"
    answers = [api("GET", "/nodes/x/qemu"), api("GET", "/nodes/x/status"), api("POST", "/nodes/x/qemu", vmid=300)]

    assert {(answer.status_code, answer.reason) for answer in answers} == {(500, reason)}


@pytest.mark.parametrize("word", ["yes", "true", "on", "2"])
def test_booleans_are_one_and_zero(api: Api, word: str) -> None:
    """A form's booleans are 1 and 0; words are refused."""
    answer = api("PUT", "/nodes/pve1/qemu/101/config", onboot=word)

    assert answer.status_code == 400
    assert answer.json()["errors"] == {"onboot": f"type check ('boolean') failed - got '{word}'"}
    assert api("PUT", "/nodes/pve1/qemu/101/config", onboot=1).status_code == 200


def test_unencoded_equals_sign_cuts_the_value(api: Api, pve: FakePve) -> None:
    """A form value is cut at an unencoded '=' and kept whole when it is percent-encoded."""
    url = api.base + "/nodes/pve1/qemu/101/config"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    api.session.put(url, data="description=a=b", headers=headers, timeout=5)
    cut = pve.found(101)
    api.session.put(url, data="description=a%3Db", headers=headers, timeout=5)
    whole = pve.found(101)

    assert (cut or {})["description"] == "a"
    assert (whole or {})["description"] == "a=b"


def test_empty_change_and_unknown_key_are_refused(api: Api) -> None:
    """A change of nothing is 500, and deleting an unknown key is 400."""
    path = "/nodes/pve1/qemu/101/config"
    nothing, unknown = api("PUT", path), api("PUT", path, delete="nosuch")

    assert (nothing.status_code, nothing.reason) == (500, "no options specified")
    assert (unknown.status_code, unknown.json()["errors"]) == (400, {"delete": "unknown option 'nosuch'"})


def test_missing_guest_is_500(api: Api) -> None:
    """A guest that is not on the node, even if it is on another, is 500 with the file's name."""
    for node, vmid in (("pve1", 999), ("pve1", 102)):
        answer = api("GET", f"/nodes/{node}/qemu/{vmid}/config")
        text = f"Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist"

        assert (answer.status_code, answer.reason) == (500, text)
        assert answer.json() == {"data": None, "message": text + "\n"}


def test_schema_is_served_to_anyone(pve: FakePve) -> None:
    """The node serves its own schema without a login."""
    answer = requests.get(pve.url + "/pve-docs/api-viewer/apidoc.js", verify=str(pve.ca), timeout=5, proxies={})
    found = re.search(r"const apiSchema = (\[.*?\n\])\s*;", answer.text, re.DOTALL)
    assert found
    paths = {item["path"]: item for item in json.loads(found.group(1))}

    assert {"/access", "/cluster", "/nodes", "/version"} <= set(paths)
    assert "GET" in paths["/version"]["info"]


def test_outlives_the_thread_that_started_it() -> None:
    """A simulator that a thread has started serves on when that thread has ended."""
    with ThreadPoolExecutor(1) as pool:
        pve = pool.submit(FakePve().start).result()
    try:
        assert pve.inventory()["quorate"] is True
        assert is_alive(pve.pid)
    finally:
        pve.stop()


def test_login_by_password(pve: FakePve) -> None:
    """A ticket opens reads, and writes only with its CSRF token; a wrong password is 401 with a body."""
    api = Api(pve)
    del api.session.headers["Authorization"]
    wrong = api("POST", "/access/ticket", username="root@pam", password="no")  # noqa: S106 - a simulator's
    ticket = api.data("POST", "/access/ticket", username="root@pam", password="secret")  # noqa: S106 - as above
    api.session.cookies.set("PVEAuthCookie", ticket["ticket"])
    unsafe = api("POST", "/nodes/pve1/qemu/101/status/start")
    api.session.headers["CSRFPreventionToken"] = ticket["CSRFPreventionToken"]

    assert (wrong.status_code, wrong.json()["message"]) == (401, "authentication failure\n")
    assert len(api.data("GET", "/nodes")) == 3
    assert (unsafe.status_code, unsafe.reason, unsafe.text) == (401, "Permission denied - invalid csrf token", "")
    assert api("POST", "/nodes/pve1/qemu/101/status/start").status_code == 200
    api.session.close()
