"""The frame cache: what it gives back is what was put in, whatever happens to its files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.frame_cache import FrameCache, cache_key
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.evaluation.shown_pixels import shown_pixels
from tests.pipelines.ingest.media import make_video
from vamba.data.frames import FrameProcessing, frames_to_patches

ENTRY_BYTES = 6 * 8 * 8 * 3


def frames(seed: int, num_frames: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 8, 8, 3), np.uint8)


def pieces(pixels: np.ndarray, size: int = 2) -> Iterator[np.ndarray]:
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def put(cache: FrameCache, key: str, pixels: np.ndarray) -> None:
    passed = np.concatenate(list(cache.keep(key, pieces(pixels), len(pixels))))  # type: ignore[arg-type]
    np.testing.assert_array_equal(passed, pixels)


def got(cache: FrameCache, key: str) -> np.ndarray | None:
    entry = cache.find(key)
    return None if entry is None else np.concatenate(list(entry.pieces()))


def test_frames_come_back_as_they_went_in(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path / "frames", 10**9)
    pixels = frames(1, num_frames=131)
    assert got(cache, "k") is None
    put(cache, "k", pixels)
    np.testing.assert_array_equal(got(cache, "k"), pixels)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == [".lock", "k.frames"]


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 3 * ENTRY_BYTES + 400)
    for number, key in enumerate("abc"):
        put(cache, key, frames(number))
        os.utime(tmp_path / f"{key}.frames", ns=(number, number))
    assert got(cache, "a") is not None, "and now it was used last"
    put(cache, "d", frames(3))
    assert [key for key in "abcd" if got(cache, key) is not None] == ["a", "c", "d"]
    put(cache, "large", frames(4, num_frames=60))
    assert got(cache, "large") is None and got(cache, "d") is not None, "larger than the cache: not kept, nothing lost"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "tail"])
def test_a_damaged_entry_is_removed_and_made_again(tmp_path: Path, damage: str) -> None:
    cache = FrameCache(tmp_path, 10**9)
    put(cache, "k", frames(1))
    file = tmp_path / "k.frames"
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[100] ^= 1
    elif damage == "tail":
        data[-16:-8] = b"\xff" * 8
    file.write_bytes(data if damage in ("flipped", "tail") else data[: len(data) // 2 if damage == "cut" else 0])
    assert cache.find("k") is None and not file.exists()
    put(cache, "k", frames(1))
    np.testing.assert_array_equal(got(cache, "k"), frames(1))


def test_what_ends_early_leaves_nothing(tmp_path: Path) -> None:
    cache = FrameCache(tmp_path, 10**9)
    left = cache.keep("k", pieces(frames(1)), 6)  # type: ignore[arg-type]
    next(left)
    left.close()

    def breaks() -> Iterator[np.ndarray]:
        yield frames(1)[:2]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(cache.keep("k", breaks(), 6))  # type: ignore[arg-type]
    list(cache.keep("k", pieces(frames(1)[:4]), 6))  # type: ignore[arg-type]
    assert cache.find("k") is None
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".k.1.aa", tmp_path / ".k.2.bb"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 4000,) * 2)
    put(FrameCache(tmp_path, 10**9), "k", frames(1))
    assert not old.exists() and new.exists()


def test_a_full_or_forbidden_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    put(FrameCache(tmp_path / "file" / "frames", 10**9), "k", frames(1))
    cache = FrameCache(tmp_path / "frames", 10**9)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"total": 100, "free": 5}))
    put(cache, "k", frames(1))
    assert cache.find("k") is None


def test_writers_side_by_side_and_a_reader_whose_entry_goes(tmp_path: Path) -> None:
    """Eight writers into a cache of three entries, through caches of their own as processes have."""
    caches = [FrameCache(tmp_path, 3 * ENTRY_BYTES + 400) for _ in range(8)]
    put(caches[0], "0", frames(0))
    held = caches[0].find("0")
    assert held is not None
    threads = [
        Thread(target=lambda number=number: [put(caches[number], str(k), frames(k)) for k in (number, 9, number + 10)])
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (tmp_path / "0.frames").unlink(missing_ok=True)
    np.testing.assert_array_equal(np.concatenate(list(held.pieces())), frames(0))
    found = {key: pixels for key in range(18) if (pixels := got(caches[0], str(key))) is not None}
    assert 1 <= len(found) <= 3
    for key, pixels in found.items():
        np.testing.assert_array_equal(pixels, frames(key))


def test_a_key_is_of_the_file_and_of_how_it_is_shown(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    first.write_bytes(bytes(3 << 20))
    second.hardlink_to(first)
    keys = [cache_key(path, {"num_frames": count}) for path in (first, second) for count in (8, 16)]
    assert keys[:2] == keys[2:] and keys[0] != keys[1]
    status = first.stat()
    changed = bytearray(first.read_bytes())
    changed[-1] = 1
    first.write_bytes(changed)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache_key(first, {"num_frames": 8}) != keys[0]


@pytest.mark.parametrize(
    ("shortest", "longest", "size"), [(56, 112, "180x100"), (28, 360, "400x224"), (28, 50, "98x32")]
)
def test_patches_are_the_same_with_and_without(tmp_path: Path, shortest: int, longest: int, size: str) -> None:
    path = make_video(tmp_path / "v.mp4", seconds=1.1, fps=10, size=size)
    rule = FrameRule(num_frames=9, shortest_edge=shortest, longest_edge=longest)
    shown = ShownClip(id="v", clip=Clip(path=str(path)), frames=rule)
    results = []
    for cache in (None, *[FrameCache(tmp_path / "frames", 10**9)] * 2):
        found = shown_pixels(shown, FrameProcessing(), cache=cache, device="cpu", num_processes=1)
        pixels = np.concatenate(list(found.pieces))
        assert len(pixels) == found.num_frames == 9
        results.append((found.cache, *frames_to_patches(pixels, found.processing)))
    assert [result[0] for result in results] == ["", "miss", "hit"]
    for _, patches, grid in results[1:]:
        np.testing.assert_array_equal(patches, results[0][1])
        assert grid == results[0][2]
