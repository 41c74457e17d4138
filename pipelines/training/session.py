"""What one rank does from its start to the finished model, whichever launcher started it.

    TrainingConfig ──> open_training_data ──> build_state ── restore ──> fit ── export_model ──> model/
                                                              │           │
                                                    CheckpointStore   RankRun (metrics, checkpoints, rewinds,
                                                                               evaluations, stop request)

The launcher has set up the process group (Ray Train, torchrun, or none for a single process) and the run directory.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.layers import laid_over
from pipelines.shard_ranges import ShardRanges
from pipelines.training.adapters import merged, select_trained, write_adapters
from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import EvaluationData, Evaluator, plan_evaluation, read_evaluations
from pipelines.training.measures import StepMeasures
from pipelines.training.preemption import PreemptionSaves, ReadNotice, no_notice
from pipelines.training.rank_run import RankRun
from pipelines.training.ranks import from_first, gathered, rank_and_world_size
from pipelines.training.registered import keep_registered
from pipelines.training.rewind import Rewinder
from pipelines.training.run_directory import RunDirectory
from pipelines.training.run_lock import exclusive
from pipelines.training.run_log import failures_recorded, try_event
from pipelines.training.teachers import set_distillation, with_teachers
from pipelines.training.watchdog import Watchdog
from vamba.data.plan import DataPlan
from vamba.data.reader_config import plan_items
from vamba.data.sample_table import SampleTable

if TYPE_CHECKING:
    from vamba.data.encode import Encoder
    from vamba.data.fetch import UnreadableSampleError
    from vamba.data.text import Tokenizer
    from vamba.model.config import ModelConfig
    from vamba.model.vamba import Vamba
    from vamba.train.state import TrainState

TINY_TOKENIZER = "assets/tiny_tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The training split and how it is cut into steps. num_steps: of the whole run. evaluation: if any are made."""

    rows: SampleTable
    plan: DataPlan
    digest: str
    read_range: Callable[[str, int, int], bytes]
    num_steps: int
    evaluation: EvaluationData | None


def open_training_data(config: TrainingConfig) -> TrainingData:
    """Read the manifest and plan the run; reads no sample. Raises ValueError for an empty split or exceeded budget."""
    from pipelines.manifest_io import read_manifest
    from pipelines.storage import open_storage

    manifest = read_manifest(config.data)
    storage = open_storage(config.data)
    rows = SampleTable(manifest.select("train"))
    plan = DataPlan(plan_items(rows, config.reader), config.plan, seed=config.train.seed)
    return TrainingData(
        rows=rows,
        plan=plan,
        digest=manifest.digest,
        read_range=ShardRanges(storage),
        num_steps=config.train.num_steps or plan.num_steps(config.train.num_epochs),
        evaluation=plan_evaluation(manifest.select("validation"), config),
    )


def tokenizer_directory(config: TrainingConfig) -> Path:
    """Where the run's tokenizer is: named, or that of the model it starts from, or the one shipped for small models."""
    from importlib.resources import files

    if config.model.tokenizer:
        return Path(config.model.tokenizer).expanduser()
    if config.model.init_from:
        return Path(config.model.init_from)
    return Path(str(files("vamba"))) / TINY_TOKENIZER


def build_model(config: TrainingConfig) -> Vamba:
    """The whole model, float32 on the CPU: read from `init_from` (a directory by now), or initialised from the seed."""
    if config.model.init_from:
        import torch

        from vamba.model.pretrained import from_pretrained

        # Released weights are bfloat16; those that are trained must be wider than what they are computed in.
        return from_pretrained(
            config.model.init_from, dtype=torch.float32, backends=config.backends, device=config.workers.device
        )
    from vamba.model.init import init_weights_
    from vamba.model.vamba import Vamba

    model = Vamba(model_config(config), config.backends, config.workers.device)
    init_weights_(model, seed=config.train.seed)
    return model


def stored_narrow(config: TrainingConfig) -> frozenset[str]:
    """Names of the weights that the start model stores in bfloat16; of a model that is initialised, none."""
    if not config.model.init_from:
        return frozenset()
    from vamba.model.tensor_files import stored_tensors

    found = stored_tensors(config.model.init_from)
    return frozenset(name for name, tensor in found.items() if tensor.dtype == "BF16")


