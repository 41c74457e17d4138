"""The needle suite as a plan: reproducible, honest, and refused when it can't be drawn."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from pipelines.evaluation.synthetic.plan import LengthGroup, SuiteConfig
from pipelines.evaluation.synthetic.video_plan import COLOURS, LETTERS, Question

CLIPS = LengthGroup(split="train", num_videos=150, min_s=40, max_s=60, min_cards=2, max_cards=5, max_blanks=2)
HELD_OUT = LengthGroup(name="held-out", split="test", num_videos=20, min_s=80, max_s=300, min_cards=8, max_cards=8)
CONFIG = SuiteConfig(groups=(CLIPS, HELD_OUT))


def shape_in(question: Question) -> str:
    return question.text.splitlines()[0].removesuffix("?").rpartition(" ")[2]


def test_same_seed_same_plan_and_another_seed_another_one():
    assert CONFIG.plan() == CONFIG.plan()
    assert CONFIG.plan() != SuiteConfig(groups=(CLIPS, HELD_OUT), seed=1).plan()


def test_cards_do_not_overlap_and_stay_inside_the_video():
    for plan in CONFIG.plan():
        starts = [card.start_s for card in plan.cards]
        assert all(later - earlier >= CONFIG.card_s for earlier, later in zip(starts, starts[1:], strict=False))
        assert starts[0] >= 0 and starts[-1] + CONFIG.card_s <= plan.duration_s
        assert all(start % CONFIG.align_s == 0 for start in starts)


def test_the_right_letter_names_the_colour_of_the_card_with_the_shape():
    for plan in CONFIG.plan():
        shown = {card.shape: card.colour for card in plan.cards if card.shape}
        assert len(plan.questions) == len(shown)
        for question in plan.questions:
            lines = question.text.splitlines()
            options = dict(line.split(". ") for line in lines[1:])
            assert sorted(options.values()) == sorted(COLOURS)
            assert options[question.answer] == shown[shape_in(question)]


def test_questions_about_held_out_videos_know_their_cell():
    for plan in CONFIG.plan():
        for question in plan.questions:
            if plan.split == "train":
                assert not question.groups
                continue
            length, percent = re.fullmatch(r"(\d+)s-(0|25|50|75|100)pct", question.groups["cell"]).groups()
            assert int(length) == plan.duration_s
            assert abs(int(percent) / 100 - question.depth) <= 0.125


def test_no_letter_and_no_shape_gives_the_answer_away():
    questions = [question for plan in CONFIG.plan() for question in plan.questions]
    share = Counter(question.answer for question in questions).most_common(1)[0][1] / len(questions)
    assert share < 0.32, "the most frequent letter alone must stay near chance"
    by_shape = Counter((shape_in(question), question.answer) for question in questions)
    totals = Counter(shape_in(question) for question in questions)
    best = sum(max(by_shape[shape, letter] for letter in LETTERS) for shape in totals) / len(questions)
    assert best < 0.40, "knowing each shape's favourite letter must not help much either"


def test_options_can_stand_in_fixed_order():
    fixed = SuiteConfig(groups=(CLIPS,), shuffle_options=False)
    orders = {tuple(q.text.splitlines()[1:]) for plan in fixed.plan() for q in plan.questions}
    assert orders == {tuple(f"{letter}. {colour}" for letter, colour in zip(LETTERS, COLOURS, strict=True))}


def test_test_videos_show_scenes_that_no_training_video_shows():
    textures = {split: set() for split in ("train", "test")}
    for plan in CONFIG.plan():
        textures[plan.split] |= {scene.texture for scene in plan.scenes}
    assert textures["train"] and textures["test"] and not textures["train"] & textures["test"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 321}, "both must be even"),
        ({"num_shapes": 99}, "num_shapes is 99"),
        ({"num_shapes": 4}, "max_cards is 5, but num_shapes is 4"),
        ({"card_s": 20}, "do not fit apart into 40 s"),
    ],
)
def test_a_suite_that_cannot_be_drawn_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        SuiteConfig(groups=(CLIPS,), **changes)
