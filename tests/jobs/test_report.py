"""The report: one file, nothing from outside, everything it is given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jobs.report import ReportInputs, build_report
from jobs.report_parts.axes import scale
from jobs.report_parts.charts import _resume_mark
from jobs.report_parts.facts import run_facts
from jobs.report_parts.timing import StepTiming
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model
from vamba.data.manifest import Failure


@pytest.fixture
def run(vamba_home: Path) -> Path:
    """A run whose second attempt trained steps 6 to 8 again."""
    directory = vamba_home / "runs" / "stage2"
    (directory / "metrics").mkdir(parents=True)
    record = {"name": "stage2", "data_digest": "sha256:d", "config_digest": "sha256:c"}
    (directory / "run.json").write_text(json.dumps(record))
    (directory / "config.json").write_text(json.dumps({"recipe": "<tiny> & co"}))
    events = []
    for attempt, first, last in ((1, 1, 8), (2, 6, 20)):
        events.append({"event": "attempt_started", "time": attempt, "attempt": attempt, "rank": 0, "pid": 1,
                       "world_size": 2, "resumed_from_step": first - 1, "num_steps": 20})  # fmt: skip
        rows = [
            {"step": step, "loss": 1 / step, "num_text_tokens": 5, "num_video_tokens": 7, "time": step + attempt}
            for step in range(first, last + 1)
        ]
        (directory / "metrics" / f"attempt-{attempt:04d}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return directory


def test_a_late_resume_is_labelled_on_its_left() -> None:
    """Where the label would leave the picture on the right."""
    for reached, anchor in ((200, "start"), (760, "end")):
        mark = _resume_mark(reached - 40, reached, 2, scale(0, 1200, 58, 984))
        assert f'text-anchor="{anchor}"' in mark


def test_facts_tell_resumes_and_replayed_steps(run: Path) -> None:
    facts = run_facts("stage2")
    assert [(resume.attempt, resume.from_step, resume.reached_step) for resume in facts.resumes] == [(2, 5, 8)]
    assert [step for step, _ in facts.replayed] == [6, 7, 8]
    assert facts.max_difference == 0.0 and len(facts.losses) == 20
    assert facts.num_tokens == 20 * 12


def test_the_report_is_one_file_that_asks_nothing_of_the_network(run: Path, tmp_path: Path) -> None:
    failure = Failure(
        stage="probe", id="bad", source_uri="/v/bad.mp4", error_class="truncated", message="<b>cut</b> short"
    )
    samples = [make_sample(f"clip-{i}", num_frames=4, num_questions=2) for i in range(2)]
    write_dataset(tmp_path / "data", [*samples, make_sample("long", num_frames=300, num_questions=2)], [failure])
    model = write_model(tmp_path / "toy")
    names = [
        run_evaluation(
            EvaluationConfig(model=str(model), data=str(tmp_path / "data"), shuffle_videos=control, log_to_mlflow=False)
        ).name
        for control in (False, True)
    ]
    step = StepTiming(name="ingest", made="3 videos", where=".vamba/data", seconds=12.5)
    path = build_report(
        ReportInputs(
            out=tmp_path / "report.html",
            runs=("stage2",),
            data=str(tmp_path / "data"),
            evaluations=tuple(names),
            steps=(step,),
        )
    )
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(|<script|<link", text)
    assert len(text) < 3_000_000
    assert "interrupted at step 8, attempt 2 resumed from 5" in text and text.count('class="replayed"') == 3
    assert "bit-identical" in text and "chance 25%" in text and "shuffled" in text
    assert text.count("data:image/jpeg;base64,") == 24 and "0:04:" in text
    assert "&lt;b&gt;cut&lt;/b&gt; short" in text and "&lt;tiny&gt; &amp; co" in text
    assert "12.5 s" in text


def test_a_report_of_a_run_alone_is_possible(run: Path, tmp_path: Path) -> None:
    assert "<svg" in build_report(ReportInputs(out=tmp_path / "r.html", runs=("stage2",))).read_text(encoding="utf-8")


def test_the_report_tells_what_a_run_measured_and_what_happened_to_it(run: Path, tmp_path: Path) -> None:
    path = run / "metrics" / "attempt-0002.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row |= {
            "seconds": {"data": 0.01, "compute": 0.09}, "grad_norms": {"mixers": 0.5, "alpha": 100.0 * row["step"]},
            "alphas": [0.25, 0.5, 0.75], "memory_bytes": 3 << 30, "mfu": 0.41,
        }  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (run / "events.jsonl").open("a") as file:
        for event in (
            {"event": "step_skipped", "time": 30, "step": 9, "reason": "<spike>", "sample_ids": list("abcdefgh")},
            {"event": "checkpoint_begun", "time": 31, "step": 10, "held_s": 0.02},
            {"event": "evaluated", "time": 32, "step": 10, "evaluation_loss": 0.7},
        ):
            file.write(json.dumps(event) + "\n")
    text = build_report(ReportInputs(out=tmp_path / "r.html", runs=("stage2",))).read_text(encoding="utf-8")
    for title in (
        "Tokens per second", "Waiting for data", "Gradient norm by group", "alpha", "Memory of the first worker",
        "Model utilisation (MFU)", "Evaluation loss",
    ):  # fmt: skip
        assert title in text
    assert "layer 2" in text and "mixers" in text
    assert "&lt;spike&gt;" in text and "sample_ids (8)" in text and "held its step for 20 ms" in text
    for picture in re.findall(r"<svg.*?</svg>", text):
        ElementTree.fromstring(picture)
        numbers = [float(n) for points in re.findall(r'points="([^"]*)"', picture) for n in re.split("[ ,]", points)]
        assert all(0 <= number <= 1000 for number in numbers)
