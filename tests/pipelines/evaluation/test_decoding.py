"""What happens when a process that decodes is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.evaluation import decoding
from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip, plan_clip
from pipelines.evaluation.protocols.recipe import FrameRule
from tests.pipelines.ingest.media import make_video


def dies(request: object) -> list[bytes]:
    os._exit(9)


def test_a_killed_decoder_makes_the_video_unreadable_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "v.mp4", seconds=1, fps=10, size="64x48")
    rule = FrameRule(num_frames=8, shortest_edge=28, longest_edge=56)
    planned = plan_clip(ShownClip(id="v", clip=Clip(path=str(path)), frames=rule))
    monkeypatch.setattr("pipelines.ingest.requests.requests_of", lambda *_: [_Request(str(path))] * 2)
    monkeypatch.setattr(decoding, "_decoded_in_the_pool", dies)
    with pytest.raises(decoding.UnreadableVideoError, match="process that did was killed"):
        list(decoding.decoded_pixels(planned, 95, 2))


class _Request:
    def __init__(self, uri: str) -> None:
        self.uri = uri
