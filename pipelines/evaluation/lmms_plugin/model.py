"""The class that lmms-eval loads: videos are decoded, encoded and asked as `vamba evaluate` does, each one once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from pipelines.evaluation.answering import Answerer
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.lmms_plugin.placement import own_device
from pipelines.evaluation.lmms_plugin.requests import read_request, showings_of
from pipelines.evaluation.questions import BrokenVideo
from pipelines.evaluation.show import show
from pipelines.registry.models import resolve_model

_GREEDY_ONLY = "This model generates answers greedily (`output_type: generate_until`); the task asks for {}."


class VambaModel(lmms):
    """`--model vamba`.

    pretrained: a directory, run, models:/NAME/VERSION or models:/NAME@alias. dtype, device, num_frames, shortest_edge,
    longest_edge, num_decoders: as `vamba evaluate` has them; frames are those of protocol `lmms-eval-0.7.3` where they
    are not set. batch_size: questions about one video that are answered together; videos go one by one. In several
    processes (`torchrun`) each has a model of its own and lmms-eval divides the questions.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        *,
        dtype: Literal["float32", "bfloat16"] = "float32",
        device: str = "auto",
        batch_size: int | str = 0,
        max_batch_size: int | None = None,
        num_frames: int = 0,
        shortest_edge: int = 0,
        longest_edge: int = 0,
        num_decoders: int = 0,
    ) -> None:
        super().__init__()
        size = int(batch_size) if str(batch_size).isdigit() else 0
        self._config = EvaluationConfig(
            model=pretrained,
            data=".",
            dtype=dtype,
            batch_size=min(size, max_batch_size) if size and max_batch_size else size,
            num_decoders=num_decoders,
        )
        self._frames = {"num_frames": num_frames, "shortest_edge": shortest_edge, "longest_edge": longest_edge}
        self.device = torch.device(own_device(device))
        """Where lmms-eval puts what it gathers from several processes."""
        if self.device.index is not None:
            torch.cuda.set_device(self.device)  # Triton launches its kernels on the current one
        self._answerer = Answerer(resolve_model(pretrained).directory, device=str(self.device), dtype=dtype)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request, in order; "" for those about a video that can't be read, which is logged once."""
        asked = [read_request(number, request.args, self.task_dict) for number, request in enumerate(requests)]
        answers = [""] * len(asked)
        with tqdm(total=len(asked), desc="vamba", disable=self.rank > 0) as bar:
            for showing, members in showings_of(asked, self._frames):
                reply = show(self._answerer, self._config, showing)
                if isinstance(reply, BrokenVideo):
                    logger.error(f"{reply.source_uri}: {reply.reason}; {reply.num_questions} questions get no answer")
                else:
                    for one, text in zip(members, reply.texts, strict=True):
                        answers[one.number] = _until(text, one.until)
                bar.update(len(members))
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise ValueError(_GREEDY_ONLY.format("likelihoods"))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise ValueError(_GREEDY_ONLY.format("several rounds"))


def _until(text: str, ends: Sequence[str]) -> str:
    cuts = [at for end in ends if end and (at := text.find(end)) >= 0]
    return text[: min(cuts)] if cuts else text
