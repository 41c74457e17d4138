"""How a protocol reads a letter out of what a model wrote.

Protocols disagree on a third of real answers, so the protocol's name is part of every metric and results of different
protocols are never compared. `vamba` is the rule of the scripts published with the paper, with its oddities: "The
correct answer is B" gives no letter (its first character is `t`), "a red car" gives A.
"""

from __future__ import annotations

LETTERS = "ABCDE"
_LEAD_INS = ("the answer is", "answer:", "the option is ")


def first_character(answer: str) -> str:
    """The character that protocol `vamba` takes for the answer, lower case; empty when nothing is left.

    Lower-cased, the text after the last "the answer is", else after "answer:", else after "the option is " counts; in
    it the first alphabetic character of any script, else the first character.
    """
    text = answer.lower().strip()
    for lead_in in _LEAD_INS:
        if lead_in in text:
            text = text.rsplit(lead_in, 1)[1].strip()
            break
    return next((character for character in text if character.isalpha()), text[:1])


def vamba_letter(answer: str) -> str:
    """The option letter A-E of `answer` under protocol `vamba`, or "" when it gives none (counted as unparsed)."""
    character = first_character(answer).upper()
    return character if character and character in LETTERS else ""
