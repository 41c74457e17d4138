"""The containers' health check: `health.py` asks this node's raylet, where one runs; `health.py URL` asks a server.

A container that runs a command without Ray is healthy: its end says how it went.
"""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

RAYLET = os.environ.get("VAMBA_RAYLET_HEALTH", "http://127.0.0.1:52365/api/local_raylet_healthz")
RAY_SESSION = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "session_latest"


def main() -> int:
    if len(sys.argv) == 1 and not RAY_SESSION.exists():
        return 0
    url = sys.argv[1] if len(sys.argv) > 1 else RAYLET
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"{url}: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
