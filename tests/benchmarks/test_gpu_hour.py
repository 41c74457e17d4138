"""The hour on a GPU, rehearsed on the CPU: every part runs, what it compares is equal, and what it counts is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import hour_pinned, hour_report, hour_targets
from benchmarks.gpu.hour_floors import floor_seconds
from benchmarks.gpu.hour_full import FullAttention
from benchmarks.gpu.hour_inputs import SeededFrames, video_batch
from benchmarks.gpu.hour_model import random_model
from benchmarks.gpu.hour_one_shot import prefill_one_shot
from benchmarks.gpu.hour_presets import HOUR, PROCESSING, REHEARSAL
from benchmarks.gpu.hour_report import Report, Row
from benchmarks.gpu.hour_step import HourStep
from benchmarks.gpu.machine import Machine
from tests.architecture.sources import ROOT
from vamba.data.frames import frames_to_patches
from vamba.ops.attention.layout import segments
from vamba.parallel.sharding import is_full_precision
from vamba.streaming.encoder import encode_video
from vamba.streaming.store import DeviceStore
from vamba.streaming.training import StreamingPlan, forward_backward

CPU = Machine(device=torch.device("cpu"), interpreted=False)


ABSENT = ("ray", "mlflow", "pyarrow", "imageio_ffmpeg", "pydantic", "peft")
"""What a machine that is there for the GPU does not have."""
PROGRAM = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
runpy.run_module("benchmarks.gpu.hour", run_name="__main__", alter_sys=True)
"""


def rehearse(out: Path, *options: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, "--dry-run", "--out", str(out), *options]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["ok"] and report["dry_run"] and not report["problems"] and not report["skipped"]
    return report


def test_every_part_runs_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "new" / "report.json", TRITON_INTERPRET="0")
    measured = Counter((row["model"], row["passes"], row["frames"]) for row in report["rows"])
    models, passes = ("streamed", "one shot", "full attention"), ("prefill", "train step")
    assert measured == Counter((m, p, n) for m in models for p in passes for n in REHEARSAL.frames)
    assert all(row["seconds"] > 0 for row in report["rows"])
    how = " ".join(row["how"] for row in report["rows"] if row["model"] == "full attention")
    assert "whole sequence" in how and "queries over" in how
    assert [row["dtype"] for row in report["exact"]] == ["float32", "bfloat16"]
    assert report["questions"]["ratio"] > 0 and report["sampled_over_whole"]["ratio"] > 0
    assert {target["name"] for target in report["targets"] if target["measured"] is None} == {
        "training step, 28 frames: peak, GiB",
        "training step, 28 frames: peak over that of 12",
    }


@pytest.mark.slow
def test_checks_run_with_triton_in_the_interpreter(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "report.json", "--only", "exact", TRITON_INTERPRET="1")
    assert [row["dtype"] for row in report["exact"]] == ["float32", "float16"]
    assert not report["warm_problems"] and len(report["wrap"]) == 2


def test_frames_are_the_same_however_they_are_cut() -> None:
    frames = SeededFrames(12, 56, 84, CPU.device)
    whole = frames[:]
    assert whole.shape == frames.shape and whole.float().std() > 50
    assert torch.equal(torch.cat([frames[0:2], frames[2:8], frames[8:99]]), whole)
    assert not torch.equal(whole[:2], whole[2:4])


def test_the_random_model_is_mixed_precision_with_values_of_a_usual_size() -> None:
    model = random_model(REHEARSAL.model, CPU, torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if is_full_precision(name) else torch.bfloat16), name
        assert not parameter.requires_grad and torch.isfinite(parameter).all(), name
    frames = SeededFrames(4, 56, 84, CPU.device)
    patches_PC, grid = frames_to_patches(frames[:], PROCESSING)
    tokens = encode_video(model, patches_PC, grid).tail_MD.float()
    assert 0.01 < tokens.std() < 10