def build_model_shell(config: TrainingConfig) -> Vamba:
    """The run's architecture without memory behind it (torch's meta device): names and sizes to count."""
    import torch

    from vamba.model.vamba import Vamba

    with torch.device("meta"):
        return Vamba(model_config(config), device="cpu")


def model_config(config: TrainingConfig) -> ModelConfig:
    """The architecture of the preset with the overrides applied (of `init_from`, its own)."""
    from vamba.model.config import ModelConfig
    from vamba.model.presets import PRESETS

    if config.model.init_from:
        return ModelConfig.from_dict(json.loads((Path(config.model.init_from) / "config.json").read_text()))
    if config.model.preset not in PRESETS:
        known = ", ".join(sorted(PRESETS))
        raise ValueError(f"model.preset {config.model.preset!r} is unknown; choose one of {known}.")
    return ModelConfig.from_dict(laid_over(PRESETS[config.model.preset].to_dict(), config.model.overrides))


def build_state(config: TrainingConfig, data: TrainingData) -> TrainState:
    """Model, sharding and optimizer of this rank, at the start of the plan."""
    import torch

    from vamba.parallel.context import build_context
    from vamba.parallel.layers import prepare_layers, streaming_plan
    from vamba.parallel.masters import masters_for
    from vamba.parallel.mesh import build_mesh
    from vamba.parallel.precision import narrow_frozen
    from vamba.parallel.sharding import shard_model
    from vamba.train.state import TrainState

    device = torch.device(config.workers.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    model = build_model(config)
    select_trained(model, config)
    if config.distill is not None:
        set_distillation(model, config.distill)
    mesh = build_mesh(device.type, config.parallel)
    context = build_context(config.parallel.context, device)
    prepare_layers(model, config.parallel)
    narrow_frozen(model, stored_narrow(config), config.parallel)
    shard_model(model.to(device), mesh, config.parallel)
    masters = masters_for(model, config.parallel) if mesh is None else None
    model.train()
    return TrainState(
        model, config.train, num_steps=data.num_steps, reader_state=data.plan.start(), mesh=mesh,
        context=context, device=device, masters=masters,
        streaming=streaming_plan(config.parallel, device, context, scan_chunk=model.config.mixer.chunk_size),
    )  # fmt: skip


def _start(config: TrainingConfig, data: TrainingData, world_size: int) -> TrainState:
    """The state that the run started from, to be copied into the one that trains; of one worker, on the CPU."""
    if world_size == 1:
        from vamba.ops.backends import Backends

        config = replace(config, backends=Backends(), workers=replace(config.workers, device="cpu"))
    return build_state(config, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOutcome:
    """How an attempt ended on this rank. finished: False when it was stopped with its state saved."""

    finished: bool
    step: int
    attempt: int


def train_rank(config: TrainingConfig, directory: RunDirectory, notices: ReadNotice = no_notice) -> RankOutcome:
    """Train this rank's share of the run, from its newest checkpoint (or the start) to the exported model."""
    import torch

    rank, world_size = rank_and_world_size()
    torch.set_num_threads(config.workers.threads)
    with exclusive(directory, rank):
        attempt = from_first(directory.new_attempt() if rank == 0 else 0)
        watchdog = Watchdog(
            directory, attempt=attempt, rank=rank, world_size=world_size, timeout_s=config.workers.hang_timeout_s
        )
        with failures_recorded(directory, attempt, rank), watchdog:
            return _train_attempt(config, directory, attempt, watchdog, notices)


def _train_attempt(
    config: TrainingConfig, directory: RunDirectory, attempt: int, watchdog: Watchdog, notices: ReadNotice
) -> RankOutcome:
    from vamba.data.encode import SampleEncoder
    from vamba.data.reader import PackReader
    from vamba.parallel.context import share_of
    from vamba.train.loop import fit

    reached = {"entered": time.time()}
    rank, world_size = rank_and_world_size()
    unreadable = from_first(_known_unreadable(directory) if rank == 0 else set())
    data = open_training_data(config)
    reached["data_open"] = time.time()
    state = build_state(config, data)
    reached["built"] = time.time()
    saves = PreemptionSaves(notices, grace_s=config.workers.preemption_grace_s)
    store = CheckpointStore(
        directory.checkpoints, retention=config.checkpoints, notify=partial(_note_checkpoint, directory, saves),
        evaluations=partial(read_evaluations, directory),
    )  # fmt: skip
    store.restore(state)
    backends = state.model.ops.names.to_dict()
    if rank == 0:
        directory.update_run(backends=backends)
    directory.append_event(
        "attempt_started",
        attempt=attempt, rank=rank, pid=os.getpid(), host=socket.gethostname(), world_size=world_size,
        backends=backends, resumed_from_step=state.step, num_steps=state.num_steps, reached=reached,
    )  # fmt: skip
    encode = SampleEncoder(_tokenizer(config, directory, rank), config.reader, device=config.workers.device)
    labels = {key: directory.read_run().get(key) for key in ("config_digest", "data_digest")}
    labels["backends"] = backends
    run = RankRun(
        directory, store, config.reader, attempt=attempt, rank=rank, labels=labels, unreadable=unreadable,
        rewinder=Rewinder(
            store, data.plan, rebuild=partial(_start, config, data, state.world_size), notify=directory.append_event
        ),
        evaluator=_evaluator(config, data, directory, encode),
        measures=StepMeasures(config, world_size), watchdog=watchdog, saves=saves, step=state.step,
    )  # fmt: skip
    finished = False
    if not any(gathered(run.stop_requested())):
        taught = encode if config.distill is None else with_teachers(encode, config.distill, data.rows, directory, rank)
        share, num_shares = share_of(rank, world_size, config.parallel.context)
        reader = PackReader(
            data.plan, data.rows, data.read_range, taught,
            state=state.reader_state, rank=share, world_size=num_shares, config=config.reader, unreadable=unreadable,
            on_unreadable=partial(_record_unreadable, directory, rank) if state.counts else None,
            interrupted=run.interrupted,
        )  # fmt: skip
        with reader, run:
            finished = fit(state, reader, run)
    if finished:
        with watchdog.phase("export"):
            export_model(state, config, directory, rank)
    if rank == 0:
        directory.append_event("finished" if finished else "stopped", attempt=attempt, step=state.step)
    return RankOutcome(finished=finished, step=state.step, attempt=attempt)


def _tokenizer(config: TrainingConfig, directory: RunDirectory, rank: int) -> Tokenizer:
    from vamba.data.text import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_directory(config))
    directory.require_same("tokenizer_digest", tokenizer.digest, f"the tokenizer in {tokenizer.directory}", rank)
    return tokenizer


def _note_checkpoint(directory: RunDirectory, saves: PreemptionSaves, event: str, **values: Any) -> None:
    if event == "checkpoint_committed":
        saves.save_took(values["seconds"])
    try_event(directory, event, **values)


def _evaluator(
    config: TrainingConfig, data: TrainingData, directory: RunDirectory, encode: Encoder
) -> Evaluator | None:
    if data.evaluation is None:
        return None
    rank, world_size = rank_and_world_size()
    return Evaluator(
        data.evaluation, directory, read_range=data.read_range, encode=encode, reader=config.reader,
        rank=rank, world_size=world_size, context=config.parallel.context,
    )  # fmt: skip


def _known_unreadable(directory: RunDirectory) -> set[str]:
    """Ids of the samples that earlier attempts could not read."""
    return {event["id"] for event in directory.read_events() if event["event"] == "sample_unreadable"}


def _record_unreadable(directory: RunDirectory, rank: int, error: UnreadableSampleError, step: int) -> None:
    row = error.row
    directory.append_event(
        "sample_unreadable", id=row.id, shard=row.shard, offset_bytes=row.offset_bytes, size_bytes=row.size_bytes,
        step=step, rank=rank, reason=error.reason,
    )  # fmt: skip


def export_model(state: TrainState, config: TrainingConfig, directory: RunDirectory, rank: int) -> None:
    """Write the model in release layout to the run's `model/`: whole or not at all. Collective.

    Tensor by tensor: no rank ever holds more than one of them whole.
    """
    tensors = state.whole_tensors()
    if rank != 0:
        for _ in tensors:
            pass
        return
    from vamba.model.pretrained import write_checkpoint

    keep_registered(directory.model)
    lora, adapters = config.model.lora, dict[str, Any]()
    write_checkpoint(
        directory.model,
        state.model.config,
        tensors if lora is None else merged(tensors, lora, adapters),
        tokenizer_dir=tokenizer_directory(config),
        processing=config.reader.frames,
    )
    if lora is not None:
        write_adapters(directory.root / "adapter", lora, adapters, config.model.init_from)
