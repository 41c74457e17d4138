"""A namespace of Kubernetes, through kubectl: it has the user's access, whatever way that is granted.

send    a finished RayJob of the name is replaced, a running one refused, then `kubectl create`
follow  the log of the job's submitter, which shows the driver's, once the queue has let it start
stop    the driver gets SIGTERM by `ray job stop` in the head, and saves
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs.submission.manifests import manifest_text
from jobs.submission.place import STOPPED, Note
from jobs.submission.plan import Submission

_POLL_S = 2.0
_AWAY_S = 300.0
_REFUSED_WITHIN_S = 10.0
_ENDED = ("Complete", "Failed")
_EXIT_CODE = re.compile(r"exit code (\d+)")


class Kubernetes:
    """The jobs of a namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    @property
    def words(self) -> str:
        return f"--to kuberay --namespace {self._namespace}"

    def send(self, submission: Submission, *, check: bool, note: Note) -> str:
        """The manifest was checked against its own nodes; whether Kubernetes has them is its scheduler's to say."""
        name, text = submission.name, manifest_text(submission.documents)
        known = self._find(name)
        if known is not None:
            if _state(known) not in _ENDED:
                raise ValueError(
                    f"RayJob {name} is there already ({_state(known) or 'new'}): follow it with `vamba jobs logs "
                    f"{name} {self.words}`, or end it with `vamba jobs stop`. Another run needs another name."
                )
            note(f"RayJob {name} ended before ({_state(known)}): it is replaced, and the run goes on where it was")
        self._kubectl("delete", "--ignore-not-found", "--wait", "-f", "-", given=text)
        self._kubectl("create", "-f", "-", given=text)
        return name

    def follow(self, identity: str, show: Callable[..., None]) -> int:
        """A job that fails is tried again by KubeRay, in a new cluster: its log goes on with that one's."""
        followed, told, left = "", "", 0.0
        job = self._get(identity)
        while True:
            state, submitted = _state(job), str(job["status"].get("jobId", "")) if "status" in job else ""
            if state != told:
                show(f"[{identity}: {_explained(state)}]", flush=True)
                told = state
            if state == "Running":
                # Refused while the container waits for its image, and now and then cut off: asked again, for the rest.
                came = time.monotonic()
                rest = (f"--since={math.ceil(came - left)}s",) if submitted == followed else ()
                command = self._command("logs", "--follow", *rest, f"job/{identity}")
                code = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
                if code == 0 or time.monotonic() - came > _REFUSED_WITHIN_S:
                    followed, left = submitted, time.monotonic()
            elif state in _ENDED:
                return _exit_code(job)
            time.sleep(_POLL_S)
            job = self._get_patiently(identity)

    def status(self, identity: str) -> Mapping[str, str]:
        job = self._get(identity)
        status = job.get("status", {})
        known = {
            "job": identity,
            "state": _explained(_state(job)),
            "driver": status.get("jobStatus"),
            "entrypoint": job["spec"]["entrypoint"],
            "cluster": status.get("rayClusterName"),
            "started": status.get("startTime"),
            "ended": status.get("endTime"),
            "exit code": str(_exit_code(job)) if _state(job) in _ENDED else None,
            "message": " ".join(str(status.get("message", "")).split()),
        }
        return {name: value for name, value in known.items() if value}

    def stop(self, identity: str) -> str:
        status = self._get(identity).get("status", {})
        cluster, submitted = status.get("rayClusterName"), status.get("jobId")
        if status.get("jobDeploymentStatus") in _ENDED:
            return f"{identity} has ended already."
        if status.get("jobDeploymentStatus") != "Running":
            self._kubectl("delete", "rayjob", identity)
            state = _explained(str(status.get("jobDeploymentStatus", "")))
            return f"{identity} was not running ({state}): it is deleted. The same command begins or continues it."
        labels = f"ray.io/cluster={cluster},ray.io/node-type=head"
        pods = json.loads(self._kubectl("get", "pods", "-l", labels, "-o", "json"))["items"]
        if not pods:
            raise ConnectionError(f"The head of {identity} is not there now; try again once it is back.")
        head = pods[0]["metadata"]["name"]
        stop = ("ray", "job", "stop", "--address", "http://127.0.0.1:8265", "--no-wait", str(submitted))
        self._kubectl("exec", head, "-c", "ray-head", "--", *stop)
        return f"{identity} was asked to save and end; it has 60 s for that. The same command continues it."

    def _find(self, name: str) -> dict[str, Any] | None:
        text = self._kubectl("get", "rayjob", name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text.strip() else None

    def _get(self, name: str) -> dict[str, Any]:
        found = self._find(name)
        if found is None:
            raise ValueError(
                f"There is no RayJob {name!r} in the namespace {self._namespace}: `kubectl get rayjobs -A`."
            )
        return found

    def _get_patiently(self, name: str) -> dict[str, Any]:
        """Kubernetes may be away for a while, and the job goes on."""
        deadline = time.monotonic() + _AWAY_S
        while True:
            try:
                return self._get(name)
            except ConnectionError as error:
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"{error}. The job may go on: come back with `vamba jobs logs {name} {self.words}`."
                    ) from error
                time.sleep(_POLL_S)

    def _command(self, *words: str) -> list[str]:
        program = shutil.which("kubectl")
        if program is None:
            raise ValueError(
                "kubectl is not on the PATH: install it with access to the cluster, or write the manifest with "
                "--write job.yaml and have it created by whoever has (`kubectl create -f job.yaml`)."
            )
        return [program, "--namespace", self._namespace, *words]

    def _kubectl(self, *words: str, given: str | None = None) -> str:
        done = subprocess.run(self._command(*words), input=given, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ConnectionError(f"kubectl {words[0]} failed: {' '.join(done.stderr.split())[:500]}")
        return done.stdout


def _state(job: Mapping[str, Any]) -> str:
    """KubeRay's word for it; "" before the operator has seen the job."""
    return str(job.get("status", {}).get("jobDeploymentStatus", ""))


def _explained(state: str) -> str:
    meanings = {
        "": "new, not seen by the operator yet",
        "Suspended": "suspended: waits for its queue",
        "Initializing": "initializing: the Ray cluster is started",
        "Waiting": "waiting to be submitted",
        "Retrying": "retrying, after a failure",
    }
    return meanings.get(state, state.lower())


def _exit_code(job: Mapping[str, Any]) -> int:
    status = job.get("status", {})
    if status.get("jobStatus") == "SUCCEEDED":
        return 0
    if status.get("jobStatus") == "STOPPED":
        return STOPPED
    found = _EXIT_CODE.search(str(status.get("message", "")))
    return int(found[1]) if found else 1
