"""The configuration of one evaluation."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vamba.ops.backends import Backends

if TYPE_CHECKING:
    from vamba.streaming.placement import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Which model answers which questions, and how.

    model: directory, run name, models:/NAME/VERSION or models:/NAME@alias. data: URI of an ingested dataset, or the
    folder of a benchmark's annotations and videos.
    benchmark: a published benchmark by its name, or the YAML file of an own one; empty: the dataset's conversations.
    split: the samples whose conversations are asked. dataset: its name in metric names; empty takes the last part of
    `data`, or the benchmark's name.
    name: of the evaluation and its directory; empty derives one from what is evaluated, so that the same command
    continues.
    protocol: how prompts are written and answers read; part of every metric's name. Empty: `vamba`, or what an own
    benchmark's file says.
    shuffle_videos: the control: every question is asked about another video than its own, so a model that looks is at
        chance. seed: of that assignment. num_control_videos: other videos that one video's questions are spread over.
    control_repeats: other videos that each question of the control is asked about: a dozen questions asked once give
        chance only within 25 points.
    max_new_tokens: tokens generated for an answer; 0: 4 for a dataset, what the protocol says for a benchmark.
    dtype: of the model's weights and activations.
    num_frames, shortest_edge, longest_edge: of a benchmark's videos, edges in pixels; 0: what the protocol says.
    num_decoders: processes that decode a benchmark's video; 0: the cores, shared by the replicas.
    frame_cache_gb: of disk for a benchmark's decoded and resized frames, in VAMBA_HOME/cache/frames; 0: none is kept.
    batch_size: questions about a video that are answered together; 0: all of them. It changes time and memory alone.
    kv: where what was seen of a video lies, see `vamba.streaming.placement`.
    num_questions: first so many questions only (0: all). categories: these only. Either marks the result as a subset.
    length_edges_s: limits of the video-length groups, in seconds, ascending.
    num_replicas: model replicas side by side, as Ray actors when above 1 or when `address` names a Ray cluster.
    device: "cpu", "cuda", or "auto": a GPU where torch sees one. backends: implementations of scan, convolution and
    attention by name. log_to_mlflow: also record the metrics on the
    model's run.
    """

    model: str
    data: str = ""
    benchmark: str = ""
    split: str = "test"
    dataset: str = ""
    name: str = ""
    protocol: Literal["", "vamba", "lmms-eval-0.7.3"] = ""
    shuffle_videos: bool = False
    seed: int = 0
    num_control_videos: int = 8
    control_repeats: int = 4
    max_new_tokens: int = 0
    num_frames: int = 0
    shortest_edge: int = 0
    longest_edge: int = 0
    num_decoders: int = 0
    frame_cache_gb: float = 50.0
    batch_size: int = 0
    kv: Literal["auto", "device", "host", "disk"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backends: Backends = field(default_factory=Backends)
    num_questions: int = 0
    categories: tuple[str, ...] = ()
    length_edges_s: tuple[float, ...] = (60.0, 180.0, 600.0, 1800.0)
    num_replicas: int = 1
    address: str = ""
    log_to_mlflow: bool = True

    def __post_init__(self) -> None:
        for name in ("num_replicas", "num_control_videos", "control_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, but it must be at least 1.")
        for name in ("max_new_tokens", "num_frames", "shortest_edge", "longest_edge", "num_decoders", "batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: use 0 for the default, or a positive number.")
        if not 0 <= self.frame_cache_gb < math.inf:
            raise ValueError(f"`frame_cache_gb` is {self.frame_cache_gb}: use 0 for no cache, or a positive number.")
        if self.num_questions < 0:
            raise ValueError(f"`num_questions` is {self.num_questions}: use 0 for all questions, or a positive number.")
        if list(self.length_edges_s) != sorted(set(self.length_edges_s)) or any(
            edge <= 0 for edge in self.length_edges_s
        ):
            raise ValueError(f"`length_edges_s` is {self.length_edges_s}: the limits must be positive and ascending.")
        if self.name and not re.fullmatch(r"[\w\-][\w\- .]{0,99}", self.name):
            raise ValueError(
                f"`name` is {self.name!r}, but it names a directory: use at most 100 letters, digits, '-', '_' and '.'."
            )
        self._check_benchmark()

    def _check_benchmark(self) -> None:
        is_own = self.benchmark.endswith((".yaml", ".yml"))
        if not self.data and not is_own:
            raise ValueError("`data` is empty: name the ingested dataset, or the folder of the benchmark.")
        if self.benchmark and self.shuffle_videos:
            raise ValueError("The shuffled-video control asks about an ingested dataset, not about a benchmark.")
        if not self.benchmark and self.protocol not in ("", "vamba"):
            raise ValueError(
                f"Protocol {self.protocol} defines its own prompts: it asks benchmarks (--benchmark), not a dataset's "
                "conversations."
            )
        for name in ("num_frames", "shortest_edge", "longest_edge"):
            if getattr(self, name) and not self.benchmark:
                raise ValueError(f"`{name}` is for benchmarks; a dataset's frames were chosen when it was ingested.")

    @property
    def dataset_name(self) -> str:
        """The dataset as metric names carry it."""
        return self.dataset or self.data.rstrip("/").rsplit("/", 1)[-1] or "dataset"

    @property
    def is_subset(self) -> bool:
        """True when not every question is asked: such a result passes no gate."""
        return bool(self.num_questions or self.categories)

    @property
    def wish(self) -> Wish:
        """Where what is seen is to lie."""
        from vamba.streaming.placement import Wish

        return Wish(kv=self.kv)
