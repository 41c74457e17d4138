"""Operations of a training step as torch counts them, and what of them `vamba.model.flops` leaves out."""

from __future__ import annotations

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.vamba.model.samples import random_sample
from vamba.data.batch import Batch, collate
from vamba.model.flops import PackShape
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.ops.scan.blocks import block_of

TINY = PRESETS["tiny"]
# Four frame pairs of 64 patches are 64 video tokens, one block of the scan: nothing is padded, in any pass.
WITH_VIDEO = collate([random_sample(i, ((4, 8, 8),), (12, 12)) for i in range(2)])


def counted(model: Vamba, batch: Batch) -> int:
    """What torch counts; its counter knows no attention of the CPU, but the products it can be made of."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(batch)[0].backward()
    return int(counter.get_total_flops())


def in_block_flops(shape: PackShape, *, trained: bool) -> int:
    """Of the scan's implementation: the products among the tokens of a block, which a recurrence would not need."""
    mixer, num_mixers = TINY.mixer, TINY.num_hidden_layers - 1
    per_token = 2 * block_of(mixer.chunk_size) * (mixer.ngroups * mixer.d_state + mixer.d_inner)
    return num_mixers * per_token * shape.video_tokens * (3 if trained else 1)
