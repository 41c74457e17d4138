"""Ray Train's preemption notice, as this rank has it.

`ray.train.get_preemption_info` is a barrier over all ranks through an actor: milliseconds at every step, and a hang
where ranks call it unequally often, as they do when one waits for data. What it returns was delivered to each rank
beforehand; that is read here, in Ray's internals (2.60), in this file alone. Where another version has other names,
notices are not seen, and a reclaimed machine costs the steps since the newest checkpoint.
"""

from __future__ import annotations

from pipelines.training.preemption import PreemptionNotice


def read_notice() -> PreemptionNotice | None:
    """The notice that has reached this worker, if any."""
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        info = get_train_context().preemption_context.preemption_info
    except (ImportError, AttributeError, RuntimeError):
        return None
    if info is None:
        return None
    deadline = info.deadline_ms / 1000 if info.deadline_ms is not None else None
    return PreemptionNotice(deadline=deadline, ranks=tuple(info.preempted_ranks))
