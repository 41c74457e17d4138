"""Runs lmms-eval on local tasks in a process of its own, where HF_HOME and its loggers touch no other test.

    python -m tests.pipelines.evaluation.lmms_run MODEL TASKS OUT TASK...   (as the library's own command, offline)

OUT gets the results and samples as JSON. `answer_by_script` stands in for what an untrained model would say. Where the
library draws a letter at random, it draws none here: our protocol counts such an answer as unparsed.
"""

from __future__ import annotations

import json
import random
import sys
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.pipelines.evaluation.only_the_extra import hide_the_rest

REPLIES = ("B", "(C) because it is", "The answer is D.", "a", "", "Best option: (A", "none of them", "C. z", "(D)")


def answer_by_script(answerer: Any, memory: Any, questions: Sequence[str], *, max_new_tokens: int) -> tuple[str, ...]:
    """A reply that depends on the video and the question alone."""
    assert memory.num_tokens > 0
    keys = (f"{memory.num_tokens}/{max_new_tokens}/{question}" for question in questions)
    return tuple(REPLIES[zlib.crc32(key.encode()) % len(REPLIES)] for key in keys)


def stand_in_for_decoders() -> None:
    """Modules that two tasks import for subtitles and frames; a task that gives the path of a video calls neither."""
    for name, members in (("cv2", ()), ("decord", ("VideoReader", "cpu"))):
        if find_spec(name) is None:
            module = ModuleType(name)
            module.__dict__.update(dict.fromkeys(members))
            sys.modules[name] = module


def draw_no_letters() -> None:
    draw = random.choice
    random.choice = lambda among: "" if set(among) <= set("ABCDE") else draw(among)


def main(model: str, tasks: str, out: str, *names: str) -> None:
    hide_the_rest()
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from pipelines.evaluation.answering import Answerer

    stand_in_for_decoders()
    draw_no_letters()
    Answerer.ask = answer_by_script  # type: ignore[method-assign, assignment]
    arguments = f"pretrained={model},num_frames=4,shortest_edge=28,longest_edge=56"
    manager = TaskManager(include_path=tasks, include_defaults=False)
    found = simple_evaluate(
        model="vamba", model_args=arguments, tasks=[*names], task_manager=manager, batch_size=1, bootstrap_iters=0
    )
    samples = {
        name: [
            {"prompt": sample["arguments"][0], "raw": sample["filtered_resps"][0], "scored": sample}
            for sample in found["samples"][name]
        ]
        for name in names
    }
    Path(out).write_text(json.dumps({"results": found["results"], "samples": samples}, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
