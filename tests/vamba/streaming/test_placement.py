"""Where a video lies is decided by a written rule, from sizes and free bytes alone."""

from __future__ import annotations

import pytest
import torch

from vamba.model.config import ModelConfig
from vamba.streaming.placement import BLOCK_TOKENS, Placement, Room, Sizes, Wish, choose, free_room, sizes_of

SIZES = Sizes(keys_values=800, stream=200, working=50)


@pytest.mark.parametrize(
    ("device", "host", "disk", "expected"),
    [
        (1000, 1000, 1000, ("device", "chunk-major")),
        (944, 889, 9999, ("host", "chunk-major")),
        (944, 888, 9999, ("disk", "chunk-major")),
        (944, 888, 888, ("device", "layer-major")),
        (270, 888, 888, ("host", "layer-major")),
        (270, 200, 888, ("disk", "layer-major")),
        (944, None, 9999, ("disk", "chunk-major")),
        (270, None, 888, ("disk", "layer-major")),
    ],
)
def test_the_first_that_fits_is_taken(device: int, host: int | None, disk: int, expected: tuple[str, str]) -> None:
    made = choose(SIZES, Room(device=device, host=host, disk=disk), Wish())
    assert (made.kv, made.order) == expected
    assert "free there" in made.reason


def test_what_is_named_is_kept_to() -> None:
    room = Room(device=1000, host=1000, disk=1000)
    assert choose(SIZES, room, Wish(kv="disk")).kv == "disk"
    assert choose(SIZES, room, Wish(order="layer-major")).order == "layer-major"
    assert choose(SIZES, room, Wish(kv="host", fp8=True, directory="/x")) == Placement(
        kv="host", fp8=True, directory="/x", reason="0.00 GiB of keys and values on host, 0.00 GiB free there"
    )
    assert choose(SIZES, Room(device=1000, host=None, disk=0), Wish(kv="host")).kv == "host"
    with pytest.raises(ValueError, match="fits nowhere: chunk-major: .* on device.*layer-major"):
        choose(SIZES, Room(device=100, host=9999, disk=9999), Wish(kv="device"))
    with pytest.raises(ValueError, match="`fp8` is how keys and values are kept"):
        choose(SIZES, room, Wish(order="layer-major", fp8=True))
    with pytest.raises(ValueError, match="fits nowhere"):
        choose(SIZES, Room(device=49, host=9999, disk=9999), Wish())


def test_sizes_are_those_of_the_published_model() -> None:
    config, hour = ModelConfig(), 538_200
    sizes = sizes_of(config, hour, torch.bfloat16)
    assert sizes.keys_values == 57_344 * hour and sizes.stream == 2 * 7168 * hour
    eight = sizes_of(config, hour, torch.bfloat16, fp8=True).keys_values
    blocks = hour // BLOCK_TOKENS * BLOCK_TOKENS
    assert eight == 57_344 * (hour - blocks) + 28_672 * blocks
    assert sizes_of(config, 299, torch.bfloat16).working < sizes.working < 6 * 2**30
    assert sizes_of(config, 4 * hour, torch.bfloat16).working == sizes.working


def test_what_is_free_is_measured(tmp_path: object) -> None:
    room = free_room(torch.device("cpu"), str(tmp_path))
    assert room.host is None and 2**20 < room.device < 2**50 and 2**20 < room.disk < 2**60
