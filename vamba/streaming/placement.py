"""Where an encoded video lies, and in which order it runs through the layers: a written rule over sizes and free bytes.

    chunk-major   a chunk through all layers, then the next: keeps every layer's keys and values, and each word of an
                  answer reads them
    layer-major   all chunks through a layer, then the next layer: keeps the video tokens alone (at 7B an eighth), and each
                  word of an answer runs the mixers again

The first of these that fits into nine tenths of what is free is taken; what is named (`kv`, `order`) narrows the list:
    1. chunk-major, keys and values on the device
    2. chunk-major, in pinned host memory        (a CPU has one memory: as 1.)
    3. chunk-major, on disk
    4. to 6. layer-major, likewise
`fp8` halves 1. to 3. and rounds keys and values to three bits of mantissa: it is taken only where it is asked for. What is
on the device besides (a chunk in flight, the rest that is no whole block yet) has to fit there in every case.
"""  # noqa: E501

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vamba.model.config import ModelConfig
from vamba.streaming.fp8 import Fp8Store
from vamba.streaming.store import DeviceStore, TensorStore
from vamba.streaming.store_disk import DiskStore
from vamba.streaming.store_host import HostStore

Kind = Literal["device", "host", "disk"]
Order = Literal["chunk-major", "layer-major"]

CHUNK_TOKENS = 4096
"""Video tokens that go through the layers at once."""
BLOCK_TOKENS = 32_768
"""Video tokens of a part: large enough that reading an hour's takes few calls, a few hundred MB of one layer at 7B."""
_USABLE = 0.9
"""Of what is free; the rest is the allocator's, and other processes'."""
_KINDS: tuple[Kind, ...] = ("device", "host", "disk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """kv: where it lies. fp8: keys and values as e4m3. directory: of files, by default the system's for temporary ones.

    reason: why it was chosen, for people.
    """

    kv: Kind = "device"
    order: Order = "chunk-major"
    fp8: bool = False
    directory: str = ""
    reason: str = "nothing else was asked for"

    def __post_init__(self) -> None:
        if self.fp8 and self.order == "layer-major":
            raise ValueError(
                "`fp8` is how keys and values are kept, and the order `layer-major` keeps none; drop one of the two"
            )

    def open_store(self, device: torch.device, dtype: torch.dtype) -> TensorStore:
        """An empty store of this kind, for tensors that are computed with on `device` in `dtype`."""
        store: TensorStore
        if self.kv == "disk":
            store = DiskStore(device, self.directory or None)
        elif self.kv == "host" and device.type == "cuda":
            store = HostStore(device)
        else:
            store = DeviceStore()
        return Fp8Store(store, dtype) if self.fp8 else store


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for: `auto` leaves it to the rule. fp8, directory: as in `Placement`."""

    kv: Literal["auto", "device", "host", "disk"] = "auto"
    order: Literal["auto", "chunk-major", "layer-major"] = "auto"
    fp8: bool = False
    directory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes. keys_values: of the whole video. stream: of its tokens, twice (those kept, and those of a layer).
    working: what is on the device besides, in either order."""

    keys_values: int
    stream: int
    working: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Free bytes. host: None where the device's memory is the host's."""

    device: int
    host: int | None
    disk: int


def sizes_of(config: ModelConfig, num_tokens: int, dtype: torch.dtype, *, fp8: bool = False) -> Sizes:
    """What a video of so many tokens takes."""
    of_a_token = 2 * config.num_key_value_heads * config.head_dim  # values in one layer
    rest = min(num_tokens, BLOCK_TOKENS)
    in_blocks = num_tokens - num_tokens % BLOCK_TOKENS
    layers, bytes_ = config.num_hidden_layers, dtype.itemsize
    per_token = of_a_token * layers * bytes_
    kept = per_token * num_tokens
    if fp8:
        kept -= of_a_token * layers * (bytes_ - 1) * in_blocks
    tower = config.vision.spatial_merge_size**2 * config.vision.embed_dim * int(config.vision.mlp_ratio + 6)
    mixer = 4 * (2 * config.mixer.d_inner + config.mixer.conv_dim) if config.mixer.enable else config.hidden_size
    in_flight = min(num_tokens, CHUNK_TOKENS) * max(tower * bytes_, mixer * 4)
    return Sizes(
        keys_values=kept,
        stream=2 * num_tokens * config.hidden_size * bytes_,
        working=in_flight + rest * per_token + 3 * rest * of_a_token * bytes_,
    )


def choose(sizes: Sizes, room: Room, wish: Wish) -> Placement:
    """The first of the written list that fits and was not excluded. ValueError with the figures where none does."""
    orders: tuple[Order, ...] = ("chunk-major", "layer-major") if wish.order == "auto" else (wish.order,)
    if wish.fp8 and wish.order == "auto":
        orders = ("chunk-major",)
    kinds = _KINDS if wish.kv == "auto" else (wish.kv,)
    if wish.kv == "auto" and room.host is None:
        kinds = ("device", "disk")
    seen = []
    for order in orders:
        kept = sizes.keys_values if order == "chunk-major" else sizes.stream
        what = "keys and values" if order == "chunk-major" else "video tokens"
        for kind in kinds:
            needs = {"device": sizes.working, "host": 0, "disk": 0}
            needs[kind] += kept
            has = {"device": room.device, "host": room.device if room.host is None else room.host, "disk": room.disk}
            figures = f"{_gib(kept)} of {what} on {kind}, {_gib(has[kind])} free there"
            if all(needs[place] <= _USABLE * has[place] for place in _KINDS):
                return Placement(kv=kind, order=order, fp8=wish.fp8, directory=wish.directory, reason=figures)
            seen.append(f"{order}: {figures}, beside {_gib(sizes.working)} on the device")
    raise ValueError(
        "The encoded video fits nowhere: " + "; ".join(seen) + ". Read fewer or smaller frames, free memory, name a "
        "`directory` with more space, or leave `kv` and `order` at `auto`."
    )


def free_room(device: torch.device, directory: str) -> Room:
    """What is free now."""
    disk = shutil.disk_usage(directory or tempfile.gettempdir()).free
    host = _free_host_bytes()
    if device.type != "cuda":
        return Room(device=host, host=None, disk=disk)
    free, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Room(device=free + cached, host=host, disk=disk)


def _free_host_bytes() -> int:
    """Of the machine, or of this process's control group where that has less."""
    free = 1 << 62
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        free = min(free, max(0, int(limit[0]) - int(used[0])))
    return free


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
