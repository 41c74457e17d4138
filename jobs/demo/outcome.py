"""What each step of the demo made, read from the files it left, in a few words for the last table."""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.evaluation.result import read_result
from pipelines.manifest_io import read_failures, read_manifest
from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import summarize

CORRUPT_NAME = "corrupt.mp4"


def write_corrupt_copy(clips: Path) -> Path:
    """A clip cut off in the middle: its header still promises the whole length. Returns its path."""
    whole = min(path for path in clips.glob("*.mp4") if path.name != CORRUPT_NAME)
    content = whole.read_bytes()
    path = clips / CORRUPT_NAME
    path.write_bytes(content[: len(content) // 2])
    return path


def describe_videos(directory: Path) -> str:
    files = [path for path in directory.rglob("*.mp4") if path.name != CORRUPT_NAME]
    return f"{len(files)} videos, one of an hour, and a corrupt file"


def describe_dataset(data: str) -> str:
    manifest, failures = read_manifest(data), read_failures(data)
    frames = sum(row.num_frames for row in manifest.samples)
    return f"{len(manifest.samples)} videos, {frames:,} frames, {len(manifest.shards)} shards, {len(failures)} failed"


def describe_run(directory: Path) -> str:
    run = RunDirectory(directory)
    summary = summarize(run, "finished", run.finished_step() or 0)
    resumed = [str(attempt.resumed_from_step) for attempt in summary.attempts if attempt.resumed_from_step]
    if not resumed:
        return f"{summary.step} steps"
    difference = summary.max_replay_difference
    replay = "with equal losses" if difference == 0 else f"with losses up to {difference:.2g} apart"
    again = f"{summary.num_replayed_steps} trained again {replay}"
    return f"{summary.step} steps; resumed at {' and '.join(resumed)}; {again}"


def describe_evaluation(directory: Path) -> str:
    result = read_result(directory)
    if result.overall is None:
        return "nothing answered"
    longest = list(result.by_length.values())[-1]
    overall = f"{result.overall.accuracy:.1%} of {result.overall.num_questions} right"
    return f"{overall}; about the hour: {longest.accuracy:.1%} of {longest.num_questions}"


def a_question_about(annotations: Path, video: str) -> tuple[str, str]:
    """The first question about a video, without its media placeholder, and the right letter."""
    for line in annotations.read_text().splitlines():
        row = json.loads(line)
        if row["video"] == video:
            question, answer = row["conversations"]
            return question["value"].removeprefix("<video>\n"), answer["value"]
    raise ValueError(f"{annotations} asks nothing about {video}")
