"""Print as JSON what the rollout has to know of a node before it changes anything there."""

import importlib.util
import json
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time


def first(pattern: str, text: str) -> str:
    """Return the first group of a match, "" without one."""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def text(path: str) -> str:
    """Return a file, "" if there is none."""
    file = pathlib.Path(path)
    return file.read_text() if file.is_file() else ""


systemd = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False).stdout
print(
    json.dumps(
        {
            "os": first(r"^ID=\"?([^\"\n]*)", text("/etc/os-release")),
            "release": int(first(r"^VERSION_ID=\"?(\d+)", text("/etc/os-release")) or 0),
            "systemd": int(first(r"systemd (\d+)", systemd) or 0),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "machine": platform.machine(),
            "venv": all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
            "hostname": platform.node().partition(".")[0],
            "pveum": shutil.which("pveum") is not None,
            "free": min(shutil.disk_usage(path).free for path in ("/opt", "/var/lib")) // 1_000_000,
            "time": time.time(),
            "cluster": first(r"^\s*cluster_name:\s*(\S+)", text("/etc/pve/corosync.conf")),
        }
    )
)
