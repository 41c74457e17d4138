"""Takes a run back to a checkpoint when its guard asks for it, and leaves a record of what is not trained.

    guard.due ── newest rewind point before the trouble ──> parameters, optimizer   (none yet: those of the start)
              ── position in the data stays ──> event `rewound`: steps and samples ──> checkpoint ── set aside the rest

The checkpoint of the rewound state is on the disk before anything else is trained. A run that is killed before that
resumes from an earlier one, meets the same trouble, and goes back to the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.training.checkpoints import CheckpointStore, Notify
from pipelines.training.ranks import rank_and_world_size
from vamba.data.plan import DataPlan, PlanState

if TYPE_CHECKING:
    from vamba.train.guard import Rewind
    from vamba.train.state import TrainState


class Rewinder:
    """Rewinds of one run. All methods are collective."""

    def __init__(
        self,
        store: CheckpointStore,
        plan: DataPlan,
        *,
        rebuild: Callable[[], TrainState],
        notify: Notify,
    ) -> None:
        """rebuild: gives the state that the run started from. notify: receives the event, on rank 0."""
        self._store, self._plan = store, plan
        self._rebuild, self._notify = rebuild, notify

    def rewind(self, state: TrainState, save_durably: Callable[[TrainState], None]) -> None:
        """Go back as `state.guard.due` asks, save, and set aside what was saved in between.

        Raises:
            GuardError: the run has gone back as often as it may.
        """
        trouble = state.guard.spend_rewind()
        point = self._store.rewind(state, before=trouble.first_step)
        if point is None:
            _copy(self._rebuild(), state)
            start, guard_then = self._plan.start(), {}
        else:
            start = PlanState.from_dict(point.meta["reader_state"])
            guard_then = point.meta.get("guard", {})
        rewind = state.guard.go_back(at=state.step, to=start.step, state_then=guard_then)
        if rank_and_world_size()[0] == 0:
            self._record(rewind, start)
        save_durably(state)
        self._store.set_aside_discarded(state)

    def _record(self, rewind: Rewind, start: PlanState) -> None:
        samples = {}
        position = start
        while position.step < rewind.at:
            packs = self._plan.step_at(position).packs
            samples[position.step + 1] = [self._plan.items.id(item) for pack in packs for item in pack.items]
            position = self._plan.advance(position)
        self._notify("rewound", at=rewind.at, to=rewind.to, reason=rewind.reason, samples=samples)


def describe_guard_event(event: Mapping[str, Any]) -> str | None:
    """A line for people about what a guard did; None if the event is of something else."""
    if event["event"] == "step_skipped":
        why = {"non_finite": "not finite", "spike": "a spike"}[event["reason"]]
        return (
            f"step {event['step']} changes nothing: its loss {event['loss']:.4g} or gradient norm "
            f"{event['grad_norm']:.4g} is {why} (samples {', '.join(event['sample_ids'][:8])})"
        )
    if event["event"] == "rewound":
        count = sum(map(len, event["samples"].values()))
        return (
            f"went back to step {event['to']}, because {event['reason']}; steps {event['to'] + 1} to {event['at']} and "
            f"their {count} samples are not trained"
        )
    return None


def _copy(source: TrainState, target: TrainState) -> None:
    import torch

    from vamba.train.optimizer import local

    tensors = source.tensors()
    with torch.no_grad():
        for name, tensor in target.tensors().items():
            local(tensor).copy_(local(tensors[name]))
    target.publish()
