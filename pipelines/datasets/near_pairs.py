"""Which fingerprints are near each other, without comparing each with each.

Two videos are near when, over the frames that have texture in both (at least `LEAST_COMMON_FRAMES`), their hashes
differ in fewer than `NEAR_BITS` = 8 of 64 bits on average. Each hash is cut into 4 bands of 16 bits. If every band
differed in two bits or more, a frame would differ in 8: so a near pair has a band with at most one differing bit, and
looking up each band with each of its bits left out (32 bands x 16 = 512 sorts) finds every such pair:

    fingerprints ── equal ones merged ──> bands ── sort, neighbours with equal keys ──> candidates ── distance ──> pairs

For 100,000 videos that is some hundred million comparisons instead of five thousand million. A key that very many
videos share (the same title card) would be quadratic again: within it each is compared with the next `MOST_NEIGHBOURS`
only, and the caller is told how many keys were so crowded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.datasets.fingerprint import HASH_BITS, NUM_FRAMES, Fingerprint

NEAR_BITS = 8
LEAST_COMMON_FRAMES = NUM_FRAMES // 2
MOST_NEIGHBOURS = 1000
_BAND_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NearGroups:
    """groups: indices of fingerprints that are linked by near pairs, ascending. num_crowded: keys searched in part."""

    groups: tuple[tuple[int, ...], ...]
    num_crowded: int


def near_groups(fingerprints: Sequence[Fingerprint]) -> NearGroups:
    """Fingerprints with fewer than `LEAST_COMMON_FRAMES` textured frames are in no group."""
    usable = [index for index, item in enumerate(fingerprints) if item.num_textured >= LEAST_COMMON_FRAMES]
    same: dict[Fingerprint, list[int]] = {}
    for index in usable:
        same.setdefault(fingerprints[index], []).append(index)
    unique = list(same)
    hashes_NF = np.array([[value or 0 for value in item.hashes] for item in unique], np.uint64).reshape(-1, NUM_FRAMES)
    textured_NF = np.array([[value is not None for value in item.hashes] for item in unique], bool)
    textured_NF = textured_NF.reshape(-1, NUM_FRAMES)
    parents = list(range(len(unique)))
    num_crowded = 0
    for left, right, crowded in _candidates(hashes_NF, textured_NF):
        num_crowded += crowded
        near = _near(hashes_NF, textured_NF, left, right)
        for one, other in zip(left[near].tolist(), right[near].tolist(), strict=True):
            _link(parents, one, other)
    found: dict[int, list[int]] = {}
    for number, item in enumerate(unique):
        found.setdefault(_root(parents, number), []).extend(same[item])
    groups = sorted(tuple(sorted(group)) for group in found.values() if len(group) > 1)
    return NearGroups(groups=tuple(groups), num_crowded=num_crowded)


def distance_bits(one: Fingerprint, other: Fingerprint) -> float:
    """Mean number of differing bits over the frames with texture in both; `HASH_BITS` where there are too few."""
    common = [
        (a ^ b).bit_count() for a, b in zip(one.hashes, other.hashes, strict=True) if a is not None and b is not None
    ]
    return sum(common) / len(common) if len(common) >= LEAST_COMMON_FRAMES else float(HASH_BITS)


def _candidates(hashes_NF: np.ndarray, textured_NF: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(left, right, crowded keys) of pairs that share a band but for one bit; a pair may come several times."""
    for frame in range(NUM_FRAMES):
        members = np.flatnonzero(textured_NF[:, frame])
        for shift in range(0, HASH_BITS, _BAND_BITS):
            band = (hashes_NF[members, frame] >> np.uint64(shift)).astype(np.uint16)
            for bit in range(_BAND_BITS):
                keys = band & np.uint16(~(1 << bit) & 0xFFFF)
                order = np.argsort(keys, kind="stable")
                yield from _equal_neighbours(keys[order], members[order])


def _equal_neighbours(keys: np.ndarray, members: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Pairs with equal keys in a sorted array: all at distance 1, then those at 2 among them, and so on."""
    places = np.arange(len(keys))
    for lag in range(1, MOST_NEIGHBOURS + 2):
        places = places[places + lag < len(keys)]
        places = places[keys[places] == keys[places + lag]]
        if not places.size:
            return
        if lag > MOST_NEIGHBOURS:
            nobody = places[:0]
            yield nobody, nobody, len(np.unique(keys[places]))
            return
        yield members[places], members[places + lag], 0


def _near(hashes_NF: np.ndarray, textured_NF: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    common = textured_NF[left] & textured_NF[right]
    differing = np.bitwise_count(hashes_NF[left] ^ hashes_NF[right]) * common
    num_common = common.sum(axis=1)
    return (num_common >= LEAST_COMMON_FRAMES) & (differing.sum(axis=1, dtype=np.int64) < NEAR_BITS * num_common)


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _link(parents: list[int], one: int, other: int) -> None:
    one, other = _root(parents, one), _root(parents, other)
    parents[max(one, other)] = min(one, other)
