"""Memory of one worker, line by line: counted where it is parameters, estimated where it is activations.

    ShardSizes (counted) + ParallelConfig + PackShape ──> lines, each with what it is ── total

Lines are those that exist together at the worst moment, in the backward pass of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from vamba.model.config import ModelConfig
from vamba.parallel.activation_memory import PackShape
from vamba.parallel.config import ParallelConfig
from vamba.parallel.shard_sizes import ShardSizes
from vamba.parallel.streamed_memory import pack_memory

_MASTER, _MOMENTS = 4, 8  # bytes of a float32 value, of Adam's two
_CUDA_RESERVE = 4 << 30  # context, NCCL's buffers, what the allocator loses between blocks: assumed, not measured


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One use of memory. of: what was counted, for people."""

    name: str
    size_bytes: int
    of: str


def footprint(
    sizes: ShardSizes,
    model: ModelConfig,
    config: ParallelConfig,
    pack: PackShape,
    *,
    micro_batches: int,
    on_gpu: bool,
    trains_blocks: bool,
    trains_merger: bool,
) -> tuple[MemoryLine, ...]:
    """Every line of a worker's memory. micro_batches: packs that it works on in one step."""
    compute = 2 if config.compute_dtype == "bfloat16" else 4
    kept = pack_memory(
        model, pack, config, compute_bytes=compute, trains_blocks=trains_blocks, trains_merger=trains_merger
    )
    rows = f"a pack of {pack.num_video_tokens:,} video and {pack.num_text_tokens:,} text tokens"
    policy = "of all layers" if config.activation == "none" else "the inputs of every layer"
    if kept.stored:
        policy = "of the text, the inputs of every layer and what it read"
    block = "block, or a chunk of the video through all layers," if kept.stored else "block"
    lines = [
        *_weight_lines(sizes, compute, on_gpu=on_gpu),
        MemoryLine(
            name="gradients", size_bytes=_MASTER * sizes.local_trainable, of=f"{sizes.local_trainable:,}, float32"
        ),
        MemoryLine(
            name="optimizer state",
            size_bytes=_MOMENTS * sizes.local_trainable,
            of=f"two moments of {sizes.local_trainable:,}, float32",
        ),
        *_collective_lines(sizes, config, compute, micro_batches),
        MemoryLine(
            name="streamed video",
            size_bytes=kept.stored if _is_worker_memory(config, on_gpu=on_gpu) else 0,
            of="keys, values, states at chunk bounds and the tower's tokens",
        ),
        MemoryLine(name="layer activations", size_bytes=kept.kept_layers, of=f"estimate: {policy}, {rows}"),
        MemoryLine(name="vision activations", size_bytes=kept.kept_vision, of="estimate: what is trained of the tower"),
        MemoryLine(name="logits", size_bytes=kept.kept_logits, of=f"estimate: {pack.num_labelled:,} labelled tokens"),
        MemoryLine(
            name="working memory", size_bytes=kept.working, of=f"estimate: the largest {block} while it is computed"
        ),
    ]
    if on_gpu:
        lines.append(MemoryLine(name="CUDA and NCCL", size_bytes=_CUDA_RESERVE, of="assumed"))
    return tuple(line for line in lines if line.size_bytes)


def stored_elsewhere(
    sizes: ShardSizes,
    model: ModelConfig,
    config: ParallelConfig,
    pack: PackShape,
    *,
    on_gpu: bool,
    trains_blocks: bool,
    trains_merger: bool,
) -> tuple[MemoryLine, ...]:
    """What a worker keeps outside the memory that `footprint` is of: frozen weights, its largest streamed video."""
    compute = 2 if config.compute_dtype == "bfloat16" else 4
    stored = pack_memory(
        model, pack, config, compute_bytes=compute, trains_blocks=trains_blocks, trains_merger=trains_merger
    ).stored
    place = "pinned host memory" if config.stream_kv == "host" else f"files in {config.stream_directory or 'TMPDIR'}"
    lines = [MemoryLine(name="streamed video", size_bytes=stored, of=f"a worker, in {place}")]
    if _is_worker_memory(config, on_gpu=on_gpu):
        lines.clear()
    if _has_copies(sizes, compute) and on_gpu:
        frozen = sizes.frozen_matrices
        of = f"{frozen:,} values, float32 as stored, in host memory"
        lines.append(MemoryLine(name="frozen weights", size_bytes=_MASTER * frozen, of=of))
    return tuple(line for line in lines if line.size_bytes)


def _is_worker_memory(config: ParallelConfig, *, on_gpu: bool) -> bool:
    """Whether what is kept of a streamed video lies in the memory whose lines are counted; a CPU has one memory."""
    return config.stream_kv == "device" or (config.stream_kv == "host" and not on_gpu)


def _has_copies(sizes: ShardSizes, compute: int) -> bool:
    """Whether weights are held twice (`vamba.parallel.masters`)."""
    return compute < _MASTER and not sizes.units


def _weight_lines(sizes: ShardSizes, compute: int, *, on_gpu: bool) -> list[MemoryLine]:
    """Weights as they are kept, and on one worker the copies that bfloat16 is computed with."""
    wide = sizes.local - sizes.local_narrow
    copies = sizes.local_matrices if _has_copies(sizes, compute) else 0
    if copies and on_gpu:
        wide -= sizes.frozen_matrices  # these wait on the host
    return [
        MemoryLine(name="master weights", size_bytes=_MASTER * wide, of=f"{wide:,} values, float32"),
        MemoryLine(
            name="frozen weights", size_bytes=2 * sizes.local_narrow, of=f"{sizes.local_narrow:,}, bfloat16 as stored"
        ),
        MemoryLine(name="computed weights", size_bytes=compute * copies, of=f"{copies:,}, bfloat16"),
    ]


def _collective_lines(sizes: ShardSizes, config: ParallelConfig, compute: int, micro_batches: int) -> list[MemoryLine]:
    """What FSDP holds beside the shards; nothing where nothing is sharded."""
    if not sizes.units:
        return []
    gathered, of = _gathered(sizes, config)
    largest = max(sizes.units, key=lambda unit: unit.trainable)
    lines = [
        MemoryLine(name="gathered units", size_bytes=compute * gathered, of=f"{of}, {config.compute_dtype}"),
        MemoryLine(
            name="gradients in flight",
            size_bytes=(compute + _MASTER) * largest.trainable,
            of=f"of {largest.name}, as computed and as reduced",
        ),
    ]
    if micro_batches > 1 or config.streams:
        whole = sum(unit.trainable for unit in sizes.units)
        summed = "the chunks" if micro_batches == 1 else f"{micro_batches} packs"
        of = f"{whole:,} values, float32: {summed} of a worker are summed before they are reduced"
        lines.append(MemoryLine(name="gradients, not yet reduced", size_bytes=_MASTER * whole, of=of))
    return lines


def _gathered(sizes: ShardSizes, config: ParallelConfig) -> tuple[int, str]:
    """Values that are gathered at once: the root, and two neighbours, the second of them on its way."""
    if not config.reshard_after_forward or config.streams:
        return sum(unit.size for unit in sizes.units), "all units"
    root = next((unit.size for unit in sizes.units if unit.name == "root"), 0)
    others = [unit for unit in sizes.units if unit.name != "root"]
    if len(others) < 2:
        return sum(unit.size for unit in sizes.units), "all units"
    first, second = max(pairwise(others), key=lambda pair: pair[0].size + pair[1].size)
    return root + first.size + second.size, f"the root, {first.name} and {second.name}"
