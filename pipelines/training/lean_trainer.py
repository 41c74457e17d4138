"""Ray Train for one machine: the same controller and workers, without the actors that serve what is not used here.

Before its first worker trains, Ray Train starts actors for autoscaling, for Ray Data shards and for cleaning up after a
dead controller. Each is a Python process of its own, started one after the other: seconds on two cores, at every start.
On a machine whose Ray lives and dies with the job there is nothing to scale or to clean up, and batches are read by
`vamba.data.reader`. On a cluster the plain trainer is used.

This reaches into Ray's internals (2.60), in this file alone. Where another version has other names, the plain trainer
is used: slower to start, otherwise the same.
"""

from __future__ import annotations

from typing import Any

UNUSED_CALLBACKS = frozenset({"PlacementGroupCleanerCallback", "DatasetsCallback"})


def lean_trainer_class() -> Any:
    """TorchTrainer without the unused actors, or TorchTrainer itself where Ray's internals are not the known ones."""
    from ray.train.torch import TorchTrainer

    known = ("_create_default_callbacks", "_initialize_and_run_controller")
    try:
        from ray.train.v2._internal.execution.scaling_policy import fixed
    except ImportError:
        return TorchTrainer
    if not all(hasattr(TorchTrainer, name) for name in known) or not hasattr(fixed, "FixedScalingPolicy"):
        return TorchTrainer

    class LeanTrainer(TorchTrainer):
        """See the module."""

        def _create_default_callbacks(self) -> list[Any]:
            kept: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in kept if type(callback).__name__ not in UNUSED_CALLBACKS]

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            policy = arguments.get("scaling_policy")
            if isinstance(policy, fixed.FixedScalingPolicy):
                arguments["scaling_policy"] = _without_autoscaler(fixed.FixedScalingPolicy)(policy.scaling_config)
            return super()._initialize_and_run_controller(**arguments)  # type: ignore[misc]

    return LeanTrainer


def _without_autoscaler(base: Any) -> Any:
    class QuietScalingPolicy(base):
        """A fixed number of workers, asked of nobody."""

        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    return QuietScalingPolicy
