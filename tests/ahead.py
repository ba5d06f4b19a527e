"""Compile what the operations would launch, at real sizes, for GPUs that are not here."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from by_backend import implementations
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from monosem.kernels import launch
from monosem.ops import backend, triton_launch
from monosem.ops.row_adam.triton import advance_live_
from monosem.ops.selection import triton_operand
from monosem.ops.threshold_encode import triton as threshold_triton
from monosem.ops.tune_table import override

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.bool: "i1",
    torch.int8: "i8", torch.uint8: "u8", torch.float64: "fp64",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "maxnreg")


@dataclass(frozen=True)
class Launch:
    """A kernel with the types of its arguments, its constants and its options; the grid is left out."""

    kernel: object
    signature: tuple[tuple[str, str], ...]
    divisible: tuple[int, ...]
    constants: tuple[tuple[str, object], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__

    def compile(self, arch: str):
        names = self.kernel.arg_names
        constants = dict(self.constants)
        signature = {n: dict(self.signature).get(n, "constexpr") for n in names}
        source = ASTSource(
            self.kernel,
            signature,
            {(names.index(n),): v for n, v in constants.items()},
            {(i,): [["tt.divisibility", 16]] for i in self.divisible},
        )
        return triton.compile(source, target=TARGETS[arch], options=dict(self.options))


def recorded(monkeypatch, arch: str, calls: Callable[[], None]) -> list[Launch]:
    """The different launches that ``calls`` would make on a GPU of this architecture, in order."""
    seen: dict[Launch, None] = {}

    def record(kernel, grid: int, *args, **options) -> None:
        if not grid:
            return
        assert grid < 2**31
        names = kernel.arg_names
        constants = {n: v for n, v in options.items() if n not in OPTIONS}
        signature, divisible = [], []
        for i, (name, a) in enumerate(zip(names, args, strict=False)):
            if isinstance(a, torch.Tensor):
                signature.append((name, "*" + TYPES[a.dtype]))
                divisible.append(i)
            elif isinstance(a, float):
                signature.append((name, "fp32"))
            elif a is None:
                constants[name] = None
            elif kernel.params[i].do_not_specialize:
                signature.append((name, "i32"))
            elif a == 1:
                constants[name] = 1
            else:
                signature.append((name, "i32" if a < 2**31 else "i64"))
                if a % 16 == 0:
                    divisible.append(i)
        assert len(args) + len({n for n in constants if n in options}) == len(names), kernel
        launch = Launch(
            kernel, tuple(signature), tuple(divisible), tuple(constants.items()),
            tuple((n, options[n]) for n in OPTIONS if n in options),
        )  # fmt: skip
        seen[launch] = None

    monkeypatch.setattr(triton_launch, "assumed", ("", arch))
    monkeypatch.setattr(triton_launch, "run", record)
    monkeypatch.setattr(threshold_triton, "_wait_for", lambda *n: [100, 1000][: len(n)])
    calls()
    return list(seen)


def resources(compiled, folder: Path) -> dict[str, int]:
    """Registers, bytes spilled and shared memory of a compiled kernel."""
    found = {"shared": compiled.metadata.shared}
    if "cubin" in compiled.asm:
        path = folder / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
        found["registers"] = int(re.search(r"REG:(\d+)", text).group(1))
        found["spilled"] = int(re.search(r"LOCAL:(\d+)", text).group(1)) + int(re.search(r"STACK:(\d+)", text).group(1))
    else:
        text = compiled.asm["amdgcn"]
        found["registers"] = int(re.search(r"\.vgpr_count:\s+(\d+)", text).group(1))
        found["spilled"] = int(re.search(r"\.vgpr_spill_count:\s+(\d+)", text).group(1))
    return found


def instructions(compiled, folder: Path) -> list[str]:
    """Names of the machine's instructions of a kernel for NVIDIA, in order."""
    path = folder / "kernel.cubin"
    path.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    text = subprocess.run([tool, "-sass", path], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", text, re.M)


def step(n: int, d: int, f: int, k: int) -> Callable[[], None]:
    """A training step's operations, and those of ReLU, on tensors of these sizes that have no memory."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    kernels = implementations("triton")

    def calls() -> None:
        x, w, b, b_dec = empty(n, d), empty(f, d), empty(f), empty(d)
        for form in launch.forms(triton_launch.assumed[1]):
            with override(launch.table(""), "select", d, {"form": form}):
                kernels.topk_encode(x, w, b, k)
        # By products in int8 too: what reads them, and what writes them.
        small = []
        if backend.gpu_product() == "auto":
            with override(launch.table(""), "product", d, {"kind": "int8"}):
                kernels.topk_encode(x, w, b, k)
                kernels.threshold_encode(x, w, b)
                kernels.threshold_encode(x, w, b, b)
                small = [triton_operand.empty_copy(w)]
        kernels.threshold_encode(x, w, b)
        kernels.threshold_encode(x, w, b, b)
        copy = triton_operand.empty_copy(w)
        for threshold in (None, b):
            kernels.threshold_encode_within(x, w, b, 40 * n, 256, *(copy or (None, None)), threshold)
        values, indices = empty(n * k), empty(n * k, dtype=torch.int32)
        offsets = empty(n + 1, dtype=torch.int64)
        kernels.sparse_decode(values, indices, offsets, w, b_dec)
        kernels.gather_dot(x, indices, offsets, w)
        kernels.decode_loss(values, indices, offsets, w, b_dec, x)
        csc = kernels.csc(indices, offsets, f)
        kernels.row_grad(*csc, values, x)
        kernels.feature_sum(*csc[:2], values)
        adam = (1e-3, 0.9, 0.999, 1e-8, 1)
        for unit in (False, True):
            kernels.row_adam_(w, empty(f, d), empty(f, d), w, *adam, unit)
            kernels.row_grad_adam_(w, empty(f, d), empty(f, d), *csc, values, x, 1.0, *adam, unit)
        kernels.encoder_grad_adam_(
            w, empty(f, d), empty(f, d), *csc, values, x, None, *adam, False, None, None, *(copy or (None, None))
        )
        advance_live_(empty(8), empty(1, dtype=torch.float64), empty(1, dtype=torch.int64), 0.9, 0.999)
        for int8 in small:
            for moments in (
                (empty(f, d), empty(f, d)),
                (empty(f, d, dtype=torch.int8), empty(f, d, dtype=torch.uint8)),
            ):
                given = (False, False, None, empty(2, f) if moments[0].dtype == torch.int8 else None, *int8)
                kernels.row_adam_(w, *moments, w, *adam, *given)
                kernels.encoder_grad_adam_(w, *moments, *csc, values, x, None, *adam, *given[1:])
        # Less memory: what is read and written differs. By a feature's row, given or reduced.
        live, scales, kept = empty(8), empty(2, f), copy or (None, None)
        for m, v, given in (
            (torch.bfloat16, torch.bfloat16, (False, False, live, None, None, None)),
            (torch.int8, torch.uint8, (False, True, live, scales, *kept)),
            (torch.int8, torch.uint8, (True, True, None, scales, None, None)),
        ):
            moments = empty(f, d, dtype=m), empty(f, d, dtype=v)
            kernels.row_adam_(w, *moments, w, *adam, *given)
            kernels.row_grad_adam_(w, *moments, *csc, values, x, 1.0, *adam, *given)
            kernels.encoder_grad_adam_(w, *moments, *csc, values, x, values, *adam, *given[1:])
        # A multiple of the row in its gradient: one per row; and one per half, of rows that may be left alone.
        for m, v, given in (
            (torch.float32, torch.float32, (False, False, None, None, None, None, empty(f, 1))),
            (torch.int8, torch.uint8, (False, True, None, scales, None, None, empty(f, 2))),
        ):
            moments = empty(f, d, dtype=m), empty(f, d, dtype=v)
            kernels.row_adam_(w, *moments, w, *adam, *given)
            kernels.row_grad_adam_(w, *moments, *csc, values, x, 1.0, *adam, *given)
        chosen = empty(10, dtype=torch.int64)
        kernels.resample_(w, w, b, [], chosen, empty(10, d), empty(f, dtype=torch.bool), 0.2)

    return calls
