"""The answer rules of protocol `lmms-eval-0.7.3`, against letters that the library itself read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.evaluation.protocols.lmms_answers import bracket_or_content, first_capital, lone_letter, ranked_letter

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden_answers.json").read_text(encoding="utf-8"))["cases"]
TABLE = json.loads((HERE / "lmms_answers.json").read_text(encoding="utf-8"))
OPTIONS = TABLE["nextqa_options"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["id"])
def test_golden_answers(case: dict[str, Any]) -> None:
    expected = {name: letter.replace("RANDOM", "") for name, letter in case["lmms_eval"].items()}
    assert ranked_letter(case["response"]) == expected["mcq_abcd"]
    assert ranked_letter(case["response"], "ABCDE") == expected["mcq_abcde"]
    assert first_capital(case["response"]) == expected["longvideobench"]
    assert bracket_or_content(case["response"], OPTIONS) == expected["nextqa"]
    assert lone_letter(case["response"]) == expected["mvbench_letter_scored_correct"]


def test_edge_cases_read_by_the_library() -> None:
    read = [
        {
            "reply": case["reply"],
            "lvbench": ranked_letter(case["reply"]),
            "abcde": ranked_letter(case["reply"], "ABCDE"),
            "longvideobench": first_capital(case["reply"]),
            "nextqa": bracket_or_content(case["reply"], OPTIONS),
            "mvbench": lone_letter(case["reply"]),
        }
        for case in TABLE["cases"]
    ]
    assert [case for case, expected in zip(read, TABLE["cases"], strict=True) if case != expected] == []
    assert len(read) > 250
