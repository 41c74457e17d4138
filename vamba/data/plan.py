"""Which samples make up every training step: one pure function of the data, the seed and the epoch.

    items (id, media, cost) + PlanConfig ──> DataPlan ── steps(epoch) ──> PlannedStep(packs of item indices)

A *pack* is what one forward pass reads: samples whose token costs fill a budget. A *step* holds `packs_per_step`
packs of one medium and nearly the same cost, so ranks that share a step finish together and call the same
collectives. World size is no input: rank r of w takes packs r, r + w, … of a step, and the global batch stays what
it was. Progress is therefore one small `PlanState`, valid for any number of workers.

Every sample is in exactly one pack of an epoch. Where an epoch's packs do not fill the last step, packs are split
until they do (lighter packs, same samples). Only when there is nothing left to split, because the medium has fewer
samples than a step has packs, is that step shorter. Nothing is dropped and nothing is carried to another epoch.

Items and epochs are columns, for a million samples or more; a step becomes an object when it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np

from vamba.data.packing import Packs, fill_packs, group_packs, join
from vamba.data.sample_table import Labels

PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """One sample as the plan sees it.

    id: the sample's id. media: "video" or "image". cost_tokens: what a forward pass over it costs, in tokens.
    """

    id: str
    media: str
    cost_tokens: int


class PlanItems(Sequence[PlanItem]):
    """Samples as columns. ids: text, or ASCII bytes. costs: int64, tokens."""

    def __init__(self, ids: Sequence[str] | np.ndarray, media: Labels, costs: np.ndarray) -> None:
        self._ids, self.media, self.costs = ids, media, costs

    @classmethod
    def of(cls, items: Sequence[PlanItem]) -> PlanItems:
        costs = np.fromiter((item.cost_tokens for item in items), np.int64, len(items))
        return cls([item.id for item in items], Labels([item.media for item in items]), costs)

    def id(self, index: int) -> str:
        name = self._ids[index]
        return name.decode() if isinstance(name, bytes) else str(name)

    def __len__(self) -> int:
        return len(self.costs)

    @overload
    def __getitem__(self, index: int) -> PlanItem: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlanItem]: ...
    def __getitem__(self, index: int | slice) -> PlanItem | Sequence[PlanItem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PlanItem(id=self.id(index), media=self.media[index], cost_tokens=int(self.costs[index]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """Budgets of the plan.

    tokens_per_pack: upper bound of the summed cost of a pack, in tokens.
    samples_per_pack: upper bound of the samples in a pack; None leaves it to the budget. With 1, a step is exactly
        `packs_per_step` samples, as recipes count that give a batch size.
    packs_per_step: packs in one optimizer step over all ranks (a multiple of the number of workers wastes nothing).
    window_samples: samples that are packed against each other; bounds time, not quality, above a few hundred.
    """

    tokens_per_pack: int = 4096
    samples_per_pack: int | None = None
    packs_per_step: int = 2
    window_samples: int = 4096

    def __post_init__(self) -> None:
        for name in ("tokens_per_pack", "packs_per_step", "window_samples"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"plan.{name} is {value}, but it must be at least 1.")
        if self.samples_per_pack is not None and self.samples_per_pack < 1:
            raise ValueError(f"plan.samples_per_pack is {self.samples_per_pack}; use 1 or more, or null for no limit.")


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


class EpochPlan(Sequence[PlannedStep]):
    """The steps of an epoch, in training order. Compares equal to another one with the same steps."""

    def __init__(self, packs: Packs, step_ends: np.ndarray, step_media: Sequence[str], costs: np.ndarray) -> None:
        """packs: in training order. step_ends: where each step's packs end. costs: of the items."""
        self._packs, self._step_ends, self._step_media = packs, step_ends, step_media
        self.pack_costs = packs.costs(costs)

    @property
    def num_packs(self) -> int:
        return len(self._packs)

    def __len__(self) -> int:
        return len(self._step_ends)

    @overload
    def __getitem__(self, index: int) -> PlannedStep: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlannedStep]: ...
    def __getitem__(self, index: int | slice) -> PlannedStep | Sequence[PlannedStep]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        begin = int(self._step_ends[number - 1]) if number else 0
        packs = tuple(
            Pack(index=pack, items=tuple(self._packs.of(pack)), cost_tokens=int(self.pack_costs[pack]))
            for pack in range(begin, int(self._step_ends[number]))
        )
        return PlannedStep(media=self._step_media[number], packs=packs)

    def __iter__(self) -> Iterator[PlannedStep]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpochPlan) and list(self) == list(other)

    def imbalance(self) -> np.ndarray:
        """(dearest pack / mean pack) of each step."""
        starts = np.concatenate([np.zeros(1, np.int64), self._step_ends[:-1]])
        most, total = (ufunc.reduceat(self.pack_costs, starts) for ufunc in (np.maximum, np.add))
        return most * (self._step_ends - starts) / total


