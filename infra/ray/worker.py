"""Starts a Ray worker node on a machine that a cloud may take back, and drains it when the cloud says so.

    worker.py aws|gcp|none [arguments of `ray start`]

The process stays beside `ray start --block`, asks the machine's metadata service every few seconds, and ends Ray at a
notice, by SIGTERM: the node is marked as draining, training saves a checkpoint, no more work is sent there. Without it
a reclaimed machine is a crash for Ray. RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, in the caller's environment, must be
shorter than the notice: AWS gives two minutes, Google 30 seconds. The first call returns when Ray has started; the
watch goes on in a process of its own, which ends with Ray.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

# The same address on both clouds; a test puts its own server here.
METADATA = os.environ.get("VAMBA_METADATA", "http://169.254.169.254")
ASK_EVERY_S = float(os.environ.get("VAMBA_METADATA_INTERVAL", "5"))
START_TIMEOUT_S = 180.0
LOG = Path(os.environ.get("VAMBA_WORKER_LOG", "/tmp/vamba-worker.log"))
# Loopback and link-local addresses are never behind a proxy.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main() -> int:
    cloud, *arguments = sys.argv[1:] or [""]
    if cloud == "--watch":
        return watch(arguments[0], arguments[1:])
    if cloud not in NOTICES:
        print(f"worker.py: {cloud!r} is no cloud; choose one of {', '.join(NOTICES)}.", file=sys.stderr)
        return 2
    with LOG.open("wb") as log:
        command = [sys.executable, str(Path(__file__).resolve()), "--watch", cloud, *arguments]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in LOG.read_text(errors="replace"):
        if child.poll() is not None or time.monotonic() > deadline:
            print(LOG.read_text(errors="replace")[-4000:], file=sys.stderr)
            print(f"worker.py: Ray did not start; the text above is from {LOG}.", file=sys.stderr)
            child.terminate()
            return 1
        time.sleep(0.2)
    print("Ray runtime started.")
    return 0


def watch(cloud: str, arguments: list[str]) -> int:
    """Runs `ray start --block` to its end, and ends it at a notice. Returns its exit status."""
    ray = subprocess.Popen(["ray", "start", "--block", *arguments])
    signal.signal(signal.SIGTERM, lambda *_: ray.terminate())
    while ray.poll() is None:
        if NOTICES[cloud]():
            print("worker.py: the cloud takes this machine back; draining.", flush=True)
            ray.terminate()
            return ray.wait()
        try:
            ray.wait(ASK_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    return ray.returncode


def noticed_by_aws() -> bool:
    """Whether this spot instance has been told that it will be stopped or terminated."""
    token = _ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if token is None:
        return False
    return _ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}) is not None


def noticed_by_google() -> bool:
    """Whether this spot VM is being preempted."""
    return _ask("GET", "/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE"


def _ask(method: str, path: str, headers: dict[str, str]) -> str | None:
    """The answer's text; None where there is none (404: no notice), no metadata service, or none that makes sense."""
    request = urllib.request.Request(METADATA + path, method=method, headers=headers)
    try:
        with OPENER.open(request, timeout=2) as answer:
            return str(answer.read().decode().strip())
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return None


NOTICES = {"aws": noticed_by_aws, "gcp": noticed_by_google, "none": lambda: False}

if __name__ == "__main__":
    sys.exit(main())
