"""A saved video is asked and gone on with as if it had never left; what is not whole, or another's, is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.vamba.model.samples import random_model, random_sample
from vamba.model.vamba import Vamba
from vamba.streaming.encoder import VideoEncoder
from vamba.streaming.memory import VideoMemory
from vamba.streaming.placement import Placement, Room, Wish, sizes_of
from vamba.streaming.saved_memory import load, notes_of, save

PAIRS, ROWS = 13, 4 * 6
SAMPLE = random_sample(5, ((PAIRS, 4, 6),), (4,))
KINDS = [
    Placement(),
    Placement(kv="disk"),
    Placement(order="layer-major"),
    Placement(fp8=True),
    Placement(kv="disk", fp8=True),
]
QUERIES = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(0))


def model() -> Vamba:
    return random_model(cross_attn_use_position_embeddings=True).float()


def shown(encoder: VideoEncoder, first: int, end: int) -> VideoMemory:
    patches = torch.from_numpy(SAMPLE.patches)[first * ROWS : end * ROWS]
    encoder.add(patches, (end - first, 4, 6), times_ns=range(first * 10**9, end * 10**9, 10**9))
    return encoder.finish()


def begun(of: Vamba, placement: Placement, pairs: int) -> VideoMemory:
    return shown(VideoEncoder(of, placement, chunk_tokens=16, block_tokens=16), 0, pairs)


def seen(memory: VideoMemory) -> torch.Tensor:
    video = memory.open_pass(len(QUERIES))
    return torch.stack([video.read(layer, QUERIES) for layer in range(3)])


@pytest.mark.parametrize("kv", ["device", "disk"])
@pytest.mark.parametrize("placement", KINDS, ids=lambda p: f"{p.kv}-{p.order}-{p.fp8}")
@pytest.mark.parametrize("pairs", [1, 9])
def test_saved_loaded_and_gone_on_with_equals_one_shot(
    placement: Placement, kv: str, pairs: int, tmp_path: Path
) -> None:
    """In the file, in memory, or partly in each: bit for bit."""
    of, path = model(), tmp_path / "memory.safetensors"
    first = begun(of, placement, pairs)
    save(first, path, of, notes={"video": "a.mp4", "fps": 1.5})
    expected = seen(first)
    del first
    saved = load(path, of, Wish(kv=kv))  # type: ignore[arg-type]
    assert saved.memory.placement.kv == kv and saved.memory.placement.order == placement.order
    assert seen(saved.memory).equal(expected)
    assert saved.notes == notes_of(path) == {"video": "a.mp4", "fps": 1.5}
    path.unlink()
    longer = shown(VideoEncoder(of, after=saved.memory), pairs, PAIRS)
    one_shot = begun(of, placement, PAIRS)
    assert seen(longer).equal(seen(one_shot)) and seen(saved.memory).equal(expected)
    assert longer.times_ns == one_shot.times_ns == tuple(range(0, PAIRS * 10**9, 10**9))
    assert longer.size_bytes == one_shot.size_bytes


def test_the_file_is_one_that_others_can_read(tmp_path: Path) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    save(begun(of, Placement(), PAIRS), path, of)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        keys = torch.cat([file.get_tensor("layers.1.keys"), file.get_tensor("layers.1.rest.keys")])
    assert facts["backends"] == {"scan": "torch", "conv": "torch", "attention": "sdpa"} and facts["dtype"] == "F32"
    assert keys.equal(torch.cat([part.k_MKD for part in begun(of, Placement(), PAIRS).open_pass(1).parts(1)]))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("placement", KINDS, ids=lambda p: f"{p.kv}-{p.order}-{p.fp8}")
def test_every_byte_that_is_written_and_read_is_told(placement: Placement, tmp_path: Path) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    written: list[tuple[int, int]] = []
    save(begun(of, placement, PAIRS), path, of, shown=lambda *at: written.append(at))
    read: list[tuple[int, int]] = []
    load(path, of, shown=lambda *at: read.append(at))
    for told in (written, read):
        done = [at[0] for at in told]
        assert len(told) > 3 and done == sorted(set(done)) and {total for _, total in told} == {done[-1]}
    assert written[-1] == read[-1] and 0 < path.stat().st_size - read[-1][1] < 20_000  # the header


def test_another_model_is_refused_and_another_text_side_is_not(tmp_path: Path) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    save(begun(of, Placement(), 5), path, of)
    with torch.no_grad():
        of.model.layers[1].mlp.up_proj.weight += 1
        of.lm_head.weight += 1
    load(path, of)
    with torch.no_grad():
        of.model.layers[1].cross_attn.k_proj.bias[0] += 1
    with pytest.raises(ValueError, match="encoded by another model"):
        load(path, of)
    with pytest.raises(ValueError, match="encoded in float32, and the model is loaded in float64"):
        load(path, model().double())
    with pytest.raises(ValueError, match="encoded by another model"):
        load(path, random_model().float())


@pytest.mark.parametrize("kv", ["device", "disk"])
def test_every_altered_byte_and_every_cut_is_found(kv: str, tmp_path: Path) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    save(begun(of, Placement(), 9), path, of)
    whole = path.read_bytes()
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    for place in (header_bytes, (header_bytes + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="altered since it was saved: .*encode the video again"):
            load(path, of, Wish(kv=kv))  # type: ignore[arg-type]
    for end in (0, 5, header_bytes // 2, header_bytes, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="damaged or no safetensors file"):
            load(path, of)
    path.write_bytes(whole.replace(b'\\"fp8\\": false', b'\\"fp8\\": 00000'))
    with pytest.raises(ValueError, match="its header's digest does not fit"):
        load(path, of)
    path.write_bytes(whole.replace(b'"format_version": "1"', b'"format_version": "2"'))
    with pytest.raises(ValueError, match="format version '2', and this version of vamba reads '1'"):
        load(path, of)
    path.write_bytes(whole.replace(b'"format": "vamba video memory"', b'"format": "vamba video mEmory"'))
    with pytest.raises(ValueError, match="no encoded video"):
        load(path, of)
    path.write_bytes(
        whole[:8] + whole[8:].replace(b'"__metadata__": {', b'"__metadata__": 5 ,"x":{', 1)[: -len('5 ,"x":')]
    )
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load(path, of)
    with pytest.raises(ValueError, match="no file at"):
        load(tmp_path / "absent", of)


def test_what_follows_a_memory_needs_room_too(tmp_path: Path) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    save(begun(of, Placement(), 9), path, of)
    room = Room(device=2 * sizes_of(of.architecture, 600_000, torch.float32).working, host=None, disk=0)
    assert load(path, of, room=room).memory.placement.kv == "device"
    placement = load(path, of, room=room, more_pairs=100_000).memory.placement
    assert placement.kv == "disk" and str(path) in placement.reason


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, path = model(), tmp_path / "memory.safetensors"
    path.write_bytes(b"earlier")
    monkeypatch.setattr("vamba.streaming.memory_file.write_at", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save(begun(of, Placement(), 9), path, of)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1
