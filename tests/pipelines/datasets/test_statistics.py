"""Numbers of a dataset from its manifest, and their picture."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pipelines.datasets.statistics import statistics
from pipelines.datasets.statistics_plot import plot_format, write_plot
from tests.pipelines.datasets.pictures import film, jpegs, sample_of
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset
from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.data.manifest import Failure


def failure(name: str, error_class: str) -> Failure:
    return Failure(stage="probe", id=name, source_uri=f"/{name}.mp4", error_class=error_class, message="no")


@pytest.fixture
def data(tmp_path: Path) -> str:
    samples = [make_sample(f"clip-{n}", num_frames=n, num_questions=1, split="train") for n in (1, 2, 10, 90)]
    samples.append(make_sample("clip-v", num_frames=4, num_questions=0, split="validation"))
    failures = [failure("a", "truncated"), failure("b", "empty"), failure("c", "truncated")]
    write_dataset(tmp_path / "data", samples, failures)
    (tmp_path / "data" / "shards" / "shard-000000.tar").unlink()
    return str(tmp_path / "data")


def test_totals_and_percentiles_are_those_of_the_samples(data: str) -> None:
    found = statistics(data)
    assert list(found.splits) == ["train", "validation"] and found.unfit == ""
    assert found.total.num_samples == 5 and found.total.num_conversations == 9
    assert found.total.frames.total == 107 and found.total.duration_s.total == 107
    assert found.total.frames.percentiles == {0: 1, 5: 1, 25: 2, 50: 4, 75: 10, 95: 90, 99: 90, 100: 90}
    assert found.splits["train"].frames.mean == 103 / 4
    tokens = [num_video_tokens(n, 64, 36, FrameProcessing()) for n in (1, 2, 10, 90, 4)]
    assert found.total.video_tokens.total == sum(tokens)
    assert found.failures_by_class == {"truncated": 2, "empty": 1}


def test_tokens_follow_the_models_resolution(data: str) -> None:
    large = FrameProcessing(shortest_edge=112)
    assert statistics(data, large).total.video_tokens.total > statistics(data).total.video_tokens.total


def test_frames_that_the_model_does_not_take_are_counted_and_named(tmp_path: Path) -> None:
    samples = [sample_of("tiny", jpegs(film(0, 2, 20, 20))), sample_of("usual", jpegs(film(1, 2)))]
    write_dataset(tmp_path / "data", samples)
    found = statistics(str(tmp_path / "data"))
    assert found.total.num_unfit == 1 and found.unfit.startswith("tiny: ")
    assert found.total.video_tokens.total == num_video_tokens(2, 160, 96, FrameProcessing())


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_written_in_the_format_of_its_name(data: str, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "plots" / f"stats.{suffix}"
    write_plot(statistics(data), path)
    content = path.read_bytes()
    if suffix == "png":
        with Image.open(io.BytesIO(content)) as image:
            assert image.width > 1000
    else:
        assert content[:5] == {"svg": b"<?xml", "pdf": b"%PDF-"}[suffix]


def test_the_plot_of_an_empty_dataset_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [])
    found = statistics(str(tmp_path / "data"))
    assert found.total.frames.percentiles == {} and found.total.num_samples == 0
    write_plot(found, tmp_path / "stats.svg")
    assert (tmp_path / "stats.svg").stat().st_size > 1000


def test_another_ending_is_refused() -> None:
    with pytest.raises(ValueError, match="must end in one of .png, .svg, .pdf"):
        plot_format(Path("stats.txt"))
