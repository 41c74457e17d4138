"""The grid of lengths and depths as a plan: what is asked follows from what is shown, and from nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest

from pipelines.evaluation.synthetic.grid import KINDS, GridConfig
from pipelines.evaluation.synthetic.suite import annotation_rows
from pipelines.evaluation.synthetic.video_plan import CELL, Question, VideoPlan, cell_name

CONFIG = GridConfig(lengths_s=(60, 600, 10_800), videos_per_length=100)
PLANS = CONFIG.plan()


def options(question: Question) -> dict[str, str]:
    return dict(line.split(". ") for line in question.text.splitlines()[1:])


def said(question: Question) -> str:
    return options(question)[question.answer]


def of_kind(plan: VideoPlan, kind: str) -> list[Question]:
    return [question for question in plan.questions if question.category == kind]


def word_after_the(question: Question) -> str:
    return question.text.splitlines()[0].partition("with the ")[2].split()[0].removesuffix("?")


def test_the_same_config_gives_the_same_plan() -> None:
    assert CONFIG.plan() == PLANS
    assert GridConfig(lengths_s=(60,), seed=1).plan() != GridConfig(lengths_s=(60,)).plan()


def test_cards_stand_apart_and_inside() -> None:
    for plan in PLANS:
        starts = [card.start_s for card in plan.cards]
        assert all(after - before >= CONFIG.card_s for before, after in zip(starts, starts[1:], strict=False))
        assert starts[0] >= 0 and starts[-1] + CONFIG.card_s <= plan.duration_s


def test_every_needle_stands_at_its_depth() -> None:
    for plan in PLANS:
        where = {card.shape: card for card in plan.cards}
        for question, depth in zip(of_kind(plan, "needle"), CONFIG.depths, strict=True):
            card = where[word_after_the(question)]
            assert card.start_s == pytest.approx(depth * (plan.duration_s - 2 * CONFIG.card_s), abs=CONFIG.align_s)
            assert said(question) == card.colour
            assert question.groups == {CELL: cell_name(plan.duration_s, depth)}


def test_order_number_and_last_card_are_those_of_the_video() -> None:
    for plan in PLANS:
        (order,), (count,), (last,) = (of_kind(plan, kind) for kind in ("order", "count", "last_seen"))
        shapes = [card.shape for card in plan.cards]
        assert said(order) == min(options(order).values(), key=shapes.index)
        assert said(count) == str(shapes.count(word_after_the(count)))
        assert said(last) == plan.cards[-1].colour and plan.cards[-1].shape is None
        assert len({question.id for question in plan.questions}) == len(plan.questions)


def test_every_number_is_asked_for_equally_often() -> None:
    for length_s in CONFIG.lengths_s:
        numbers = Counter(said(of_kind(plan, "count")[0]) for plan in PLANS if plan.duration_s == length_s)
        assert numbers == {"1": 25, "2": 25, "3": 25, "4": 25}


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_alone_is_right_one_time_in_four(kind: str) -> None:
    """Neither a letter, nor an option's text, nor its place among a shape's questions gives the answer away."""
    questions = [question for plan in PLANS for question in of_kind(plan, kind)]
    for guess in (lambda q: q.answer, said):
        share = Counter(map(guess, questions)).most_common(1)[0][1] / len(questions)
        assert share < 0.34
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        by_text[question.text.splitlines()[0]][said(question)] += 1
    best = sum(counter.most_common(1)[0][1] for counter in by_text.values()) / len(questions)
    assert best < 0.42


def test_rows_carry_the_kind_and_the_cell() -> None:
    rows: list[dict[str, Any]] = annotation_rows(PLANS[0])
    assert Counter(row["category"] for row in rows) == {"needle": 5, "order": 1, "count": 1, "last_seen": 1}
    assert [row["groups"] for row in rows if "groups" in row] == [{CELL: f"60s-{pct}pct"} for pct in range(0, 101, 25)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lengths_s": (20,)}, "20 s, in which 11 cards"),
        ({"lengths_s": (60, 60)}, "different lengths"),
        ({"lengths_s": ()}, "different lengths"),
        ({"depths": (0.0, 0.5, 1.0)}, "give 4 to 15"),
        ({"depths": (0.0, 0.5, 1.0, 1.5)}, "from 0 to 1"),
        ({"videos_per_length": 0}, "videos_per_length is 0"),
        ({"blanks": 0}, "blanks 0"),
        ({"width": 321}, "both must be even"),
        ({"width": 0}, "0x180: both must be even"),
        ({"fps": 0}, "fps is 0"),
        ({"card_s": 0}, "card_s is 0"),
        ({"align_s": 0}, "align_s is 0"),
        ({"min_scene_s": 0, "max_scene_s": 0}, "min_scene_s is 0"),
        ({"max_scene_s": 2}, "max_scene_s is 2, but min_scene_s is 3"),
        ({"num_textures": 1}, "num_textures is 1"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GridConfig(**{"lengths_s": (60,), **changes})
