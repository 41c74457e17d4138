"""An encoded video as one safetensors file: asked again without its frames, and gone on with.

    save: store, part after part ──> FILE (temporary name, header last, then renamed)
    load: FILE ── checked: format, facts, model, every byte ──> VideoMemory; `kv: disk` reads parts from the file itself

The header's metadata holds `format`, `format_version`, `facts` (JSON: the model's digest, types, order, what was shown, notes),
the SHA-256 of every tensor and one of all that. Tensors, with L a layer; a part is a slice of equal length of each:
    layers.L.{keys,values}             blocks of tokens, in order; with fp8 also ….scale, a row per block
    layers.L.rest.{keys,values}        the tokens behind them
    layers.L.state.{conv,ssm}          with which the mixer goes on at the tail
    tokens, tail, times_ns             layer-major: the tower's tokens; both orders: those behind them, times of frame pairs

Shapes: M video tokens, D width, K key/value heads.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from vamba.model.mixer import MixerState
from vamba.model.tensor_files import DTYPES, StoredTensor, listed, read_header
from vamba.streaming.fp8 import Fp8Store
from vamba.streaming.layer_major import TokenMemory
from vamba.streaming.media import Media
from vamba.streaming.memory import KeyValueMemory, VideoMemory
from vamba.streaming.memory_file import Group, read_metadata, write_file
from vamba.streaming.placement import Placement, Room, Wish, choose, free_room, sizes_of
from vamba.streaming.store import TOKENS, Place, Span, TensorStore, keys_values
from vamba.streaming.store_disk import DiskStore, Region, bytes_of, read_at
from vamba.streaming.video_side import video_side_digest

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba

FORMAT = "vamba video memory"
FORMAT_VERSION = "1"
_KEYS_VALUES = ("keys", "values")
_SCALED = ("keys", "keys.scale", "values", "values.scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMemory:
    """memory: ready to be asked. notes: what the one who saved it wrote down beside it."""

    memory: VideoMemory
    notes: Mapping[str, Any]


def save(
    memory: VideoMemory,
    path: Path,
    model: PackedVamba,
    *,
    notes: Mapping[str, Any] | None = None,
    shown: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write a memory that `model` made. The file appears complete or not at all; notes: values that JSON has.

    shown: called with the bytes that are written so far, and with all of them.
    """
    facts = {
        "model": video_side_digest(model),
        "backends": model.ops.names.to_dict(),
        "dtype": _name_of(memory.tail_MD.dtype),
        "order": memory.placement.order,
        "fp8": memory.placement.fp8,
        "chunk_tokens": memory.chunk_tokens,
        "block_tokens": memory.block_tokens,
        "merge_size": memory.media.merge_size,
        "grids": memory.media.grids,
        "notes": dict(notes or {}),
    }
    times = torch.tensor(memory.times_ns, dtype=torch.int64)
    groups = [*_groups(memory), Group.of({"tail": memory.tail_MD, "times_ns": times})]
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": json.dumps(facts)}
    write_file(path, groups, metadata, shown)


def notes_of(path: Path) -> Mapping[str, Any]:
    """What was written down beside a saved memory. ValueError for a file that is none, or of another version."""
    notes: Mapping[str, Any] = _facts(path)[0]["notes"]
    return notes


def load(
    path: Path,
    model: PackedVamba,
    wish: Wish | None = None,
    room: Room | None = None,
    *,
    more_pairs: int = 0,
    shown: Callable[[int, int], None] = lambda done, total: None,
) -> SavedMemory:
    """A saved memory for the model that made it.

    wish: where it is to lie; its order and fp8 are the file's. room: what is free, by default measured. more_pairs: frame
    pairs that will follow, for which there is to be room too. shown: called with the bytes that are read and checked so far,
    and with all of them. ValueError naming what is wrong with the file, or that another model made it.
    """  # noqa: E501
    facts, digests = _facts(path)
    device = model.model.embed_tokens.weight.device
    _check_model(path, facts, model)
    media = Media(merge_size=facts["merge_size"], grids=tuple((t, h, w) for t, h, w in facts["grids"]))
    wish = replace(wish or Wish(), order=facts["order"], fp8=facts["fp8"])
    num_tokens = media.num_tokens + more_pairs * media.tokens_per_pair(*media.grids[-1][1:])
    sizes = sizes_of(model.architecture, num_tokens, DTYPES[facts["dtype"]], fp8=facts["fp8"])
    placement = choose(sizes, replace(room or free_room(device, wish.directory), disk=1 << 62), wish)
    if placement.kv == "disk":
        placement = replace(placement, reason=f"read from {path}, where it takes no more space")
    with _Reader(path, digests, device, shown) as reader:
        memory = _memory(reader, facts, media, placement, model)
        reader.check_all()
    return SavedMemory(memory=memory, notes=facts["notes"])


