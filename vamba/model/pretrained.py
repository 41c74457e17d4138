"""Checkpoint directories in the release's layout: read, written, never half-visible.

    config.json                     the release's keys, `model_type` our own
    model.safetensors               or model-0000i-of-0000n.safetensors with model.safetensors.index.json
    processing.json                 how frames become patches
    tokenizer.json, …               copied

Reading builds the model without memory, then puts the stored tensors in place. A tensor that is missing, unexpected or
of another shape is named in the error; nothing is skipped and nothing pickled is opened.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vamba.data.frames import FrameProcessing
from vamba.model.config import ModelConfig
from vamba.model.vamba import PackedVamba, Vamba
from vamba.ops.backends import Backends

if TYPE_CHECKING:
    from types import TracebackType

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PROCESSING_FILE = "processing.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
FLOAT32_PARTS = ("A_log", "dt_bias", "D", "alpha")
"""Last name parts of parameters that stay in float32 whatever the model's dtype: small, and read by exponentials."""


class CheckpointMismatch(ValueError):
    """The tensors of a checkpoint are not those of its configuration."""


def from_pretrained(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    backends: Backends | None = None,
    device: torch.device | str | None = None,
) -> Vamba:
    """The model of a checkpoint directory, on the CPU, in evaluation mode.

    `dtype` converts floating parameters (except `FLOAT32_PARTS`); by default each keeps the stored one. `device` is where
    the model will run, which decides what `auto` backends are. Raises CheckpointMismatch naming the tensors that don't
    fit, ValueError for a directory that is no checkpoint.
    """
    with torch.device("meta"):
        model = Vamba(read_config(directory), backends, device)
    fill(model, directory, dtype=dtype)
    return model.eval()


def fill(model: nn.Module, directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Put the tensors of a checkpoint directory in the place of a hybrid's parameters; see `from_pretrained`."""
    assert isinstance(model, PackedVamba)
    expected = expected_tensors(model)
    state = dict(read_tensors(directory))
    _check_fit(Path(directory), {name: tuple(t.shape) for name, t in state.items()}, expected)
    if dtype is not None:
        state = {name: _cast(name, tensor, dtype) for name, tensor in state.items()}
    tied = model.architecture.tie_word_embeddings
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight


def save_pretrained(
    model: nn.Module,
    directory: str | Path,
    *,
    tokenizer_dir: str | Path | None = None,
    processing: FrameProcessing | None = None,
    max_shard_bytes: int = 4_000_000_000,
) -> None:
    """Write a hybrid; see `write_checkpoint`."""
    assert isinstance(model, PackedVamba)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    write_checkpoint(
        directory,
        model.architecture,
        state.items(),
        tokenizer_dir=tokenizer_dir,
        processing=processing,
        max_shard_bytes=max_shard_bytes,
    )


def write_checkpoint(
    directory: str | Path,
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    tokenizer_dir: str | Path | None = None,
    processing: FrameProcessing | None = None,
    max_shard_bytes: int = 4_000_000_000,
) -> None:
    """Write named tensors as a checkpoint directory, replacing an older checkpoint of that name in one rename.

    `tensors` may be a generator: no more than one shard is held in memory. Raises ValueError where the directory exists
    and is something else.
    """
    target = Path(directory)
    if target.exists() and not (target / CONFIG_FILE).is_file() and any(target.iterdir()):
        raise ValueError(f"{target} exists and is not a checkpoint; choose another directory")
    draft = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with _ShardWriter(draft, max_shard_bytes) as writer:
            for name, tensor in tensors:
                if not (config.tie_word_embeddings and name == "lm_head.weight"):
                    writer.add(name, tensor)
        for file in TOKENIZER_FILES if tokenizer_dir is not None else ():
            source = Path(str(tokenizer_dir)) / file
            if source.is_file():
                shutil.copyfile(source, draft / file)
        _write_json(draft / PROCESSING_FILE, (processing or FrameProcessing()).to_dict())
        _write_json(draft / CONFIG_FILE, config.to_dict())
        for file_path in draft.iterdir():
            _sync(file_path)
        _put_in_place(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_config(directory: str | Path) -> ModelConfig:
    """The configuration of a checkpoint directory."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{directory} is not a model directory: it has no {CONFIG_FILE}")
    return ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def read_processing(directory: str | Path) -> FrameProcessing:
    """How frames are prepared for this checkpoint; the published model's way where the directory doesn't say."""
    path = Path(directory) / PROCESSING_FILE
    return FrameProcessing.from_dict(json.loads(path.read_text("utf-8"))) if path.is_file() else FrameProcessing()


def read_tensors(directory: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a directory, one at a time, from one file or many."""
    from safetensors import SafetensorError, safe_open

    for path in weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (a safetensors file is no mapping)
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error


def weight_files(directory: str | Path) -> list[Path]:
    """The safetensors files of a directory; ValueError where there are none or the index names one that is absent."""
    root = Path(directory)
    if (root / INDEX_FILE).is_file():
        names = sorted(set(json.loads((root / INDEX_FILE).read_text("utf-8"))["weight_map"].values()))
        absent = [name for name in names if Path(name).name != name or not (root / name).is_file()]
        if absent:
            raise ValueError(f"{root / INDEX_FILE} names files that are not there: {absent}")
        return [root / name for name in names]
    if not (root / WEIGHTS_FILE).is_file():
        raise ValueError(f"{root} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}; other weight formats are not read")
    return [root / WEIGHTS_FILE]


def expected_tensors(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors a checkpoint of this model holds."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert isinstance(model, PackedVamba)
    if model.architecture.tie_word_embeddings:
        del shapes["lm_head.weight"]
    return shapes


def _check_fit(directory: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in found and found[name] != shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    problems = [f"{len(names)} {kind}: {', '.join(names[:20])}" for kind, names in kinds if names]
    if problems:
        raise CheckpointMismatch(f"the tensors in {directory} don't fit its config.json; " + "; ".join(problems))


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    keeps = name.rpartition(".")[2] in FLOAT32_PARTS
    return tensor.to(torch.promote_types(dtype, torch.float32) if keeps else dtype)


class _ShardWriter:
    """Collects tensors and writes a file whenever one is full; names and index are settled at the end."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = directory, max_bytes
        self.pending: dict[str, Tensor] = {}
        self.pending_bytes = 0
        self.shards: list[list[str]] = []
        self.total_bytes = 0

    def __enter__(self) -> _ShardWriter:
        return self

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self.pending and self.pending_bytes + size > self.max_bytes:
            self._flush()
        self.pending[name] = tensor.detach().cpu().contiguous()
        self.pending_bytes += size
        self.total_bytes += size

    def _flush(self) -> None:
        from safetensors.torch import save_file

        save_file(self.pending, self.directory / f"shard-{len(self.shards)}", metadata={"format": "pt"})
        self.shards.append(list(self.pending))
        self.pending, self.pending_bytes = {}, 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        self._flush()
        count = len(self.shards)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)] if count > 1 else [WEIGHTS_FILE]
        for index, name in enumerate(names):
            (self.directory / f"shard-{index}").rename(self.directory / name)
        if count > 1:
            placed = {tensor: name for name, held in zip(names, self.shards, strict=True) for tensor in held}
            index_content = {"metadata": {"total_size": self.total_bytes}, "weight_map": placed}
            _write_json(self.directory / INDEX_FILE, index_content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(draft: Path, target: Path) -> None:
    old = draft.with_name(draft.name + "-old")
    if target.exists():
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)
