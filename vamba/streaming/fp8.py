"""Keys and values in eight bits: e4m3, with one scale per part, head, and kind (keys or values). For inference.

    (k_MKD, v_MKD) ── Fp8Store.append ──> (k8_MKD, scale_1K, v8_MKD, scale_1K) in any store ── read ──> (k_MKD, v_MKD)

A value keeps three bits of mantissa, so it is off by at most 1/16 of itself (and by 1/448/512 of the largest of its head,
whatever it is). Everything but keys and values passes through as it is.

Shapes: M video tokens, K key/value heads, D values per head.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from vamba.streaming.store import Place, Span, TensorStore

_FP8 = torch.float8_e4m3fn
_MOST = torch.finfo(_FP8).max


class Fp8Store:
    """A store around another one."""

    def __init__(self, inner: TensorStore, dtype: torch.dtype) -> None:
        """dtype: of what comes out."""
        self.inner, self._dtype = inner, dtype

    def append(self, slot: str, span: Span, tensors: tuple[Tensor, ...]) -> None:
        self.inner.append(slot, span, _encoded(slot, tensors))

    def spans(self, slot: str) -> tuple[Span, ...]:
        return self.inner.spans(slot)

    def read(self, places: Iterable[Place]) -> Iterator[tuple[Tensor, ...]]:
        asked: list[str] = []

        def remembered() -> Iterator[Place]:
            for place in places:
                asked.append(place[0])
                yield place

        for number, tensors in enumerate(self.inner.read(remembered())):
            if _is_encoded(asked[number]):
                k8_MKD, k_scale, v8_MKD, v_scale = tensors
                yield _decoded(k8_MKD, k_scale, self._dtype), _decoded(v8_MKD, v_scale, self._dtype)
            else:
                yield tensors

    def replace(self, place: Place, tensors: tuple[Tensor, ...]) -> None:
        self.inner.replace(place, _encoded(place[0], tensors))

    def drop(self, slot: str) -> None:
        self.inner.drop(slot)

    def close(self) -> None:
        self.inner.close()


def _is_encoded(slot: str) -> bool:
    return slot.startswith("keys_values/")


def _encoded(slot: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not _is_encoded(slot):
        return tensors
    made: list[Tensor] = []
    for tensor_MKD in tensors:
        wide_MKD = tensor_MKD.float()
        scale_1K = wide_MKD.abs().amax(dim=(0, 2))[None] / _MOST
        scale_1K = scale_1K.masked_fill(scale_1K == 0, 1.0)
        made += [(wide_MKD / scale_1K[..., None]).to(_FP8), scale_1K]
    return tuple(made)


def _decoded(eight_MKD: Tensor, scale_1K: Tensor, dtype: torch.dtype) -> Tensor:
    return (eight_MKD.float() * scale_1K[..., None]).to(dtype)
