"""Protocol `vamba`: frames, prompts and answer rule of the scripts published with the paper, with their oddities.

Greedy, 512 tokens. "The correct answer is B" gives no letter (its first character is `t`), "a red car" gives A. The
number of options that a prompt names does not follow the question: four for Video-MME, five for NExT-QA. HourVideo's
script draws its answers (temperature 1, top_p 0.9); here they are greedy, so that a result can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase

from pipelines.evaluation.benchmarks.question import BenchmarkQuestion
from pipelines.evaluation.protocols.recipe import FrameRule, Recipe

NAME = "vamba"
LETTERS = "ABCDE"

_LEAD_INS = ("the answer is", "answer:", "the option is ")
_MAX_NEW_TOKENS = 512
_SELECT = "Select the best answer to the following multiple-choice question based on the video."
_FOUR = "Respond with only the letter (A, B, C, or D) of the correct option."
_FIVE = "Respond with only the letter (A, B, C, D, or E) of the correct option."


def first_character(answer: str) -> str:
    """The character that the scripts take for the answer, lower case; empty when nothing is left.

    Lower-cased, the text after the last "the answer is", else after "answer:", else after "the option is " counts; in
    it the first alphabetic character of any script, else the first character.
    """
    text = answer.lower()
    for lead_in in _LEAD_INS:
        if lead_in in text:
            text = text.rsplit(lead_in, 1)[1].strip()
            break
    return next((character for character in text if character.isalpha()), text[:1])


def vamba_letter(answer: str, num_options: int = 0) -> str:
    """The option letter of `answer`, or "" when it gives none (counted as unparsed).

    A to E whatever the number of options, as published; further ones where a question has so many, since the scripts
    compare the character with the right letter, whatever that is.
    """
    letters = ascii_uppercase[: max(len(LETTERS), num_options)]
    character = first_character(answer).upper()
    return character if character in set(letters) else ""


def hourvideo_label(answer: str) -> str:
    """What HourVideo's scorer is handed: the character itself in upper case, whatever it is, or Z where none is."""
    return first_character(answer).upper() or "Z"


def vamba_recipe(benchmark: str) -> Recipe | None:
    """How the scripts ask `benchmark`, None for one they do not know. HourEval asks as each part is asked."""
    if benchmark not in _FRAMES:
        return None
    frames = _FRAMES[benchmark]
    return Recipe(
        protocol=NAME,
        prompt=_by_part if benchmark == "houreval" else _PROMPTS[benchmark],
        read=lambda answer, options: vamba_letter(answer, len(options)),
        max_new_tokens=_MAX_NEW_TOKENS,
        num_frames=frames.num_frames,
        shortest_edge=frames.shortest_edge,
        longest_edge=frames.longest_edge,
    )


def _lvbench(question: BenchmarkQuestion) -> str:
    return "\n".join([_SELECT, _FOUR, question.question, *_bracketed(question.options)])


def _videomme(question: BenchmarkQuestion) -> str:
    return "\n".join([_SELECT, _FOUR, question.question, " ".join(question.options)])


def _one_line(letters: str) -> Callable[[BenchmarkQuestion], str]:
    def prompt(question: BenchmarkQuestion) -> str:
        return "\n".join([f"{_SELECT} {letters}", question.question, *lettered(question.options)])

    return prompt


def _mvbench(question: BenchmarkQuestion) -> str:
    ending = "Answer with the option's letter from the given choices directly."
    return "\n".join([f"Question: {question.question}", *lettered(question.options), ending])


def _hourvideo(question: BenchmarkQuestion) -> str:
    return "\n".join([_SELECT, question.question, *question.options, _FIVE])


def _by_part(question: BenchmarkQuestion) -> str:
    return _PROMPTS[question.part](question)


def lettered(options: tuple[str, ...]) -> list[str]:
    """`A. option`, one line each."""
    return [f"{chr(ord('A') + index)}. {option}" for index, option in enumerate(options)]


def _bracketed(options: tuple[str, ...]) -> list[str]:
    return [f"({chr(ord('A') + index)}) {option}" for index, option in enumerate(options)]


_PROMPTS: dict[str, Callable[[BenchmarkQuestion], str]] = {
    "lvbench": _lvbench,
    "hourvideo": _hourvideo,
    "videomme": _videomme,
    "mlvu": _one_line(_FOUR),
    "longvideobench": _one_line(_FOUR),
    "nextqa": _one_line(_FIVE),
    "mvbench": _mvbench,
}
_FRAMES = {
    "lvbench": FrameRule(num_frames=1024, shortest_edge=256, longest_edge=560),
    "hourvideo": FrameRule(num_frames=128, shortest_edge=256, longest_edge=360),
} | {
    name: FrameRule(num_frames=512, shortest_edge=256, longest_edge=480)
    for name in ("houreval", "videomme", "mlvu", "longvideobench", "nextqa", "mvbench")
}
