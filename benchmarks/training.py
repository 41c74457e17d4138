"""What training costs beside the arithmetic: the loop's overhead, waiting for data, and the way back after a kill.

    python -m benchmarks.training [--steps 120] [--runs 2] [--work FOLDER] [--out FILE.json]

Needle videos as the demo's are made and ingested by the project's own commands, so the shards are real; `--work` keeps
them for the next time. The model and its settings are the recipe `tiny_instruct`.

* overhead: one process takes the same batches through the training loop (reader, step, records, checkpoints in the
  background, at the recipe's distance) and through bare torch (forward, backward, `clip_grad_norm_`, fused `AdamW`,
  the loss read once), in turn, step by step, the first of them alternating. Printed is the loop's time above bare.
* data wait: `vamba train` with two workers as it is; share of the steps' time spent waiting for their batch, in the
  first epoch, in which everything is decoded, and after it, from the cache.
* restart: the same job, killed with all its processes, started again; seconds from the process's start to its first
  step, by what they were spent on.

Wall times mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.training_restart import restart_and_wait
from jobs.cli.options import resolve_config
from jobs.demo.processes import start
from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrackingConfig, TrainingConfig
from pipelines.training.measures import StepMeasures
from pipelines.training.preemption import PreemptionSaves, no_notice
from pipelines.training.rank_run import RankRun
from pipelines.training.rewind import Rewinder
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.session import (
    TrainingData,
    build_state,
    open_training_data,
    tokenizer_directory,
)
from pipelines.training.watchdog import Watchdog
from vamba.data.encode import SampleEncoder
from vamba.data.plan import PlanState
from vamba.data.reader import PackReader, StepInput
from vamba.data.text import load_tokenizer
from vamba.train.loop import fit
from vamba.train.state import TrainState
from vamba.train.step import StepResult
from vamba.train.trainable import decays

RECIPE = "tiny_instruct"
SUITE = {
    "width": 256, "height": 144, "fps": 5, "num_shapes": 12, "num_textures": 60, "min_scene_s": 1, "max_scene_s": 5,
    "groups": [
        {"name": "clip", "split": "train", "num_videos": 90, "min_s": 24, "max_s": 40, "min_cards": 3, "max_cards": 5,
         "max_blanks": 1},
        {"name": "two-minutes", "split": "train", "num_videos": 24, "min_s": 120, "max_s": 120, "min_cards": 8,
         "max_cards": 12},
    ],
}  # fmt: skip
"""The demo's training videos, a third of them."""


def make_dataset(work: Path) -> Path:
    """Videos and shards below `work`, made once."""
    data = work / "data"
    if not list(data.glob("manifest*")):
        suite = work / "suite.yaml"
        suite.write_text(yaml.safe_dump(SUITE))
        videos = work / "videos"
        environment = {"VAMBA_HOME": str(work / "home")}
        for words in (
            ("synthesize", str(suite), "--out", str(videos)),
            ("ingest", str(videos), "--conversations", str(videos / "annotations.jsonl"), "--out", str(data)),
        ):
            if start(words, environment).wait():
                raise SystemExit(f"`vamba {words[0]}` failed; what it said stands above.")
    return data


class Bare:
    """Plain torch on the same model: what a step can't go below."""

    def __init__(self, state: TrainState) -> None:
        self.model = state.model
        config = state.config.optimizer
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if decays(name)], "weight_decay": config.weight_decay},
            {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
        ]
        self.parameters = [p for _, p in named]
        self.clip_norm = config.clip_norm
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=config.betas, fused=True)

    def step(self, inputs: StepInput) -> float:
        """Train on a step's batches. Seconds."""
        started = time.perf_counter()
        total = sum(micro.batch.num_loss_tokens for micro in inputs.micro_batches)
        losses = []
        for micro in inputs.micro_batches:
            loss, _ = self.model.loss(micro.batch)
            (loss / total).backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().item()
        self.model.constrain_()
        return time.perf_counter() - started


