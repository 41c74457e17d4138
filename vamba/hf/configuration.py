"""`config.json` as a transformers configuration.

    config.json ── VambaConfig (attributes under the release's keys) ── .architecture ──> ModelConfig (what the model reads)

transformers wants an object whose attributes are the file's keys and may be changed; the model wants a frozen
description that was checked as a whole. The second is made from the first whenever it is asked for, so that both always
agree.
"""  # noqa: E501

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vamba.model.config import MODEL_TYPE, ModelConfig

_ROPE = ("rope_scaling", "rope_theta")
"""The release's keys of what transformers calls `rope_parameters`, and holds as one attribute."""
_KEYS = tuple(key for key in ModelConfig().to_dict() if key not in ("model_type", "architectures", *_ROPE))


class VambaConfig(PreTrainedConfig):
    """Configuration of a Vamba model, under the keys of the published `config.json`.

    Accepts the keys of the release, of Qwen2-VL's flat and nested form, and transformers' own. Raises ValueError for a value
    this model can't be built with.
    """  # noqa: E501

    model_type = MODEL_TYPE
    ignore_keys_at_rope_validation = {"mrope_section"}

    def __init__(self, **values: Any) -> None:
        architecture = ModelConfig.from_dict({**values, "model_type": MODEL_TYPE})
        read_by_us = {*_KEYS, *_ROPE, "rope_parameters", "model_type", "text_config"}
        super().__init__(**{key: value for key, value in values.items() if key not in read_by_us})
        self.architectures = ["VambaForConditionalGeneration"]
        for key, value in architecture.to_dict().items():
            if key in _KEYS:
                setattr(self, key, value)
        self.rope_parameters = {
            "rope_type": "default",
            "rope_theta": architecture.rope_theta,
            "mrope_section": list(architecture.mrope_section),
        }

    @classmethod
    def of(cls, architecture: ModelConfig) -> VambaConfig:
        """The transformers form of a model's configuration."""
        return cls(**architecture.to_dict())

    @property
    def architecture(self) -> ModelConfig:
        """What the model is built from. Raises ValueError where an attribute was set to something impossible."""
        values = {key: getattr(self, key) for key in _KEYS}
        return ModelConfig.from_dict({**values, "rope_parameters": self.rope_parameters})
