"""Page-locked memory, made before a measurement: a run makes it once, in its first step or for its first video.

torch keeps what is freed and rounds sizes up to powers of two, so blocks of the sizes that a store will ask for are
made and let go. Memory is touched and locked by several threads; one alone would take longer than the GPU computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.gpu.machine import Machine, problem_of
from vamba.model.config import ModelConfig
from vamba.streaming.placement import free_room

_SPARE_BYTES = 6 << 30
"""Of the host's memory, for everything else."""
_STEP_BYTES, _LEAST_BYTES, _GROWS_WITHIN_S = 1 << 30, 2 << 30, 3.0
"""Of memory that is used to make a virtual machine's grow, and how long it is waited for that it does."""
_THREADS = 8
_PIECES, _TOUCHED = "expandable_segments", "pinned_use_cuda_host_register"
"""Of torch's allocator: map the GPU's memory in pieces, which leaves few holes; touch the host's by several threads."""


class HostMemoryError(ValueError):
    """The host has too little memory for what was to be pinned."""


def set_allocator(machine: Machine) -> str:
    """The settings of torch's allocator from now on: the first that work, as not every virtual machine has both."""
    if not machine.is_gpu:
        return ""
    for pieces, touched in ((True, True), (False, True), (True, False)):
        settings = f"{_PIECES}:{pieces},{_TOUCHED}:{touched},pinned_num_register_threads:{_THREADS if touched else 1}"
        try:
            torch.cuda.memory._set_allocator_settings(settings)
            torch.empty(1 << 26, dtype=torch.uint8, device=machine.device).fill_(1)
            torch.empty(1 << 22, dtype=torch.uint8, pin_memory=True).fill_(1)
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"torch's allocator without {settings}: {problem_of(error)}", flush=True)
        else:
            return settings
    torch.cuda.memory._set_allocator_settings(f"{_PIECES}:False,{_TOUCHED}:False")
    return "torch's own"


def keys_values_blocks(config: ModelConfig, tokens: int, part_tokens: int, itemsize: int) -> dict[int, int]:
    """{bytes of a block: how many} of the keys and values of so many tokens, in parts."""
    size = part_tokens * config.num_key_value_heads * config.head_dim * itemsize
    return {_rounded(size): 2 * config.num_hidden_layers * -(-tokens // part_tokens)}


def step_blocks(config: ModelConfig, tokens: int, chunk_tokens: int, itemsize: int) -> dict[int, int]:
    """The same of all that a training step keeps: keys and values, states at chunk bounds, the tower's tokens."""
    mixer, chunks = config.mixer, -(-tokens // chunk_tokens)
    states = (chunks - 1) * (config.num_hidden_layers - 1)
    blocks = keys_values_blocks(config, tokens, chunk_tokens, itemsize)
    for size, count in (
        (mixer.d_inner * mixer.d_state * 4, states),
        (mixer.conv_dim * mixer.d_conv * itemsize, states),
        (chunk_tokens * config.hidden_size * itemsize, chunks),
    ):
        blocks[_rounded(size)] = blocks.get(_rounded(size), 0) + count
    return blocks


def reserve(machine: Machine, blocks: Mapping[int, int]) -> float:
    """Seconds it took. Raises HostMemoryError, before anything is made."""
    needed = sum(size * count for size, count in blocks.items())
    if not machine.is_gpu:
        return 0.0
    free = room_for(machine, needed)
    if needed + _SPARE_BYTES > free:
        needs, has = (f"{count / 2**30:.0f} GiB" for count in (needed, free))
        raise HostMemoryError(f"does not fit: {needs} of host memory are needed, {has} are free")
    started = time.monotonic()
    sizes = [size for size, count in blocks.items() for _ in range(count)]
    with ThreadPoolExecutor(_THREADS) as threads:
        held = list(threads.map(lambda size: torch.empty(size, dtype=torch.uint8, pin_memory=True), sizes))
    del held
    return time.monotonic() - started


def room_for(machine: Machine, num_bytes: int) -> int:
    """Bytes of the host's memory that are free, once that is used which makes room for so many, if it does.

    Some virtual machines begin with a part of their memory, and get more of it as it is used.
    """
    use_until(num_bytes + _SPARE_BYTES, lambda: free_room(machine.device, "").host or 0)
    return free_room(machine.device, "").host or 0


def use_until(wanted: int, free_bytes: Callable[[], int]) -> None:
    """Use memory, and let go of it, until so much has been free at once, or what is used up does not come back."""
    held: list[torch.Tensor] = []
    while len(held) * _STEP_BYTES + free_bytes() < wanted:
        end = time.monotonic() + _GROWS_WITHIN_S
        while free_bytes() < _LEAST_BYTES + _STEP_BYTES:
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        held.append(torch.empty(_STEP_BYTES, dtype=torch.uint8).fill_(1))


def _rounded(size: int) -> int:
    return 1 << (size - 1).bit_length()
