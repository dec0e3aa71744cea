"""Store secrets of this node, each encrypted by systemd for one credential: python3 credentials.py [--check] < JSON.

The JSON is a list of objects with `name` (of the credential), `file` and `secret`.  Prints the files that change: a
secret that is stored already stays as it is, because each encryption has another content.  --check changes nothing.
"""

import json
import os
import pathlib
import subprocess
import sys


def stored(name: str, file: str) -> str | None:
    """Return the secret in a file; None if there is none, or not for this credential of this machine."""
    command = ["systemd-creds", "decrypt", f"--name={name}", file, "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout


def store(name: str, file: str, secret: str) -> None:
    """Replace the file."""
    new = pathlib.Path(f"{file}.new")
    command = ["systemd-creds", "encrypt", f"--name={name}", "-", str(new)]
    done = subprocess.run(command, input=secret, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"systemd-creds cannot encrypt {file}: {done.stderr.strip()}")
    new.chmod(0o600)
    new.replace(file)


os.umask(0o077)
for entry in json.load(sys.stdin):
    if stored(entry["name"], entry["file"]) != entry["secret"]:
        print(entry["file"])
        if "--check" not in sys.argv:
            store(**entry)
