"""One video over two and four ranks: keys, values, loss and gradients are those of one process.

Every case runs in the same group of processes, because starting one costs seconds.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.vamba.model.samples import FLAGS, SAMPLES, random_model, random_sample
from vamba.data.batch import Batch, collate
from vamba.model.vamba import Vamba
from vamba.streaming.chunks import cut
from vamba.streaming.walk import rotary_of, seq_idx_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

BATCHES: dict[str, Batch] = {
    "packed": collate(SAMPLES),
    "long": collate([random_sample(7, ((29, 4, 6), (1, 2, 4)), (11,))]),
    "one chunk": collate([random_sample(8, ((1, 4, 4),), (5, 7))]),
    "many samples": collate([random_sample(seed, ((1, 2, 2 * (1 + seed % 3)),), (4,)) for seed in range(9, 22)]),
}


@dataclass(frozen=True)
class Case:
    """most_tokens: of a chunk. trained: pattern of the parameters with gradients."""

    batch: str = "packed"
    flags: dict[str, Any] = field(default_factory=dict)
    most_tokens: int = 1000
    trained: str = ".*"
    dtype: torch.dtype = torch.float64

    def model(self) -> Vamba:
        model = random_model(**self.flags).to(self.dtype)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(re.fullmatch(self.trained, name) is not None)
        return model


STAGE_1 = r".*(cross_attn|vision_mixer|alpha).*"
CASES = {
    **{f"packed {flags}": Case("packed", flags) for flags in FLAGS},
    "long, all flags": Case("long", FLAGS[3]),
    **{f"{batch} in prime chunks": Case(batch, {}, 7) for batch in BATCHES},
    **{f"{batch} in aligned chunks": Case(batch) for batch in ("one chunk", "many samples")},
    "tied": Case("packed", {"tie_word_embeddings": True}),
    "one layer": Case("long", {"num_hidden_layers": 1}),
    "stage 1": Case("long", {}, 8, STAGE_1),
    "attention alone": Case("long", {}, 8, r".*cross_attn.*"),
    "one mixer": Case("long", {}, 8, r"model\.layers\.1\.vision_mixer.*"),
    "a norm of both streams": Case("long", {"cross_attn_use_layer_norm": True}, 8, r"model\.layers\.0\.input_.*"),
    "merger": Case("packed", {}, 8, r"visual\.merger.*|model\..*"),
    "float32": Case("long", {}, 16, dtype=torch.float32),
}

OF_FOUR = (
    "packed in prime chunks",
    "long, all flags",
    "one chunk in prime chunks",
    "many samples in aligned chunks",
    "stage 1",
    "float32",
)
"""Cases that four ranks try too: what may differ there is who has which chunk, and that some have none."""
TRIED = [(2, name) for name in CASES] + [(4, name) for name in OF_FOUR]

Found = dict[tuple[int, str], tuple[float, dict[str, Tensor], list[Tensor]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """By number of ranks and case: loss, gradients, and the keys and values of all layers."""
    import torch.multiprocessing as mp

    results: Found = {}
    for ranks in (2, 4):
        scratch = tmp_path_factory.mktemp("context")
        mp.spawn(_process, args=(ranks, str(scratch)), nprocs=ranks, join=True)
        results |= torch.load(scratch / "found.pt")
    return results


def _process(rank: int, world_size: int, scratch: str) -> None:
    import torch.distributed as dist

    from vamba.parallel.context import build_context
    from vamba.parallel.over_ranks import OverRanks

    torch.set_num_threads(1)
    rendezvous = os.path.join(scratch, "rendezvous")
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    context = build_context(world_size)
    assert context is not None
    names = [name for ranks, name in TRIED if ranks == world_size]
    found = {(world_size, name): _run(CASES[name], OverRanks(context, scan_chunk=8), context) for name in names}
    _compare_packs(context)
    if rank == 0:
        torch.save(found, os.path.join(scratch, "found.pt"))
    dist.destroy_process_group()


def _compare_packs(context: Any) -> None:
    """Ranks find out before a step that one has no data, or could not read what the others could."""
    from vamba.data.reader import MicroBatch, StepInput
    from vamba.train.agreement import PacksDifferError, any_asked

    is_last = context.rank == context.size - 1
    micro = MicroBatch(batch=BATCHES["packed"], pack_index=3, counts=True)
    inputs = StepInput(micro_batches=(micro,), sample_ids=("a", "b"), epoch=0, media="video")
    assert any_asked(context, inputs, stop=False) == (False, False)
    assert any_asked(context, replace(inputs, abandoned=is_last), stop=context.is_first) == (True, True)
    with pytest.raises(PacksDifferError, match=f"rank 0: none; (.*; )?rank {context.size - 1}: b"):
        any_asked(context, replace(inputs, unreadable=("b",) if is_last else ()), stop=False)


def _run(case: Case, spread: Any, context: Any) -> tuple[float, dict[str, Tensor], list[Tensor]]:
    """What the ranks found together, on every rank. Sums over ranks are what training takes."""
    from vamba.streaming.store import DeviceStore
    from vamba.streaming.training import StreamingPlan, forward_backward, loss_of

    kept: list[DeviceStore] = []

    class Kept(DeviceStore):
        def close(self) -> None:
            kept.append(self)

    plan = StreamingPlan(above_tokens=0, chunk_tokens=case.most_tokens, open_store=Kept, spread=spread)
    model, batch, device = case.model(), BATCHES[case.batch], torch.device("cpu")
    alone, _ = loss_of(model, batch, plan, device=device)
    loss, _ = forward_backward(model, batch, plan, device=device, counts=context.is_first)
    assert alone.item() == loss.item()
    return loss.item(), _summed(model), _gathered(kept[0], len(model.model.layers))


def _summed(model: Vamba) -> dict[str, Tensor]:
    """Gradients that some rank has, added up over ranks."""
    import torch.distributed as dist

    named = dict(model.named_parameters())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in named.values()]
    has_one = torch.tensor([float(p.grad is not None) for p in named.values()], dtype=grads[0].dtype)
    packed = torch.cat([has_one, *(grad.flatten() for grad in grads)])
    dist.all_reduce(packed)
    counts, *totals = packed.split([len(named), *(grad.numel() for grad in grads)])
    found = zip(named, counts.tolist(), grads, totals, strict=True)
    return {name: total.view_as(grad).clone() for name, count, grad, total in found if count}


def _gathered(store: Any, num_layers: int) -> list[Tensor]:
    """Keys and values of every layer, the parts of all ranks in order."""
    import torch.distributed as dist

    from vamba.streaming.store import StoredKeysValues

    own = [[tuple(part) for part in StoredKeysValues(store, layer)] for layer in range(num_layers)]
    of_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, own)
    joined = []
    for layer in range(num_layers):
        parts = sorted((part for of_rank in of_ranks for part in of_rank[layer]), key=lambda part: part[0])
        joined += [torch.cat([part[kind] for part in parts]) for kind in (1, 2)]
    return joined


def one_pass(case: Case) -> tuple[float, dict[str, Tensor], list[Tensor]]:
    model, batch = case.model(), BATCHES[case.batch]
    loss, _ = model.loss(batch)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert batch.video is not None and batch.patches_PC is not None
    keys_values = []
    with torch.no_grad():
        v_MD = model.visual(batch.patches_PC, batch.video.tower)
        (chunk,) = cut(batch.video.cu_seqlens.tolist(), len(v_MD))
        rotary = rotary_of(chunk, batch.video, model.config, v_MD)
        for layer in model.model.hybrid_layers:
            v_MD, (k_MKD, values_MKD) = layer.read_video(v_MD, rotary)
            keys_values += [k_MKD, values_MKD]
            v_MD, _ = layer.mix_video(v_MD, seq_idx_of(chunk, batch.video), None)
    return loss.item(), gradients, keys_values


@pytest.mark.parametrize(("ranks", "name"), TRIED)
def test_ranks_find_together_what_one_process_finds(found: Found, ranks: int, name: str) -> None:
    case = CASES[name]
    tolerance = 1e-12 if case.dtype == torch.float64 else 1e-5
    (loss, gradients, _), (wanted_loss, wanted, _) = found[ranks, name], one_pass(case)
    assert loss == pytest.approx(wanted_loss, rel=tolerance)
    assert gradients.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    for key, grad in wanted.items():
        # Without rotated keys their bias moves all scores of a query alike: its gradient is rounding, and nothing else.
        floor = largest if key.endswith("cross_attn.k_proj.bias") else float(grad.norm())
        assert float((gradients[key] - grad).norm()) <= tolerance * max(floor, 1e-3 * largest), key


@pytest.mark.parametrize(("ranks", "name"), TRIED)
def test_what_is_encoded_is_what_one_process_encodes(found: Found, ranks: int, name: str) -> None:
    case = CASES[name]
    is_aligned = case.dtype == torch.float32  # on a CPU no bit differs where chunks are whole ones of the scan
    for part, whole in zip(found[ranks, name][2], one_pass(case)[2], strict=True):
        assert part.equal(whole) if is_aligned else (part - whole).abs().max() <= 1e-12 * whole.abs().max()
