"""One worker in bfloat16: what is trained is float32, computed with a rounded copy; nothing frozen is lost."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.vamba.model.samples import random_sample
from vamba.data.batch import collate
from vamba.data.plan import PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.parallel.config import ParallelConfig
from vamba.parallel.masters import Masters
from vamba.parallel.precision import narrow_frozen
from vamba.parallel.sharding import is_full_precision
from vamba.streaming.training import StreamingPlan
from vamba.train.config import OptimizerConfig, TrainConfig
from vamba.train.state import TrainState
from vamba.train.step import train_step
from vamba.train.trainable import decays, select_trainable

START = PlanState(step=0, epoch=0, epoch_step=0, seed=0, fingerprint="f")
BATCHES = [
    collate([random_sample(1, ((2, 4, 4),), (9,)), random_sample(2, ((1, 4, 4),), (7,))]),
    collate([random_sample(3, ((3, 4, 6),), (11, 5))]),
]
TRAINED = r"(?!.*k_proj\.bias).*(cross_attn|vision_mixer|alpha).*"  # whose gradient is rounding, which Adam makes large
CONFIG = TrainConfig(optimizer=OptimizerConfig(learning_rate=1e-2, warmup_ratio=0.0, weight_decay=0.1))
BFLOAT16 = ParallelConfig(compute_dtype="bfloat16")


def fresh(pattern: str = TRAINED) -> Vamba:
    model = Vamba(PRESETS["tiny"])
    init_weights_(model, 0)
    select_trainable(model, [pattern])
    return model


def inputs(step: int) -> StepInput:
    micro = tuple(MicroBatch(batch=batch, pack_index=i, counts=True) for i, batch in enumerate(BATCHES[: 1 + step % 2]))
    return StepInput(micro_batches=micro, sample_ids=("a",), epoch=0, media="video")


def state_of(model: nn.Module, streaming: StreamingPlan | None = None) -> TrainState:
    masters = Masters(model)
    return TrainState(model, CONFIG, num_steps=10, reader_state=START, masters=masters, streaming=streaming)


def test_what_is_computed_with_is_bfloat16_but_for_what_needs_precision() -> None:
    model = fresh()
    state = state_of(model)
    assert {p.dtype for n, p in model.named_parameters() if is_full_precision(n)} == {torch.float32}
    assert {p.dtype for n, p in model.named_parameters() if not is_full_precision(n)} == {torch.bfloat16}
    assert {t.dtype for t in state.tensors().values()} == {torch.float32}
    assert {t.dtype for _, t in state.whole_tensors()} == {torch.float32}


def reference_steps(model: Vamba, num_steps: int) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """Mixed precision by hand: a bfloat16 copy of the weights for each micro-batch, torch's AdamW on the others."""
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for n, p in weights.items() if decays(n) is decay], "weight_decay": 0.1 if decay else 0.0}
        for decay in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = CONFIG.optimizer.rate(step, 10)
        sums: dict[str, torch.Tensor] = {}
        loss, count = 0.0, 0
        for batch in (micro.batch for micro in inputs(step).micro_batches):
            low = copy.deepcopy(model)
            for name, p in low.named_parameters():
                p.data = p.data if is_full_precision(name) else p.data.bfloat16()
            loss_sum, num_tokens = low.loss(batch)
            loss_sum.backward()
            loss, count = loss + float(loss_sum.detach()), count + num_tokens
            for name, p in low.named_parameters():
                if p.grad is not None:
                    sums[name] = sums.get(name, 0) + p.grad.float()
        for name, p in weights.items():
            p.grad = sums[name] / count if name in sums else None
        torch.nn.utils.clip_grad_norm_(weights.values(), CONFIG.optimizer.clip_norm)
        optimizer.step()
        with torch.no_grad():
            model.constrain_()
        yield loss / count, {name: p.detach() for name, p in weights.items()}


def test_steps_are_those_of_mixed_precision_by_hand() -> None:
    state = state_of(fresh())
    for step, (loss, weights) in enumerate(reference_steps(fresh(), 4)):
        result = train_step(state, inputs(step))
        state.advance(PlanState(step=step + 1, epoch=0, epoch_step=step + 1, seed=0, fingerprint="f"))
        assert result.loss == pytest.approx(loss, rel=1e-6)
        for name, wanted in weights.items():
            torch.testing.assert_close(state.tensors()[f"model.{name}"], wanted, rtol=1e-4, atol=1e-4)
        for name, parameter in state.model.named_parameters():
            kept = state.tensors().get(f"model.{name}")
            assert kept is None or torch.equal(parameter.detach(), kept.to(parameter.dtype)), name


