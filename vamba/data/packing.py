"""Which samples share a pack, and which packs share a step: arrays in, arrays out.

    items in shuffled order ── best fit, window by window ──> Packs ── sorted by cost, cut into steps ──> Packs of steps

Best fit, longest first: an item goes where it leaves the least room. Windows bound the time, and what one fills badly
joins the next. Steps hold packs of nearly equal cost. Everything is a function of the items' order and costs alone,
with ties broken by order, so that every machine packs alike.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PACK_BITS = 32
_GOOD_FILL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Packs:
    """Packs one after the other. items: int64, of all packs. ends: int64, where each pack's items end."""

    items: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def of(self, pack: int) -> list[int]:
        """The items of one pack."""
        begin = int(self.ends[pack - 1]) if pack else 0
        return [int(item) for item in self.items[begin : int(self.ends[pack])]]

    def costs(self, costs: np.ndarray) -> np.ndarray:
        """Summed cost of each pack, given that of each item."""
        if len(self) == 0:
            return np.zeros(0, np.int64)
        return np.add.reduceat(costs[self.items], self.starts)

    def take(self, chosen: np.ndarray) -> Packs:
        """These packs, in this order."""
        sizes = (self.ends - self.starts)[chosen]
        ends = np.cumsum(sizes)
        places = np.arange(int(sizes.sum())) + np.repeat(self.starts[chosen] - (ends - sizes), sizes)
        return Packs(items=self.items[places], ends=ends)


def join(parts: Sequence[Packs]) -> Packs:
    """All packs of all parts, in order."""
    shifts = np.cumsum([0, *(len(part.items) for part in parts)])
    items = np.concatenate([np.zeros(0, np.int64), *(part.items for part in parts)])
    ends = [part.ends + shift for part, shift in zip(parts, shifts[:-1], strict=True)]
    return Packs(items=items, ends=np.concatenate([np.zeros(0, np.int64), *ends]))


def fill_packs(
    order: np.ndarray, costs: np.ndarray, *, budget: int, window: int, most_items: int | None = None
) -> Packs:
    """Pack the items of `order` so that no pack costs more than `budget` or has more than `most_items` items.

    Every item costs at most the budget.
    """
    parts: list[Packs] = []
    carried = np.zeros(0, np.int64)
    for begin in range(0, len(order), window):
        filled = _best_fit(np.concatenate([carried, order[begin : begin + window]]), costs, budget, most_items)
        if begin + window < len(order):
            filled, carried = _keep_back(filled, costs, below=_GOOD_FILL * budget, most=window // 8)
        parts.append(filled)
    return join(parts)


def _best_fit(members: np.ndarray, costs: np.ndarray, budget: int, most_items: int | None) -> Packs:
    longest_first = members[np.argsort(-costs[members], kind="stable")]
    pack_of: list[int] = []
    num_packs = 0
    num_items: dict[int, int] = {}  # of packs that are not full by number
    free: list[int] = []  # room << bits | pack, ascending
    for cost in costs[longest_first].tolist():
        slot = bisect.bisect_left(free, cost << _PACK_BITS)
        if slot == len(free):
            entry = budget << _PACK_BITS | num_packs
            num_packs += 1
        else:
            entry = free.pop(slot)
        pack = entry & ((1 << _PACK_BITS) - 1)
        pack_of.append(pack)
        if most_items is not None:
            num_items[pack] = num_items.get(pack, 0) + 1
            if num_items[pack] == most_items:
                continue
        bisect.insort(free, entry - (cost << _PACK_BITS))
    packs = np.asarray(pack_of, np.int64)
    ends = np.cumsum(np.bincount(packs, minlength=num_packs))
    return Packs(items=longest_first[np.argsort(packs, kind="stable")], ends=ends)


def _keep_back(packs: Packs, costs: np.ndarray, *, below: float, most: int) -> tuple[Packs, np.ndarray]:
    """(packs, dearest first, without the lightest; items of the lightest, which the next window may pack better)."""
    packs = packs.take(by_cost(packs, costs))
    pack_costs = packs.costs(costs)
    carried: list[int] = []
    last = len(packs)
    while last and pack_costs[last - 1] < below and len(carried) < most:
        last -= 1
        carried.extend(packs.of(last))
    return packs.take(np.arange(last)), np.asarray(carried, np.int64)


def by_cost(packs: Packs, costs: np.ndarray) -> np.ndarray:
    """Numbers of the packs, dearest first; equals in their order."""
    return np.argsort(-packs.costs(costs), kind="stable")


def group_packs(packs: Packs, costs: np.ndarray, packs_per_step: int) -> Packs:
    """Packs, dearest first, after the lightest were split until they fill the last step (or none is left to split)."""
    packs = packs.take(by_cost(packs, costs))
    missing = -len(packs) % packs_per_step
    if missing:
        packs = _split_some(packs, costs, missing, nearby=2 * packs_per_step)
    return packs.take(by_cost(packs, costs))


def _split_some(packs: Packs, costs: np.ndarray, missing: int, *, nearby: int) -> Packs:
    """`missing` times, halve the dearest of the last `nearby` packs that have two items, or else the last that has."""
    first = max(0, len(packs) - nearby)
    head = list(range(first))
    tail = [packs.of(pack) for pack in range(first, len(packs))]
    sizes = packs.ends - packs.starts
    for _ in range(missing):
        begin = max(0, len(tail) - nearby)
        candidates = [i for i in range(begin, len(tail)) if len(tail[i]) > 1]
        before = [i for i in range(begin) if len(tail[i]) > 1]
        if candidates:
            split = tail.pop(max(candidates, key=lambda i: int(costs[tail[i]].sum())))
        elif before:
            split = tail.pop(before[-1])
        else:
            place = next((i for i in reversed(range(len(head))) if sizes[head[i]] > 1), None)
            if place is None:
                break
            split = packs.of(head.pop(place))
        tail.extend(_halve(split, costs))
    rest = Packs(
        items=np.asarray([item for pack in tail for item in pack], np.int64),
        ends=np.cumsum([len(pack) for pack in tail], dtype=np.int64),
    )
    return join([packs.take(np.asarray(head, np.int64)), rest])


def _halve(items: list[int], costs: np.ndarray) -> tuple[list[int], list[int]]:
    halves: tuple[list[int], list[int]] = ([], [])
    sums = [0, 0]
    for item in sorted(items, key=lambda index: -int(costs[index])):
        lighter = 0 if sums[0] <= sums[1] else 1
        halves[lighter].append(item)
        sums[lighter] += int(costs[item])
    return halves
