"""The answer rule of protocol `vamba`, on answers written by models and read by the paper's scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.protocols.vamba import first_character, hourvideo_label, vamba_letter

CASES = json.loads((Path(__file__).parent / "golden_answers.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_reads_the_letter_that_the_published_scripts_read(case: dict[str, Any]) -> None:
    expected = case["vamba"]
    assert first_character(case["response"]) == expected["first_char"]
    assert vamba_letter(case["response"]) == expected["letter"]
    assert hourvideo_label(case["response"]) == expected["hourvideo_label"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("The answer is A. No, the answer is B", "B"),
        ("answer: c. The answer is b", "B"),
        ("The option is: D", "T"),
        ("The option is \n(d)", "D"),
        ("42", ""),
        ("", ""),
        ("   ", ""),
    ],
)
def test_the_last_lead_in_of_the_first_kind_counts(reply: str, letter: str) -> None:
    assert vamba_letter(reply) == (letter if letter in "ABCDE" else "")


def test_hourvideo_is_handed_z_where_nothing_was_said() -> None:
    assert (hourvideo_label(""), hourvideo_label("the answer is")) == ("Z", "Z")
