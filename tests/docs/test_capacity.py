"""The cost and capacity table of docs/scale.md is what its figures and formulas give today."""

from __future__ import annotations

from benchmarks import capacity
from jobs.config import recipe_layer
from tests.architecture.sources import ROOT

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_page_shows_the_computed_table() -> None:
    shown = PAGE.partition("<!-- capacity: begin -->\n")[2].partition("\n<!-- capacity: end -->")[0]
    assert shown == capacity.table(), "python -m benchmarks.capacity prints what belongs there"


def test_every_assumption_is_named_on_the_page() -> None:
    for figure in ("989 TFLOP/s", "0.35", "0.04", "2.50", "0.023", "20 conversations of 128 tokens"):
        assert figure in PAGE
    assert capacity.GPU_PEAK_FLOPS == 989e12 and capacity.GPU_UTILISATION == 0.35


def test_the_recipe_is_the_one_that_is_counted() -> None:
    tree = recipe_layer("instruct").tree
    assert tree["train"]["expected_trainable"] == capacity.TRAINED_PARAMETERS
    assert tree["reader"]["max_patches"] == 4 * capacity.RECIPE_VIDEO_TOKENS
    assert tree["workers"]["num_workers"] == 32 and tree["workers"]["gpu_memory_gb"] == 80


def test_gpu_hours_grow_with_the_film() -> None:
    recipe, whole = (
        capacity.gpu_hours(n, training=True) for n in (capacity.RECIPE_VIDEO_TOKENS, capacity.film_tokens())
    )
    assert 0 < recipe < whole < 1 and capacity.gpu_hours(capacity.film_tokens(), training=False) < whole
