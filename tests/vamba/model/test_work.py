"""What a pass does not do: wait for the device, copy from the host, build masks and layouts again, repeat keys.

Counted on the CPU, by the operations themselves: on a GPU, each of these would make the host wait, or copy.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.vamba.model.samples import CONFIG, FLAGS, SAMPLES, assert_same, random_model
from vamba.data import batch as batches
from vamba.data.batch import collate
from vamba.ops.attention import layout as layouts
from vamba.streaming.encoder import encode_video
from vamba.streaming.memory import VideoMemory

SYNCHRONISE = (
    torch.ops.aten._local_scalar_dense,
    torch.ops.aten.is_nonzero,
    torch.ops.aten.item,
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten._unique2,
    torch.ops.aten.unique_consecutive,
    torch.ops.aten.repeat_interleave,
    torch.ops.aten.equal,
)
"""Operations whose result, or its size, the host must wait for."""
FROM_HOST = (torch.ops.aten.lift_fresh, torch.ops.aten.lift_fresh_copy)
"""What `torch.tensor(...)` and its like leave behind: a copy to the device, were there one."""


class Counted(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket] += 1
        if func.overloadpacket is torch.ops.aten.index and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            self.calls[torch.ops.aten.nonzero] += 1
        return func(*args, **(kwargs or {}))

    def of(self, operations: tuple[Any, ...]) -> dict[str, int]:
        return {str(operation): self.calls[operation] for operation in operations if self.calls[operation]}


def test_the_counter_sees_each_kind() -> None:
    x = torch.arange(4.0)
    with Counted() as counted:
        float(x.sum())
        x[x > 1]
        torch.tensor([1.0, 2.0]) + 1
        torch.repeat_interleave(torch.tensor([1, 2]))
    assert set(counted.of(SYNCHRONISE)) == {"aten._local_scalar_dense", "aten.nonzero", "aten.repeat_interleave"}
    assert counted.of(FROM_HOST)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_a_pass_forward_and_backward_never_waits(flags: dict[str, Any]) -> None:
    """Packed samples of every kind, the loss and the tower included."""
    model, batch = random_model(**flags), collate(SAMPLES)
    with Counted() as counted:
        model.loss(batch)[0].backward()
    assert counted.of(SYNCHRONISE) == {}
    assert counted.of(FROM_HOST) == {}


def test_reading_an_encoded_video_never_waits() -> None:
    model, sample = random_model(), SAMPLES[0]
    assert sample.patches is not None
    memory = encode_video(model, sample.patches, sample.grid_thws)
    queries = torch.randn(5, CONFIG.num_attention_heads, CONFIG.head_dim, dtype=torch.float64)
    video = memory.open_pass(5)
    with Counted() as counted:
        video.read(0, queries)
    assert counted.of((*SYNCHRONISE, *FROM_HOST)) == {}


def test_layouts_are_made_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers read them, and by collate alone."""
    made: Counter[str] = Counter()
    for module, name in ((layouts, "segments"), (batches, "segments"), (batches, "cross_layout")):
        original = getattr(module, name)

        def counted(*args: Any, _name: str = name, _original: Any = original) -> Any:
            made[_name] += 1
            return _original(*args)

        monkeypatch.setattr(module, name, counted)
    batch = collate(SAMPLES)
    after_collate = dict(made)
    random_model().loss(batch)[0].backward()
    assert after_collate == dict(made) == {"segments": 3, "cross_layout": 1}


def test_grouped_keys_are_not_repeated() -> None:
    """No tensor of a decoding read is as large as keys with the query heads' number of heads would be."""
    model, sample = random_model(num_key_value_heads=1), SAMPLES[0]
    assert sample.patches is not None
    memory = encode_video(model, sample.patches, sample.grid_thws)
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    sizes.append(tensor.untyped_storage().nbytes())
            return result

    with Sizes():
        _read_one(memory)
    (part,) = memory.open_pass(1).parts(0)
    keys = part.k_MKD
    assert max(sizes) <= max(keys.untyped_storage().nbytes(), 4 * memory.num_tokens * 8)
    assert keys.shape[1] == 1


def _read_one(memory: VideoMemory) -> torch.Tensor:
    queries = torch.randn(1, CONFIG.num_attention_heads, CONFIG.head_dim, dtype=torch.float64)
    return memory.open_pass(1).read(0, queries)


def test_the_tower_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame pairs of one size are one batch of an attention call; sizes are few, so are calls."""
    calls: list[tuple[tuple[int, ...], Any]] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def recorded(q: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        calls.append((tuple(q.shape), options.get("attn_mask")))
        return original(q, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    model, batch = random_model(), collate(SAMPLES)
    assert batch.video is not None
    model.visual(batch.patches_PC, batch.video.tower)
    assert all(mask is None for _, mask in calls)
    sizes = {h * w for sample in SAMPLES for _, h, w in sample.grid_thws}
    assert len(calls) == CONFIG.vision.depth * len(sizes)
    pairs = sum(t for sample in SAMPLES for t, _, _ in sample.grid_thws)
    assert sum(shape[0] for shape, _ in calls) == CONFIG.vision.depth * pairs


def test_several_conversations_share_one_encoding() -> None:
    """Two conversations on one video cost the tower and the mixers what one does."""
    model, tokens = random_model(), []
    model.model.layers[0].vision_mixer.register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[1]))
    logits = model(collate([SAMPLES[0]]))
    assert tokens == [5 * 6]
    alone = [
        model(
            collate([type(SAMPLES[0])(id="x", patches=SAMPLES[0].patches, grid_thws=SAMPLES[0].grid_thws, texts=(t,))])
        )
        for t in SAMPLES[0].texts
    ]
    assert_same(logits, torch.cat(alone))
