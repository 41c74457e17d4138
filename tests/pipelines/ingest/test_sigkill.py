"""Real processes, really killed: `vamba ingest` ends by SIGKILL at moments drawn from a seed; the same command goes on.

Killed are the driver with all its descendants (as when the machine goes), the driver alone (Ray's processes are left
over), one Ray worker, or one decoder. Whatever is left over when the command is run again, it ends with the bytes of an
undisturbed run. VAMBA_TEST_KILLS sets how many kills are tried: twice as many as in each way.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines.datasets.verify import verify
from pipelines.manifest_io import has_manifest
from pipelines.storage import open_storage
from tests.pipelines.ingest.faults import OneProcess
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.test_faults import SHAPE, WAYS, digests, ingest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[3]
NUM_KILLS = int(os.environ.get("VAMBA_TEST_KILLS", "2"))
OPTIONS = {"ingest": [], "append": ["--append"], "retry": ["--retry-failures"]}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for name, seconds in (("day1/a", 2), ("day1/b", 30), ("day2/c", 20), ("day2/d", 2), ("whole", 8)):
        make_video(folder / f"{name}.mp4", seconds=seconds, size="64x48")
    (folder / "day2/text.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def datasets(media: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path | None, dict[str, str]]]:
    """For each way: what is there before it, and the digests of what an undisturbed run makes. No Ray was needed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    results: dict[str, tuple[Path | None, dict[str, str]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        process = OneProcess(patch)
        for way in OPTIONS:
            base = None if way == "ingest" else folder / "ingest"
            if base is not None:
                shutil.copytree(base, folder / way)
            prepare(media, way)
            process.forget()
            ingest(str(folder / way), media, way)
            results[way] = (base, digests(open_storage(folder / way)))
        process.close()
    return results


class Command:
    """A running `vamba ingest`."""

    def __init__(self, out: Path, media: Path, way: str) -> None:
        settings = [f"{name}={value}" for name, value in {**SHAPE, "num_cpus": 1}.items()]
        sources = [str(media / name) for name in WAYS[way][1]]
        command = [sys.executable, "-m", "jobs", "--debug", "ingest", *sources, "--out", str(out), *OPTIONS[way]]
        for setting in settings:
            command += ["--set", setting]
        self.out, self.seen = out, set[str]()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
        self.process = psutil.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def waits_for(self, condition: Callable[[], object]) -> bool:
        """Whether the condition held before the command ended."""
        while not condition():
            if self.process.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    def num_files_seen(self) -> int:
        """How many files there have been below the destination since the command began, the vanished ones too."""
        for _, _, names in os.walk(self.out):
            self.seen.update(names)
        return len(self.seen)

    def children(self, *words: str) -> list[psutil.Process]:
        """Descendants whose command line has one of the words."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                if any(word in " ".join(process.cmdline()) for word in words):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill(self) -> None:
        """The driver and all its descendants; none can start another meanwhile, since they are stopped first."""
        stopped: set[psutil.Process] = set()
        while found := {self.process, *self.process.children(recursive=True)} - stopped:
            for process in found:
                signal_to(process, "suspend")
            stopped |= found
        for process in stopped:
            signal_to(process, "kill")
        self.end()

    def end(self) -> str:
        """Waits for its end; returns what it said."""
        return str(self.process.communicate()[1])


def signal_to(process: psutil.Process, name: str) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, name)()


def prepare(media: Path, way: str) -> None:
    """The cut video is whole by the time of a retry."""
    whole = (media / "whole.mp4").read_bytes()
    (media / "day1/cut.mp4").write_bytes(whole if way == "retry" else whole[:1000])


def begin(datasets: dict[str, tuple[Path | None, dict[str, str]]], media: Path, way: str, out: Path) -> dict[str, str]:
    """Puts there what a way begins with; returns the digests of what it should end with."""
    prepare(media, way)
    base, expected = datasets[way]
    if base is not None:
        shutil.copytree(base, out)
    return expected


@pytest.mark.parametrize("way", OPTIONS if NUM_KILLS > 2 else ["ingest", "append"])
def test_killed_at_any_moment(
    way: str, datasets: dict[str, tuple[Path | None, dict[str, str]]], media: Path, tmp_path: Path
) -> None:
    draw, kills, number = random.Random(way), 0, 0
    while 2 * kills < NUM_KILLS:
        number += 1
        out = tmp_path / str(number)
        expected = begin(datasets, media, way, out)
        for _ in range(draw.randint(1, 3) if NUM_KILLS > 2 else 1):  # kills on the way to one dataset
            kills += run_and_kill(draw, out, media, way)
            if way != "ingest" or has_manifest(out):
                assert [finding for finding in verify(str(out)).findings if finding.rule != "unlisted"] == []
        said = finish(out, media, way)
        assert digests(open_storage(out)) == expected, f"dataset {number} of {way}, after {kills} kills: {said}"
        shutil.rmtree(out)
    print(f"{way}: {kills} kills, {number} datasets")


def run_and_kill(draw: random.Random, out: Path, media: Path, way: str) -> bool:
    """Whether the command lived to be killed: the moment is that of some file of the destination, or just after it."""
    command = Command(out, media, way)
    moment, pause_s, alone = draw.randint(1, 25), draw.uniform(0, 0.05), draw.random() < 0.3
    if not command.waits_for(lambda: command.num_files_seen() >= moment):
        command.end()
        return False
    time.sleep(pause_s)
    if alone:
        command.process.kill()
        command.end()
    else:
        command.kill()
    return True


def finish(out: Path, media: Path, way: str) -> str:
    """Runs the command to its end; returns what it said. On a busy machine Ray may give up starting: once more then."""
    for _ in range(5):
        command = Command(out, media, way)
        said = command.end()
        if command.process.returncode == 0:
            return said
        assert "timed out during startup" in said, said
    raise AssertionError(said)


def test_without_a_worker_or_a_decoder_the_job_goes_on(
    datasets: dict[str, tuple[Path | None, dict[str, str]]], media: Path, tmp_path: Path
) -> None:
    """A decoder is killed while it probes and one while it decodes, then a Ray worker."""
    expected = begin(datasets, media, "ingest", tmp_path / "out")
    command, killed = Command(tmp_path / "out", media, "ingest"), list[None]()
    for moment, word in ((0, "sandbox_child"), (6, "sandbox_child"), (9, "decode_task")):
        # A small job may be through before the last of these moments.
        if command.waits_for(
            lambda moment=moment, word=word: command.num_files_seen() >= moment and command.children(word)
        ):
            killed += [signal_to(process, "kill") for process in command.children(word)]
    said = command.end()
    assert command.process.returncode == 0 and killed, said
    assert digests(open_storage(tmp_path / "out")) == expected
