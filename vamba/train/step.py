"""One optimizer step: forward and backward over a rank's micro-batches, one all-reduce, clip, update.

    StepInput ──> per micro-batch: loss sum (not mean) ── backward ──> gradients of the sum
              ──> one all-reduce: loss, token counts, stop flag, missing samples, squared norm of the shards,
                                  unsharded gradients, gauges
              ──> guard: skip? ──> scale = clip(norm) / number of loss tokens ──> AdamW ──> parameter constraints

Gradients are those of a sum over tokens until the very end, where one multiplication turns them into the clipped
gradient of the global mean. So accumulation, packing and world size do not change the result, and nothing about other
ranks has to be known before the backward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from vamba.data.reader import StepInput
from vamba.train.agreement import any_asked
from vamba.train.guard import Skipped
from vamba.train.optimizer import local
from vamba.train.passes import passes
from vamba.train.seeds import seed_for
from vamba.train.state import TrainState


class StepAbandonedError(Exception):
    """Some rank had no data and was asked to save or stop; no rank has changed its state. stop: to stop."""

    def __init__(self, *, stop: bool) -> None:
        super().__init__("The step was abandoned.")
        self.stop = stop


class NonFiniteError(RuntimeError):
    """Loss or gradient of a step is not a finite number, and guards are off; the parameters were not touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What a step did, equal on all ranks.

    step: number of steps done, this one included. epoch: of its samples. loss: mean cross-entropy per loss token, nats.
    grad_norm: global 2-norm of the mean loss's gradient before clipping. num_*_tokens: over all ranks.
    seconds: of this rank, by phase. sample_ids: of the global batch. unreadable: those of them that some rank could not
    read; they had no part in the step, and a step without any other sample changes no parameter.
    stop_requested, save_requested: some rank was asked to stop, or to save.
    skipped: why the guard kept the step from changing parameters; None if
    it did not. loss or grad_norm of a step skipped as "non_finite" is infinite or NaN.
    num_streamed_packs: packs over all ranks whose video ran in chunks.
    flops: operations of the model's matrix products, forward and backward, over all ranks; 0 where unknown.
    grad_norms: as grad_norm, by group of parameters. alphas: of the layers, as the step found them.
    """

    step: int
    epoch: int
    loss: float
    grad_norm: float
    learning_rate: float
    num_loss_tokens: int
    num_text_tokens: int
    num_video_tokens: int
    seconds: Mapping[str, float]
    sample_ids: tuple[str, ...]
    stop_requested: bool
    save_requested: bool = False
    unreadable: tuple[str, ...] = ()
    skipped: Skipped | None = None
    flops: float = 0.0
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    alphas: tuple[float, ...] = ()
    num_streamed_packs: int = 0


def train_step(state: TrainState, inputs: StepInput, *, stop: bool = False, save: bool = False) -> StepResult:
    """Train on one global batch. `stop` and `save` tell the other ranks that this one was asked to stop, or to save.

    A step that the guard skips changes neither parameters nor optimizer state, and `state.guard.due` says whether the
    run must go back.

    Raises, before any parameter changes: with guards off, NonFiniteError when loss or gradient is not finite;
    StepAbandonedError, on all ranks, when `inputs` of one are abandoned.
    """
    started = time.perf_counter()
    _agree(state, inputs, stop)
    totals = _forward_backward(state, inputs)
    computed = time.perf_counter()
    totals[_STOP], totals[_SAVE], totals[_ABANDONED] = float(stop), float(save), float(inputs.abandoned)
    missing, gauges = _to_be_summed(state, inputs)
    grad_norm = _reduce(state, totals, missing, gauges)
    summed = totals.tolist()
    loss_sum, num_loss_tokens, num_text_tokens, num_video_tokens, num_streamed = summed[:_STOP]
    num_stops, num_saves, num_abandoned = summed[_STOP:_SQUARED_NORM]
    if num_abandoned:
        state.optimizer.drop_gradients()
        raise StepAbandonedError(stop=num_stops > 0)
    unreadable = tuple(name for name, absent in zip(inputs.sample_ids, missing.tolist(), strict=True) if absent)
    is_empty = len(unreadable) == len(inputs.sample_ids)
    # A mean over no tokens is none, unless there was nothing to take it of.
    loss = loss_sum / num_loss_tokens if num_loss_tokens else 0.0 if is_empty else math.nan
    grad_norm /= max(1.0, num_loss_tokens)
    skipped = None if is_empty else _judged(state, inputs, loss, grad_norm)
    flops, *squares = gauges.tolist()
    grad_norms = state.gauges.norms(squares, 1 / max(1.0, num_loss_tokens))
    alphas = state.gauges.alphas()
    reduced = time.perf_counter()
    learning_rate = state.config.optimizer.rate(state.step, state.num_steps)
    if is_empty or skipped:
        state.optimizer.drop_gradients()
    else:
        clip = min(1.0, state.config.optimizer.clip_norm / (grad_norm + 1e-6))
        _update(state, learning_rate, scale=clip / num_loss_tokens)
    updated = time.perf_counter()
    return StepResult(
        step=state.step + 1,
        epoch=inputs.epoch,
        loss=loss,
        grad_norm=grad_norm,
        learning_rate=learning_rate,
        num_loss_tokens=int(num_loss_tokens),
        num_text_tokens=int(num_text_tokens),
        num_video_tokens=int(num_video_tokens),
        num_streamed_packs=int(num_streamed),
        seconds={"compute": computed - started, "reduce": reduced - computed, "update": updated - reduced},
        sample_ids=inputs.sample_ids,
        stop_requested=num_stops > 0,
        save_requested=num_saves > 0,
        unreadable=unreadable,
        skipped=skipped,
        flops=flops,
        grad_norms=grad_norms,
        alphas=alphas,
    )


def _agree(state: TrainState, inputs: StepInput, stop: bool) -> None:
    """Ranks that share packs begin a step with the same ones, or not at all: StepAbandonedError, PacksDifferError."""
    if state.context is None:
        return
    abandoned, stopped = any_asked(state.context, inputs, stop=stop)
    if abandoned:
        raise StepAbandonedError(stop=stopped)


def _judged(state: TrainState, inputs: StepInput, loss: float, grad_norm: float) -> Skipped | None:
    skipped = state.guard.judge(state.step + 1, media=inputs.media, loss=loss, grad_norm=grad_norm)
    if skipped is not None and not state.config.guard.enabled:
        raise NonFiniteError(
            f"Step {state.step + 1} has loss {loss} and gradient norm {grad_norm}. Its samples: "
            f"{', '.join(inputs.sample_ids)}. The last checkpoint is intact; lower train.optimizer.learning_rate, "
            "leave the samples out, or set train.guard.enabled=true, which skips such steps."
        )
    return skipped


(
    _LOSS, _LOSS_TOKENS, _TEXT_TOKENS, _VIDEO_TOKENS, _STREAMED, _STOP, _SAVE, _ABANDONED, _SQUARED_NORM,
) = range(9)  # fmt: skip


def _forward_backward(state: TrainState, inputs: StepInput) -> torch.Tensor:
    """Accumulate gradients of the summed loss; returns this rank's totals, float64[9], only of what was computed."""
    totals = torch.zeros(9, dtype=torch.float64, device=state.device)
    with passes(state) as run_pass:
        for number, micro in enumerate(inputs.micro_batches, start=1):
            torch.manual_seed(seed_for(state.config.seed, inputs.epoch, micro.pack_index, "forward"))
            counts, is_last = micro.counts and state.counts, number == len(inputs.micro_batches)
            loss_sum, num_loss_tokens = run_pass(micro.batch, counts=counts, is_last=is_last)
            if counts:
                totals[_LOSS] += loss_sum
                is_streamed = state.streaming is not None and state.streaming.streams(micro.batch)
                sizes = (num_loss_tokens, micro.batch.num_text_tokens, micro.batch.num_video_tokens, is_streamed)
                totals[_LOSS_TOKENS : _STREAMED + 1] += torch.tensor(sizes, dtype=torch.float64, device=state.device)
    return totals


