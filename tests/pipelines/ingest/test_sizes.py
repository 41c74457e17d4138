"""Shards have about the size that was asked for, whether their pictures are easy to store or hard."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.ingest.config import FrameStorage, IngestConfig
from pipelines.ingest.plan import estimated_bytes
from pipelines.manifest_io import read_manifest
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.packing import ingest_here, plan_here
from vamba.data.sampling import FrameSampling

FILMS = {
    "picture": {},
    "soft": {"filters": "gblur=sigma=3"},
    "grain": {"filters": "noise=alls=60:allf=t"},
    "better": {"crf": 15},
    "worse": {"crf": 33},
    "newer": {"vcodec": "libx265", "x265-params": "log-level=error:pools=1"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    plain = {"seconds": 4, "fps": 10, "size": "320x180", "preset": "veryfast"}
    return [make_video(folder / f"{name}.mp4", **{**plain, **options}) for name, options in FILMS.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "frames", [{}, {"jpeg_quality": 50}, {"jpeg_quality": 95}, {"store": "h264"}, {"store": "h264", "crf": 18}], ids=str
)
def test_samples_are_about_as_large_as_planned(videos: list[Path], tmp_path: Path, frames: dict[str, object]) -> None:
    storage = FrameStorage(**frames)  # type: ignore[arg-type]
    config = IngestConfig(sources=("-",), out=str(tmp_path / "out"), sampling=FrameSampling(fps=2), frames=storage)
    ingest_here(videos, config)
    planned = {path.stem: estimated_bytes(plan_here(path, config)) for path in videos}
    ratios = {row.id: round(row.size_bytes / planned[row.id], 2) for row in read_manifest(config.out).samples}
    assert all(0.3 < ratio < 3 for ratio in ratios.values()), ratios


def test_the_size_of_the_source_changes_nothing_but_the_guess(videos: list[Path], tmp_path: Path) -> None:
    config = IngestConfig(sources=("-",), out=str(tmp_path), sampling=FrameSampling(fps=2))
    soft, picture, grain = (plan_here(videos[at], config).frame_bytes for at in (1, 0, 2))
    assert soft < picture < grain
