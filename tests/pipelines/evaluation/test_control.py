"""The shuffled-video control: complete, never the own video, and spread over several others."""

from __future__ import annotations

import pytest

from pipelines.evaluation.control import assign_own, assign_shuffled
from pipelines.evaluation.questions import Question, VideoQuestions
from vamba.data.manifest import SampleRow


def video(name: str, duration_s: int, num_questions: int) -> VideoQuestions:
    row = SampleRow(
        id=name, shard="s", offset_bytes=0, size_bytes=1, split="test", media="video", duration_ns=duration_s * 10**9,
        num_frames=duration_s, width=64, height=36, num_conversations=num_questions, source_uri="", source_digest="",
    )  # fmt: skip
    questions = tuple(
        Question(
            key=f"{name}/{i}", video=name, duration_s=duration_s, category="c", text="?", answer="A", num_options=4
        )
        for i in range(num_questions)
    )
    return VideoQuestions(row=row, questions=questions)


VIDEOS = [video(f"clip-{i}", 30 + i, 4) for i in range(20)] + [video("hour", 3600, 24), video("long", 900, 6)]


def test_every_question_is_asked_once_and_never_about_its_own_video() -> None:
    shown = assign_shuffled(VIDEOS, seed=3, num_control_videos=6)
    asked = [question.key for questions in shown.values() for question in questions]
    assert sorted(asked) == sorted(question.key for item in VIDEOS for question in item.questions)
    assert all(question.video != name for name, questions in shown.items() for question in questions)


def test_questions_of_the_one_long_video_are_spread_over_others_near_in_length() -> None:
    shown = assign_shuffled(VIDEOS, seed=3, num_control_videos=6)
    counts = {name: sum(question.video == "hour" for question in questions) for name, questions in shown.items()}
    used = {name: count for name, count in counts.items() if count}
    assert len(used) == 6 and "long" in used
    assert max(used.values()) == 4


def test_repeats_ask_each_question_about_so_many_different_videos() -> None:
    shown = assign_shuffled(VIDEOS, seed=3, num_control_videos=6, repeats=4)
    seen: dict[str, set[str]] = {}
    keys = []
    for name, questions in shown.items():
        for question in questions:
            keys.append(question.key)
            seen.setdefault(question.key.partition("#")[0], set()).add(name)
            assert question.video != name
    assert len(set(keys)) == len(keys) == 4 * sum(len(item.questions) for item in VIDEOS)
    assert all(len(names) == 4 for names in seen.values())


def test_more_repeats_than_other_videos_ask_about_all_of_them() -> None:
    shown = assign_shuffled(VIDEOS[:3], seed=3, num_control_videos=6, repeats=9)
    assert sum(len(questions) for questions in shown.values()) == 2 * 12


def test_the_assignment_depends_on_the_seed_alone() -> None:
    assert assign_shuffled(VIDEOS, seed=1, num_control_videos=6) == assign_shuffled(
        VIDEOS, seed=1, num_control_videos=6
    )
    assert assign_shuffled(VIDEOS, seed=1, num_control_videos=6) != assign_shuffled(
        VIDEOS, seed=2, num_control_videos=6
    )


def test_one_video_cannot_be_shuffled() -> None:
    with pytest.raises(ValueError, match="at least two"):
        assign_shuffled(VIDEOS[:1], seed=0, num_control_videos=6)


def test_without_the_control_every_question_sees_its_own_video() -> None:
    assert all(question.video == name for name, asked in assign_own(VIDEOS).items() for question in asked)
