"""Which samples make up every training step: one pure function of the data, the seed and the epoch.

    items (id, media, cost) + PlanConfig ──> DataPlan ── steps(epoch) ──> PlannedStep(packs of item indices)

A *pack* is what one forward pass reads: samples whose token costs fill a budget. A *step* holds `packs_per_step`
packs of one medium and nearly the same cost, so ranks that share a step finish together and call the same
collectives. World size is no input: rank r of w takes packs r, r + w, … of a step, and the global batch stays what
it was. Progress is therefore one small `PlanState`, valid for any number of workers.

Every sample is in exactly one pack of an epoch. Where an epoch's packs do not fill the last step, packs are split
until they do (lighter packs, same samples). Only when there is nothing left to split, because the medium has fewer
samples than a step has packs, is that step shorter. Nothing is dropped and nothing is carried to another epoch.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """One sample as the plan sees it.

    id: the sample's id. media: "video" or "image". cost_tokens: what a forward pass over it costs, in tokens.
    """

    id: str
    media: str
    cost_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """Budgets of the plan.

    tokens_per_pack: upper bound of the summed cost of a pack, in tokens.
    packs_per_step: packs in one optimizer step over all ranks (a multiple of the number of workers wastes nothing).
    window_samples: samples that are packed against each other; bounds time, not quality, above a few hundred.
    """

    tokens_per_pack: int = 4096
    packs_per_step: int = 2
    window_samples: int = 4096

    def __post_init__(self) -> None:
        for name in ("tokens_per_pack", "packs_per_step", "window_samples"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"plan.{name} is {value}, but it must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Samples of one forward pass.

    index: number of the pack within its epoch, unique there. items: indices into the plan's items.
    """

    index: int
    items: tuple[int, ...]
    cost_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """The packs of one optimizer step, all of one medium."""

    media: str
    packs: tuple[Pack, ...]

    def share(self, rank: int, world_size: int) -> tuple[tuple[Pack, bool], ...]:
        """The packs rank `rank` of `world_size` works on, each with whether it counts.

        Every rank gets the same number, as collectives demand. Where the packs do not divide evenly, a rank repeats a
        pack of the step that counts nothing: its loss is multiplied by zero.
        """
        mine = [(pack, True) for pack in self.packs[rank::world_size]]
        num_rounds = -(-len(self.packs) // world_size)
        if len(mine) < num_rounds:
            mine.append((min(self.packs, key=lambda pack: pack.cost_tokens), False))
        return tuple(mine)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanState:
    """Where a run is in its plan: the **next** step to train. Valid for every world size.

    step: global step. epoch, epoch_step: the same position as epoch and step within it.
    seed, fingerprint: which plan this is a position in.
    """

    step: int
    epoch: int
    epoch_step: int
    seed: int
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlanState:
        return cls(**values)


class DataPlan:
    """All steps of all epochs over fixed items. Pure: equal arguments give equal plans on every machine."""

    def __init__(self, items: Sequence[PlanItem], config: PlanConfig, *, seed: int) -> None:
        """Raises ValueError when there is no item, or one that no pack can hold."""
        if not items:
            raise ValueError("The training split holds no sample: ingest some, or choose another dataset.")
        too_long = [item for item in items if item.cost_tokens > config.tokens_per_pack]
        if too_long:
            worst = max(too_long, key=lambda item: item.cost_tokens)
            raise ValueError(
                f"{len(too_long)} of {len(items)} samples cost more than plan.tokens_per_pack = "
                f"{config.tokens_per_pack} tokens; the largest is {worst.id!r} with {worst.cost_tokens}. "
                "Raise plan.tokens_per_pack or lower reader.max_frames."
            )
        self.items = tuple(items)
        self.config = config
        self.seed = seed
        self.fingerprint = _fingerprint(self.items, config)
        self._costs = np.array([item.cost_tokens for item in self.items], dtype=np.int64)
        self._epochs: dict[int, tuple[PlannedStep, ...]] = {}

    def steps(self, epoch: int) -> tuple[PlannedStep, ...]:
        """The steps of an epoch, in training order."""
        if epoch not in self._epochs:
            while len(self._epochs) >= 2:
                self._epochs.pop(min(self._epochs))
            self._epochs[epoch] = self._plan_epoch(epoch)
        return self._epochs[epoch]

    def num_steps(self, num_epochs: int) -> int:
        """Steps in the first `num_epochs` epochs (they may differ by a few between epochs)."""
        return sum(len(self.steps(epoch)) for epoch in range(num_epochs))

    def start(self) -> PlanState:
        return PlanState(step=0, epoch=0, epoch_step=0, seed=self.seed, fingerprint=self.fingerprint)

    def step_at(self, state: PlanState) -> PlannedStep:
        """The step to train at `state`. Raises ValueError when `state` belongs to another plan."""
        if (state.seed, state.fingerprint) != (self.seed, self.fingerprint):
            raise ValueError(
                f"The run's position belongs to data plan {state.fingerprint} with seed {state.seed}, but the dataset "
                f"and budgets now give plan {self.fingerprint} with seed {self.seed}. Restore the dataset, plan.* and "
                "train.seed, or start a run under another name."
            )
        return self.steps(state.epoch)[state.epoch_step]

    def advance(self, state: PlanState) -> PlanState:
        """The position after the step at `state`."""
        epoch, epoch_step = state.epoch, state.epoch_step + 1
        if epoch_step == len(self.steps(epoch)):
            epoch, epoch_step = epoch + 1, 0
        return PlanState(
            step=state.step + 1, epoch=epoch, epoch_step=epoch_step, seed=state.seed, fingerprint=state.fingerprint
        )

    def fill(self, epoch: int) -> float:
        """Used share of the token budget over the packs of an epoch."""
        packs = [pack for step in self.steps(epoch) for pack in step.packs]
        return sum(pack.cost_tokens for pack in packs) / (len(packs) * self.config.tokens_per_pack)

    def imbalance(self, epoch: int) -> float:
        """Mean over the steps of an epoch of (dearest pack / mean pack): 1.0 means no rank waits."""
        costs = [[pack.cost_tokens for pack in step.packs] for step in self.steps(epoch)]
        return float(np.mean([max(step) * len(step) / sum(step) for step in costs]))

    def _plan_epoch(self, epoch: int) -> tuple[PlannedStep, ...]:
        order = _permutation(len(self.items), self.seed, epoch, "samples")
        grouped: list[tuple[str, list[list[int]]]] = []
        for media in sorted({item.media for item in self.items}):
            members = [int(index) for index in order if self.items[index].media == media]
            grouped.extend((media, packs) for packs in self._group(self._pack(members)))
        planned: list[PlannedStep] = []
        num_packs = 0
        for position in _permutation(len(grouped), self.seed, epoch, "steps"):
            media, packs = grouped[int(position)]
            planned.append(PlannedStep(media=media, packs=tuple(
                Pack(index=num_packs + offset, items=tuple(items), cost_tokens=self._cost(items))
                for offset, items in enumerate(packs)
            )))  # fmt: skip
            num_packs += len(packs)
        return tuple(planned)

    def _pack(self, members: Sequence[int]) -> list[list[int]]:
        """Best fit, longest first, window by window; what a window fills badly joins the next."""
        window, budget = self.config.window_samples, self.config.tokens_per_pack
        packs: list[list[int]] = []
        carried: list[int] = []
        for begin in range(0, len(members), window):
            filled = self._best_fit(carried + list(members[begin : begin + window]))
            carried = []
            if begin + window < len(members):
                filled.sort(key=self._cost, reverse=True)
                while filled and self._cost(filled[-1]) < 0.9 * budget and len(carried) < window // 8:
                    carried.extend(filled.pop())
            packs.extend(filled)
        return packs

    def _best_fit(self, members: Iterable[int]) -> list[list[int]]:
        packs: list[list[int]] = []
        free: list[tuple[int, int]] = []
        for item in sorted(members, key=lambda index: -int(self._costs[index])):
            cost = int(self._costs[item])
            slot = bisect.bisect_left(free, (cost, -1))
            if slot == len(free):
                packs.append([item])
                bisect.insort(free, (self.config.tokens_per_pack - cost, len(packs) - 1))
            else:
                room, pack = free.pop(slot)
                packs[pack].append(item)
                bisect.insort(free, (room - cost, pack))
        return packs

    def _group(self, packs: list[list[int]]) -> list[list[list[int]]]:
        """Steps of near-equal packs, after splitting the lightest packs until they fill the last step."""
        num_per_step = self.config.packs_per_step
        packs.sort(key=self._cost, reverse=True)
        missing = -len(packs) % num_per_step
        for _ in range(missing):
            candidates = [i for i in range(len(packs)) if len(packs[i]) > 1]
            if not candidates:
                break
            tail = [i for i in candidates if i >= len(packs) - 2 * num_per_step] or candidates[-1:]
            first, second = self._halve(packs.pop(max(tail, key=lambda i: self._cost(packs[i]))))
            packs.extend((first, second))
        packs.sort(key=self._cost, reverse=True)
        return [packs[begin : begin + num_per_step] for begin in range(0, len(packs), num_per_step)]

    def _halve(self, items: Sequence[int]) -> tuple[list[int], list[int]]:
        halves: tuple[list[int], list[int]] = ([], [])
        for item in sorted(items, key=lambda index: -int(self._costs[index])):
            min(halves, key=self._cost).append(item)
        return halves

    def _cost(self, items: Sequence[int]) -> int:
        return sum(int(self._costs[item]) for item in items)


def _permutation(length: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """A permutation from raw generator bits, which numpy keeps stable over versions (its shuffles it does not)."""
    entropy = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:16], "big")
    return np.argsort(np.random.PCG64(entropy).random_raw(length), kind="stable")


def _fingerprint(items: Sequence[PlanItem], config: PlanConfig) -> str:
    digest = hashlib.sha256(json.dumps([PLAN_VERSION, asdict(config)], sort_keys=True).encode())
    for item in items:
        digest.update(f"\n{item.id}\t{item.media}\t{item.cost_tokens}".encode())
    return f"sha256:{digest.hexdigest()[:32]}"
