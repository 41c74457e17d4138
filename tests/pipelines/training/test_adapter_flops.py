"""The operations of a step that trains adapters are those that torch counts."""

from __future__ import annotations

import pytest

from pipelines.training.adapters import ADAPTERS, add_adapters
from pipelines.training.config import LoraConfig
from tests.vamba.model.counting import TINY, WITH_VIDEO, counted, in_block_flops
from vamba.data.reader import MicroBatch, StepInput
from vamba.model.flops import pack_shape
from vamba.model.init import init_weights_
from vamba.model.vamba import Vamba
from vamba.ops.scan import chunked
from vamba.train.gauges import Gauges
from vamba.train.trainable import select_trainable

pytestmark = pytest.mark.slow  # importing peft alone takes seconds


@pytest.mark.parametrize(
    ("target_modules", "scan_is_trained"),
    [
        (LoraConfig().target_modules, False),
        ((r"visual\.merger\.mlp\.0", r".*cross_attn\.k_proj"), True),
        ((r".*\.vision_mixer\.mixer\.in_proj",), True),
        ((r"model\.layers\.1\.mlp\.down_proj",), False),
    ],
)
def test_adapters_cost_what_torch_counts(
    target_modules: tuple[str, ...], scan_is_trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where nothing is trained, the CPU has another scan, with other products.
    monkeypatch.setattr(chunked.inference, "scan", lambda *inputs, block: chunked._segments(*inputs, block))
    model = Vamba(TINY)
    init_weights_(model, 0)
    add_adapters(model, LoraConfig(rank=4, dropout=0.1, target_modules=target_modules), seed=0)
    select_trainable(model, (ADAPTERS,))
    gauges = Gauges(model, {name: p for name, p in model.named_parameters() if p.requires_grad})
    micro = MicroBatch(batch=WITH_VIDEO, pack_index=0, counts=True)
    counted_here = gauges.flops(StepInput(micro_batches=(micro,), sample_ids=(), epoch=0, media="video"))
    in_blocks = in_block_flops(pack_shape(WITH_VIDEO), trained=scan_is_trained)
    assert counted_here + in_blocks == counted(model, WITH_VIDEO)
