"""The answer rule of protocol `vamba`, on answers written by models and read by the paper's scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation.protocols.vamba import first_character, vamba_letter

CASES = json.loads((Path(__file__).parent / "vamba_answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_reads_the_letter_that_the_published_scripts_read(case: dict[str, str]) -> None:
    assert first_character(case["response"]) == case["first_char"]
    assert vamba_letter(case["response"]) == case["letter"]


def test_an_empty_answer_gives_no_letter() -> None:
    assert vamba_letter("") == ""
    assert vamba_letter("   ") == ""
