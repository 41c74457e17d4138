"""The loss on samples that are not trained on, between two steps, without a trace in training.

    steps of a plan over the validation split ── per rank: its packs, forward only ──> all-reduce, once a round: loss,
                                                                tokens, stop, save ──> sum / number of loss tokens

A round is one step of that plan: every rank reads the same number of packs, so the collectives inside the model meet.
Requests to stop or to save are asked for in every round. An evaluation that is cut short has no result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from vamba.data.reader import StepInput
from vamba.parallel.gathered import fsdp_modules, gather
from vamba.train.agreement import require_same_packs
from vamba.train.passes import loss_alone
from vamba.train.seeds import seed_for
from vamba.train.state import TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What an evaluation found, equal on all ranks.

    step: after which the parameters were evaluated. loss: mean cross-entropy per loss token, nats; NaN without any
    token. num_samples: those that could not be read included. seconds: of this rank.
    """

    step: int
    loss: float
    num_loss_tokens: int
    num_samples: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What may be asked for while an evaluation runs.

    stop, save: whether this rank is asked to; called once a round. do_save: saves the state; called on all ranks at the
    same round.
    """

    stop: Callable[[], bool]
    save: Callable[[], bool]
    do_save: Callable[[], None]


@torch.no_grad()
def evaluate(state: TrainState, rounds: Iterable[StepInput], requests: Requests) -> EvaluationResult | None:
    """Evaluate the state on `rounds`, of which all ranks have equally many. Collective.

    Returns None when some rank was asked to stop. Parameters, optimizer, guard, position and random numbers stay as
    they are.
    """
    started = time.perf_counter()
    totals = torch.zeros(2, dtype=torch.float64)
    num_samples = 0
    state.model.eval()
    if state.streaming is not None:
        gather(state.model)
    devices = [state.device] if state.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            for inputs in rounds:
                stop, save = _add_round(state, inputs, totals, requests)
                if save:
                    requests.do_save()
                    if state.streaming is not None:
                        gather(state.model)  # saving lets the gathered units go
                if stop:
                    return None
                num_samples += len(inputs.sample_ids)
    finally:
        state.model.train()
        # Units that stay gathered after a forward pass wait for a backward pass to be let go.
        for module in fsdp_modules(state.model):
            module.reshard()
    loss_sum, num_loss_tokens = totals.tolist()
    return EvaluationResult(
        step=state.step,
        loss=loss_sum / num_loss_tokens if num_loss_tokens else math.nan,
        num_loss_tokens=int(num_loss_tokens),
        num_samples=num_samples,
        seconds=time.perf_counter() - started,
    )


def _add_round(state: TrainState, inputs: StepInput, totals: torch.Tensor, requests: Requests) -> tuple[bool, bool]:
    """Add the loss and the tokens of all ranks to `totals`; whether some rank was asked to stop, and to save."""
    own = torch.zeros(4, dtype=torch.float64, device=state.device)
    if state.context is not None:
        require_same_packs(state.context, inputs)
    for micro in inputs.micro_batches:
        torch.manual_seed(seed_for(state.config.seed, inputs.epoch, micro.pack_index, "evaluation"))
        loss_sum, num_loss_tokens = loss_alone(state, micro.batch)
        if micro.counts and state.counts:
            own[0] += loss_sum
            own[1] += num_loss_tokens
    own[2], own[3] = float(requests.stop()), float(requests.save())
    if state.world_size > 1:
        dist.all_reduce(own)
    summed = own.cpu()
    totals += summed[:2]
    return bool(summed[2]), bool(summed[3])
