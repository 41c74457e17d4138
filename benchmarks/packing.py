"""How full packs are and how evenly ranks are loaded: the data plan against first fit, sorted buckets and fixed counts.

    python -m benchmarks.packing [--samples 200000] [--plan-samples 1000000] [--out FILE.json] [--plot FILE.png]

Three distributions, at one frame a second of 640x360 (299 video tokens for two frames) and two conversations a sample:
clips of log-normal length (median 20 s); the same with 3 % of films of 10 to 60 minutes, whole; pictures of several
sizes beside clips. All pack the same samples, in the same shuffled order, under the same budget; a step is 32 packs of
one medium in the order a method makes them.

* plan: `vamba.data.plan`: best fit, longest first, in windows of 4,096; steps of packs of nearly equal cost.
* first fit: each sample into the first open pack that has room, 64 open packs.
* sorted buckets: windows of 4,096 sorted by length, cut where the budget ends.
* fixed counts: the largest number of samples of which 99 % of packs stay within the budget.

Fill is the used share of the budget over all steps of an epoch, the last one included, which the plan fills by
splitting packs and the others leave unfinished; imbalance the mean over steps of dearest pack / mean pack. Then an
epoch of `--plan-samples` is planned, and its CPU time and memory are measured. Prints a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vamba.data.plan import DataPlan, PlanConfig, PlanItems
from vamba.data.sample_table import Labels

PACKS_PER_STEP = 32
WINDOW = 4096
OPEN_PACKS = 64
TOKENS_PER_PAIR = 299
TEXT_TOKENS = 128


@dataclass(frozen=True)
class Lengths:
    """Costs of samples in tokens, their media, and the budget of a pack."""

    name: str
    costs: np.ndarray
    is_image: np.ndarray
    budget: int


def distributions(num_samples: int) -> list[Lengths]:
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.lognormal(np.log(20), 0.9, num_samples), 2, 200)
    clips = _video_tokens(seconds)
    is_film = rng.random(num_samples) < 0.03
    films = _video_tokens(rng.uniform(600, 3600, num_samples))
    is_image = rng.random(num_samples) < 0.5
    pixels = rng.choice([336 * 336, 640 * 480, 1024 * 768, 1344 * 1008], num_samples, p=[0.3, 0.4, 0.2, 0.1])
    images = (pixels // 28**2 * rng.uniform(0.8, 1.2, num_samples)).astype(np.int64) + TEXT_TOKENS
    none = np.zeros(num_samples, bool)
    return [
        Lengths("clips", clips, none, 65_536),
        Lengths("clips and hour-long films", np.where(is_film, films, clips), none, 600_000),
        Lengths("images and clips", np.where(is_image, images, clips), is_image, 65_536),
    ]


def _video_tokens(seconds: np.ndarray) -> np.ndarray:
    return np.maximum(1, seconds.astype(np.int64) // 2) * TOKENS_PER_PAIR + TEXT_TOKENS


def plan_of(lengths: Lengths, seed: int = 0) -> DataPlan:
    media = Labels(np.where(lengths.is_image, "image", "video").tolist())
    ids = np.array([b"sample-%09d" % number for number in range(len(lengths.costs))])
    config = PlanConfig(tokens_per_pack=lengths.budget, packs_per_step=PACKS_PER_STEP, window_samples=WINDOW)
    return DataPlan(PlanItems(ids, media, lengths.costs), config, seed=seed)


def first_fit(costs: np.ndarray, budget: int) -> list[int]:
    done: list[int] = []
    open_packs: list[int] = []
    for cost in costs.tolist():
        for number, used in enumerate(open_packs):
            if used + cost <= budget:
                open_packs[number] += cost
                break
        else:
            open_packs.append(cost)
            if len(open_packs) > OPEN_PACKS:
                done.append(open_packs.pop(int(np.argmax(open_packs))))
    return done + open_packs


def sorted_buckets(costs: np.ndarray, budget: int) -> list[int]:
    packs: list[int] = []
    for begin in range(0, len(costs), WINDOW):
        used = 0
        for cost in np.sort(costs[begin : begin + WINDOW]).tolist():
            if used + cost > budget:
                packs.append(used)
                used = 0
            used += cost
        packs.append(used)
    order = np.random.default_rng(0).permutation(len(packs) // PACKS_PER_STEP * PACKS_PER_STEP)
    groups = order.reshape(-1, PACKS_PER_STEP)
    return [packs[i] for i in np.sort(groups.flatten())]


def fixed_counts(costs: np.ndarray, budget: int) -> list[int]:
    best = costs.tolist()
    for count in range(1, 1 + len(costs) // PACKS_PER_STEP):
        sums = costs[: len(costs) // count * count].reshape(-1, count).sum(1)
        if (sums > budget).mean() > 0.01:
            break
        best = sums.tolist()
    return [int(value) for value in best]


METHODS: dict[str, Callable[[np.ndarray, int], list[int]]] = {
    "first fit": first_fit,
    "sorted buckets": sorted_buckets,
    "fixed counts": fixed_counts,
}


def measure(lengths: Lengths) -> list[dict[str, object]]:
    plan = plan_of(lengths)
    rows = [_row(lengths, "plan", plan.fill(0), plan.imbalance(0))]
    order = np.random.default_rng(1).permutation(len(lengths.costs))
    for name, pack in METHODS.items():
        packs, ratios = [], []
        for kind in np.unique(lengths.is_image):
            members = order[lengths.is_image[order] == kind]
            found = np.asarray(pack(lengths.costs[members], lengths.budget), np.int64)
            packs.append(found)
            steps = found[: len(found) // PACKS_PER_STEP * PACKS_PER_STEP].reshape(-1, PACKS_PER_STEP)
            ratios.append(steps.max(1) / steps.mean(1))
        num_paid = sum(-(-len(found) // PACKS_PER_STEP) * PACKS_PER_STEP for found in packs)
        fill = np.concatenate(packs).sum() / (num_paid * lengths.budget)
        rows.append(_row(lengths, name, float(fill), float(np.concatenate(ratios).mean())))
    return rows


def _row(lengths: Lengths, method: str, fill: float, imbalance: float) -> dict[str, object]:
    return {"lengths": lengths.name, "method": method, "fill": round(fill, 4), "imbalance": round(imbalance, 4)}


def measure_planning(num_samples: int) -> dict[str, object]:
    """CPU seconds and memory of planning an epoch; the samples' own columns are there before."""
    lengths = distributions(num_samples)[0]
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    plan = plan_of(lengths)
    made = time.process_time()
    steps = plan.steps(0)
    planned = time.process_time()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "what": "planning", "samples": num_samples, "steps": len(steps),
        "fingerprint_cpu_s": round(made - started, 2), "epoch_cpu_s": round(planned - made, 2),
        "peak_rss_growth_mb": round(peak_mb - before_mb),
    }  # fmt: skip


def plot(rows: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(str(row["lengths"]) for row in rows))
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    colors = ["#1b6ca8", "#9aa5b1", "#c4a35a", "#c0623f"]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    titles = {"fill": "share of the token budget that is used", "imbalance": "dearest pack of a step / mean pack"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for number, method in enumerate(methods):
            values = [float(str(row[key])) for row in rows if row["method"] == method]
            places = [i + (number - 1.5) * 0.2 for i in range(len(names))]
            bars = axis.bar(places, values, width=0.19, color=colors[number], label=method)
            axis.bar_label(bars, fmt="%.2f" if key == "imbalance" else "%.3f", fontsize=7, rotation=90, padding=2)
        axis.set_xticks(range(len(names)), names)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(y=0.18)
    axes[1].axhline(1.0, color="black", linewidth=0.6)
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--plan-samples", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    planning = measure_planning(arguments.plan_samples)
    rows = [row for lengths in distributions(arguments.samples) for row in measure(lengths)]
    for row in [*rows, planning]:
        print(json.dumps(row), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps({"packing": rows, "planning": planning}, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