class TimedRun(RankRun):
    """Takes the time of what is outside of the steps."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seconds: dict[str, list[float]] = {"record": [], "save": []}

    def report(self, result: StepResult) -> None:
        started = time.perf_counter()
        super().report(result)
        self.seconds["record"].append(time.perf_counter() - started)
        self.seconds["save"].append(0.0)

    def save(self, state: TrainState, *, durable: bool) -> None:
        started = time.perf_counter()
        super().save(state, durable=durable)
        self.seconds["save"][-1] += time.perf_counter() - started


class InTurn:
    """Batches for the loop, with a bare step before or after each of the loop's own; takes both times."""

    def __init__(self, reader: Iterator[tuple[StepInput, PlanState]], bare: Bare) -> None:
        self._reader, self._bare = reader, bare
        self._pending: StepInput | None = None
        self._began = 0.0
        self.data_s: list[float] = []
        self.loop_s: list[float] = []
        self.bare_s: list[float] = []

    def __iter__(self) -> InTurn:
        return self

    def __next__(self) -> tuple[StepInput, PlanState]:
        if self._began:
            self.loop_s[-1] += time.perf_counter() - self._began
        if self._pending is not None:
            self.bare_s.append(self._bare.step(self._pending))
        started = time.perf_counter()
        inputs, position = next(self._reader)
        self.data_s.append(time.perf_counter() - started)
        self.loop_s.append(self.data_s[-1])
        self._pending = inputs
        if len(self.loop_s) % 2:
            self.bare_s.append(self._bare.step(inputs))
            self._pending = None
        self._began = time.perf_counter()
        return inputs, position


def overhead(config: TrainingConfig, data: TrainingData, num_steps: int) -> dict[str, Any]:
    """Times of the loop and of bare torch over `num_steps`, after a tenth of them that is not counted."""
    num_warm = max(4, num_steps // 10)
    config = replace(config, train=replace(config.train, num_steps=num_warm + num_steps + 1))
    directory = run_directory(config.storage, config.name)
    directory.open(config, data_digest=data.digest)
    state, bare = build_state(config, data), Bare(build_state(config, data))
    state.num_steps = config.train.num_steps
    encode = SampleEncoder(load_tokenizer(tokenizer_directory(config)), config.reader, device="cpu")
    reader = PackReader(data.plan, data.rows, data.read_range, encode, state=state.reader_state, config=config.reader)
    store = CheckpointStore(directory.checkpoints, retention=config.checkpoints, notify=directory.append_event)
    attempt = directory.new_attempt()
    run = TimedRun(
        directory, store, config.reader, attempt=attempt, rank=0, labels={}, unreadable=(), step=0,
        watchdog=Watchdog(directory, attempt=attempt, rank=0, world_size=1, timeout_s=0),
        saves=PreemptionSaves(no_notice, grace_s=0.0),
        rewinder=Rewinder(store, data.plan, rebuild=partial(build_state, config, data), notify=directory.append_event),
        evaluator=None, measures=StepMeasures(config, 1),
    )  # fmt: skip
    with reader, run:
        turns = InTurn(reader, bare)
        fit(state, turns, run)
    counted = slice(num_warm, num_warm + num_steps)
    loop_s, bare_s = turns.loop_s[counted], turns.bare_s[counted]
    phases = _phases(directory, counted) | {"data": _mean_ms(turns.data_s[counted])}
    phases |= {name: _mean_ms(values[counted]) for name, values in run.seconds.items()}
    return {
        "steps": num_steps,
        "bare_ms": _mean_ms(bare_s),
        "loop_ms": _mean_ms(loop_s),
        "overhead": round(sum(loop_s) / sum(bare_s) - 1, 4),
        "overhead_median_of_steps": round(statistics.median(a / b for a, b in zip(loop_s, bare_s, strict=True)) - 1, 4),
        "loop_phases_ms": phases,
    }


def _phases(directory: RunDirectory, counted: slice) -> dict[str, float]:
    """Mean milliseconds of the parts of a step, as the loop records them."""
    records = [record["seconds"] for _, record in directory.read_metrics()][counted]
    return {phase: _mean_ms([record[phase] for record in records]) for phase in ("compute", "reduce", "update")}


def _mean_ms(seconds: list[float]) -> float:
    return round(1e3 * statistics.mean(seconds), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", choices=("data", "overhead", "restart"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        data = make_dataset(work)
        result: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} threads", "recipe": RECIPE}
        if arguments.only in (None, "overhead"):
            runs = [
                overhead(*_opened(data, Path(temporary, f"run-{i}")), arguments.steps) for i in range(arguments.runs)
            ]
            result["overhead"] = sorted(runs, key=lambda run: run["overhead"])[len(runs) // 2]
            result["overhead_of_runs"] = [run["overhead"] for run in runs]
        if arguments.only in (None, "restart"):
            result |= restart_and_wait(RECIPE, data, Path(temporary, "home"), arguments.runs)
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _opened(data: Path, storage: Path) -> tuple[TrainingConfig, TrainingData]:
    arguments = {"data": str(data), "name": "bench", "recipe": RECIPE}
    config = resolve_config(TrainingConfig, recipe=RECIPE, file=None, assignments=None, arguments=arguments)
    config = replace(config, storage=str(storage), tracking=TrackingConfig(enabled=False))
    return config, open_training_data(config)


if __name__ == "__main__":
    main()