def test_the_step_is_adamw_of_clipped_sums() -> None:
    model = random_model(REHEARSAL.model, CPU, torch.float32)
    names = [n for n, _ in model.named_parameters() if "cross_attn" in n or "vision_mixer" in n or "alpha" in n]
    weights = {name: torch.nn.Parameter(model.get_parameter(name).detach().clone()) for name in names}
    plain = {n for n in names if is_full_precision(n) or n.endswith(".bias")}
    groups = [
        {"params": [weights[n] for n in names if n not in plain], "weight_decay": 0.01},
        {"params": [weights[n] for n in plain], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-5)
    batch = video_batch(REHEARSAL, 8, CPU.device)
    step = HourStep(model, CPU.device, torch.float32, StreamingPlan(above_tokens=0, chunk_tokens=16))
    for _ in range(2):
        grads = torch.autograd.grad(
            model.loss(batch.to("cpu"))[0], [model.get_parameter(n) for n in names], allow_unused=True
        )
        for name, grad in zip(names, grads, strict=True):
            weights[name].grad = None if grad is None else grad / batch.num_loss_tokens
        norm = torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        reference.step()
        with torch.no_grad():
            for name in names:
                if name.endswith("alpha"):
                    weights[name].clamp_(0, 1)
        result = step.run(batch)
        assert result.grad_norm == pytest.approx(norm.item(), rel=1e-4) and result.num_streamed_packs == 1
    for name in names:
        if not name.endswith("k_proj.bias"):  # its gradient is zero but for rounding, which Adam makes large
            torch.testing.assert_close(model.get_parameter(name).detach(), weights[name].detach(), rtol=0, atol=2e-6)
    step.close()
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_a_step_leaves_the_model_in_the_types_that_it_found() -> None:
    model = random_model(REHEARSAL.model, CPU, torch.bfloat16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = HourStep(model, CPU.device, torch.bfloat16)
    result = step.run(video_batch(REHEARSAL, 8, CPU.device))
    step.close()
    assert result.loss > 0 and result.skipped is None and result.num_streamed_packs == 0
    assert not model.training and not model.model.recompute_activations
    changed = set()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == before[name].dtype and not parameter.requires_grad and parameter.grad is None
        changed |= {name} if not torch.equal(parameter.detach(), before[name]) else set()
    assert changed and all("cross_attn" in n or "vision_mixer" in n or "alpha" in n for n in changed)


def test_full_attention_is_the_layer_without_its_video() -> None:
    model = random_model(REHEARSAL.model, CPU, torch.float32)
    machine = types.SimpleNamespace(device=CPU.device, is_gpu=False, low_precision=torch.float32)
    full = FullAttention(machine, REHEARSAL, model)  # type: ignore[arg-type]
    layer, stream_LD, rotary = model.model.hybrid_layers[0], full._stream(37), full._rotary(37)
    with torch.no_grad():
        layer.alpha.fill_(1.0)
        attend = partial(model.ops.self_attention, layout=segments([37]))
        wanted = layer.update_text(stream_LD, rotary, attend, None)
        own, _, _ = full._attend(layer, stream_LD, rotary, None)
    torch.testing.assert_close(own + layer.mlp(layer.post_attention_layernorm(own)), wanted)


def test_what_is_pinned_is_what_a_step_stores() -> None:
    stored: Counter[int] = Counter()

    class Counting(DeviceStore):
        def append(self, slot: str, span: Any, tensors: tuple[torch.Tensor, ...]) -> None:
            if span[1] - span[0] == REHEARSAL.chunk_tokens or not tensors or slot.startswith("states"):
                stored.update(hour_pinned._rounded(t.nbytes) for t in tensors)
            else:
                stored.update(hour_pinned._rounded(t.nbytes * 32 // (span[1] - span[0])) for t in tensors)
            super().append(slot, span, tensors)

    model = random_model(REHEARSAL.model, CPU, torch.bfloat16)
    plan = StreamingPlan(above_tokens=0, chunk_tokens=REHEARSAL.chunk_tokens, open_store=Counting)
    forward_backward(model, video_batch(REHEARSAL, 40, CPU.device), plan, device=CPU.device)
    wanted = hour_pinned.step_blocks(REHEARSAL.model, REHEARSAL.tokens(40), REHEARSAL.chunk_tokens, 2)
    assert stored == Counter(wanted)


def test_memory_that_grows_as_it_is_used_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 40 MiB that shows 8 at first, and one that has no more than it shows."""
    mib = 1 << 20
    monkeypatch.setattr(hour_pinned, "_STEP_BYTES", 4 * mib)
    monkeypatch.setattr(hour_pinned, "_LEAST_BYTES", 1 * mib)
    monkeypatch.setattr(hour_pinned, "_GROWS_WITHIN_S", 0.2)
    made: list[torch.Tensor] = []
    plain = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: made.append(plain(*a, **k)) or made[-1])
    hour_pinned.use_until(30 * mib, lambda: min(40, 8 + 4 * len(made)) * mib - 4 * mib * len(made))
    assert len(made) == 6
    made.clear()
    hour_pinned.use_until(30 * mib, lambda: 12 * mib - 4 * mib * len(made))
    assert len(made) == 2
    hour_pinned.use_until(30 * mib, lambda: 30 * mib)
    assert len(made) == 2


def test_floors_are_those_of_the_7b() -> None:
    tokens = {frames: HOUR.tokens(frames) for frames in HOUR.frames}
    assert [tokens[n] for n in (1024, 3600, 8192)] == [153_088, 538_200, 1_224_704]
    assert floor_seconds("streamed", "prefill", tokens[3600]) == pytest.approx(7.2, rel=0.01)
    assert floor_seconds("streamed", "train step", tokens[1024]) == pytest.approx(4.8, rel=0.01)
    assert floor_seconds("full attention", "prefill", tokens[8192]) == pytest.approx(405, rel=0.01)
    assert floor_seconds("full attention", "train step", tokens[3600]) == pytest.approx(330, rel=0.01)


def test_one_shot_is_refused_where_offsets_would_not_fit() -> None:
    row = prefill_one_shot(CPU, HOUR, types.SimpleNamespace(architecture=HOUR.model), 1024)  # type: ignore[arg-type]
    assert row.seconds is None and "2^31" in row.how


def test_a_report_survives_what_breaks_and_names_what_is_left_out(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", CPU, 100.0, {"ok": False})
    report.run("broken", 0.0, partial(int, "x"))
    report.run("long", 1000.0, lambda: pytest.fail("there was no time for it"))
    report.add(Row(model="streamed", passes="prefill", frames=8, tokens=24, seconds=2.0))
    written = json.loads((tmp_path / "report.json").read_text())
    assert "broken: ValueError" in written["problems"][0] and written["skipped"][0].startswith("long: 1000 s expected")
    assert written["rows"][0]["tokens_per_s"] == 12
    assert "streamed" in hour_report.line_of(written["rows"][0])


def test_targets_are_met_by_what_meets_them_and_missed_by_what_is_missing() -> None:
    gib = 2**30
    rows = [
        {"model": m, "passes": p, "frames": n, "seconds": s, "tokens_per_s": 45_000.0, "peak_bytes": peak}
        for m, p, n, s, peak in (
            ("streamed", "train step", 512, 5.0, 60 * gib),
            ("streamed", "train step", 1024, 10.0, 61 * gib),
            ("streamed", "train step", 3600, 35.0, 62 * gib),
            ("full attention", "train step", 1024, 45.0, None),
            ("full attention", "train step", 3600, 400.0, None),
            *(("streamed", "prefill", n, 1.0, None) for n in HOUR.frames),
        )
    ]
    found = hour_targets.targets({"rows": rows, "questions": {"ratio": 1.1}}, HOUR)
    missed = [target["name"] for target in found if not target["ok"]]
    assert missed == ["training step, 3,600 frames: times faster than full attention"]
    nothing = hour_targets.targets({"rows": []}, HOUR)
    assert len(nothing) == len(found) and not any(target["ok"] for target in nothing)
