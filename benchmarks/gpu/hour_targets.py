"""What the measurements are to show, and whether they do. A target whose measurement is missing is not met.

memory    a training step on an hour within 78 GiB, its peak within 5 % of that on the base length
length    inference on the longest video; as many tokens a second there as on any other, within a tenth
speed     40,000 tokens a second of prefill; 4 and 12 times the step of full attention
reuse     many questions about an hour in at most 1.3 times the time of one
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.hour_presets import Preset

Found = dict[str, Any]


def targets(values: dict[str, Any], preset: Preset) -> list[Found]:
    """name, wanted, measured (None where nothing was) and ok of each."""
    rows = {(row["model"], row["passes"], row["frames"]): row for row in values["rows"]}
    return [*_training(rows, preset), *_inference(rows, preset), *_questions(values, preset)]


def _training(rows: dict[Any, Found], preset: Preset) -> Iterator[Found]:
    peaks = [_of(rows, "streamed", "train step", n, "peak_bytes") for n in (preset.base_frames, preset.hour_frames)]
    hour = f"training step, {preset.hour_frames:,} frames"
    yield _below(f"{hour}: peak, GiB", 78.0, None if peaks[1] is None else peaks[1] / 2**30)
    growth = None if None in peaks else peaks[1] / peaks[0]
    yield _below(f"{hour}: peak over that of {preset.base_frames:,}", 1.05, growth)
    for frames, times in ((preset.compared_frames, 4.0), (preset.hour_frames, 12.0)):
        ours, theirs = (_of(rows, model, "train step", frames, "seconds") for model in ("streamed", "full attention"))
        faster = None if None in (ours, theirs) else theirs / ours
        yield _above(f"training step, {frames:,} frames: times faster than full attention", times, faster)


def _inference(rows: dict[Any, Found], preset: Preset) -> Iterator[Found]:
    rates = [_of(rows, "streamed", "prefill", frames, "tokens_per_s") for frames in preset.frames]
    known = [rate for rate in rates if rate is not None]
    longest = f"inference, {preset.longest_frames:,} frames"
    yield _above(f"{longest}: seconds", 0.0, _of(rows, "streamed", "prefill", preset.longest_frames, "seconds"))
    yield _above("prefill, slowest length: video tokens/s", 40_000.0, min(known) if len(known) == len(rates) else None)
    flat = None if rates[-1] is None else rates[-1] / max(known)
    yield _above(f"{longest}: rate over that of the fastest length", 0.9, flat)


def _questions(values: dict[str, Any], preset: Preset) -> Iterator[Found]:
    name = f"{preset.num_questions} questions on {preset.hour_frames:,} frames over one"
    yield _below(name, 1.3, values.get("questions", {}).get("ratio"))


def _of(rows: dict[Any, Found], model: str, passes: str, frames: int, key: str) -> Any:
    return rows.get((model, passes, frames), {}).get(key)


def _below(name: str, wanted: float, measured: float | None) -> Found:
    ok = measured is not None and measured <= wanted
    return {"name": name, "wanted": f"at most {wanted:,g}", "measured": measured, "ok": ok}


def _above(name: str, wanted: float, measured: float | None) -> Found:
    ok = measured is not None and measured >= wanted
    return {"name": name, "wanted": f"at least {wanted:,g}", "measured": measured, "ok": ok}
