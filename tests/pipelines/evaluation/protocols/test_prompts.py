"""Prompts of both protocols, byte for byte, and which protocol asks which benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation.benchmarks.question import BenchmarkQuestion, Clip
from pipelines.evaluation.protocols.catalogue import find_recipe
from vamba.data.sampling import uniform_indices

GOLDEN = json.loads((Path(__file__).parent / "golden_prompts.json").read_text(encoding="utf-8"))
LMMS_TASKS = {
    "lvbench": "lvbench",
    "videomme": "videomme",
    "mlvu": "mlvu_dev",
    "longvideobench": "longvideobench_val_v",
    "nextqa": "nextqa_mc_test",
    "mvbench": "mvbench",
}


def question(text: str, *options: str, part: str = "") -> BenchmarkQuestion:
    return BenchmarkQuestion(
        id="q", video="v", clip=Clip(path="v.mp4"), question=text, options=options, answer="A", groups={}, part=part
    )


QUESTIONS = {
    "lvbench": question("What color is the car at 00:10?\n(A) red\n(B) blue\n(C) green\n(D) black"),
    "videomme": question("How many dogs?", "A. 1.", "B. 2.", "C. 3.", "D. 4."),
    "mlvu": question("What happens?", "x", "y", "z", "w"),
    "longvideobench": question("Who?", "x", "y", "z"),
    "nextqa": question("why did the dog run", "x", "y", "z", "w", "v"),
    "mvbench": question("What did he do?", "x", "y", "z"),
    "hourvideo": question("What is the order?", "A. x", "B. y", "C. z", "D. w", "E. v"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_vamba_prompts(name: str) -> None:
    assert find_recipe("vamba", name).prompt(QUESTIONS[name]) == GOLDEN["vamba_prompts"][name]


@pytest.mark.parametrize("name", LMMS_TASKS)
def test_lmms_eval_prompts(name: str) -> None:
    recipe = find_recipe("lmms-eval-0.7.3", name)
    assert recipe.prompt(QUESTIONS[name]) == GOLDEN["lmms_eval_prompts"][LMMS_TASKS[name]]


def test_houreval_asks_each_part_in_its_own_way() -> None:
    prompt = find_recipe("vamba", "houreval").prompt
    part = question("How many dogs?", "A. 1.", "B. 2.", "C. 3.", "D. 4.", part="videomme")
    assert prompt(part) == GOLDEN["vamba_prompts"]["videomme"]


def test_lmms_eval_strips_nextqa_and_lists_the_options_of_lvbench() -> None:
    ask = {name: find_recipe("lmms-eval-0.7.3", name).prompt for name in ("nextqa", "lvbench")}
    assert ask["nextqa"](question(" why ", " a", "b ", "c", "d", "e")) == "why\nA. a\nB. b\nC. c\nD. d\nE. e"
    assert (
        ask["lvbench"](question("Who?", "x", "y")) == "Who?\n(A) x\n(B) y\nAnswer the question with the option letter"
    )


@pytest.mark.parametrize(
    ("protocol", "name", "tokens", "frames"),
    [
        ("vamba", "lvbench", 512, (1024, 256, 560)),
        ("vamba", "hourvideo", 512, (128, 256, 360)),
        ("vamba", "houreval", 512, (512, 256, 480)),
        ("lmms-eval-0.7.3", "longvideobench", 32, (512, 256, 480)),
        ("lmms-eval-0.7.3", "mvbench", 16, (512, 256, 480)),
    ],
)
def test_frames_and_tokens(protocol: str, name: str, tokens: int, frames: tuple[int, int, int]) -> None:
    recipe = find_recipe(protocol, name)
    assert (recipe.num_frames, recipe.shortest_edge, recipe.longest_edge) == frames
    assert recipe.max_new_tokens == tokens


@pytest.mark.parametrize("case", GOLDEN["vamba_uniform_indices"], ids=lambda case: str(case["total_frames"]))
def test_frames_are_chosen_as_the_scripts_choose_them(case: dict[str, object]) -> None:
    assert uniform_indices(case["num_frames"], case["total_frames"]) == case["indices"]  # type: ignore[arg-type]


def test_a_protocol_without_the_benchmark_names_the_one_that_has_it() -> None:
    with pytest.raises(ValueError, match="no hourvideo.*--protocol vamba"):
        find_recipe("lmms-eval-0.7.3", "hourvideo")
    with pytest.raises(ValueError, match=r"no protocol 'lmms-eval'.*lmms-eval-0\.7\.3"):
        find_recipe("lmms-eval", "lvbench")
