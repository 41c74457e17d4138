"""Compiled layers: the losses of eager ones, as many graphs as there are kinds of batches, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters

from tests.vamba.model.samples import SAMPLES, random_model, random_sample
from vamba.data.batch import Batch, collate
from vamba.parallel.config import ParallelConfig
from vamba.parallel.layers import CompilerMissingError, compile_layer, prepare_layers, streaming_plan
from vamba.streaming.store import DeviceStore
from vamba.streaming.store_disk import DiskStore


def batches(first: int) -> list[Batch]:
    """Of one video, of two, and of text alone, in lengths that follow from `first`."""
    one = random_sample(first, ((1 + first, 4, 4 + 2 * first),), (9 + first, 5 + 2 * first))
    two = random_sample(first + 50, ((1 + first % 2, 4, 6), (first, 2, 4)), (7 + first,))
    return [collate(group) for group in ([one], [one, two], [random_sample(first, (), (6 + first, 3))])]


def train_pass(model: torch.nn.Module, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, _ = model.loss(batch)  # type: ignore[operator]
    loss.backward()
    return float(loss), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_compiled_layers_that_are_recomputed_train_as_eager_ones() -> None:
    torch._dynamo.reset()
    eager, compiled = random_model().float().train(), random_model().float().train()
    prepare_layers(eager, ParallelConfig())
    prepare_layers(compiled, ParallelConfig(activation="layer", compile=True))
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    for batch in (collate(SAMPLES), *batches(3)[1:]):
        (expected, grads), (loss, compiled_grads) = train_pass(eager, batch), train_pass(compiled, batch)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert grads.keys() == compiled_grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(compiled_grads[name], grad, rtol=1e-3, atol=1e-4)


def test_other_lengths_are_not_compiled_again() -> None:
    torch._dynamo.reset()
    model = random_model().float().train()
    for layer in model.model.hybrid_layers:
        compile_layer(layer, backend="eager")
    counters.clear()
    for first in (2, 3):
        for batch in batches(first):
            train_pass(model, batch)
    num_graphs = counters["stats"]["unique_graphs"]
    for first in range(4, 9):
        for batch in batches(first):
            train_pass(model, batch)
    assert counters["stats"]["unique_graphs"] == num_graphs


def test_without_a_compiler_the_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vamba.parallel.layers.shutil.which", lambda name: None)
    with pytest.raises(CompilerMissingError, match=r"parallel\.compile=false"):
        prepare_layers(random_model(), ParallelConfig(compile=True))


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of none, layer, streamed"):
        ParallelConfig(activation="block")  # type: ignore[arg-type]


def test_streamed_layers_are_not_compiled() -> None:
    with pytest.raises(ValueError, match=r"Set parallel\.compile=false"):
        ParallelConfig(activation="streamed", compile=True)


def test_a_streamed_run_has_a_plan() -> None:
    cpu = torch.device("cpu")
    config = ParallelConfig(activation="streamed", streamed_above_tokens=5, stream_chunk_tokens=3)
    plan = streaming_plan(config, cpu)
    assert plan is not None and (plan.above_tokens, plan.chunk_tokens) == (5, 3)
    assert isinstance(plan.open_store(), DeviceStore)
    on_disk = streaming_plan(replace(config, stream_kv="disk"), cpu)
    assert on_disk is not None and isinstance(on_disk.open_store(), DiskStore)
    assert streaming_plan(ParallelConfig(activation="layer"), cpu) is None
    with pytest.raises(ValueError, match=r"stream_kv is 'tape'"):
        ParallelConfig(stream_kv="tape")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stream_chunk_tokens = 0 at least 1"):
        ParallelConfig(stream_chunk_tokens=0)
