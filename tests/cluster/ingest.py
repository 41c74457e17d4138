"""The ingest on the cluster: undisturbed, and while a machine, its driver and S3 go; both must make the same bytes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import psutil

from pipelines.ingest.staging import WORK_PREFIX
from pipelines.storage import Storage, open_storage
from tests.cluster.client import Client, Submitted
from tests.cluster.machines import Machines
from tests.cluster.recipe import ingest_words
from tests.services.bed import Bed

S3_AWAY_S = 30.0


def digests(uri: str) -> dict[str, str]:
    """SHA-256 of every file of a dataset, by its name. Raises AssertionError where an unfinished ingest left any."""
    storage = open_storage(uri)
    names = [file.path for file in storage.list()]
    assert not [name for name in names if name.startswith(WORK_PREFIX)], f"{uri} holds leftovers: {names}"
    return {name: hashlib.sha256(storage.read_bytes(name)).hexdigest() for name in names}


def disturbed_ingest(machines: Machines, bed: Bed, client: Client, *, videos: str, out: str) -> list[str]:
    """Ends a machine, the driver, and S3 while it works; submits it until it is done. Returns what was done."""
    storage, words = open_storage(out), ingest_words(videos, out)
    job = client.submit("ingest", *words)
    _wait_for_segments(job, storage, 3)
    machines.end(machines.any())
    machines.add()
    done = ["machine ended without notice (another came)"]
    _wait_for_segments(job, storage, 12)
    _driver(out).kill()
    assert job.wait() != 0, "the client was not told that its job ended"
    done.append("driver ended (submitted again)")
    left = _num_segments(storage)
    job = client.submit("ingest", *words)
    _wait_for_segments(job, storage, left + 4)
    bed.store.server.stop()
    time.sleep(S3_AWAY_S)
    bed.store.server.start()
    bed.store.server.wait_until_ready()
    again = job.wait() != 0
    if again:
        client.submit("ingest", *words).succeed()
    done.append(f"S3 away for {S3_AWAY_S:.0f} s ({'submitted again' if again else 'waited for'})")
    return done


def _wait_for_segments(job: Submitted, storage: Storage, count: int) -> None:
    job.wait_until(lambda: _num_segments(storage) >= count, f"segment {count}")


def _num_segments(storage: Storage) -> int:
    """Decoded ones that wait to be packed, and those that are in finished shards."""
    names = [file.path for file in storage.list(WORK_PREFIX)]
    return sum(name.endswith(".seg") or "/commits/" in name for name in names)


def _driver(out: str) -> psutil.Process:
    """The process on the cluster's head that ingests to this place."""
    is_it: Callable[[psutil.Process], bool] = lambda process: (  # noqa: E731
        {"ingest", "--address", out} <= set(process.info["cmdline"] or ())
    )
    (found,) = [process for process in psutil.process_iter(["cmdline"]) if is_it(process)]
    return found
