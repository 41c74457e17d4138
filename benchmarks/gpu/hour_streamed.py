"""The hybrid, streamed: a training step with its optimizer, prefill of a video and a question, many questions.

Where things lie, 7B (57 KB of keys and values, 7 KB of the tower's per video token, 104 MB of states per chunk bound):

    training    on the GPU 66.0 GiB of weights, sums of gradients and moments, and the graph of one chunk (2,048 tokens:
                5 GiB); all that grows with the video in pinned host memory, at every length, so that the peak does not
                grow: 61 GiB at an hour, and 107 GiB at 8,192 frames in chunks of 4,096, which have half as many states
    inference   by the model's own rule (`vamba.streaming.placement`): on the GPU where keys and values fit beside the
                21 GiB of weights, else in pinned host memory, as 65 GiB of 8,192 frames on a card of 80 GB

Sums and estimates, not measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.gpu.hour_inputs import pieces, text_batch, video_batch
from benchmarks.gpu.hour_pinned import HostMemoryError, keys_values_blocks, reserve, room_for, step_blocks
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.hour_report import Row
from benchmarks.gpu.hour_step import HourStep
from benchmarks.gpu.machine import Machine
from vamba.model.vamba import Vamba
from vamba.streaming.encoder import VideoEncoder
from vamba.streaming.memory import VideoMemory
from vamba.streaming.placement import Placement, Wish, choose, free_room, sizes_of
from vamba.streaming.training import StreamingPlan

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    seconds: float
    peak_bytes: int | None
    reserved_bytes: int | None


def timed(machine: Machine, call: Callable[[], T]) -> tuple[T, Cost]:
    """What a call returns and takes: by the host's clock, the GPU idle before and after; memory with what was there."""
    if not machine.is_gpu:
        started = time.perf_counter()
        result = call()
        return result, Cost(seconds=time.perf_counter() - started, peak_bytes=None, reserved_bytes=None)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return result, Cost(seconds=seconds, peak_bytes=peak, reserved_bytes=reserved)


def train_streamed(machine: Machine, preset: Preset, model: Vamba, frames: int) -> Row:
    """Forward, backward and update on one video of so many frames; a row without a time where it does not fit."""
    dtype, config = machine.low_precision, model.architecture
    tokens, chunk_tokens = preset.tokens(frames), preset.step_chunk_tokens(frames)
    batch = video_batch(preset, frames, machine.device)
    plan = StreamingPlan(
        above_tokens=0,
        chunk_tokens=chunk_tokens,
        open_store=partial(Placement(kv="host").open_store, machine.device, dtype),
    )
    try:
        pinned_s = reserve(machine, step_blocks(config, tokens, chunk_tokens, dtype.itemsize))
    except HostMemoryError as error:
        return Row(model="streamed", passes="train step", frames=frames, tokens=tokens, how=str(error))
    step = HourStep(model, machine.device, dtype, plan)
    try:
        result, cost = timed(machine, partial(step.run, batch))
    finally:
        step.close()
    _check_finite(torch.tensor([result.loss, result.grad_norm]))
    how = f"all that grows in pinned memory ({pinned_s:.1f} s to make, not counted), loss {result.loss:.2f}"
    return _row("streamed", "train step", frames, tokens, cost, how)


def prefill_streamed(machine: Machine, preset: Preset, model: Vamba, frames: int) -> tuple[Row, VideoMemory]:
    """Encode a video and run a question through the layers, up to the logits of the first word of the answer."""
    dtype, config = machine.low_precision, model.architecture
    tokens = preset.tokens(frames)
    question = text_batch(preset, preset.question_tokens, 1).to(machine.device)
    sizes = sizes_of(config, tokens, dtype)
    placement = choose(sizes, free_room(machine.device, ""), Wish())
    if placement.kv != "device" or placement.order != "chunk-major":
        room_for(machine, sizes.keys_values)
        placement = choose(sizes, free_room(machine.device, ""), Wish())
    pinned_s = 0.0
    if placement.kv == "host" and placement.order == "chunk-major":
        pinned_s = reserve(machine, keys_values_blocks(config, tokens, preset.block_tokens, dtype.itemsize))

    @torch.no_grad()
    def run() -> tuple[VideoMemory, Tensor]:
        encoder = VideoEncoder(model, placement, chunk_tokens=preset.chunk_tokens, block_tokens=preset.block_tokens)
        for patches_PC, grid in pieces(preset, frames, machine.device):
            encoder.add(patches_PC, grid)
        memory = encoder.finish()
        seen = memory.open_pass(question.num_text_tokens)
        reads = [partial(seen.read, layer) for layer in range(config.num_hidden_layers)]
        return memory, model.head(model.hidden_states(question, reads)[-1:])

    (memory, logits), cost = timed(machine, run)
    _check_finite(logits)
    what = "keys and values" if placement.order == "chunk-major" else "video tokens alone"
    how = f"{what} on {placement.kv}" + (f" ({pinned_s:.1f} s to pin, not counted)" if pinned_s else "")
    return _row("streamed", "prefill", frames, tokens, cost, how), memory


def ask_questions(
    machine: Machine, preset: Preset, model: Vamba, memory: VideoMemory, encode_s: float
) -> dict[str, Any]:
    """Answers of `answer_tokens` words to one and to `num_questions` questions about an encoded video, as `vamba ask`
    generates them; each after a run that warms up."""
    from vamba.hf.configuration import VambaConfig
    from vamba.hf.modeling import VambaForConditionalGeneration
    from vamba.hf.prompts import continue_prompts

    with torch.device("meta"):
        generator = VambaForConditionalGeneration(VambaConfig.of(model.architecture), model.ops.names, machine.device)
    generator.visual, generator.model, generator.lm_head = model.visual, model.model, model.lm_head
    ids = text_batch(preset, preset.question_tokens, 1).input_ids_T.tolist()
    seconds = {}
    for number in (1, preset.num_questions):
        prompts = [ids[index % 3 :] for index in range(number)]
        ask = partial(
            continue_prompts,
            generator,
            prompts,
            memory,
            max_new_tokens=preset.answer_tokens,
            min_new_tokens=preset.answer_tokens,
            eos_ids=(0,),
        )
        ask()
        answers, cost = timed(machine, ask)
        assert len(answers) == number and all(len(answer) == preset.answer_tokens for answer in answers)
        seconds[number] = cost.seconds
    one, many = (encode_s + seconds[number] for number in (1, preset.num_questions))
    return {
        "encode_s": encode_s,
        "one_s": one,
        "many_s": many,
        "questions": preset.num_questions,
        "words": preset.answer_tokens,
        "ratio": many / one,
    }


def _check_finite(*tensors: Tensor) -> None:
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        raise ValueError("the result is not finite: it was not measured what was meant")


def _row(model: str, passes: str, frames: int, tokens: int, cost: Cost, how: str) -> Row:
    return Row(
        model=model,
        passes=passes,
        frames=frames,
        tokens=tokens,
        seconds=cost.seconds,
        peak_bytes=cost.peak_bytes,
        reserved_bytes=cost.reserved_bytes,
        how=how,
    )