def _groups(memory: VideoMemory) -> Iterator[Group]:
    """What is written, part after part: tensors of a group grow together."""
    store = memory.store.inner if isinstance(memory.store, Fp8Store) else memory.store
    if isinstance(memory, TokenMemory):
        if memory.chunks:
            yield Group.of_parts(("tokens",), store, [(TOKENS, chunk) for chunk in memory.chunks])
        return
    assert isinstance(memory, KeyValueMemory)
    kinds = _SCALED if memory.placement.fp8 else _KEYS_VALUES
    for index, (rest, state) in enumerate(zip(memory.rest, memory.states, strict=True)):
        layer = f"layers.{index}."
        if memory.blocks:
            places: list[Place] = [(keys_values(index), block) for block in memory.blocks]
            yield Group.of_parts(tuple(layer + kind for kind in kinds), store, places)
        yield Group.of({f"{layer}rest.{kind}": tensor for kind, tensor in zip(_KEYS_VALUES, rest, strict=True)})
        if state is not None:
            yield Group.of({f"{layer}state.conv": state.conv_BCW, f"{layer}state.ssm": state.ssm_BHPN})


def _memory(
    reader: _Reader, facts: Mapping[str, Any], media: Media, placement: Placement, model: PackedVamba
) -> VideoMemory:
    tail_MD, times = reader.whole("tail"), reader.whole("times_ns")
    chunk_tokens, block_tokens = facts["chunk_tokens"], facts["block_tokens"]
    store = placement.open_store(tail_MD.device, tail_MD.dtype)
    common: dict[str, Any] = {
        "media": media,
        "times_ns": tuple(times.tolist()),
        "ops": model.ops,
        "placement": placement,
        "store": store,
        "chunk_tokens": chunk_tokens,
        "block_tokens": block_tokens,
        "tail_MD": tail_MD,
    }
    edge = media.num_tokens - len(tail_MD)
    inner = store.inner if isinstance(store, Fp8Store) else store
    if facts["order"] == "layer-major":
        chunks = reader.parts(inner, TOKENS, ("tokens",), edge // chunk_tokens, chunk_tokens)
        return TokenMemory(**common, model=model, chunks=chunks)
    kinds = _SCALED if facts["fp8"] else _KEYS_VALUES
    blocks: tuple[int, ...] = ()
    rest, states = [], []
    for index in range(model.architecture.num_hidden_layers):
        layer = f"layers.{index}."
        names = tuple(layer + kind for kind in kinds)
        blocks = reader.parts(inner, keys_values(index), names, edge // block_tokens, block_tokens)
        rest.append((reader.whole(f"{layer}rest.keys"), reader.whole(f"{layer}rest.values")))
        has_state = f"{layer}state.conv" in reader.tensors
        states.append(
            MixerState(conv_BCW=reader.whole(f"{layer}state.conv"), ssm_BHPN=reader.whole(f"{layer}state.ssm"))
            if has_state
            else None
        )
    return KeyValueMemory(**common, blocks=blocks, rest=tuple(rest), states=tuple(states))


class _Reader:
    """The tensors of a file by name, checked against their digests as they are read."""

    def __init__(
        self, path: Path, digests: Mapping[str, str], device: torch.device, shown: Callable[[int, int], None]
    ) -> None:
        self._path, self._digests, self._device, self._shown = path, digests, device, shown
        self._done = 0
        self.tensors: dict[str, StoredTensor] = {tensor.name: tensor for tensor in read_header(path)}
        self._hashes = {name: hashlib.sha256() for name in self.tensors}
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._is_adopted = False

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if not self._is_adopted or error is not None:
            self._file.close()

    def whole(self, name: str) -> Tensor:
        """One tensor, on the device."""
        (region,) = self._regions((name,), 1, 0)
        return self._read(name, region).to(self._device)

    def parts(self, store: TensorStore, slot: str, names: tuple[str, ...], count: int, tokens: int) -> tuple[int, ...]:
        """Put `count` parts of so many tokens into a slot: their places in it. A disk store takes them as they lie."""
        for part in range(count):
            span: Span = (part * tokens, (part + 1) * tokens)
            regions = self._regions(names, count, part)
            read = tuple(self._read(name, region) for name, region in zip(names, regions, strict=True))
            if isinstance(store, DiskStore):
                store.adopt(slot, span, regions)
                self._is_adopted = True
            else:
                store.append(slot, span, tuple(tensor.to(self._device) for tensor in read))
        return tuple(range(count))

    def check_all(self) -> None:
        """ValueError where a tensor was not read to its end, or is not the one that was written."""
        wrong = [name for name, digest in self._hashes.items() if digest.hexdigest() != self._digests.get(name)]
        wrong += [name for name in self._digests if name not in self._hashes]
        if wrong:
            raise ValueError(f"{self._path} was altered since it was saved: {listed(sorted(wrong))}; {_AGAIN}")

    def _regions(self, names: tuple[str, ...], count: int, part: int) -> tuple[Region, ...]:
        """Where part `part` of `count` equal ones lies, of each tensor."""
        found = []
        for name in names:
            if name not in self.tensors:
                raise ValueError(f"{self._path} was altered since it was saved: it has no {name}; {_AGAIN}")
            tensor = self.tensors[name]
            rows, *shape = tensor.shape
            size = tensor.size_bytes // count
            found.append(Region(self._file, tensor.start + part * size, (rows // count, *shape), DTYPES[tensor.dtype]))
        return tuple(found)

    def _read(self, name: str, region: Region) -> Tensor:
        tensor = read_at(region)
        self._hashes[name].update(bytes_of(tensor))
        self._done += tensor.nbytes
        self._shown(self._done, sum(stored.size_bytes for stored in self.tensors.values()))
        return tensor


_AGAIN = "encode the video again, or fetch the file again from where it is whole"


def _facts(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """(facts, SHA-256 by tensor) of a file whose header is what was written."""
    metadata, digests = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no encoded video: it is a safetensors file of something else")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format version {metadata.get('format_version')!r}, and this version of vamba reads "
            f"{FORMAT_VERSION!r}; encode the video again"
        )
    if digests is None:
        raise ValueError(f"{path} was altered since it was saved: its header's digest does not fit; {_AGAIN}")
    facts: Mapping[str, Any] = json.loads(metadata["facts"])
    return facts, digests


def _check_model(path: Path, facts: Mapping[str, Any], model: PackedVamba) -> None:
    types = (DTYPES[facts["dtype"]], model.model.hybrid_layers[0].cross_attn.k_proj.weight.dtype)
    if types[0] != types[1]:
        encoded, loaded = (str(dtype).removeprefix("torch.") for dtype in types)
        raise ValueError(
            f"{path} was encoded in {encoded}, and the model is loaded in {loaded}; load the model in {encoded} "
            f"(dtype={encoded}), or encode the video again"
        )
    mine = video_side_digest(model)
    if facts["model"] != mine:
        raise ValueError(
            f"{path} was encoded by another model (its video side is {facts['model'][:12]}…, this one's {mine[:12]}…), "
            "and keys mean nothing to a model that did not make them; ask that model, or encode the video with this one"
        )


def _name_of(dtype: torch.dtype) -> str:
    return next(name for name, known in DTYPES.items() if known == dtype)