def _to_be_summed(state: TrainState, inputs: StepInput) -> tuple[torch.Tensor, torch.Tensor]:
    """(float64[samples], 1 where this rank could not read one; gauges as `_reduce` takes them)"""
    absent = [float(name in inputs.unreadable) for name in inputs.sample_ids]
    own_flops = state.gauges.flops(inputs) if state.counts else 0
    gauges = [own_flops, *[0.0] * len(state.gauges.groups)]
    missing, measured = (torch.tensor(values, dtype=torch.float64, device=state.device) for values in (absent, gauges))
    return missing, measured


@torch.no_grad()
def _reduce(state: TrainState, totals: torch.Tensor, missing: torch.Tensor, gauges: torch.Tensor) -> float:
    """Sum totals, `missing`, `gauges` and unsharded gradients over all ranks, in place; returns the norm of the summed
    loss's gradient.

    gauges: float64[1 + groups], operations and the squared norm of each group, of which the norms are filled in here.
    """
    sharded = [p for p in state.sharded_parameters if p.grad is not None]
    whole = [p for p in state.whole_parameters if p.grad is not None]
    squares = _squared_norms([local(p.grad) for p in sharded], state.device)
    totals[_SQUARED_NORM] = squares.sum() / state.num_replicas
    gauges[1:] = state.gauges.by_group(sharded, squares) / state.num_replicas
    grads = [local(p.grad) for p in whole]
    if state.world_size > 1:
        packed = torch.cat([totals, missing, *(grad.flatten().to(torch.float64) for grad in grads), gauges])
        dist.all_reduce(packed)
        sizes = (totals.numel(), missing.numel(), *(grad.numel() for grad in grads), gauges.numel())
        pieces = packed.split(sizes)
        totals.copy_(pieces[0])
        missing.copy_(pieces[1])
        for grad, piece in zip(grads, pieces[2:-1], strict=True):
            grad.copy_(piece.view_as(grad))
        gauges.copy_(pieces[-1])
    squares = _squared_norms(grads, state.device)
    gauges[1:] += state.gauges.by_group(whole, squares)
    return math.sqrt(float(totals[_SQUARED_NORM]) + float(squares.sum()))


def _squared_norms(tensors: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """float64[number of tensors]"""
    if not tensors:
        return torch.zeros(0, dtype=torch.float64, device=device)
    return torch.stack(torch._foreach_norm(tensors)).to(torch.float64).square()


@torch.no_grad()
def _update(state: TrainState, learning_rate: float, *, scale: float) -> None:
    grads = [local(p.grad) for p in state.optimizer.parameters.values() if p.grad is not None]
    torch._foreach_mul_(grads, scale)
    state.optimizer.step(learning_rate)
    state.publish()
    state.model.constrain_()
