"""`vamba runs compare`: what two runs were told differently, and where their losses part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_pairs, print_table
from jobs.cli.run_reference import Storage, run_of
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.training.comparison import Comparison, LossPair

_ROWS = 12


def compare(
    first: Annotated[str, typer.Argument(help="Name of a run, or its directory.", metavar="RUN")],
    second: Annotated[str, typer.Argument(help="The run to compare it with.", metavar="OTHER")],
    plot: Annotated[
        Path | None, typer.Option(help="Draw both loss curves (.png, .svg, .pdf).", metavar="FILE", dir_okay=False)
    ] = None,
    storage: Storage = None,
    json: AsJson = False,
) -> None:
    """Compare two runs: settings that differ, and their losses step by step, to the last bit.

    \b
    Example:
      vamba runs compare stage2 stage2-again --plot losses.png
    """
    from pipelines.training.comparison import compare_runs, write_loss_plot

    if plot is not None and plot.suffix not in {".png", ".svg", ".pdf"}:
        raise ValueError(f"--plot {plot}: the name must end in .png, .svg or .pdf.")
    found = compare_runs(run_of(first, storage), run_of(second, storage))
    if plot is not None:
        write_loss_plot(found, str(plot))
        SESSION.note(f"{plot} shows both curves.")
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: Comparison) -> None:
    rows = [(key, repr(old), repr(new)) for key, (old, new) in found.settings.items()]
    if found.data is not None:
        rows.append(("data digest", str(found.data[0]), str(found.data[1])))
    if rows:
        print_table(("setting", *found.names), rows, title="Settings that differ")
    else:
        print("The same settings and data.")
    if not found.losses:
        print(f"No step is in both ({found.num_steps[0]} and {found.num_steps[1]} steps).")
        return
    largest = found.largest
    verdict = (
        f"bit-identical in all {len(found.losses)} common steps"
        if largest is None
        else f"from step {found.first_different_step} on; largest |difference| {largest.difference:.3g} "
        f"at step {largest.step}"
    )
    print_pairs(
        "Losses",
        {
            "steps": f"{found.num_steps[0]} and {found.num_steps[1]}",
            "same" if largest is None else "different": verdict,
            "samples": "the same in every common step" if found.same_samples else "not the same",
        },
    )
    table = [(pair.step, *_digits(pair), f"{pair.difference:.3g}") for pair in _chosen(found)]
    print_table(("step", *found.names, "|difference|"), table)


def _digits(pair: LossPair) -> tuple[str, str]:
    return f"{pair.first:.8g}", f"{pair.second:.8g}"


def _chosen(found: Comparison) -> Sequence[LossPair]:
    """The first and last common step, those where something is to be seen, and some between."""
    every = max(1, len(found.losses) // _ROWS)
    steps = {pair.step for pair in found.losses[::every]} | {found.losses[-1].step}
    if found.largest is not None and found.first_different_step is not None:
        steps |= {found.first_different_step, found.largest.step}
    return [pair for pair in found.losses if pair.step in steps]
