"""What nvcc made of the CUDA sources: registers, spills, the width and number of loads in flight; no GPU needed."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BUILT = importlib.util.find_spec("monosem._cuda")
ARCH = "sm_90"


def cuobjdump() -> str | None:
    """CUDA's disassembler: of the toolkit, or the one that Triton brings (it needs its nvdisasm on PATH)."""
    if found := shutil.which("cuobjdump"):
        return found
    triton = importlib.util.find_spec("triton")
    path = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump" if triton else None
    return str(path) if path and path.exists() else None


needs_module = pytest.mark.skipif(BUILT is None, reason="monosem._cuda was not built here (`monosem doctor` says why)")
needs_tool = pytest.mark.skipif(cuobjdump() is None, reason="no cuobjdump (it comes with CUDA and with Triton)")


def ask(option: str) -> str:
    tool = cuobjdump()
    environment = {"PATH": f"{Path(tool).parent}:/usr/bin:/bin"}
    command = [tool, option, "-arch", ARCH, BUILT.origin]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@needs_module
def test_imports_without_a_driver():
    """The runtime is linked in, and nothing is asked of a GPU before a kernel is launched."""
    code = "from monosem import _cuda; print(_cuda.csc_workspace(1000, 512))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4000


@needs_module
@needs_tool
def test_nothing_spills():
    usage = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", ask("-res-usage"))
    assert len(usage) >= 30
    for name, registers, stack, _, local in usage:
        assert int(stack) == 0 and int(local) == 0, f"{name} keeps {stack}+{local} bytes in slow local memory"
        assert int(registers) <= 128, f"{name}: {registers} registers; blocks of 512 threads have 128 each"


# Of a thread in decode_loss by the rows that its warp holds: what 4, 3 and 2 blocks of 256 leave each.
DECODE_LOSS = {4: 64, 8: 80, 16: 128}


@needs_module
@needs_tool
def test_occupancy_of_decode_loss_grows_as_it_holds_fewer_rows():
    found = re.findall(r"Function \S*decode_loss_kernelI\S*?Li(\d+)EEEv\S*:\s+REG:(\d+)", ask("-res-usage"))
    assert len(found) == 12
    for rows, registers in found:
        assert int(registers) <= DECODE_LOSS[int(rows)], (rows, registers)


def kernels() -> dict[str, list[str]]:
    """Instructions of each kernel, without their operands."""
    found: dict[str, list[str]] = {}
    for line in ask("-sass").splitlines():
        if name := re.search(r"Function : (\S+)", line):
            now = found.setdefault(name[1], [])
        elif operation := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", line):
            now.append(operation[1])
    return found


def in_flight(operations: list[str], load: str, use: str) -> int:
    """The most loads between two instructions that may use them."""
    most = run = 0
    for operation in operations:
        if operation.startswith(load):
            run += 1
            most = max(most, run)
        elif operation.startswith(use):
            run = 0
    return most


@needs_module
@needs_tool
def test_loads_are_wide_and_several_are_in_flight():
    found = kernels()

    def check(kernel: str, mangled: str, loads: int) -> None:
        (name,) = [n for n in found if f"{len(kernel)}{kernel}I{mangled}" in n]
        assert in_flight(found[name], "LDG.E.128", "F") >= loads, name

    for kernel in ("sparse_decode_kernel", "gather_dot_kernel"):
        check(kernel, "fLi4E", 8)  # fp32, four columns
        check(kernel, "NS_4bf16ELi8E", 8)  # bf16, eight
    for rows in (4, 8, 16):
        check("decode_loss_kernel", f"fLi4ELi{rows}E", rows)
        check("decode_loss_kernel", f"NS_4bf16ELi8ELi{rows}E", rows)
    for pieces in (1, 2, 4):
        check("hot_piece_kernel", f"Li4ELi{pieces}E", 8)
        check("row_grad_kernel", f"Li4ELi{pieces}E", 8)
        for own in (0, 1):
            check("row_grad_adam_kernel", f"Li4ELi{pieces}EfLb{own}E", 8)
            check("row_adam_kernel", f"Li4ELi{pieces}EfLb{own}E", 2 * pieces)
        check("encoder_grad_adam_kernel", f"Li4ELi{pieces}EfE", 8)
