"""An evaluation on published benchmarks, from the folder to the numbers, with an untrained model."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.evaluation import job
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.evaluation.plan import plan_evaluation
from pipelines.evaluation.protocols.catalogue import find_recipe
from pipelines.evaluation.result import EvaluationResult, find_results, read_result
from tests.pipelines.evaluation.benchmarks import folders
from tests.pipelines.evaluation.needle_data import write_model
from tests.pipelines.ingest.media import make_video

SMALL = {"shortest_edge": 28, "longest_edge": 56, "num_frames": 4, "max_new_tokens": 3, "log_to_mlflow": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


def real_video(path: Path) -> Path:
    return make_video(path, seconds=0.6, fps=10, size="64x48")


def evaluate(model: Path, folder: Path, benchmark: str, **changes: object) -> EvaluationResult:
    settings = {**SMALL, **changes}
    return run_evaluation(EvaluationConfig(model=str(model), data=str(folder), benchmark=benchmark, **settings))  # type: ignore[arg-type]


def lines(result: EvaluationResult) -> list[dict[str, object]]:
    return [json.loads(line) for line in (Path(result.directory) / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("protocol", ["vamba", "lmms-eval-0.7.3"])
@pytest.mark.parametrize("benchmark", ["lvbench", "mlvu"])
def test_both_protocols_from_folder_to_metrics(model: Path, tmp_path: Path, benchmark: str, protocol: str) -> None:
    folder = getattr(folders, benchmark)(tmp_path / "data", real_video)
    result = evaluate(model, folder, benchmark, protocol=protocol)
    assert (result.coverage, result.num_questions, result.protocol) == (1.0, 3, protocol)
    prefix = f"eval/{protocol}/{benchmark}"
    assert {f"{prefix}/{name}" for name in ("overall", "micro", "macro", "coverage", "num_unparsed")} <= set(
        result.metrics()
    )
    recipe = find_recipe(protocol, benchmark)
    for row in lines(result):
        assert row["prediction"] == recipe.read(str(row["raw"]), ())
        assert row["correct"] == (row["prediction"] == row["answer"])
    assert result.subset == (benchmark == "mlvu"), "MLVU's folder lacks five of seven files"
    assert read_result(Path(result.directory)) == result


def test_a_video_is_shown_once_for_all_its_questions(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, original = [], job.show

    def counted(answerer, settings, showing):  # type: ignore[no-untyped-def]
        shown.append((showing.source.id, [question.text for question in showing.questions]))
        return original(answerer, settings, showing)

    monkeypatch.setattr(job, "show", counted)
    evaluate(model, folders.lvbench(tmp_path / "data", real_video), "lvbench")
    assert [(name, len(texts)) for name, texts in shown] == [("-def", 1), ("abc", 2)]
    assert shown[0][1][0].startswith("Select the best answer")


def test_parts_and_pictures_of_mvbench(model: Path, tmp_path: Path) -> None:
    folders.mvbench(tmp_path / "data", lambda path: make_video(path, seconds=3, fps=10, size="64x48"))
    result = evaluate(model, tmp_path / "data", "mvbench")
    broken = {Path(video.source_uri).name: video.reason for video in result.broken}
    assert list(broken) == ["friends_clip"] and "holds no pictures" in broken["friends_clip"]
    assert sorted(str(row["shown"]) for row in lines(result)) == [
        "clevrer/video_validation/c.mp4",
        "star/Charades_v1_480/s.mp4#0-1s",
        "star/Charades_v1_480/s.mp4#1-2.5s",
    ]
    assert {row["video"] for row in lines(result)} == {"clevrer/video_validation/c.mp4", "star/Charades_v1_480/s.mp4"}


def test_missing_and_broken_videos_are_listed_once_and_lower_the_coverage(model: Path, tmp_path: Path) -> None:
    folder = folders.lvbench(tmp_path / "data", real_video)
    (folder / "videos" / "abc.mp4").unlink()
    result = evaluate(model, folder, "lvbench")
    assert [(video.video, video.num_questions) for video in result.broken] == [("abc", 2)]
    assert result.coverage == pytest.approx(1 / 3)
    real_video(folder / "videos" / "abc.mp4")
    assert evaluate(model, folder, "lvbench").coverage == 1.0, "the same command asks about the video that came later"
    (folder / "videos" / "abc.mp4").unlink()
    (folder / "videos" / "-def.mp4").write_bytes(b"no video")
    nothing = evaluate(model, folder, "lvbench", name="nothing")
    assert (nothing.coverage, nothing.overall, len(nothing.broken)) == (0.0, None, 2)


def test_a_part_of_the_questions_is_marked_as_such(model: Path, tmp_path: Path) -> None:
    folder = folders.lvbench(tmp_path / "data", real_video)
    limited = evaluate(model, folder, "lvbench", num_questions=1)
    chosen = evaluate(model, folder, "lvbench", categories=("summarization", "entity recognition"))
    assert (limited.subset, limited.num_questions) == (True, 1)
    assert (chosen.subset, chosen.num_questions) == (True, 2)
    with pytest.raises(ValueError, match="no question to ask in colour; there are entity recognition"):
        evaluate(model, folder, "lvbench", categories=("colour",))


def test_hourvideo_writes_what_its_scorer_reads(model: Path, tmp_path: Path) -> None:
    result = evaluate(model, folders.hourvideo(tmp_path / "data", real_video), "hourvideo")
    document = json.loads((Path(result.directory) / "predictions.json").read_text())
    labels = [item["predicted_answer_label"] for video in document.values() for item in video["benchmark_dataset"]]
    assert len(labels) == 3 and all(labels)
    assert set(result.by_group) == {"task_group"}


def test_a_set_of_ones_own(model: Path, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "video": "v.mp4", "question": "Which?", "options": ["x", "y"], "answer": "B"} for i in (1, 2)
    ]
    folders.write_lines(tmp_path / "q.jsonl", rows)
    real_video(tmp_path / "v.mp4")
    (tmp_path / "my.yaml").write_text("name: mine\nannotations: q.jsonl\nprotocol: lmms-eval-0.7.3\nnum_frames: 2\n")
    result = run_evaluation(
        EvaluationConfig(
            model=str(model),
            benchmark=str(tmp_path / "my.yaml"),
            shortest_edge=28,
            longest_edge=56,
            log_to_mlflow=False,
        )
    )
    assert (result.dataset, result.protocol, result.coverage) == ("mine", "lmms-eval-0.7.3", 1.0)
    assert (result.settings["num_frames"], result.settings["max_new_tokens"]) == (2, 16)
    assert "eval/lmms-eval-0.7.3/mine/overall" in result.metrics()


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="control"):
        EvaluationConfig(model="m", data="d", benchmark="lvbench", shuffle_videos=True)
    with pytest.raises(ValueError, match="--benchmark"):
        EvaluationConfig(model="m", data="d", protocol="lmms-eval-0.7.3")
    with pytest.raises(ValueError, match="num_frames"):
        EvaluationConfig(model="m", data="d", num_frames=8)
    with pytest.raises(ValueError, match="data"):
        EvaluationConfig(model="m", benchmark="lvbench")


def test_frames_are_decoded_once_for_benchmarks_protocols_and_models(
    model: Path, tmp_path: Path, vamba_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.houreval(tmp_path / "data", real_video)
    plain = evaluate(model, folder / "videomme", "videomme", name="plain", frame_cache_gb=0)
    assert plain.frame_cache == {} and not (vamba_home / "cache").exists()
    first = evaluate(model, folder / "videomme", "videomme", name="first")
    assert first.frame_cache == {"hit": 0, "miss": 2}
    again = evaluate(model, folder / "videomme", "videomme", protocol="lmms-eval-0.7.3")
    assert again.frame_cache == {"hit": 2, "miss": 0}
    whole = evaluate(model, folder, "houreval")
    assert whole.frame_cache == {"hit": 1, "miss": 1}, "the long video of Video-MME is known"
    monkeypatch.setattr("pipelines.evaluation.clips.decoded_pixels", None)
    cached = evaluate(model, folder / "videomme", "videomme", name="cached")
    texts = [[row["raw"] for row in lines(result)] for result in (plain, first, cached)]
    assert texts[0] == texts[1] == texts[2]
    assert read_result(Path(cached.directory)) == cached


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 2}, {"kv": "disk"}, {"kv": "host"}])
def test_batches_and_places_change_no_answer(model: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    rows = [
        {"key": "v", "qa": [
            {"uid": str(i), "question": "What is it? " + "long " * i, "answer": "A", "question_type": ["x"]}
            for i in range(5)
        ]}
    ]  # fmt: skip
    folders.write_lines(tmp_path / "video_info.meta.jsonl", rows)
    real_video(tmp_path / "videos" / "v.mp4")
    together = evaluate(model, tmp_path, "lvbench", name="together", max_new_tokens=6)
    other = evaluate(model, tmp_path, "lvbench", name="other", max_new_tokens=6, **changes)
    assert [row["raw"] for row in lines(other)] == [row["raw"] for row in lines(together)]


def test_an_evaluation_of_broken_videos_ends_with_no_coverage(model: Path, tmp_path: Path) -> None:
    result = evaluate(model, folders.lvbench(tmp_path / "data"), "lvbench", log_to_mlflow=True)
    assert result.coverage == 0.0 and len(result.broken) >= 2 and result.mlflow_run_id


def test_a_broken_video_that_was_replaced_is_asked_about(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.lvbench(tmp_path / "data", real_video)
    whole = (folder / "videos" / "abc.mp4").read_bytes()
    (folder / "videos" / "abc.mp4").write_bytes(whole[:100])
    first = evaluate(model, folder, "lvbench")
    assert [video.video for video in first.broken] == ["abc"]
    os.utime(folder / "videos" / "abc.mp4")
    file = Path(first.directory) / "evaluation.json"
    later = datetime.now(UTC) + timedelta(seconds=5)
    file.write_text(file.read_text().replace(first.created_at, later.isoformat(timespec="seconds")))
    with monkeypatch.context() as patch:
        patch.setattr(job, "Answerer", None)
        assert evaluate(model, folder, "lvbench").broken == first.broken, "the same file is not tried again"
    file.write_text(file.read_text().replace(later.isoformat(timespec="seconds"), first.created_at))
    (folder / "videos" / "abc.mp4").write_bytes(whole)
    monkeypatch.setattr("pipelines.evaluation.job._changed_since", lambda path, created_at: True)
    assert evaluate(model, folder, "lvbench").coverage == 1.0


def test_any_name_of_a_category_can_be_recorded(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.tracking._BATCH", 7)
    names = ["", "a//b", "(x)", "kind"]
    rows = [
        {"id": str(i), "video": "v.mp4", "question": "Q", "options": ["x", "y"], "answer": "B", "kind": name}
        for i, name in enumerate(names)
    ]
    folders.write_lines(tmp_path / "q.jsonl", rows)
    real_video(tmp_path / "v.mp4")
    (tmp_path / "my.yaml").write_text(
        "name: team/räume (neu)\nannotations: q.jsonl\nnum_frames: 2\nfields: {categories: kind}\n"
    )
    result = run_evaluation(
        EvaluationConfig(
            model=str(model), benchmark=str(tmp_path / "my.yaml"), shortest_edge=28, longest_edge=56, max_new_tokens=1
        )
    )
    assert result.mlflow_run_id and len(result.by_category) == len(names)
    assert find_results(model_digest=result.model_digest) == [result]


def test_videos_are_named_absolutely(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas on a cluster have working directories of their own."""
    folders.lvbench(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    plan = plan_evaluation(EvaluationConfig(model=str(model), benchmark="lvbench", data="data"))
    assert {showing.source.source_uri for showing in plan.showings} == {
        str(tmp_path / "data" / "videos" / name) for name in ("abc.mp4", "-def.mp4")
    }
