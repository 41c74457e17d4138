"""How the tasks of lmms-eval 0.7.3 read a letter out of a reply, each in its own way.

Where a task draws a letter at random, "" is returned here, and the answer counts as unparsed: a draw would give chance
to a model that said nothing. Tried against the library itself (docs/decisions.md has the counts); the oddities are its
own and kept: "Answer: (C)" is A for LongVideoBench, because its first capital from A to E is that of "Answer".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_lowercase

_QUOTED = ",.!?;:'\""
_PHRASES = (
    *(f"{the}{kind} is" for kind in ("correct answer", "best answer", "correct option", "best option", "answer",
                                     "correct choice", "choice") for the in ("the ", "")),
    "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
# A letter before or in these, from the more to the less telling; the later in the text wins among equals.
_MARKED = ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} "))
_START, _END, _PHRASE, _ANYWHERE = 10, 9, 7, 0


def ranked_letter(reply: str, letters: str = "ABCD") -> str:
    """LVBench, Video-MME, MLVU: the best-placed capital among `letters`, the later one among equals."""
    text = reply.strip()
    for mark in _QUOTED:
        text = text.strip(mark)
    text = f" {text} "
    found = [
        (rank, text.rfind(form.format(letter)), letter)
        for rank, form in _MARKED
        for letter in letters
        if form.format(letter) in text
    ]
    found += [(_PHRASE, place, letter) for place, letter in _after_phrases(text, letters)]
    core = text.strip()
    found += [(_START, 0, core[0]) for _ in core[:1] if core[0] in letters and not core[1:2].isalpha()]
    found += [(_END, len(text) - 1, core[-1]) for _ in core[:1] if core[-1] in letters and not core[-2:-1].isalpha()]
    if not found:
        found = [(_ANYWHERE, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found, key=lambda item: item[:2])[2] if found else ""


def _after_phrases(text: str, letters: str) -> list[tuple[int, str]]:
    """Where each letter first stands after the first time each phrase is said."""
    lower = text.lower()
    ends = [lower.find(phrase) + len(phrase) for phrase in _PHRASES if phrase in lower]
    places = [(text.find(letter, end), letter) for end in ends for letter in letters]
    return [(place, letter) for place, letter in places if place >= 0]


_LONGVIDEOBENCH_LEAD_INS = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip


def first_capital(reply: str) -> str:
    """LongVideoBench: the first capital A to E once the usual lead-ins are struck out, be it within a word."""
    text = reply.strip()
    for lead_in in _LONGVIDEOBENCH_LEAD_INS:
        text = text.replace(lead_in, "")
    found = re.search("[A-E]", text)
    return found[0] if found else ""


def bracket_or_content(reply: str, options: Sequence[str]) -> str:
    """NExT-QA: "(A)", else "A ", else "A.", else an option's text in a reply of more than five words."""
    text = reply
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    letters = [chr(ord("A") + index) for index in range(len(options))]
    for form, where in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        said = [letter for letter in letters if form.format(letter) in text]
        if said:
            return max(said, key=lambda letter: text.rfind(where.format(letter)))
    lower = text.lower()
    named = [letter for letter, option in zip(letters, options, strict=True) if option.lower() in lower]
    if len(text.split()) <= 5 or not named:
        return ""
    content = dict(zip(letters, options, strict=True))
    return max(named, key=lambda letter: lower.rfind(content[letter].lower()))


_OPTION_LINE = re.compile(r"([A-E])\.\s*(.+)$", re.IGNORECASE)
_ALONE = re.compile(r"\b([A-E])\b", re.IGNORECASE)
_THOUSANDS = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_MOST_STOPS = 32  # The library hands a flag where `sub` takes a count.


def lone_letter(reply: str, num_options: int = 0) -> str:
    """MVBench: of "b. text" the letter, else the first letter A to E that stands alone once marks are gone.

    Without such a letter the library compares what is left with the right letter, which matters where that is beyond E.
    """
    text = reply.strip()
    if line := _OPTION_LINE.match(text):
        return line[1].upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    text = _without_marks(text)
    for mark in "'\")(":
        text = text.strip(mark)
    left = text.strip().lower()
    alone = _ALONE.search(left)
    if alone is None:
        return left.upper() if left and left in set(ascii_lowercase[:num_options]) else ""
    return alone[1].upper()


def _without_marks(text: str) -> str:
    """A mark beside a space somewhere disappears everywhere; others become spaces. 1,000 anywhere: all disappear."""
    joins = _THOUSANDS.search(text) is not None
    bare = text
    for mark in _MARKS:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if joins or beside_space else " ")
    return _STOP.sub("", bare, count=_MOST_STOPS)
