"""The Mamba-2 block alone against the published one: forward, gradients, states, steps and packed rows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.golden.case import ACTIVATIONS, GRADIENTS, Case, assert_close, assert_norm, load_case
from vamba.model.config import MixerConfig
from vamba.model.mixer import VisionMixer
from vamba.ops.backends import Backends, choose


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("H_mixer")


@pytest.fixture(params=["torch", "reference"])
def block(case: Case, request: pytest.FixtureRequest) -> VisionMixer:
    values = json.loads((case.directory / "config.json").read_text())
    names = ("hidden_dim", "d_state", "headdim", "expand", "ngroups", "chunk_size")
    config = MixerConfig(enable=True, **{name: values[name] for name in names})
    block = VisionMixer(config, choose(Backends(scan=request.param, conv=request.param)))
    block.load_state_dict(load_file(case.directory / "model.safetensors"))
    return block


def test_forward(case: Case, block: VisionMixer) -> None:
    u = case.inputs["u"]
    with torch.no_grad():
        assert_close(block.mixer(u)[0], case.outputs["mixer_out"], ACTIVATIONS, "mixer_out")
        assert_close(block(u)[0], case.outputs["block_out"], ACTIVATIONS, "block_out")
        assert_close(block.mixer(u * 0.02)[0], case.outputs["mixer_out_small"], ACTIVATIONS, "mixer_out_small")
        assert_close(block(u * 3e-3)[0], case.outputs["block_out_small"], ACTIVATIONS, "block_out_small")


def test_packed_rows(case: Case, block: VisionMixer) -> None:
    u, seq_idx = case.inputs["u"].clone().requires_grad_(), case.inputs["seq_idx"]
    out, _ = block.mixer(u, seq_idx)
    assert_close(out, case.outputs["mixer_out_seq_idx"], ACTIVATIONS, "mixer_out_seq_idx")
    assert_close(block(u, seq_idx)[0], case.outputs["block_out_seq_idx"], ACTIVATIONS, "block_out_seq_idx")
    (out * case.inputs["w"]).sum().backward()
    assert_close(u.grad, case.outputs["grad_u_seq_idx"], GRADIENTS, "grad_u_seq_idx")
    for name, norm in case.notes["grad_norms_seq_idx"].items():
        assert_norm(block.get_parameter(name).grad, norm, name)


def test_gradients(case: Case, block: VisionMixer) -> None:
    u = case.inputs["u"].clone().requires_grad_()
    (block.mixer(u)[0] * case.inputs["w"]).sum().backward()
    assert_close(u.grad, case.outputs["grad_u"], GRADIENTS, "grad_u")
    for name, value in case.outputs.items():
        if name.startswith("grad.mixer."):
            grad = block.get_parameter(name.removeprefix("grad.")).grad
            assert_close(grad, value, GRADIENTS, name)


@torch.no_grad()
def test_states_carry_over(case: Case, block: VisionMixer) -> None:
    u = case.inputs["u"]
    out, state = block.mixer(u[:, :60])
    assert_close(out, case.outputs["prefill60_out"], ACTIVATIONS, "prefill60_out")
    assert_close(state.conv_BCW, case.outputs["conv_state60"], ACTIVATIONS, "conv_state60")
    assert_close(state.ssm_BHPN, case.outputs["ssm_state60"], ACTIVATIONS, "ssm_state60")
    for t in range(60, 100):
        out, state = block.mixer(u[:, t : t + 1], None, state)
        assert_close(out[:, 0], case.outputs["step_out_60_100"][:, t - 60], ACTIVATIONS, f"step {t}")
    assert_close(state.conv_BCW, case.outputs["conv_state100"], ACTIVATIONS, "conv_state100")
    assert_close(state.ssm_BHPN, case.outputs["ssm_state100"], ACTIVATIONS, "ssm_state100")