def test_gradients_are_added_in_float32_and_never_kept_in_bfloat16() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    masters = Masters(layer)
    ((_, master),) = masters.named_parameters()
    for scale in (1.0, *[2.0**-9] * 4):  # each too small for bfloat16 to add it to 1
        (layer(torch.ones(1, 1, dtype=torch.bfloat16)) * scale).sum().backward()
        assert layer.weight.grad is None
    assert master.grad is not None and master.grad.dtype == torch.float32 and float(master.grad) == 1 + 2.0**-7


def test_steps_that_are_too_small_for_bfloat16_add_up() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    masters = Masters(layer)
    ((_, master),) = masters.named_parameters()
    for number in range(1, 9):
        with torch.no_grad():
            master += 2.0**-10
        masters.publish()
        assert float(layer.weight.detach()) == float(torch.tensor(1 + number * 2.0**-10).bfloat16())
    assert float(layer.weight.detach()) == 1 + 2.0**-7


def test_frozen_weights_keep_their_digest_and_are_exported_as_they_were() -> None:
    wide, stored = fresh(), fresh()
    names = [n for n, p in stored.named_parameters() if not p.requires_grad]
    for _, p in stored.named_parameters():  # as a release has them: values of bfloat16
        p.data = p.data.bfloat16().float()
    narrow = copy.deepcopy(stored)
    narrow_frozen(narrow, names, BFLOAT16)
    kinds = {n: p.dtype for n, p in narrow.named_parameters()}
    assert {kinds[n] for n in names if not is_full_precision(n)} == {torch.bfloat16}
    assert {kind for n, kind in kinds.items() if n not in names or is_full_precision(n)} == {torch.float32}
    for before, model in ((wide, copy.deepcopy(wide)), (stored, narrow)):
        plain = TrainState(before, CONFIG, num_steps=10, reader_state=START)
        state = state_of(model)
        assert state.frozen_digest() == plain.frozen_digest()
        exported, wanted = dict(state.whole_tensors()), dict(plain.whole_tensors())
        assert exported.keys() == wanted.keys()
        assert all(torch.equal(exported[name], wanted[name]) for name in wanted)


def test_only_what_was_stored_so_is_narrowed() -> None:
    model = fresh()
    narrow_frozen(model, ["model.embed_tokens.weight"], BFLOAT16)
    assert [n for n, p in model.named_parameters() if p.dtype == torch.bfloat16] == ["model.embed_tokens.weight"]
    model = fresh()
    narrow_frozen(model, [n for n, _ in model.named_parameters()], ParallelConfig())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_streamed_steps_are_those_in_one_pass() -> None:
    plan = StreamingPlan(above_tokens=0, chunk_tokens=3)
    whole, streamed = state_of(fresh(".*")), state_of(fresh(".*"), plan)
    for step in range(2):
        results = [train_step(state, inputs(step)) for state in (whole, streamed)]
        assert results[1].num_streamed_packs and not results[0].num_streamed_packs
        assert results[0].loss == pytest.approx(results[1].loss, rel=2e-3)
        assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=2e-2)


def test_tied_weights_that_are_trained_are_no_part_of_the_frozen_digest() -> None:
    """The head is the embedding by another name; a digest made after a step must be that of the start."""
    digests = []
    for is_low in (False, True):
        for num_steps in (0, 1):
            model = Vamba(replace(PRESETS["tiny"], tie_word_embeddings=True))
            init_weights_(model, 0)
            select_trainable(model, [".*(embed_tokens|alpha).*"])
            masters = Masters(model) if is_low else None
            state = TrainState(model, CONFIG, num_steps=10, reader_state=START, masters=masters)
            for step in range(num_steps):
                train_step(state, inputs(step))
            digests.append(state.frozen_digest())
    assert len(set(digests)) == 1


def test_a_closed_model_is_an_ordinary_one() -> None:
    model = fresh()
    masters = Masters(model)
    masters.close()
    model.loss(BATCHES[0])[0].backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.endswith("cross_attn.q_proj.weight"))
