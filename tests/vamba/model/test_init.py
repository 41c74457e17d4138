"""Fresh weights depend on the seed and the name alone, and follow the published initialisation."""

from __future__ import annotations

import torch

from tests.vamba.model.samples import CONFIG, random_model
from vamba.model.init import initial_value


def test_same_seed_same_weights() -> None:
    first, second, other = random_model(1).state_dict(), random_model(1).state_dict(), random_model(2).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["model.layers.1.self_attn.q_proj.weight"])


def test_published_ranges_of_the_new_parts() -> None:
    model = random_model().float()
    for layer in model.model.hybrid_layers:
        assert layer.alpha is not None
        assert layer.vision_mixer is not None
        mixer = layer.vision_mixer.mixer
        assert layer.alpha.item() == 0.5
        assert ((mixer.A_log.exp() >= 1) & (mixer.A_log.exp() <= 16)).all()
        dt = torch.nn.functional.softplus(mixer.dt_bias)
        assert ((dt >= 0.99e-3) & (dt <= 0.101)).all()
        assert (mixer.D == 1).all()
        assert (mixer.norm.weight == 1).all()
        bound = (mixer.out_proj.in_features * CONFIG.num_hidden_layers) ** -0.5
        assert mixer.out_proj.weight.abs().max() <= bound


def test_projections_follow_the_configured_deviation() -> None:
    value = initial_value("model.layers.0.mlp.up_proj.weight", (400, 400), CONFIG, 0)
    assert abs(float(value.std()) - CONFIG.initializer_range) < 0.01
    value = initial_value("model.layers.0.vision_mixer.mixer.in_proj.weight", (400, 400), CONFIG, 0)
    assert abs(float(value.std()) - 0.02) < 0.001