class DataPlan:
    """All steps of all epochs over fixed items. Pure: equal arguments give equal plans on every machine."""

    def __init__(self, items: Sequence[PlanItem], config: PlanConfig, *, seed: int) -> None:
        """Raises ValueError when there is no item, or one that no pack can hold."""
        self.items = items if isinstance(items, PlanItems) else PlanItems.of(items)
        costs = self.items.costs
        if len(costs) == 0:
            raise ValueError("The training split holds no sample: ingest some, or choose another dataset.")
        num_too_long = int((costs > config.tokens_per_pack).sum())
        if num_too_long:
            worst = self.items[int(costs.argmax())]
            raise ValueError(
                f"{num_too_long} of {len(costs)} samples cost more than plan.tokens_per_pack = "
                f"{config.tokens_per_pack} tokens; the largest is {worst.id!r} with {worst.cost_tokens}. "
                "Raise plan.tokens_per_pack or lower reader.max_frames."
            )
        self.config = config
        self.seed = seed
        self.fingerprint = _fingerprint(self.items, config)
        self._epochs: dict[int, EpochPlan] = {}
        self._lock = threading.Lock()

    def steps(self, epoch: int) -> EpochPlan:
        """The steps of an epoch, in training order."""
        with self._lock:
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
        steps = self.steps(epoch)
        return float(steps.pack_costs.sum() / (steps.num_packs * self.config.tokens_per_pack))

    def imbalance(self, epoch: int) -> float:
        """Mean over the steps of an epoch of (dearest pack / mean pack): 1.0 means no rank waits."""
        return float(self.steps(epoch).imbalance().mean())

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        costs, per_step = self.items.costs, self.config.packs_per_step
        order = _permutation(len(costs), self.seed, epoch, "samples")
        parts: list[Packs] = []
        step_sizes: list[int] = []
        step_media: list[str] = []
        for code, media in enumerate(self.items.media.names):
            members = order[self.items.media.codes[order] == code]
            packs = fill_packs(
                members,
                costs,
                budget=self.config.tokens_per_pack,
                window=self.config.window_samples,
                most_items=self.config.samples_per_pack,
            )
            parts.append(group_packs(packs, costs, per_step))
            num_packs = len(parts[-1])
            step_sizes += [min(per_step, num_packs - begin) for begin in range(0, num_packs, per_step)]
            step_media += [media] * (len(step_sizes) - len(step_media))
        steps = Packs(items=np.arange(sum(step_sizes)), ends=np.cumsum(step_sizes))  # of packs, as packs are of items
        shuffled = _permutation(len(steps), self.seed, epoch, "steps")
        steps = steps.take(shuffled)
        return EpochPlan(join(parts).take(steps.items), steps.ends, [step_media[i] for i in shuffled], costs)


def _permutation(length: int, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """A permutation from raw generator bits, which numpy keeps stable over versions (its shuffles it does not)."""
    entropy = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:16], "big")
    return np.argsort(np.random.PCG64(entropy).random_raw(length), kind="stable")


def _fingerprint(items: PlanItems, config: PlanConfig) -> str:
    # A limit that is not set is left out, so that runs begun before there was one go on.
    limits = {name: value for name, value in asdict(config).items() if value is not None}
    digest = hashlib.sha256(json.dumps([PLAN_VERSION, limits], sort_keys=True).encode())
    for begin in range(0, len(items), 4096):
        some = (items[index] for index in range(begin, min(begin + 4096, len(items))))
        digest.update("".join(f"\n{item.id}\t{item.media}\t{item.cost_tokens}" for item in some).encode())
    return f"sha256:{digest.hexdigest()[:32]}"
