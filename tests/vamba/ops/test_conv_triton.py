"""The Triton convolution: in the interpreter against its definition, and compiled for GPUs that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.vamba.ops.conv_cases import CASES
from tests.vamba.ops.interpreted import run_cases


@pytest.fixture(scope="module")
def problems() -> dict[str, str | None]:
    return run_cases("tests.vamba.ops.conv_cases")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_in_the_interpreter(case: str, problems: dict[str, str | None]) -> None:
    assert problems[case] is None, problems[case]


@pytest.mark.parametrize("kernel", ["conv_forward", "conv_backward"])
@pytest.mark.parametrize("architecture", [80, 90])
def test_compiles_without_a_gpu(
    kernel: str, architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through ptxas, with everything switched on: Triton accepts less when compiling than when interpreting."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vamba.ops.conv import kernels
    from vamba.ops.conv import triton as backend

    function = getattr(kernels, kernel)
    tile = backend._FORWARD_TILE if kernel == "conv_forward" else backend._BACKWARD_TILE
    constants = {"x_c": 1, "WIDTH": 4, "ACC": tl.float32, "TILES": 32, "BLOCK_L": tile[0], "BLOCK_C": tile[1]}
    constants |= {"BLOCK_W": 4} | {name: True for name in function.arg_names if name.startswith("HAS_")}
    types = {"seq_ptr": "*i32", "partial_ptr": "*fp32"}
    signature = {
        name: "constexpr" if name in constants else types.get(name, "*bf16" if name.endswith("_ptr") else "i32")
        for name in function.arg_names
    }
    used = {name: value for name, value in constants.items() if name in function.arg_names}
    source = ASTSource(function, signature=signature, constexprs=used)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]


def test_refuses_the_cpu_by_name() -> None:
    from vamba.ops.conv import triton

    with pytest.raises(ValueError, match="got a tensor on cpu.*choose backends.conv 'torch'"):
        triton.conv(torch.zeros(1, 5, 8), torch.zeros(8, 4), None)
