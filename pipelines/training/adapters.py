"""What of the model is trained: the recipe's parameters, or LoRA adapters beside frozen weights (model.lora).

    select_trained: patterns ──> requires_grad        or: peft replaces linear layers ──> base_layer + lora_A, lora_B
    export:         whole tensors ── merged ──> model/ in release layout        ── adapters ──> adapter/ in peft's

A checkpoint holds what is trained, so with adapters it is small. Dropout needs no care: the training step seeds every
pack's random numbers by (run, epoch, pack), whichever rank it is on. LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.config import LoraConfig, TrainingConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTERS = r".*\.lora_[AB]\.default\.weight"
_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
_ABOVE_LAYERS = ("lm_head", "model.embed_tokens")


class PeftMissingError(ValueError):
    """model.lora is set where peft is not installed."""


def select_trained(model: nn.Module, config: TrainingConfig) -> int:
    """Freeze all but what the run trains, adding adapters first if it has some; returns the number of trained values.

    With `model.lora` that is the adapters alone, and `train.trainable` with its expected number is not used. Call it
    before sharding. Raises ValueError for patterns that match nothing, or what can't be adapted.
    """
    from vamba.train.trainable import select_trainable

    if config.model.lora is None:
        return select_trainable(model, config.train.trainable, config.train.expected_trainable)
    add_adapters(model, config.model.lora, seed=config.train.seed)
    return select_trainable(model, (ADAPTERS,))


def add_adapters(model: nn.Module, lora: LoraConfig, *, seed: int) -> None:
    """Put an adapter on every linear layer whose whole name matches `lora.target_modules`, drawn from `seed`."""
    import torch

    from vamba.train.seeds import seed_for

    peft = _peft()
    _check_targets(model, lora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, 0, 0, "lora"))
        peft.inject_adapter_in_model(_peft_config(peft, lora), model)


def merged(
    tensors: Iterable[tuple[str, Tensor]], lora: LoraConfig, adapters: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The model's own tensors, each adapted weight with its adapter added: W + alpha / rank * B A.

    `tensors` come in the order of the model, in which an adapter follows its weight; its halves are put in `adapters`.
    """  # noqa: E501
    waiting: dict[str, Tensor] = {}  # weights by the name of their layer, until both halves have come
    for name, tensor in tensors:
        if name.endswith((_A, _B)):
            adapters[name] = tensor
            layer = name.removesuffix(_A).removesuffix(_B)
            if layer + _A in adapters and layer + _B in adapters:
                weight = waiting.pop(layer)
                change = (adapters[layer + _B].float() @ adapters[layer + _A].float()) * (lora.alpha / lora.rank)
                yield f"{layer}.weight", (weight.float() + change).to(weight.dtype)
        elif _BASE in name:
            layer, _, kind = name.partition(_BASE)
            if kind == "weight":
                waiting[layer] = tensor
            else:
                yield f"{layer}.{kind}", tensor
        else:
            yield name, tensor
    assert not waiting, sorted(waiting)


def write_adapters(directory: Path, lora: LoraConfig, adapters: dict[str, Tensor], base: str | None) -> None:
    """adapter_model.safetensors and adapter_config.json, as peft's `PeftModel.from_pretrained` reads them."""
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    named = {f"base_model.model.{name.replace('.default.', '.')}": value for name, value in adapters.items()}
    save_file({name: value.contiguous() for name, value in named.items()}, directory / "adapter_model.safetensors")
    values = _peft_config(_peft(), lora).to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    (directory / "adapter_config.json").write_text(json.dumps(plain, indent=2, default=_plain) + "\n")


def _check_targets(model: nn.Module, lora: LoraConfig) -> None:
    from torch import nn

    unused = set(lora.target_modules)
    for name, module in model.named_modules():
        matching = {pattern for pattern in lora.target_modules if re.fullmatch(pattern, name)}
        unused -= matching
        if matching and (not isinstance(module, nn.Linear) or name in _ABOVE_LAYERS):
            raise ValueError(
                f"model.lora.target_modules: {sorted(matching)[0]!r} matches {name!r}, a {type(module).__name__}. "
                "Adapters are for the linear layers inside the layers and the tower, for example "
                r"'model\.layers\.\d+\.cross_attn\.(q|k|v|o)_proj'."
            )
    if unused:
        raise ValueError(
            f"model.lora.target_modules: {', '.join(map(repr, sorted(unused)))} matches no module. A pattern must "
            r"match a whole name, for example 'model\.layers\.\d+\.self_attn\.q_proj'."
        )


def _peft_config(peft: Any, lora: LoraConfig) -> Any:
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(f"(?:{pattern})" for pattern in lora.target_modules),
        bias="none",
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise PeftMissingError(
            f"model.lora needs the package peft, which does not load here ({error}): install it on the driver and the "
            "workers with `pip install 'vamba[lora]'`, or leave model.lora out."
        ) from error
    return peft


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)
