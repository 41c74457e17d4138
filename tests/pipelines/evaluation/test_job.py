"""An evaluation from manifest to result, with an untrained model that answers arbitrarily but reproducibly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation import claim, job
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.plan import plan_evaluation
from pipelines.evaluation.result import ResultFormatError, find_results, read_result
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model
from vamba.ops.backends import Backends, BackendUnavailable


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    samples = [make_sample(f"clip-{i}", num_frames=5 + i, num_questions=3) for i in range(4)]
    samples += [
        make_sample("long", num_frames=130, num_questions=5),
        make_sample("train", num_frames=4, num_questions=2, split="train"),
    ]
    write_dataset(tmp_path / "data", samples)
    return tmp_path / "data"


def config(model: Path, data: Path, **changes: object) -> EvaluationConfig:
    return EvaluationConfig(model=str(model), data=str(data), log_to_mlflow=False, **changes)  # type: ignore[arg-type]


def test_answers_every_multiple_choice_question_once(model: Path, data: Path) -> None:
    result = run_evaluation(config(model, data))
    assert result.overall is not None
    assert (result.num_questions, result.overall.num_questions, result.coverage) == (17, 17, 1.0)
    assert result.chance == 0.25
    assert set(result.by_category) == {"colour", "shape"}
    assert list(result.by_length) == ["under 1 min", "1-3 min"]
    rows = [json.loads(line) for line in (Path(result.directory) / "answers.jsonl").read_text().splitlines()]
    assert len({row["question"] for row in rows}) == 17
    assert all(row["shown"] == row["video"] for row in rows)
    assert read_result(Path(result.directory)) == result
    assert f"eval/vamba/{data.name}/overall" in result.metrics()


def test_a_killed_evaluation_continues_and_ends_the_same(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run_evaluation(config(model, data, name="undisturbed"))
    shown, original = [], job.show

    def dies_at_the_third(answerer, settings, showing):  # type: ignore[no-untyped-def]
        shown.append(showing.source.id)
        if len(shown) == 3:
            raise KeyboardInterrupt
        return original(answerer, settings, showing)

    monkeypatch.setattr(job, "show", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(config(model, data, name="killed"))
    result = run_evaluation(config(model, data, name="killed"))
    assert len(shown) == 3 + 3, "the two videos that were answered are not shown again"
    assert (result.overall, result.by_category) == (undisturbed.overall, undisturbed.by_category)


def test_a_finished_evaluation_is_returned_without_asking_again(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_evaluation(config(model, data))
    monkeypatch.setattr(job, "Answerer", None)
    assert run_evaluation(config(model, data)) == first


def test_the_control_shows_other_videos_and_is_named_in_its_metrics(model: Path, data: Path) -> None:
    result = run_evaluation(config(model, data, shuffle_videos=True))
    rows = [json.loads(line) for line in (Path(result.directory) / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 17 * 4 and all(row["shown"] != row["video"] for row in rows)
    assert list(result.by_length) == ["under 1 min", "1-3 min"], "grouped by the video that is asked about"
    assert f"eval/vamba/{data.name}/shuffled-video/overall" in result.metrics()


def test_a_broken_video_is_listed_and_lowers_the_coverage(model: Path, data: Path) -> None:
    shard = data / "shards" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    row = next(
        showing.source for showing in plan_evaluation(config(model, data)).showings if showing.source.id == "clip-1"
    )
    content[row.offset_bytes : row.offset_bytes + 2048] = bytes(2048)
    shard.write_bytes(content)
    result = run_evaluation(config(model, data))
    assert [video.video for video in result.broken] == ["clip-1"]
    assert result.broken[0].reason
    assert 0.75 < result.coverage < 0.85


def test_a_name_taken_by_another_evaluation_is_refused(model: Path, data: Path) -> None:
    run_evaluation(config(model, data, name="mine"))
    with pytest.raises(ValueError, match="control"):
        run_evaluation(config(model, data, name="mine", shuffle_videos=True))


def test_backends_are_recorded_and_named_ones_are_used(model: Path, data: Path) -> None:
    assert run_evaluation(config(model, data)).backends == ("scan torch, conv torch, attention sdpa",)
    named = Backends(scan="reference", attention="reference")
    result = run_evaluation(config(model, data, name="named", backends=named))
    assert result.backends == ("scan reference, conv torch, attention reference",)
    assert read_result(Path(result.directory)).backends == result.backends
    with pytest.raises(BackendUnavailable, match="backends.scan is 'mamba_ssm'"):
        run_evaluation(config(model, data, name="other", device="cpu", backends=Backends(scan="mamba_ssm")))


def test_subsets_are_marked(model: Path, data: Path) -> None:
    result = run_evaluation(config(model, data, num_questions=4))
    assert result.subset and result.num_questions == 4


def test_a_category_that_is_none_is_named(model: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="no question in color; there are colour, shape"):
        run_evaluation(config(model, data, categories=("shape", "color")))


def test_a_split_without_questions_is_an_error_that_counts_samples(model: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="train 1"):
        run_evaluation(config(model, data, split="validation"))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_replicas_give_the_same_answers(model: Path, data: Path) -> None:
    alone = run_evaluation(config(model, data, name="alone"))
    together = run_evaluation(config(model, data, name="together", num_replicas=2))
    assert (together.overall, together.by_length) == (alone.overall, alone.by_length)


def test_of_two_at_once_one_answers_and_the_other_is_told(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would write their answers down, and every question would count twice."""
    monkeypatch.setattr(claim, "_PATIENCE_S", 0.0)
    original, told = job.show, []

    def meets_another(answerer, settings, showing):  # type: ignore[no-untyped-def]
        if not told:
            with pytest.raises(
                claim.EvaluationBusyError, match="Another process works at the evaluation 'both'"
            ) as told_:
                run_evaluation(config(model, data, name="both"))
            told.append(told_)
        return original(answerer, settings, showing)

    monkeypatch.setattr(job, "show", meets_another)
    assert run_evaluation(config(model, data, name="both")).coverage == 1.0
    assert told and run_evaluation(config(model, data, name="both")).coverage == 1.0


def test_a_result_that_cant_be_read_is_made_anew_of_the_answers(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_evaluation(config(model, data))
    file = Path(first.directory) / "evaluation.json"
    file.write_text(file.read_text()[:200])
    with pytest.raises(ResultFormatError, match=r"evaluation.json can't be read"):
        read_result(file)
    assert find_results(model_digest=first.model_digest) == []
    monkeypatch.setattr(job, "Answerer", None)
    again = run_evaluation(config(model, data))
    assert (again.overall, again.by_category, again.coverage) == (first.overall, first.by_category, 1.0)


def test_a_result_that_was_moved_says_where_it_is(model: Path, data: Path, vamba_home: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    first = run_evaluation(config(model, data))
    vamba_home.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path / "elsewhere"))
    (found,) = find_results(model_digest=first.model_digest)
    assert found.directory == str(tmp_path / "elsewhere" / "evaluations" / first.name)
    assert run_evaluation(config(model, data)).directory == found.directory


@pytest.mark.parametrize("name", ["a/b", "../out", ".hidden", "a\0b", "x" * 120])
def test_a_name_is_that_of_a_directory(name: str) -> None:
    with pytest.raises(ValueError, match="names a directory"):
        EvaluationConfig(model="m", data="d", name=name)
