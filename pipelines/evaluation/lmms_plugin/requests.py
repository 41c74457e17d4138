"""lmms-eval's requests as showings: each video with all that is asked about it, in frames of our protocol.

Tasks are matched to benchmarks by the beginning of their names (`mlvu_dev` is MLVU); a task of another kind gets the
frames that most benchmarks have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.plan_types import Showing
from pipelines.evaluation.protocols.lmms_eval import lmms_recipe
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.evaluation.questions import Question

_BENCHMARKS = ("lvbench", "videomme", "mlvu", "longvideobench", "nextqa", "mvbench")
_LIKE_MOST = "mvbench"
_DEFAULT_TOKENS = 128
"""What the library's own Qwen2-VL class takes where a task sets no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. number: its place among all. until: texts that end an answer."""

    number: int
    task: str
    video: str
    text: str
    max_new_tokens: int
    until: tuple[str, ...]


def read_request(number: int, arguments: Sequence[Any], documents: Mapping[str, Any]) -> Asked:
    """Read the arguments of a `generate_until` request: context, settings, a function to the visuals, place of the
    document. documents: by task and split.

    Raises ValueError for what can't be asked here: pictures, several videos at once, sampling.
    """
    text, settings, doc_to_visual, doc_id, task, split = arguments
    visuals = doc_to_visual(documents[task][split][doc_id]) or []
    if len(visuals) != 1 or not isinstance(visuals[0], str):
        kinds = ", ".join(type(visual).__name__ for visual in visuals) or "none"
        raise ValueError(
            f"Task {task}, document {doc_id}: this model is shown one video file with each question, and the task has "
            f"{len(visuals)} visuals ({kinds}). Choose the task's variant that gives the path of a video."
        )
    if settings.get("do_sample") or settings.get("temperature") or settings.get("num_beams", 1) > 1:
        raise ValueError(
            f"Task {task} asks for sampling or beams ({settings}); this model answers greedily. Override it: "
            "--gen_kwargs temperature=0,do_sample=False,num_beams=1"
        )
    until = settings.get("until") or ()
    return Asked(
        number=number,
        task=task,
        video=visuals[0],
        text=text.replace("<image>", "").replace("<video>", ""),
        max_new_tokens=int(settings.get("max_new_tokens") or _DEFAULT_TOKENS),
        until=(until,) if isinstance(until, str) else tuple(until),
    )


def frame_rule(task: str, wanted: Mapping[str, int]) -> FrameRule:
    """Frames of a task's videos. wanted: those that the user set, by the rule's names; 0 leaves the protocol's."""
    benchmark = next((name for name in _BENCHMARKS if task.startswith(name)), _LIKE_MOST)
    recipe = lmms_recipe(benchmark)
    assert recipe is not None
    names = ("num_frames", "shortest_edge", "longest_edge")
    return FrameRule(**{name: wanted.get(name) or getattr(recipe, name) for name in names})


def showings_of(asked: Sequence[Asked], wanted: Mapping[str, int]) -> list[tuple[Showing, list[Asked]]]:
    """Each video once for all requests about it that share frames and tokens."""
    groups: dict[tuple[str, FrameRule, int], list[Asked]] = {}
    for one in asked:
        groups.setdefault((one.video, frame_rule(one.task, wanted), one.max_new_tokens), []).append(one)
    return [
        (
            Showing(
                source=ShownClip(id=video, clip=Clip(path=video), frames=rule),
                questions=tuple(_question(one) for one in members),
                max_new_tokens=tokens,
            ),
            members,
        )
        for (video, rule, tokens), members in groups.items()
    ]


def _question(one: Asked) -> Question:
    return Question(
        key=str(one.number),
        video=one.video,
        duration_s=0.0,
        category=one.task,
        text=one.text,
        answer="",
        num_options=0,
    )
