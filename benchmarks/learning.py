"""Does streamed training learn what lies many chunks back? The needle of `benchmarks.needle`, exact and detached.

    python -m benchmarks.learning [--seeds 3] [--steps 100] [--out FILE] [--plot PNG]

The same films are streamed in chunks of 132, 66, 16, 8 and 4 tokens, which put 0, 1, 8, 16 and 32 chunk bounds between
what is shown and where it is read. Each seed learns twice: with the gradients of carried states, and with states that
are detached between chunks (truncated backpropagation); without a bound there is no difference, and both learn. Prints
the share of unseen films that are answered correctly, every ten steps, as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.needle import ANSWERS, Lesson, learn

CHUNKS = (132, 66, 16, 8, 4)


def measure(seeds: int, num_steps: int) -> list[dict[str, Any]]:
    """A row for each lesson."""
    rows = []
    for chunk_tokens in CHUNKS:
        for detached in (False, True):
            for seed in range(seeds):
                lesson = Lesson(chunk_tokens=chunk_tokens, detached=detached, seed=seed, num_steps=num_steps)
                curve = [[step, round(accuracy, 4)] for step, accuracy in learn(lesson)]
                rows.append({"bounds": lesson.bounds, "detached": detached, "seed": seed, "accuracy": curve})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and extremes of the last accuracies, by bounds and kind."""
    kinds = sorted({(row["bounds"], row["detached"]) for row in rows})
    found = []
    for bounds, detached in kinds:
        last = [r["accuracy"][-1][1] for r in rows if (r["bounds"], r["detached"]) == (bounds, detached)]
        found.append(
            {"bounds": bounds, "detached": detached, "median": statistics.median(last), "least": min(last),
             "most": max(last)}
        )  # fmt: skip
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over steps at the most bounds, and at the end over bounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    most = max(row["bounds"] for row in rows)
    for detached, colour, name in ((False, "tab:blue", "exact"), (True, "tab:red", "detached")):
        for number, row in enumerate(r for r in rows if r["bounds"] == most and r["detached"] is detached):
            steps, accuracy = zip(*row["accuracy"], strict=True)
            left.plot(steps, accuracy, color=colour, alpha=0.8, label=name if number == 0 else None)
        ends = [item for item in summary(rows) if item["detached"] is detached]
        right.errorbar(
            [item["bounds"] for item in ends], [item["median"] for item in ends], color=colour, marker="o", label=name,
            yerr=[[i["median"] - i["least"] for i in ends], [i["most"] - i["median"] for i in ends]], capsize=3,
        )  # fmt: skip
    for axes in (left, right):
        axes.axhline(1 / ANSWERS, color="grey", linestyle=":", label="chance")
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("accuracy on unseen films")
    left.set_xlabel("optimizer step")
    left.set_title(f"{most} chunk bounds back")
    right.set_xlabel("chunk bounds between what is shown and the question")
    right.set_xscale("symlog", base=2, linthresh=1)
    bounds = sorted({row["bounds"] for row in rows})
    right.set_xticks(bounds, [str(number) for number in bounds])
    right.set_xlim(left=-0.4)
    right.set_title("at the end")
    right.legend(loc="center right")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.seeds, arguments.steps)
    result = {"steps": arguments.steps, "chance": 1 / ANSWERS, "summary": summary(rows), "lessons": rows}
    print(json.dumps(result["summary"], indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
