"""Between transformers' loading options and our checkpoint directories (`vamba.model.pretrained`).

transformers fills what is missing with random numbers and skips what is unexpected; here both are errors. So its loader
is not used, and of its options those are taken that mean something for a local directory of safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig

from vamba.hf.configuration import VambaConfig
from vamba.model.pretrained import TOKENIZER_FILES, fill, read_config, read_processing, save_pretrained
from vamba.model.shard_writer import size_in_bytes
from vamba.ops.backends import Backends

if TYPE_CHECKING:
    from vamba.hf.modeling import VambaForConditionalGeneration

_IGNORED = {
    *("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies", "code_revision"),
    *("trust_remote_code", "_from_auto", "adapter_kwargs", "low_cpu_mem_usage", "attn_implementation", "weights_only"),
}
"""Options about downloads, and about how transformers would load: nothing to do for a local directory."""


def load_pretrained(
    cls: type[VambaForConditionalGeneration],
    directory: str | Path,
    config: VambaConfig | None,
    dtype: torch.dtype | str | None,
    device_map: str | torch.device | None,
    backends: Backends | None,
    options: Mapping[str, Any],
) -> VambaForConditionalGeneration:
    """See VambaForConditionalGeneration.from_pretrained."""
    if not Path(directory).is_dir():
        raise ValueError(f"{directory} is no local directory; download the checkpoint first, then name its directory")
    if options.get("use_safetensors") is False or options.get("weights_only") is False:
        raise ValueError("use_safetensors=False / weights_only=False: only safetensors are read, nothing pickled")
    dtype = options.get("torch_dtype", dtype) if dtype is None else dtype
    unknown = sorted(set(options) - _IGNORED - {"use_safetensors", "torch_dtype"})
    if unknown:
        raise ValueError(f"from_pretrained has no option {unknown}; options: config, dtype, device_map, backends")
    config = config or VambaConfig.of(read_config(directory))
    device = None if device_map is None else _device(device_map)
    with torch.device("meta"):
        model = cls(config, backends, device)
    fill(model, directory, dtype=_dtype(dtype))
    config.name_or_path = str(directory)
    if (Path(directory) / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model.eval() if device is None else model.to(device).eval()


def write_pretrained(model: VambaForConditionalGeneration, directory: str | Path, options: Mapping[str, Any]) -> None:
    """See VambaForConditionalGeneration.save_pretrained."""
    unknown = sorted(set(options) - {"max_shard_size", "tokenizer_dir", "safe_serialization"})
    if unknown or options.get("safe_serialization") is False:
        raise ValueError(
            f"save_pretrained has no option {unknown or ['safe_serialization=False']}; options: max_shard_size, "
            "tokenizer_dir. Only safetensors are written"
        )
    origin = Path(model.config.name_or_path) if model.config.name_or_path else None
    tokenizer_dir = options.get("tokenizer_dir")
    if tokenizer_dir is None and origin is not None and any((origin / name).is_file() for name in TOKENIZER_FILES):
        tokenizer_dir = origin
    assert isinstance(model, nn.Module)
    save_pretrained(
        model,
        directory,
        tokenizer_dir=tokenizer_dir,
        processing=read_processing(origin) if origin is not None else None,
        max_shard_bytes=size_in_bytes(options.get("max_shard_size", 4_000_000_000)),
    )
    model.generation_config.save_pretrained(directory)


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    if given is None or given == "auto":
        return None
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {given!r}; it must be a floating dtype of torch such as 'bfloat16', or 'auto'")
    return found


def _device(given: str | torch.device | Mapping[str, Any]) -> torch.device:
    if isinstance(given, Mapping):
        if set(given) != {""}:
            raise ValueError(f"device_map is {dict(given)}; this model is placed on one device, such as 'cuda:0'")
        return torch.device(given[""])
    if given == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(given)
