"""The needle suite on disk: real H.264 with sound, cards where the plan says, questions as LLaVA rows."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace

import av
import numpy as np
import psutil
import pytest

from pipelines.evaluation.synthetic.draw import CARD_RGB, card
from pipelines.evaluation.synthetic.plan import LengthGroup, SuiteConfig
from pipelines.evaluation.synthetic.render import remove_partial
from pipelines.evaluation.synthetic.shapes import SHAPES, draw_shape
from pipelines.evaluation.synthetic.suite import write_suite
from pipelines.evaluation.synthetic.video_plan import Card
from tests.architecture.sources import ROOT

GROUPS = (
    LengthGroup(split="train", num_videos=2, min_s=24, max_s=30, min_cards=2, max_cards=3, max_blanks=1),
    LengthGroup(name="long", split="test", num_videos=1, min_s=60, max_s=60, min_cards=3, max_cards=3),
)
CONFIG = SuiteConfig(groups=GROUPS, width=128, height=72, fps=4, num_textures=8)


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(CONFIG, tmp_path_factory.mktemp("suite"), num_processes=1)


def test_every_planned_video_is_h264_with_sound_and_of_the_planned_length(suite):
    for plan in CONFIG.plan():
        with av.open(str(suite.directory / plan.split / f"{plan.name}.mp4")) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert video.codec_context.name == "h264" and audio.codec_context.name == "aac"
            frames = [frame.pts for frame in container.decode(video)]
            assert len(frames) == plan.duration_s * CONFIG.fps


def test_cards_are_on_screen_when_the_plan_says(suite):
    plan = CONFIG.plan()[-1]
    with av.open(str(suite.directory / plan.split / f"{plan.name}.mp4")) as container:
        corners = {int(frame.time): frame.to_ndarray(format="rgb24")[2, 2] for frame in container.decode(video=0)}
    for spec in plan.cards:
        for second in range(spec.start_s, spec.start_s + CONFIG.card_s):
            distance = np.abs(corners[second].astype(int) - CARD_RGB[spec.colour]).max()
            assert distance < 40, f"{spec.colour} card at {second} s shows {corners[second]}"


def test_questions_are_llava_rows_beside_the_videos(suite):
    rows = [json.loads(line) for line in suite.annotations.read_text().splitlines()]
    assert len(rows) == suite.num_questions == len({row["id"] for row in rows})
    for row in rows:
        assert (suite.directory / row["video"]).is_file() and row["split"] in row["video"]
        human, answer = row["conversations"]
        assert human["value"].startswith("<video>\n") and answer["value"] in "ABCD"


def test_a_complete_folder_is_used_as_it_stands(suite):
    before = {path: path.stat().st_mtime_ns for path in suite.directory.rglob("*.mp4")}
    assert write_suite(CONFIG, suite.directory).reused
    assert before == {path: path.stat().st_mtime_ns for path in suite.directory.rglob("*.mp4")}


def test_an_interrupted_suite_goes_on_where_it_was_and_ends_the_same(suite, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(done, total, video_s):
        if done == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        write_suite(CONFIG, tmp_path, interrupt, num_processes=1)
    there = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert 1 <= len(there) <= 3 and not (tmp_path / "suite.json").exists()
    told = []
    again = write_suite(CONFIG, tmp_path, lambda done, *_: told.append(done), num_processes=1)
    assert (again.num_kept, again.reused, told[0], told[-1]) == (len(there), False, len(there), 3)
    assert all(path.stat().st_mtime_ns == changed for path, changed in there.items())
    files = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(suite.directory) for path in suite.directory.rglob("*") if path.is_file()}
    assert all((tmp_path / file).read_bytes() == (suite.directory / file).read_bytes() for file in files)


def test_a_killed_command_leaves_no_process_and_no_part_of_a_video(tmp_path):
    script = f"""
from pathlib import Path
from pipelines.evaluation.synthetic.grid import GridConfig
from pipelines.evaluation.synthetic.suite import write_suite
if __name__ == "__main__":
    config = GridConfig(lengths_s=(9000,), videos_per_length=2, width=128, height=72, fps=4, num_textures=8)
    write_suite(config, Path({str(tmp_path)!r}), num_processes=2)
"""
    (tmp_path / "draw.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = psutil.Popen([sys.executable, str(tmp_path / "draw.py")], env=environment)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("test/.*.mp4.*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = command.children(recursive=True)
    command.kill()
    command.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert len(children) >= 4 and not alive
    assert list(tmp_path.glob("test/.*.mp4.*"))
    remove_partial(tmp_path)
    assert not list(tmp_path.glob("test/.*"))


def test_another_suite_takes_the_place_of_the_one_before(tmp_path):
    write_suite(CONFIG, tmp_path, num_processes=1)
    clip = tmp_path / "train" / "own.mp4"
    clip.write_bytes(b"a file of somebody's")
    other = replace(CONFIG, groups=(replace(GROUPS[0], num_videos=1, name="other"),))
    summary = write_suite(other, tmp_path, num_processes=1)
    assert (summary.num_kept, summary.num_videos) == (0, 1)
    assert {path.name for path in tmp_path.rglob("*.mp4")} == {"other.mp4", "own.mp4"}


def test_somebody_s_own_listing_is_not_overwritten(tmp_path):
    (tmp_path / "annotations.jsonl").write_text("{}")
    with pytest.raises(ValueError, match="name another folder"):
        write_suite(CONFIG, tmp_path, num_processes=1)
    assert (tmp_path / "annotations.jsonl").read_text() == "{}"


def test_an_encoder_that_fails_is_named_with_its_words(tmp_path, monkeypatch):
    failing = tmp_path / "ffmpeg"
    failing.write_text("#!/bin/sh\necho out of luck >&2\nexit 7\n")
    failing.chmod(0o755)
    monkeypatch.setenv("VAMBA_FFMPEG", str(failing))
    with pytest.raises(RuntimeError, match=r"exit 7.*out of luck"):
        write_suite(CONFIG, tmp_path / "out", num_processes=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_differs_from_every_other(shape):
    drawn = {name: np.asarray(draw_shape(name, 64, 64, (32, 32), 28)) > 127 for name in SHAPES}
    for other in set(SHAPES) - {shape}:
        assert (drawn[shape] != drawn[other]).mean() > 0.03
    assert 0.05 < drawn[shape].mean() < 0.9


def test_a_blank_has_a_colour_and_no_shape():
    blank = card(Card(shape=None, colour="red", start_s=0, draw_seed=1), 64, 36)
    assert np.ptp(blank.y) == 0 and np.ptp(blank.u) == 0
