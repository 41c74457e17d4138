"""A Qwen2-VL checkpoint becomes a Vamba checkpoint, tensor by tensor.

    config.json, headers ──plan_conversion──> names, types, where each tensor comes from ──convert_qwen2_vl──> new files

Everything Qwen2-VL has is kept under its name, its bytes copied in pieces; cross-attention starts as a copy of
self-attention, the mixers and alpha start as `vamba.model.init` says (Vamba section 3.2). So memory holds one fresh tensor
at most, of any size of model, and what doesn't fit is found before the first byte is written.
"""  # noqa: E501

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vamba.data.frames import FrameProcessing
from vamba.model.checkpoint_fit import check_fit, expected_tensors, is_new, without_tied_head
from vamba.model.config import MODEL_TYPE, MixerConfig, ModelConfig
from vamba.model.init import initial_value
from vamba.model.pretrained import FLOAT32_PARTS, checkpoint_draft, read_config_values, read_processing, refuse_foreign
from vamba.model.shard_writer import starts_shard, tensor_pieces
from vamba.model.tensor_files import DTYPES, StoredTensor, stored_tensors

_RENAMED = (("model.language_model.", "model."), ("model.visual.", "visual."))
"""Module names that transformers 5 uses in memory, and some tools save, and the names in checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTensor:
    """One tensor of the new checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: StoredTensor | None
    """What its bytes are copied from; None for one that starts fresh."""

    @property
    def num_values(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def size_bytes(self) -> int:
        return self.num_values * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionPlan:
    """What a conversion will write, known from the source's headers."""

    source: Path
    config: ModelConfig
    processing: FrameProcessing
    tensors: tuple[PlannedTensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)

    def num_shards(self, max_shard_bytes: int) -> int:
        """Files of weights that will be written."""
        shards, used = 1, 0
        for tensor in self.tensors:
            if starts_shard(used, tensor.size_bytes, tensor.dtype.itemsize, max_shard_bytes):
                shards, used = shards + 1, 0
            used += tensor.size_bytes
        return shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How far a conversion is."""

    num_tensors: int
    size_bytes: int


def plan_conversion(source: str | Path, *, mixer: MixerConfig | None = None) -> ConversionPlan:
    """The hybrid that starts from the Qwen2-VL in `source`, whose config is flat or nested.

    `mixer` defaults to the published one at the model's width. Raises CheckpointMismatch naming tensors that are missing,
    unexpected or misshapen, ValueError for a directory that is no Qwen2-VL checkpoint.
    """  # noqa: E501
    values = read_config_values(source)
    if values.get("model_type") == MODEL_TYPE or values.get("vision_mamba_mixer_config"):
        raise ValueError(f"{source} is a Vamba checkpoint already; use it as it is, or name a Qwen2-VL directory")
    base = ModelConfig.from_dict(values)
    mixer = mixer or MixerConfig(hidden_dim=base.hidden_size)
    config = replace(base, mixer=replace(mixer, enable=True))
    expected = expected_tensors(config)
    stored = without_tied_head(checkpoint_names(stored_tensors(source)), config)
    check_fit(source, stored, {name: shape for name, shape in expected.items() if not is_new(name)})
    fresh_dtype = DTYPES[stored["model.embed_tokens.weight"].dtype]
    return ConversionPlan(
        source=Path(source),
        config=config,
        processing=read_processing(source),
        tensors=tuple(_planned(name, shape, stored, fresh_dtype) for name, shape in expected.items()),
    )


def convert_qwen2_vl(
    source: str | Path | ConversionPlan,
    out: str | Path,
    *,
    mixer: MixerConfig | None = None,
    seed: int = 0,
    max_shard_bytes: int = 4_000_000_000,
    progress: Callable[[Written], None] = lambda _: None,
) -> ModelConfig:
    """Write the Vamba checkpoint that starts from the Qwen2-VL in `source` (or a plan of it) to `out`, in one rename.

    See `plan_conversion` for `mixer` and errors; nothing is left at `out` then. `progress` is called after each tensor.
    Returns the new configuration.
    """
    plan = source if isinstance(source, ConversionPlan) else plan_conversion(source, mixer=mixer)
    check_destination(plan, Path(out))
    with checkpoint_draft(
        out,
        plan.config,
        tokenizer_dir=plan.source,
        processing=plan.processing,
        max_shard_bytes=max_shard_bytes,
    ) as writer:
        for number, tensor in enumerate(plan.tensors, start=1):
            writer.add(tensor.name, tensor.dtype, tensor.shape, _pieces(tensor, plan.config, seed))
            progress(Written(num_tensors=number, size_bytes=writer.total_bytes))
    return plan.config


def check_destination(plan: ConversionPlan, out: Path) -> None:
    """ValueError where the conversion can't be written to `out`, or would remove something else."""
    source, target = plan.source.resolve(), out.resolve()
    if source == target or target in source.parents:
        raise ValueError(f"{out} is the source, {plan.source}, or holds it; choose another directory for the result")
    refuse_foreign(out)
    place = next(parent for parent in target.parents if parent.is_dir())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < plan.size_bytes:
        raise ValueError(
            f"{place} has {free_bytes / 1e9:.1f} GB free; the converted model needs {plan.size_bytes / 1e9:.1f} GB"
        )


def checkpoint_names(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of a Qwen2-VL under the names of its checkpoints, whatever tool saved them."""
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        for prefix, replacement in _RENAMED:
            if name.startswith(prefix):
                name = replacement + name.removeprefix(prefix)
                break
        if name in renamed:
            raise ValueError(f"{tensor.path} holds {name} under two names: {renamed[name].name} and {tensor.name}")
        renamed[name] = tensor
    return renamed


def _planned(
    name: str, shape: tuple[int, ...], stored: Mapping[str, StoredTensor], fresh_dtype: torch.dtype
) -> PlannedTensor:
    source = stored.get(name.replace(".cross_attn.", ".self_attn."))
    if source is not None:
        dtype = DTYPES[source.dtype]
    else:
        dtype = torch.float32 if name.rpartition(".")[2] in FLOAT32_PARTS else fresh_dtype
    return PlannedTensor(name=name, shape=shape, dtype=dtype, source=source)


def _pieces(tensor: PlannedTensor, config: ModelConfig, seed: int) -> Iterator[memoryview]:
    if tensor.source is not None:
        return tensor.source.pieces()
    value = initial_value(tensor.name, tensor.shape, config, seed, is_norm=".norm." in tensor.name)
    return tensor_pieces(value, tensor.dtype)
