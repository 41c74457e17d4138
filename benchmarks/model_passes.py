"""Whole passes of a small model, each beside the same pass without one of the savings; used by `benchmarks.model`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vamba.data.batch import EncodedSample, collate
from vamba.data.text import EncodedText
from vamba.model.config import ModelConfig
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.ops.attention.layout import CrossLayout, segments
from vamba.streaming.encoder import encode_video

CONFIG: ModelConfig = replace(PRESETS["small"], vocab_size=4096, num_hidden_layers=4)
"""Half of the small preset's depth, with a vocabulary that does not hide the rest."""


def medians(work: dict[str, Callable[[], object]], runs: int) -> dict[str, Any]:
    """ms of each in turn, and the first's time over each other's within a run."""
    times: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        for run in range(runs + 1):
            for name, do in work.items():
                started = time.perf_counter()
                do()
                if run:
                    times[name].append((time.perf_counter() - started) * 1e3)
    first = next(iter(work))
    row: dict[str, Any] = {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}
    for name in list(work)[1:]:
        ratios = [base / value for base, value in zip(times[first], times[name], strict=True)]
        row[f"{first}_over_{name}"] = round(statistics.median(ratios), 2)
    return row


def sample(number: int, pairs: int, tokens: int) -> EncodedSample:
    """`pairs` frame pairs of 6 x 6 video tokens, and `tokens` text tokens."""
    rng = np.random.default_rng(number)
    ids = rng.integers(0, CONFIG.vocab_size, tokens)
    return EncodedSample(
        id=str(number),
        patches=rng.standard_normal((pairs * 144, CONFIG.vision.patch_values)).astype(np.float32),
        grid_thws=((pairs, 12, 12),),
        texts=(EncodedText(input_ids=ids, labels=ids),),
    )


def small_model() -> Vamba:
    model = Vamba(CONFIG)
    init_weights_(model)
    return model.eval()


def packing(runs: int) -> dict[str, Any]:
    """Samples of 2 to 24 frame pairs packed, against each padded to the longest."""
    model = small_model()
    lengths = (2, 4, 8, 24)
    packed = collate([sample(n, pairs, 8 * pairs) for n, pairs in enumerate(lengths)])
    padded = collate([sample(n, max(lengths), 8 * max(lengths)) for n in range(len(lengths))])
    return medians({"padded": lambda: model(padded), "packed": lambda: model(packed)}, runs)


def decoding(runs: int) -> dict[str, Any]:
    """One new token about 48 frame pairs; and the last layer's mixer, which the model keeps and does not run."""
    model = small_model()
    shown = sample(0, 48, 16)
    assert shown.patches is not None
    memory = encode_video(model, shown.patches, shown.grid_thws)
    layout = CrossLayout(queries=segments([1]), keys=segments([memory.num_tokens]), key_mask_GL=None, query_tokens=None)
    heads = torch.randn(1, CONFIG.num_attention_heads, CONFIG.head_dim)
    layers = model.model.hybrid_layers
    video = torch.randn(memory.num_tokens, CONFIG.hidden_size)

    def kept() -> None:
        shown = memory.open_pass(1)
        for index, _ in enumerate(layers):
            shown.read(index, heads)

    def computed_again() -> None:
        for layer in layers:
            keys, values = layer.cross_attn.keys_values(video, None)
            model.ops.cross_attention(heads, keys, values, layout=layout)

    dead = layers[-1].vision_mixer
    assert dead is not None
    return {
        "cross_attention_of_one_token": medians({"keys_computed_again": computed_again, "keys_kept": kept}, runs),
        "last_mixer": medians(
            {
                "all_mixers": lambda: [layer.vision_mixer(video[None]) for layer in layers if layer.vision_mixer],
                "all_but_the_last": lambda: [layer.mix_video(video, None, None) for layer in layers],
            },
            runs,
        ),
    }
