"""What a training run will be, told before anything starts: by `vamba train … --dry-run`, and at a run's first start.

    TrainingConfig, TrainingData ──> the model on torch's meta device, sharded over a fake mesh of the run's size
                                 ──> Preflight: parameters, mesh, memory of a worker, steps, sizes ── rows() for people

Counted, not estimated, where that is possible: parameters and shards as FSDP lays them out on rank 0, which holds the
most; packs, tokens and steps from the plan that training itself follows. Activations are an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.training.adapters import select_trained
from pipelines.training.config import TrainingConfig
from pipelines.training.session import TrainingData, build_model_shell, stored_narrow
from pipelines.training.teachers import open_teachers
from vamba.ops.backends import describe

if TYPE_CHECKING:
    from vamba.model.vamba import Vamba
    from vamba.parallel.activation_memory import PackShape
    from vamba.parallel.footprint import MemoryLine
    from vamba.parallel.shard_sizes import ShardSizes

_GIB = 1 << 30
_STATE_BYTES = 12  # of a trained value in a checkpoint: itself and two moments, float32


class DoesNotFitError(ValueError):
    """A worker would need more memory than workers.gpu_memory_gb; the message says where it goes and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was counted. parts: (name, parameters, trained ones). Sizes in bytes; tokens and samples of a mean step.
    elsewhere: what a worker keeps outside the memory that the lines are of."""

    config: TrainingConfig
    num_samples: int
    data_digest: str
    parts: tuple[tuple[str, int, int], ...]
    sizes: ShardSizes
    memory: tuple[MemoryLine, ...]
    elsewhere: tuple[MemoryLine, ...]
    tokens_per_step: float
    samples_per_step: float
    fill: float
    steps_per_epoch: int
    num_steps: int

    @property
    def memory_bytes(self) -> int:
        """Of one worker, all lines together."""
        return sum(line.size_bytes for line in self.memory)

    @property
    def checkpoint_bytes(self) -> int:
        return _STATE_BYTES * self.sizes.trainable

    def require_fit(self) -> None:
        """Raise DoesNotFitError when a worker would need more than `workers.gpu_memory_gb`."""
        limit = self.config.workers.gpu_memory_gb
        if limit is None or self.config.workers.device != "cuda" or self.memory_bytes <= limit * _GIB:
            return
        largest = sorted(self.memory, key=lambda line: -line.size_bytes)[:3]
        where = ", ".join(f"{line.name} {line.size_bytes / _GIB:.1f}" for line in largest)
        raise DoesNotFitError(
            f"A worker would need {self.memory_bytes / _GIB:.1f} GiB, and workers.gpu_memory_gb is {limit:g}. Most of "
            f"it, in GiB: {where}. What helps: {'; '.join(self._remedies(largest[0].name))}. --dry-run shows every "
            "line; workers.gpu_memory_gb=null starts without this check."
        )

    def _remedies(self, largest: str) -> list[str]:
        """Settings that make a worker smaller, those against its largest line first."""
        parallel, workers = self.config.parallel, self.config.workers
        sharded = [f"more workers than {workers.num_workers} (workers.num_workers)"]
        if parallel.replicate > 1:
            sharded.insert(0, "shards over all workers (parallel.replicate=1)")
        if not parallel.reshard_after_forward:
            sharded.append("parallel.reshard_after_forward=true")
        if any(line.name == "gradients, not yet reduced" for line in self.memory):
            sharded.insert(0, f"as many workers as packs ({self.config.plan.packs_per_step}), one pack each")
        shorter = ["a smaller plan.tokens_per_pack, with reader.max_patches to match"]
        if parallel.activation == "none":
            shorter.insert(0, "parallel.activation=layer")
        if parallel.activation != "streamed":
            shorter.insert(1, "parallel.activation=streamed, for long videos")
        if parallel.compute_dtype == "float32":
            shorter.append("parallel.compute_dtype=bfloat16")
        of_activations = largest in (
            "layer activations",
            "streamed video",
            "vision activations",
            "logits",
            "working memory",
        )
        return shorter + sharded if of_activations else sharded + shorter

    def rows(self) -> dict[str, str]:
        """Names and values for people."""
        config, parallel = self.config, self.config.parallel
        start = config.model.init_from or f"preset {config.model.preset}, initialised from seed {config.train.seed}"
        warmup = math.ceil(config.train.optimizer.warmup_ratio * self.num_steps)
        kind = "GPU" if config.workers.device == "cuda" else "worker"
        rows = {"start": start}
        rows["parameters"] = f"{self.sizes.total:,}, of which {self.sizes.trainable:,} are trained"
        for name, size, trained in self.parts:
            rows[f"  {name}"] = f"{size:,}" + (f", {trained:,} trained" if trained else "")
        if config.model.lora is not None:
            rows["adapters"] = f"of rank {config.model.lora.rank}, counted with the parts they adapt"
        if config.distill is not None:
            rows["teacher"] = f"{config.distill.teachers}, weight {config.distill.coeff:g}"
        rows["mesh"] = self._mesh()
        rows["backends"] = f"{describe(config.backends)}, on the workers"
        rows[f"memory of a {kind}"] = f"{_size(self.memory_bytes)}"
        for line in self.memory:
            rows[f"  {line.name}"] = f"{_size(line.size_bytes)}  {line.of}"
        for line in self.elsewhere:
            rows[line.name] = f"{_size(line.size_bytes)}  {line.of}"
        rows["data"] = f"{self.num_samples} samples, manifest {self.data_digest[:19]}…"
        rows["packs per step"] = (
            f"{config.plan.packs_per_step}, up to {config.plan.tokens_per_pack:,} tokens each, {self.fill:.1%} filled"
        )
        rows["tokens per step"] = f"{self.tokens_per_step:,.0f} on average, of {self.samples_per_step:,.1f} samples"
        rows["steps"] = f"{self.num_steps}, {self.steps_per_epoch} per epoch, {warmup} of them warm-up"
        every = config.train.checkpoint_every_steps
        rows["checkpoints"] = f"every {every} steps, {_size(self.checkpoint_bytes)} each"
        rows["finished model"] = _size(4 * self.sizes.total)
        if parallel.compile:
            rows["compiled"] = "hybrid layers, between their kernels"
        return rows

    def lines(self) -> list[str]:
        """The rows as lines of a log."""
        rows = self.rows()
        width = max(map(len, rows))
        return [f"{name:<{width}}  {value}" for name, value in rows.items()]

    def _mesh(self) -> str:
        workers, replicate = self.config.workers, self.config.parallel.replicate
        if workers.num_workers == 1:
            return f"1 worker on {workers.device}, {self.config.parallel.compute_dtype}"
        shape = f"{replicate} replica(s) of {workers.num_workers // replicate} shard(s)"
        context = self.config.parallel.context
        idle = -self.config.plan.packs_per_step % (workers.num_workers // context) * context
        said = f"{workers.num_workers} workers on {workers.device}, {shape}, {self.config.parallel.compute_dtype}"
        if context > 1:
            said += f"; each pack on {context} workers"
        return said + (f"; {idle} of them repeat a pack in the last round of every step" if idle else "")


def preflight(config: TrainingConfig, data: TrainingData) -> Preflight:
    """Count a run, whose `model.init_from` is a directory by now. Raises ValueError for what training would refuse."""
    from vamba.parallel.fake_ranks import fake_ranks
    from vamba.parallel.footprint import footprint, stored_elsewhere
    from vamba.parallel.mesh import build_mesh
    from vamba.parallel.precision import narrow_frozen
    from vamba.parallel.shard_sizes import shard_sizes
    from vamba.parallel.sharding import shard_model

    if config.distill is not None:
        open_teachers(config.distill, data.rows)
    workers = config.workers.num_workers
    model = build_model_shell(config)
    select_trained(model, config)
    parts = _parts(model)
    narrow_frozen(model, stored_narrow(config), config.parallel)
    with fake_ranks(workers) if workers > 1 else nullcontext():
        shard_model(model, build_mesh("cpu", config.parallel), config.parallel)
        sizes = shard_sizes(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    largest, how = _largest_pack(config, data), {
        "on_gpu": config.workers.device == "cuda",
        "trains_blocks": any(name.startswith(("visual.blocks.", "visual.patch_embed.")) for name in trained),
        "trains_merger": any(name.startswith("visual.merger.") for name in trained),
    }  # fmt: skip
    micro_batches = math.ceil(config.plan.packs_per_step / workers)
    memory = footprint(sizes, model.config, config.parallel, largest, micro_batches=micro_batches, **how)
    steps = data.plan.steps(0)
    return Preflight(
        config=config,
        num_samples=len(data.rows),
        data_digest=data.digest,
        parts=parts,
        sizes=sizes,
        memory=memory,
        elsewhere=stored_elsewhere(sizes, model.config, config.parallel, largest, **how),
        tokens_per_step=int(steps.pack_costs.sum()) / len(steps),
        samples_per_step=len(data.rows) / len(steps),
        fill=data.plan.fill(0),
        steps_per_epoch=len(steps),
        num_steps=data.num_steps,
    )


def announce(plan: Preflight, notice: Callable[[str], None]) -> None:
    """Print the plan of a run, line by line; refuse one that does not fit (DoesNotFitError)."""
    for line in plan.lines():
        notice(line)
    plan.require_fit()


def _size(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.2f} GiB" if size_bytes >= _GIB // 10 else f"{size_bytes / (1 << 20):.1f} MiB"


def _parts(model: Vamba) -> tuple[tuple[str, int, int], ...]:
    from vamba.model.inspection import count_parts

    named = [(name, p.numel(), p.requires_grad) for name, p in model.named_parameters()]
    counted = count_parts((name, size) for name, size, _ in named)
    trained = count_parts((name, size) for name, size, is_trained in named if is_trained)
    return tuple((name, size, trained.get(name, 0)) for name, size in counted.items() if size)


def _largest_pack(config: TrainingConfig, data: TrainingData) -> PackShape:
    """A full pack, with the dataset's share of text; all of its text counts as labelled."""
    from vamba.parallel.activation_memory import PackShape

    costs = data.plan.items.costs
    text_tokens = int(data.rows.num_conversations.sum()) * config.reader.text_tokens_per_conversation
    budget, most = config.plan.tokens_per_pack, config.plan.samples_per_pack
    if most is not None:
        budget = min(budget, most * int(costs.max()))
    text = math.ceil(budget * text_tokens / int(costs.sum()))
    scored = text if config.distill is None else 2 * text  # once for the labels, once for the teacher
    return PackShape(num_text_tokens=text, num_video_tokens=budget - text, num_labelled=scored)
