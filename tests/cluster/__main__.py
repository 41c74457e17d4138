"""Proves the platform on one machine: `make cluster-test`, some 15 minutes on two cores. Ends with docs/reliability.md.

S3, PostgreSQL, MLflow  <──  a Ray cluster of a head and three spot machines  <── jobs ──  a clean client
                               │
ingest, undisturbed and disturbed ── the same bytes
training, undisturbed and disturbed ── the same samples and losses, one MLflow run
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.cluster.accounting import compare_runs, count_costs
from tests.cluster.client import ROOT, Client
from tests.cluster.ingest import digests, disturbed_ingest
from tests.cluster.machines import Machines, machines
from tests.cluster.mlflow_check import check_tracking
from tests.cluster.recipe import ingest_words, make_videos, train_words
from tests.cluster.table import cost_table, this_machine, write_between_markers
from tests.cluster.training import DisturbedRun
from tests.services.bed import Bed, open_bed

PAGE = ROOT / "docs" / "reliability.md"
# Nats. Where the number of workers changed, sums have another order.
WITHIN = 1e-6
_STARTED = time.monotonic()


def main() -> None:
    """Runs all of it; the page is written only where everything holds."""
    # So that a terminated run takes its servers along.
    signal.signal(signal.SIGTERM, lambda *_: _terminated())
    # Short: sockets of Ray lie below it, and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="vamba-"))
    say("starts S3, PostgreSQL, MLflow's server and a Ray cluster")
    try:
        with open_bed(folder) as bed, machines(folder, bed.environment) as cluster:
            for _ in range(3):
                cluster.add()
            places = {"VAMBA_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": bed.address}
            with closing(Client(cluster.dashboard, folder / "client", places)) as client:
                write_between_markers(PAGE, prove(folder, bed, cluster, client))
    except AssertionError as error:
        say(f"FAILED: {error}\nLogs, runs and the servers' data: {folder}")
        sys.exit(1)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"everything holds; the table is in {PAGE}")


def _terminated() -> None:
    say("FAILED: terminated by SIGTERM; the servers and nodes are ended")
    sys.exit(128 + signal.SIGTERM)


def prove(folder: Path, bed: Bed, cluster: Machines, client: Client) -> str:
    """Returns what docs/reliability.md says of this run. Raises AssertionError where it is not as it should be."""
    bucket = bed.s3.make_bucket()
    make_videos(folder / "videos")
    bed.s3.put_folder(folder / "videos", bucket, "videos/")
    videos, data = f"s3://{bucket}/videos", f"s3://{bucket}/data"
    say("ingests 100 generated videos undisturbed")
    client.submit("ingest", *ingest_words(videos, f"s3://{bucket}/undisturbed")).succeed()
    say("ingests while a machine, its driver and S3 go")
    ingest_faults = disturbed_ingest(cluster, bed, client, videos=videos, out=data)
    made, expected = digests(data), digests(f"s3://{bucket}/undisturbed")
    assert made == expected, f"files differ: {sorted(made.items() ^ expected.items())}"
    say(f"{len(made)} files are the same bytes")

    runs = folder / "home" / "runs"
    undisturbed = RunDirectory(runs / "undisturbed")
    say("trains undisturbed")
    client.submit("train", *train_words(data, "undisturbed", f"s3://{bucket}/mirror")).succeed()
    disturbed = RunDirectory(runs / "disturbed")
    faults = []
    run = DisturbedRun(cluster, bed, client, disturbed, train_words(data, "disturbed", f"s3://{bucket}/mirror"))
    for fault in run.faults():
        say(f"{fault.name}: {fault.how}")
        faults.append(fault)
    shrunk = next(attempt.started for attempt in read_attempts(disturbed) if attempt.world_size != 2)
    records = list(disturbed.read_metrics())
    likeness = compare_runs(records, list(undisturbed.read_metrics()), exact_until=shrunk, within=WITHIN)
    num_attempts = check_tracking(bed.database, disturbed)
    check_tracking(bed.database, undisturbed)
    table = cost_table(count_costs(faults, records))
    say(f"as undisturbed: {likeness}")
    shards = sum(name.startswith("shards/") for name in made)
    return f"""\
{time.strftime("%Y-%m-%d")}, {this_machine()}; {(time.monotonic() - _STARTED) / 60:.0f} minutes in all.

{table}

**Ingest**, 100 videos in {shards} shards: {"; ".join(ingest_faults)}. All {len(made)} files of the dataset are the same bytes as
those of an undisturbed ingest, and nothing else was left in the bucket.

**Training**, {likeness.num_steps} steps: {likeness.num_trained} were trained with those that were trained again, {likeness.num_equal} of them with the loss of the
undisturbed run to the last bit (all of them before one worker went on alone), the others within {likeness.max_difference:.1e} nats ({likeness.max_relative:.1e} of the loss). Every step had the samples that it
has in the undisturbed run, so none was lost or doubled. MLflow has one run, with {num_attempts} attempts and every step once.
"""  # noqa: E501


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _STARTED:6.1f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
