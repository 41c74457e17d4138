"""The product's own training step on one worker in bfloat16, for a model that other measurements use as well.

trained   weight, as computed with    bfloat16    2 bytes       7B, stage 1: 3.02 of 11.31 billion values
          weight, as updated          float32     4 bytes
          gradient, summed            float32     4 bytes       autograd's own is added as soon as it is there
          two moments                 float32     8 bytes
frozen    weight                      bfloat16    2 bytes       70.9 GB (66.0 GiB) in all
"""

from __future__ import annotations

import torch

from vamba.data.batch import Batch
from vamba.data.plan import PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.model.init import NEW_PARTS
from vamba.model.vamba import Vamba
from vamba.parallel.masters import Masters
from vamba.streaming.training import StreamingPlan
from vamba.train.config import TrainConfig
from vamba.train.state import TrainState
from vamba.train.step import StepResult, train_step
from vamba.train.trainable import select_trainable

_START = PlanState(step=0, epoch=0, epoch_step=0, seed=0, fingerprint="")


class HourStep:
    """Steps of the first stage on one batch, every layer recomputed in the backward pass. `close` lets go of the model.

    streaming: None for one shot.
    """

    def __init__(
        self, model: Vamba, device: torch.device, computed: torch.dtype, streaming: StreamingPlan | None = None
    ) -> None:
        self._model = model
        select_trainable(model, [f".*({NEW_PARTS}).*"])
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        self._masters = None if computed == torch.float32 else Masters(model, computed)
        model.set_activation_checkpointing(True)
        self.state = TrainState(
            model.train(),
            TrainConfig(),
            num_steps=1,
            reader_state=_START,
            device=device,
            streaming=streaming,
            masters=self._masters,
        )

    def run(self, batch: Batch) -> StepResult:
        """Forward, backward and update, as `vamba train` does them; no update where the result is not finite."""
        micro = MicroBatch(batch=batch, pack_index=0, counts=True)
        inputs = StepInput(micro_batches=(micro,), sample_ids=("video",), epoch=0, media="video")
        return train_step(self.state, inputs)

    def close(self) -> None:
        """Leave the model with the weights it computes with, and stop training it."""
        if self._masters is not None:
            self._masters.close()
        del self.state
        self._model.set_activation_checkpointing(False)
        self._model.eval().requires_grad_(False)
