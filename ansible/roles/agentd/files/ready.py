"""Wait until every URL of the command line answers with 200; print why one does not."""

import sys
import time
import urllib.error
import urllib.request


def problem(url: str) -> str:
    """Return why the agent at `url` is not ready, "" if it is."""
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - http
            return ""
    except urllib.error.HTTPError as error:
        return f"{url}: {error.read().decode(errors='replace')[:500]}"
    except OSError as error:
        return f"{url}: {error}"


end = time.monotonic() + 60
waiting = sys.argv[1:]
while waiting and time.monotonic() < end:
    waiting = [url for url in waiting if problem(url)]
    time.sleep(1 if waiting else 0)
sys.exit("\n".join(problem(url) for url in waiting) or 0)
