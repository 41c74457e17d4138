"""Exact sampling at 1 fps by this ingest and by its peers, side by side on the same two films.

    python -m benchmarks.peers.compare [--environments DIR] [--runs 3] [--out FILE]

Builds an environment for each peer with the versions below from the package index (once; 2 GB), makes two films of five
minutes (constant and variable frame rate) whose frames carry their number, and has every peer take the frame on screen
at 0 s, 1 s, 2 s, …, in turn. Per peer and film: medians of CPU seconds of the process tree and of wall seconds after
imports, the share of the seconds whose frame was the one on screen, and how far off the others were on average. decord
can hang; a peer that takes more than five minutes is ended. What can't be installed or run is reported with the reason.

What each delivers differs, in the peers' favour: ours JPEG files in a tar with its sha256; decord, read_videos and
video2dataset's decoder only arrays; video2dataset's subsampler a video of 1 fps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.film import exact_numbers, make_film

HERE = Path(__file__).parent
LIMIT_S = 300
# video2dataset pins torch 2.1.2 with CUDA and imports all of its models and captioners. On the way to a frame it needs
# none of them, so what it imports is installed from a list of exact versions, without what they ask for in turn, and
# modules that are never called are stand-ins.
_STAND_INS = "torchaudio,torchaudio.functional,whisperx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    delivers: str
    script: str
    arguments: tuple[str, ...] = ()
    environment: str | None = None  # None: this project's
    packages: tuple[str, ...] = ()  # for pip install


def _video2dataset(name: str, delivers: str, *arguments: str) -> Peer:
    return Peer(
        name=name,
        delivers=delivers,
        script="with_video2dataset.py",
        arguments=(_STAND_INS, *arguments),
        environment="video2dataset",
        packages=("--no-deps", "-r", str(HERE / "video2dataset.txt")),
    )


PEERS = (
    Peer(name="vamba, one process", delivers="JPEG, tar, sha256", script="with_vamba.py"),
    Peer(name="vamba ingest on Ray", delivers="the dataset", script="with_vamba.py", arguments=("--ray",)),
    Peer(
        name="decord 0.6.0",
        delivers="arrays",
        script="with_decord.py",
        environment="decord",
        packages=("decord==0.6.0", "numpy", "psutil"),
    ),
    Peer(
        name="ray.data.read_videos 2.60.0",
        delivers="arrays",
        script="with_read_videos.py",
        environment="read_videos",
        packages=("ray[data]==2.60.0", "decord==0.6.0", "numpy", "psutil"),
    ),
    _video2dataset("video2dataset 1.3.0, frame subsampler", "a video of 1 fps"),
    _video2dataset("video2dataset 1.3.0, loader's decoder", "arrays", "--decoder"),
)


def interpreter(peer: Peer, environments: Path) -> str:
    """Python of the peer's environment, which is made if it is not there."""
    if peer.environment is None:
        return sys.executable
    folder = environments / peer.environment
    python, finished = folder / "bin/python", folder / "finished"
    if not finished.exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *peer.packages], check=True, capture_output=True, text=True)
        finished.touch()
    return str(python)


def run_once(peer: Peer, python: str, film: Path) -> dict[str, Any]:
    """The last line that the peer's script prints, as JSON."""
    command = [python, str(HERE / peer.script), str(film), *peer.arguments]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONPATH", None)
    if peer.environment is None:
        environment["PYTHONPATH"] = str(HERE.parents[1])
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=LIMIT_S, env=environment, cwd=film.parent
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def judge(numbers: list[int], exact: list[int], *, variable: bool) -> dict[str, Any]:
    """How many of the asked seconds got their frame."""
    times = exact_times(variable=variable)
    pairs = list(zip(numbers, exact, strict=False))
    off_s = [abs(times.get(got, 0.0) - times[wanted]) for got, wanted in pairs if got != wanted]
    return {
        "exact": round(sum(got == wanted for got, wanted in pairs) / len(exact), 3),
        "missing": max(0, len(exact) - len(numbers)),
        "others_off_s": round(statistics.mean(off_s), 2) if off_s else 0.0,
    }


def exact_times(*, variable: bool) -> dict[int, float]:
    """When each frame is shown, in seconds, by its number."""
    numbers = exact_numbers(variable=variable)
    times: dict[int, float] = {}
    ends = [*numbers[1:], 2 * numbers[-1] - numbers[-2]]
    for second, (number, following) in enumerate(zip(numbers, ends, strict=True)):
        times.update({number + step: second + step / (following - number) for step in range(following - number)})
    return times


def compare(films: dict[str, Path], environments: Path, runs: int) -> list[dict[str, Any]]:
    rows = []
    results: dict[tuple[str, str], list[dict[str, Any]]] = {}
    problems: dict[tuple[str, str], str] = {}
    for _ in range(runs):
        for peer in PEERS:
            for rate, film in films.items():
                try:
                    done = run_once(peer, interpreter(peer, environments), film)
                    results.setdefault((peer.name, rate), []).append(done)
                except subprocess.TimeoutExpired:
                    problems[peer.name, rate] = f"no answer within {LIMIT_S} s"
                except (subprocess.CalledProcessError, OSError) as error:
                    problems[peer.name, rate] = str(getattr(error, "stderr", "") or error)[-400:]
    for peer in PEERS:
        for rate in films:
            row: dict[str, Any] = {"peer": peer.name, "film": rate, "delivers": peer.delivers}
            done_runs = results.get((peer.name, rate), [])
            if done_runs:
                row["cpu_s"] = round(statistics.median(run["cpu_s"] for run in done_runs), 2)
                row["wall_s"] = round(statistics.median(run["wall_s"] for run in done_runs), 2)
                variable = rate == "variable"
                row |= judge(done_runs[-1]["numbers"], exact_numbers(variable=variable), variable=variable)
            if (peer.name, rate) in problems:
                row["problem"] = problems[peer.name, rate]
            rows.append({**row, "runs": len(done_runs)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/vamba-peers").expanduser())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        films = {
            rate: make_film(Path(directory) / f"{rate}.mp4", variable=rate == "variable")
            for rate in ("constant", "variable")
        }
        rows = compare(films, arguments.environments.absolute(), arguments.runs)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
