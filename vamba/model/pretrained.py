"""Checkpoint directories in the release's layout: read, written, never half-visible.

    config.json                     the release's keys, `model_type` our own
    model.safetensors               or model-0000i-of-0000n.safetensors with model.safetensors.index.json
    processing.json                 how frames become patches
    tokenizer.json, …               copied, as is generation_config.json

Reading builds the model without memory, then puts the stored tensors in place. A tensor that is missing, unexpected or
of another shape is named in the error before any is read; nothing is skipped and nothing pickled is opened. Writing
holds one tensor at a time (`vamba.model.shard_writer`) in a directory of another name (`vamba.model.draft`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vamba.data.frames import FrameProcessing
from vamba.model.checkpoint_fit import CheckpointMismatch as CheckpointMismatch
from vamba.model.checkpoint_fit import check_fit, expected_tensors, shapes_of, without_tied_head
from vamba.model.config import ModelConfig
from vamba.model.draft import replacing
from vamba.model.processing import PREPROCESSOR_FILE, from_preprocessor
from vamba.model.shard_writer import ShardWriter, tensor_pieces
from vamba.model.tensor_files import stored_tensors, weight_files
from vamba.model.vamba import PackedVamba, Vamba
from vamba.ops.backends import Backends

CONFIG_FILE = "config.json"
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
COPIED_FILES = (*TOKENIZER_FILES, "generation_config.json")
FLOAT32_PARTS = ("A_log", "dt_bias", "D", "alpha")
"""Last name parts of parameters that stay in float32 whatever the model's dtype: small, and read by exponentials."""


def from_pretrained(
    directory: str | Path,
    *,
    dtype: torch.dtype | None = None,
    backends: Backends | None = None,
    device: torch.device | str | None = None,
) -> Vamba:
    """The model of a checkpoint directory, on the CPU, in evaluation mode.

    `dtype` converts floating parameters (except `FLOAT32_PARTS`); by default each keeps the stored one. `device` is
    where the model will run, which decides what `auto` backends are. Raises CheckpointMismatch naming the tensors that
    don't fit, ValueError for a directory that is no checkpoint.
    """
    with torch.device("meta"):
        model = Vamba(read_config(directory), backends, device)
    fill(model, directory, dtype=dtype)
    return model.eval()


def fill(model: nn.Module, directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Put the tensors of a checkpoint directory in the place of a hybrid's parameters; see `from_pretrained`."""
    assert isinstance(model, PackedVamba)
    stored = without_tied_head(stored_tensors(directory), model.architecture)
    check_fit(directory, stored, shapes_of(model))
    # Cast one by one: both copies of a 7B would be 68 GB.
    state = {name: _cast(name, tensor, dtype) for name, tensor in read_tensors(directory) if name in stored}
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

    `tensors` may be a generator: no more than one is held in memory. Raises ValueError where the directory exists
    and is something else.
    """
    with checkpoint_draft(
        directory, config, tokenizer_dir=tokenizer_dir, processing=processing, max_shard_bytes=max_shard_bytes
    ) as writer:
        for name, tensor in tensors:
            if not (config.tie_word_embeddings and name == "lm_head.weight"):
                writer.add(name, tensor.dtype, tuple(tensor.shape), tensor_pieces(tensor))


@contextmanager
def checkpoint_draft(
    directory: str | Path,
    config: ModelConfig,
    *,
    tokenizer_dir: str | Path | None,
    processing: FrameProcessing | None,
    max_shard_bytes: int,
) -> Iterator[ShardWriter]:
    """A writer for the tensors of `config`; when the block ends without an error, the checkpoint is complete in place.

    Raises ValueError where the directory exists and is something else.
    """
    target = Path(directory)
    refuse_foreign(target)
    with replacing(target) as draft:
        with ShardWriter(draft, expected_tensors(config), max_shard_bytes) as writer:
            yield writer
        for file in COPIED_FILES if tokenizer_dir is not None else ():
            source = Path(str(tokenizer_dir)) / file
            if source.is_file():
                shutil.copyfile(source, draft / file)
        _write_json(draft / PROCESSING_FILE, (processing or FrameProcessing()).to_dict())
        _write_json(draft / CONFIG_FILE, config.to_dict())


def refuse_foreign(target: Path) -> None:
    """ValueError where `target` exists and is no checkpoint: writing there would remove what it holds."""
    if target.is_dir():
        if (target / CONFIG_FILE).is_file() or not any(target.iterdir()):
            return
    elif not target.exists():
        return
    raise ValueError(f"{target} exists and is not a checkpoint; choose another directory")


def read_config(directory: str | Path) -> ModelConfig:
    """The configuration of a checkpoint directory."""
    return ModelConfig.from_dict(read_config_values(directory))


def read_config_values(directory: str | Path) -> dict[str, Any]:
    """What `config.json` of a checkpoint directory says. ValueError where there is none."""
    path = Path(directory) / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{directory} is not a model directory: it has no {CONFIG_FILE}")
    return _read_json(path)


def read_processing(directory: str | Path) -> FrameProcessing:
    """How frames are prepared for this checkpoint; the published model's way where the directory doesn't say.

    Where there is no processing.json, Qwen2-VL's preprocessor_config.json is read.
    """
    own, base = Path(directory) / PROCESSING_FILE, Path(directory) / PREPROCESSOR_FILE
    if own.is_file():
        return FrameProcessing.from_dict(_read_json(own))
    return from_preprocessor(_read_json(base)) if base.is_file() else FrameProcessing()


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


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    keeps = name.rpartition(".")[2] in FLOAT32_PARTS
    return tensor.to(torch.promote_types(dtype, torch.float32) if keeps else dtype)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
