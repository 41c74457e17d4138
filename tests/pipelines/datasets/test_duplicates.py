"""Exact duplicates by digest, near ones by their pictures: through another quality, size and brightness."""

from __future__ import annotations

import io
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipelines.datasets.duplicates import Duplicates, find_duplicates
from pipelines.datasets.fingerprint import Fingerprint, fingerprint
from pipelines.datasets.near_pairs import NEAR_BITS, distance_bits, near_groups
from pipelines.ffmpeg import ffmpeg_binary
from tests.pipelines.datasets.pictures import brighter, film, jpegs, rescaled, sample_of
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset


@pytest.fixture
def data(tmp_path: Path) -> str:
    original = film(1)
    samples = [
        sample_of("a-original", jpegs(original)),
        sample_of("b-same-file", jpegs(original), digest_of="a-original", split="validation"),
        sample_of("c-encoded", jpegs(original, quality=20)),
        sample_of("d-small", jpegs(rescaled(original, 96, 64)), split="test"),
        sample_of("e-brighter", jpegs(brighter(original, 25))),
        sample_of("f-other", jpegs(film(2))),
        sample_of("g-another", jpegs(film(3, num_frames=5))),
        make_sample("h-plain", num_frames=4, num_questions=0),
        make_sample("i-plain", num_frames=4, num_questions=0),
    ]
    write_dataset(tmp_path / "data", samples)
    return str(tmp_path / "data")


def names(groups: tuple) -> list[list[str]]:
    return [[item.id for item in group.samples] for group in groups]


def test_exact_duplicates_need_only_the_manifest(data: str) -> None:
    (Path(data) / "shards" / "shard-000000.tar").unlink()
    found = find_duplicates(data)
    assert names(found.exact) == [["a-original", "b-same-file"]] and found.near is None
    assert found.exact[0].crosses_splits


@pytest.mark.parametrize("num_processes", [1, 2])
def test_near_duplicates_are_found_once_per_file(
    data: str, num_processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.datasets.duplicates._ROWS_PER_TASK", 3)
    seen: list[tuple[int, int]] = []
    found: Duplicates = find_duplicates(
        data, near=True, num_processes=num_processes, progress=lambda *now: seen.append(now)
    )
    assert found.near is not None and seen[-1] == (8, 8)
    assert names(found.near.groups) == [["a-original", "c-encoded", "d-small", "e-brighter"]]
    distances = [item.distance_bits for item in found.near.groups[0].samples]
    assert distances[0] == 0 and max(distances) < NEAR_BITS
    assert found.near.groups[0].crosses_splits
    assert (found.near.num_compared, found.near.num_plain, found.near.num_crowded) == (8, 2, 0)


def test_a_sample_that_cannot_be_read_is_named_and_the_others_are_compared(data: str) -> None:
    path = Path(data) / "shards" / "shard-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"f-other.000001.jpg", b"f-other.00000x.jpg"))
    near = find_duplicates(data, near=True).near
    assert near is not None and [item.id for item in near.unread] == ["f-other"] and len(near.groups) == 1


def test_another_encoding_of_a_video_is_near_and_another_video_is_not() -> None:
    def decoded(source: str, options: dict[str, object], size: str) -> list[bytes]:
        stream = ffmpeg.input(source, f="lavfi", t=8)
        encoded, _ = stream.output("-", f="matroska", vcodec="libx264", pix_fmt="yuv420p", **options).run(
            cmd=ffmpeg_binary(), quiet=True
        )
        raw, _ = (
            ffmpeg.input("pipe:")
            .output("-", f="rawvideo", pix_fmt="rgb24")
            .run(cmd=ffmpeg_binary(), input=encoded, quiet=True)
        )
        width, height = map(int, size.split("x"))
        return list(jpegs(list(np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3))))

    picture = "testsrc2=size=320x180:rate=1"
    first = fingerprint(decoded(picture, {"crf": 18}, "320x180"))
    small = fingerprint(decoded(picture, {"crf": 36, "vf": "scale=240:136"}, "240x136"))
    bright = fingerprint(decoded(picture, {"crf": 23, "vf": "eq=brightness=0.1"}, "320x180"))
    other = fingerprint(decoded("mandelbrot=size=320x180:rate=1", {"crf": 18}, "320x180"))
    assert distance_bits(first, small) < NEAR_BITS and distance_bits(first, bright) < NEAR_BITS
    assert distance_bits(first, other) > 2 * NEAR_BITS
    assert near_groups([other, first, small, bright]).groups == ((1, 2, 3),)


def test_every_pair_below_the_threshold_is_found_whatever_bits_differ() -> None:
    rng = np.random.default_rng(0)
    originals = [tuple(int(value) for value in rng.integers(0, 2**63, 8)) for _ in range(40)]
    prints = [Fingerprint(hashes=hashes) for hashes in originals]
    for hashes in originals:
        # 63 of 512 bits differ, dealt out as evenly over the bands as can be: the hardest near pair there is.
        bands = rng.permutation(32)
        changed = list(hashes)
        for place in range(63):
            band = int(bands[place % 32])
            changed[band // 4] ^= 1 << (band % 4 * 16 + int(rng.integers(8)) + 8 * (place // 32))
        prints.append(Fingerprint(hashes=tuple(changed)))
    assert near_groups(prints).groups == tuple((index, index + 40) for index in range(40))
    beyond = Fingerprint(hashes=tuple(value ^ 0xFF for value in originals[0]))
    assert near_groups([prints[0], beyond]).groups == ()


def test_frames_without_texture_are_not_compared() -> None:
    picture = film(4, num_frames=8)
    plain = [np.full_like(picture[0], 30)]
    half = fingerprint(jpegs(plain * 4 + picture[4:]))
    assert half.num_textured == 4 and half.hashes[:4] == (None,) * 4
    assert near_groups([half, fingerprint(jpegs(picture))]).groups == ((0, 1),)
    assert near_groups([fingerprint(jpegs(plain * 8))] * 2).groups == ()
    assert distance_bits(fingerprint(jpegs(plain * 8)), half) == 64


def test_a_key_that_very_many_share_does_not_cost_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.datasets.near_pairs.MOST_NEIGHBOURS", 5)
    rng = np.random.default_rng(1)
    prints = [Fingerprint(hashes=(7, *(int(value) for value in rng.integers(0, 2**63, 7)))) for _ in range(30)]
    found = near_groups([*prints, prints[0]])
    assert found.groups == ((0, 30),) and found.num_crowded > 0


def test_a_damaged_frame_is_named() -> None:
    with pytest.raises(ValueError, match="frame 1 is not a readable JPEG"):
        buffer = io.BytesIO()
        Image.new("L", (40, 30)).save(buffer, "JPEG")
        fingerprint([buffer.getvalue(), b"not a picture"])
