"""Frames stored as H.264: the same bytes however a film was cut, any frame at its time, readable by anybody."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.datasets.verify import verify
from pipelines.ingest.config import FrameStorage, IngestConfig
from pipelines.ingest.h264 import TIME_BASE, encode_groups, to_yuv420p, write_mp4
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
from pipelines.manifest_io import read_manifest
from tests.pipelines.ingest.media import make_video, remux
from tests.pipelines.ingest.packing import ingest_here, plan_here
from vamba.data.h264 import decode_h264
from vamba.data.sample import Sample
from vamba.data.sampling import FrameSampling
from vamba.data.stored_frames import stored_frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    upright = make_video(folder / "upright.mp4", seconds=7, fps=10, g=17, bf=2)
    return [
        make_video(folder / "many-gops.mp4", seconds=12, fps=10, g=7, bf=2),
        make_video(folder / "one-gop.mkv", seconds=10, fps=12, g=1000),
        make_video(folder / "odd.mkv", seconds=3, size="97x65", vcodec="ffv1"),
        remux(upright, folder / "turned.mp4", {"display_rotation": 90}),
    ]


def config(out: Path, store: str = "h264", cost_s: float = 1.5, **frames: object) -> IngestConfig:
    return IngestConfig(
        sources=("-",),
        out=str(out),
        segment_cost_s=cost_s,
        sampling=FrameSampling(fps=4),
        frames=FrameStorage(store=store, **frames),  # type: ignore[arg-type]
    )


def samples_of(root: Path) -> dict[str, Sample]:
    found = {}
    for row in read_manifest(root).samples:
        content = (root / "shards" / row.shard).read_bytes()[row.offset_bytes : row.offset_bytes + row.size_bytes]
        with tarfile.open(fileobj=io.BytesIO(content + bytes(1024))) as tar:
            members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
        found[row.id] = Sample.from_members(members)
    return found


@pytest.fixture(scope="module")
def stored(videos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("stored")
    for store in ("jpeg", "h264"):
        quality = {"jpeg_quality": 95} if store == "jpeg" else {"crf": 12}
        ingest_here(videos, config(root / store, store, **quality))
    return {store: root / store for store in ("jpeg", "h264")}


@pytest.mark.parametrize("gop_frames", [1, 5, 8])
def test_the_bytes_do_not_depend_on_how_a_film_is_cut(videos: list[Path], tmp_path: Path, gop_frames: int) -> None:
    digests, num_segments = set(), set()
    for cost_s in (1e9, 0.02, 1e-9):
        chosen = config(tmp_path / f"{cost_s:g}", cost_s=cost_s, gop_frames=gop_frames)
        ingest_here(videos, chosen)
        shard = Path(chosen.out) / "shards" / "shard-000000.tar"
        digests.add(hashlib.sha256(shard.read_bytes() + shard.with_suffix(".idx").read_bytes()).hexdigest())
        plans = [plan_here(path, chosen) for path in videos]
        num_segments.add(tuple(len(plan.segments) for plan in plans))
        for plan in plans:
            assert all(len(segment.target_pts) % gop_frames == 0 for segment in plan.segments[:-1])
    assert len(digests) == 1 and len(num_segments) > 1


def test_one_gop_of_more_frames_than_a_worker_holds_is_decoded_in_parts(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.ingest import segments

    ingest_here(videos, config(tmp_path / "whole"))
    monkeypatch.setattr(segments, "_MAX_PICTURE_BYTES", 20 * 96 * 64 * 1.5)
    ingest_here(videos, config(tmp_path / "parts"))
    assert [len(segment.target_pts) for segment in plan_here(videos[1], config(tmp_path)).segments] == [16, 24]
    shards = [tmp_path / name / "shards" / "shard-000000.tar" for name in ("whole", "parts")]
    assert shards[0].read_bytes() == shards[1].read_bytes()


def test_both_stores_hold_the_same_pictures_at_the_same_times(stored: dict[str, Path]) -> None:
    jpeg, h264 = samples_of(stored["jpeg"]), samples_of(stored["h264"])
    assert jpeg.keys() == h264.keys() and len(h264) == 4
    for name, sample in h264.items():
        assert (sample.store, jpeg[name].store) == ("h264", "jpeg")
        assert sample.timestamps_ns == jpeg[name].timestamps_ns and not sample.frames
        assert (sample.width, sample.height) == (jpeg[name].width, jpeg[name].height)
        everything = range(sample.num_frames)
        pixels = stored_frames(sample).decode(everything)
        reference = stored_frames(jpeg[name]).decode(everything)
        assert pixels.shape == reference.shape
        # Colours of half the resolution differ at edges by how they are enlarged; brightness and the means do not.
        errors = np.abs((pixels.astype(float) - reference) @ [0.299, 0.587, 0.114]).mean(axis=(1, 2))
        assert errors.max() < 3.5, name
        assert np.abs(pixels.mean(axis=(1, 2)) - reference.mean(axis=(1, 2))).max() < 3, name
        assert all(errors[0] < np.abs(pixels[0].astype(float) - reference[n]).mean() for n in range(1, 4))


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([[255, 255, 255], [0, 0, 0], [200, 30, 40], [20, 160, 60], [40, 50, 190], [230, 200, 20]])
    picture = np.repeat(np.repeat(colours.astype(np.uint8)[None], 32, axis=0), 32, axis=1)
    write_mp4(
        tmp_path / "a.mp4", encode_groups([to_yuv420p(picture)], width=192, height=32, gop_frames=8, crf=10), [0], 1
    )
    (decoded,) = decode_h264((tmp_path / "a.mp4").read_bytes(), [0], width=192, height=32)
    assert np.abs(decoded[16, 16::32].astype(int) - colours).max() <= 2


def test_any_frames_in_any_order_are_those_of_the_whole(stored: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    for sample in samples_of(stored["h264"]).values():
        frames = stored_frames(sample)
        assert len(frames) == sample.num_frames
        whole = frames.decode(range(sample.num_frames))
        for _ in range(6):
            chosen = rng.integers(0, sample.num_frames, rng.integers(1, 6)).tolist()
            np.testing.assert_array_equal(frames.decode(chosen), whole[chosen])


def test_only_the_groups_of_wanted_frames_are_decoded(stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from vamba.data import h264

    sample = samples_of(stored["h264"])["many-gops"]
    decoded, plain = [], h264._decoded

    def counted(*args: object) -> object:
        for frame in plain(*args):  # type: ignore[arg-type]
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(h264, "_decoded", counted)
    stored_frames(sample).decode([9, 33])
    assert len(decoded) == 2 + 2  # frames 8 and 9, 32 and 33


def test_anybody_reads_the_stream_and_its_times(stored: dict[str, Path]) -> None:
    for sample in samples_of(stored["h264"]).values():
        with av.open(io.BytesIO(sample.video)) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            assert (stream.codec_context.name, stream.time_base) == ("h264", TIME_BASE)
        assert [frame.pts for frame in frames] == [round(time * 9 / 100_000) for time in sample.timestamps_ns]
        assert [frame.key_frame for frame in frames] == [index % 8 == 0 for index in range(len(frames))]
        size = (sample.width + sample.width % 2, sample.height + sample.height % 2)
        assert {(frame.width, frame.height) for frame in frames} == {size}
        assert {(int(frame.colorspace), int(frame.color_range)) for frame in frames} == {(1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("store", ["jpeg", "h264"])
def test_plain_webdataset_reads_either_store(stored: dict[str, Path], store: str) -> None:
    """In a process that can import nothing of ours; frames become RGB by webdataset's own decoder, or by PyAV."""
    code = (
        "import glob, io, sys\n"
        "import numpy as np, webdataset as wds\n"
        "found = {}\n"
        "dataset = wds.WebDataset(sorted(glob.glob(sys.argv[1] + '/shards/*.tar')), shardshuffle=False)\n"
        "for sample in dataset.decode('rgb8'):\n"
        "    document = sample['json']\n"
        "    assert document['id'] == sample['__key__']\n"
        "    if document['store'] == 'jpeg':\n"
        "        pictures = [sample[f'{n:06d}.jpg'] for n in range(len(document['timestamps_ns']))]\n"
        "    else:\n"
        "        import av\n"
        "        with av.open(io.BytesIO(sample['mp4'])) as container:\n"
        "            pictures = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]\n"
        "    assert all(picture.dtype == np.uint8 and picture.std() > 10 for picture in pictures)\n"
        "    found[document['id']] = [len(pictures), *pictures[0].shape]\n"
        "assert not any(name.partition('.')[0] in ('vamba', 'pipelines') for name in sys.modules)\n"
        "import json; print(json.dumps(found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code, str(stored[store])],
        capture_output=True,
        text=True,
        check=True,
    )
    even = 1 if store == "jpeg" else 2
    expected = {
        row.id: [row.num_frames, -(-row.height // even) * even, -(-row.width // even) * even, 3]
        for row in read_manifest(stored[store]).samples
    }
    assert json.loads(done.stdout) == expected


def test_a_stream_that_is_cut_or_of_other_frames_is_refused(stored: dict[str, Path]) -> None:
    sample = samples_of(stored["h264"])["many-gops"]
    size = {"width": sample.width, "height": sample.height}
    assert decode_h264(sample.video, [], **size).shape == (0, 64, 96, 3)
    with pytest.raises(ValueError, match="only 0 of 1 wanted"):
        decode_h264(sample.video, [sample.num_frames], **size)
    with pytest.raises(ValueError, match="not 50x64"):
        decode_h264(sample.video, [0], width=50, height=64)
    for damaged in (sample.video[: len(sample.video) // 2], b"not a stream", b""):
        with pytest.raises(ValueError):
            decode_h264(damaged, [0], **size)


def test_times_that_fall_together_are_moved_on(tmp_path: Path) -> None:
    pictures = [to_yuv420p(np.full((4, 6, 3), shade, np.uint8)) for shade in (0, 100, 200)]
    units = encode_groups(pictures, width=6, height=4, gop_frames=8, crf=23)
    for times, pts in (((0, 1, 5_000_000), [0, 1, 450]), ((33_366_667, 33_366_668, 50_000_000), [3003, 3004, 4500])):
        write_mp4(tmp_path / "a.mp4", units, times, times[-1] + 1)
        with av.open(str(tmp_path / "a.mp4")) as container:
            assert [packet.pts for packet in container.demux(video=0) if packet.size] == pts
    shades = decode_h264((tmp_path / "a.mp4").read_bytes(), [2, 0, 1], width=6, height=4)
    assert np.abs(shades.mean(axis=(1, 2, 3)) - [200, 0, 100]).max() < 4


def test_settings_that_a_store_does_not_read_are_refused() -> None:
    with pytest.raises(ValueError, match="crf is 30, but frames.store 'jpeg' does not read it"):
        FrameStorage(crf=30)
    with pytest.raises(ValueError, match="gop_frames is 0; it must be from 1 to 64"):
        FrameStorage(store="h264", gop_frames=0)
    with pytest.raises(ValueError, match="one of jpeg, h264"):
        FrameStorage(store="png")  # type: ignore[arg-type]


def test_without_pyav_the_message_says_what_to_do(stored: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sample = samples_of(stored["h264"])["odd"]
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match="pip install av"):
        stored_frames(sample).decode([0])


@pytest.mark.ray
@pytest.mark.slow
def test_an_ingest_on_ray_gives_the_same_stream(videos: list[Path], stored: dict[str, Path], tmp_path: Path) -> None:
    chosen = replace(
        config(tmp_path / "out", cost_s=0.02, crf=12), sources=tuple(str(path) for path in videos), num_cpus=2
    )
    run_ingest(chosen, Silent())
    assert verify(chosen.out, decode=True).clean
    expected = {name: sample.video for name, sample in samples_of(stored["h264"]).items()}
    assert {name: sample.video for name, sample in samples_of(Path(chosen.out)).items()} == expected
