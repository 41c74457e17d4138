"""The plan is pure: segments tile the targets, costs are near equal, shards and groups keep order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.config import IngestConfig, SplitRule
from pipelines.ingest.plan import estimated_bytes, plan_shards, plan_video, split_of, stored_size
from pipelines.ingest.rows import probed_from_table, probed_table
from pipelines.ingest.types import IngestError, PlannedVideo, ProbedVideo, VideoSource
from vamba.data.manifest import Failure
from vamba.data.sample import Conversation, Turn
from vamba.data.sampling import FrameSampling


def make_probe(num_frames: int = 900, gop: int = 30, **changes: object) -> ProbedVideo:
    pts = np.arange(num_frames, dtype=np.int64) * 10
    values: dict[str, object] = dict(
        digest="sha256:" + "1" * 64,
        container="mp4",
        codec="h264",
        stream_index=0,
        time_base=Fraction(1, 300),
        width=640,
        height=360,
        pixel_aspect=Fraction(1),
        orientation="",
        average_fps=Fraction(30),
        pixel_format="yuv420p",
        is_hdr=False,
        is_interlaced=False,
        has_audio=False,
        mean_key_bytes=14_000,
        pts=pts,
        dts=pts,
        is_key=np.arange(num_frames) % gop == 0,
        is_shown=np.ones(num_frames, bool),
        end_pts=num_frames * 10,
    )
    return ProbedVideo(**{**values, **changes})  # type: ignore[arg-type]


def make_source(name: str = "v") -> VideoSource:
    turns = (Turn(speaker="human", value="a"), Turn(speaker="gpt", value="b"))
    talk = Conversation(id="q", turns=turns, category="c")
    return VideoSource(id=name, uri=f"/{name}.mp4", size_bytes=9, mtime_ns=1, split=None, conversations=(talk,))


def make_plan(name: str = "v", segment_cost_s: float = 0.02, **changes: object) -> PlannedVideo:
    config = IngestConfig(sources=("x",), out="y", segment_cost_s=segment_cost_s, sampling=FrameSampling(fps=2))
    return plan_video(make_source(name), make_probe(**changes), config)  # type: ignore[arg-type]


@settings(deadline=None)
@given(num_frames=st.integers(1, 400), gop=st.integers(1, 120), cost_s=st.sampled_from([1e-9, 0.003, 0.02, 10.0]))
def test_segments_tile_the_targets(num_frames: int, gop: int, cost_s: float) -> None:
    video = make_plan(segment_cost_s=cost_s, num_frames=num_frames, gop=gop)
    targets = [pts for segment in video.segments for pts in segment.target_pts]
    assert targets == sorted(set(targets)) and len(targets) == len(video.timestamps_ns)
    assert all(segment.target_pts[0] >= segment.key_pts for segment in video.segments)
    assert all(segment.key_pts % (gop * 10) == 0 for segment in video.segments)
    assert len({segment.name for segment in video.segments}) == len(video.segments)


def test_segments_cost_about_the_same_and_as_much_as_asked() -> None:
    video = make_plan(num_frames=30 * 3600, segment_cost_s=1.5)
    costs = [segment.cost_s for segment in video.segments]
    assert len(costs) > 10
    full, end = costs[:-8], costs[-8:]
    assert max(full) / min(full) < 1.2 and 1.0 < np.mean(full) < 2.0
    assert max(end) / min(end) < 1.3 and 0.25 < np.mean(end) < 0.5  # so that no core waits long for the last one


def test_one_gop_is_one_segment() -> None:
    assert len(make_plan(gop=10_000, segment_cost_s=1e-9).segments) == 1


def planned_pts(sampling: FrameSampling, **changes: object) -> list[int]:
    config = IngestConfig(sources=("x",), out="y", sampling=sampling)
    video = plan_video(make_source(), make_probe(**changes), config)  # type: ignore[arg-type]
    return [pts for segment in video.segments for pts in segment.target_pts]


def test_keyframes_are_planned_by_their_own_times() -> None:
    hidden = np.arange(900) >= 40  # an edit list hides the first two keyframes
    assert planned_pts(FrameSampling(policy="keyframes"), gop=100) == list(range(0, 9000, 1000))
    assert planned_pts(FrameSampling(policy="keyframes"), is_shown=hidden) == list(range(600, 9000, 300))
    none_shown = planned_pts(FrameSampling(policy="keyframes"), gop=900, is_shown=hidden)
    assert none_shown == [400]  # the first frame that is shown stands for the video


def test_auto_counts_the_patches_of_the_stored_size() -> None:
    sampling = FrameSampling(policy="auto", max_patches=12_000)
    assert len(planned_pts(sampling)) == 12_000 // (25 * 45 // 2)
    assert planned_pts(sampling, width=3840, height=2160) == planned_pts(sampling)
    upright = planned_pts(sampling, width=2160, height=2160, orientation="t")
    assert len(upright) == 12_000 // (25 * 25 // 2)


def test_auto_refuses_a_video_by_name_of_the_rule() -> None:
    with pytest.raises(IngestError, match="16x16 pixels") as error:
        planned_pts(FrameSampling(policy="auto"), width=16, height=16)
    assert error.value.error_class == "unsupported"


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (640, 360)),
        ({"width": 1920, "height": 1080}, (640, 360)),
        ({"width": 1920, "height": 1080, "orientation": "tx"}, (360, 640)),
        ({"width": 1440, "height": 1080, "pixel_aspect": Fraction(4, 3)}, (640, 360)),
        ({"width": 640, "height": 480}, (480, 360)),
        ({"width": 97, "height": 65}, (97, 65)),
        ({"width": 5000, "height": 2}, (640, 1)),
    ],
)
def test_stored_size(changes: dict[str, object], size: tuple[int, int]) -> None:
    assert stored_size(make_probe(**changes), 640, 360) == size  # type: ignore[arg-type]


def test_split_follows_the_digest_and_the_shares() -> None:
    rule = SplitRule(validation_fraction=0.25, test_fraction=0.25)
    splits = [split_of(f"sha256:{number}", rule) for number in range(2000)]
    assert splits == [split_of(f"sha256:{number}", rule) for number in range(2000)]
    assert abs(splits.count("validation") - 500) < 100 and abs(splits.count("test") - 500) < 100


def test_shards_keep_the_order_of_ids_and_close_at_the_target() -> None:
    videos = [make_plan(name) for name in "dbca"]
    size = estimated_bytes(videos[0])
    shards = plan_shards(videos, 2 * size)
    assert [[video.source.id for video in shard.videos] for shard in shards] == [["a", "b"], ["c", "d"]]
    assert [shard.name for shard in shards] == ["shard-000000.tar", "shard-000001.tar"]
    assert len(plan_shards(videos, 10 * size)) == 1 and plan_shards([], 1000) == ()


def test_rows_carry_everything() -> None:
    results = [
        make_plan("a"),
        Failure(stage="probe", id="b", source_uri="/b", error_class="empty", message="no bytes"),
    ]
    table = probed_table(results)
    assert probed_from_table(table) == results
