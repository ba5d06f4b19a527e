"""What was built, what this machine has, and which backend runs on which tensor."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from monosem.ops import backend, gpu


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, its state in a word, and why."""

    what: str
    state: str
    why: str


def examine() -> list[Finding]:
    """Look at this installation and machine."""
    return [_python(), _native(), _product(), _device(), _cuda_module(), _triton(), *_choices()]


def _python() -> Finding:
    why = f"Python {platform.python_version()}, {torch.get_num_threads()} threads, {platform.machine()}"
    return Finding("torch", torch.__version__, why)


def _native() -> Finding:
    if backend.native is None:
        state = "missing" if backend.absent else "broken"
        return Finding("cpu kernels", state, f"{backend.native_error}; `pip install .` with a C++ compiler builds them")
    asked = os.environ.get("MONOSEM_ISA")
    have = ", ".join(backend.native.isas())
    why = f"set by MONOSEM_ISA={asked}" if asked else f"the best of this processor's: {have}"
    return Finding("cpu kernels", backend.native.isa(), why)


def _product() -> Finding:
    product = backend.cpu_product()
    exact = "; candidates are rescored in fp32"
    if product == "int8":
        exact += ", by a bound that holds for certain" if backend.certain() else ", by a bound with dither"
    if asked := os.environ.get("MONOSEM_PRODUCT"):
        return Finding("cpu product", asked, "set by MONOSEM_PRODUCT" + ("" if product == "fp32" else exact))
    tiles = backend.native is not None and backend.native.isa() == "amx"
    if backend.native is not None and product != "fp32" and backend.native.sparse_below(1):
        exact += "; sparse tokens, as after a ReLU: by lists of what is not 0"
    why = {
        "int8": "the processor has " + ("AMX: tiles of int8" if tiles else "VNNI: four times as fast as fp32"),
        "int16": "the processor has AVX2 or AVX-512, but no VNNI: twice as fast as fp32",
        "fp32": "the processor has no AVX2",
    }[product]
    return Finding("cpu product", product, why + ("" if product == "fp32" else exact))


def _device() -> Finding:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = "no device or driver" if built else "this build of torch is for the CPU only"
        return Finding("gpu", "none", why)
    p = torch.cuda.get_device_properties(0)
    return Finding("gpu", "found", f"{p.name}, {p.total_memory >> 30} GiB, compute capability {p.major}.{p.minor}")


def _cuda_module() -> Finding:
    said = Path(__file__).parent / "cuda_build.txt"  # what CMake wrote when this was built
    why = said.read_text(encoding="utf-8").strip() if said.exists() else "there is no record of how this was built"
    if not importlib.util.find_spec("monosem._cuda"):
        return Finding("cuda kernels", "none", why)
    try:
        importlib.import_module("monosem._cuda")
    except ImportError as error:
        return Finding("cuda kernels", "broken", f"{why}, but: {error}")
    return Finding("cuda kernels", "built", why)


def _triton() -> Finding:
    missing = gpu.available("triton")
    if missing:
        return Finding("triton", "none", missing)
    return Finding(
        "triton", "found", f"version {importlib.metadata.version('triton')}; its kernels compile at first use"
    )


def _choices() -> list[Finding]:
    choice = backend.requested()
    if choice == "reference":
        cpu = "set by MONOSEM_BACKEND"
    elif backend.absent and "MONOSEM_BACKEND" not in os.environ:
        choice = "reference"
        cpu = "the definitions in plain PyTorch, slow and with an array of tokens × features: nothing was compiled"
    elif backend.native is None:
        cpu = "but it cannot be used: a call raises; MONOSEM_BACKEND=reference runs without"
    else:
        cpu = "float32 and bfloat16; float64 runs the definitions in PyTorch"
    return [
        Finding("on cpu tensors", "native" if choice in ("triton", "cuda") else choice, cpu),
        *_on_gpu_tensors(),
        Finding("monosem", "in", os.path.dirname(sys.modules["monosem"].__file__)),
    ]


def _on_gpu_tensors() -> list[Finding]:
    """One line for each choice that differs, naming its operations."""
    found: dict[tuple[str, str], list[str]] = {}
    for op in gpu.IMPLEMENTATIONS:
        try:
            choice = gpu.choose(op)
        except RuntimeError as error:
            choice = ("nothing", str(error))
        found.setdefault(choice, []).append(op)
    lines = []
    for (name, why), operations in found.items():
        which = "all operations" if len(operations) == len(gpu.IMPLEMENTATIONS) else ", ".join(operations)
        lines.append(Finding("on gpu tensors", name, f"{which}: {why}; float64 runs the definitions"))
    return lines
