"""What lmms-eval finds at its entry point `lmms_eval.models`: the name, and where the class is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Called by lmms-eval when it looks for models; the class itself is imported when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vamba", simple_class_path="pipelines.evaluation.lmms_plugin.model.VambaModel")
