"""Description of this machine, and its measured rates of products and of memory."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import monosem
from monosem import doctor
from monosem.ops import backend
from monosem.ops.memory import available_memory, total_memory
from monosem.ops.selection import cpu_integers

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def describe() -> dict[str, Any]:
    """Processor, its instruction sets, threads, memory, versions, commit, load, and the backend that was chosen."""
    info = _cpuinfo()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "isa": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": total_memory(),
        "available_bytes": available_memory(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monosem": monosem.__version__,
        "commit": commit(),
        "backend": {f.what: f.state for f in doctor.examine() if f.what.startswith("cpu")},
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def commit(checkout: Path | None = None) -> str | None:
    """The commit that the package was loaded from, ``-dirty`` when it was changed; None outside a checkout.

    An installed package belongs to ``checkout``, if that is given and holds the same modules.
    """
    here = Path(monosem.__file__).parent
    if checkout is not None:
        source = checkout / "python" / "monosem"
        pairs = [(p, _in_checkout(p.relative_to(here), checkout)) for p in here.rglob("*.py")]
        if not all(theirs.exists() and theirs.read_bytes() == ours.read_bytes() for ours, theirs in pairs):
            return None
        here = source

    def git(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=False)

    try:
        if git("ls-files", "--error-unmatch", "__init__.py").returncode:
            return None  # installed, perhaps inside the checkout of something else
        dirty = git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", "../../csrc", "../../bench/*.py"
        ).stdout.strip()
        return git("rev-parse", "--short=12", "HEAD").stdout.strip() + ("-dirty" if dirty else "")
    except FileNotFoundError:
        return None


def _in_checkout(module: Path, checkout: Path) -> Path:
    """Where a module of the installed package, by its path in it, comes from: device code has a folder of its own."""
    inside = checkout / "python" / "monosem" / module
    return checkout / module if module.parts[0] == "kernels" and not inside.exists() else inside


def multiplies_bf16() -> bool:
    """Whether the processor has products in bf16 (AMX, AVX512-BF16): elsewhere autocast to bf16 only slows down."""
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


@cache
def int_rate(d: int, bits: int) -> float:
    """FLOP/s (two per multiply-add) of our integer product, on one panel of tokens and one of features."""
    if backend.native is None:
        raise RuntimeError(
            f"bench: monosem's compiled CPU module cannot be used ({backend.native_error}); without it there is no "
            "floor to measure for an integer product. Install it, or set MONOSEM_PRODUCT=fp32."
        )
    panels = backend.native.panels(f"int{bits}", d)
    left, right = (
        cpu_integers.QuantizedRows(torch.randn(n, d, dtype=torch.float32, device="cpu"), bits, tokens=tokens)
        for n, tokens in ((panels.tokens, True), (panels.features, False))
    )
    times, threads = 1 << 14, torch.get_num_threads()

    def run() -> None:
        backend.native.int_gemm_repeat(f"int{bits}", left.packed, right.packed, d, times, threads)

    return 2 * panels.tokens * panels.features * d * times * threads / fastest(run)


@cache
def product_rate(d: int, dtype: torch.dtype) -> float:
    """FLOP/s of ``x·Wᵀ`` at width D by PyTorch, in tiles that stay in cache: the best of several tile shapes."""
    f = 4096
    x, w = (
        torch.randn(2048, d, dtype=torch.float32, device="cpu").to(dtype),
        torch.randn(f, d, dtype=torch.float32, device="cpu").to(dtype),
    )

    def product(rows: int, cols: int) -> Callable[[], None]:
        tile = torch.empty(rows, cols, dtype=dtype, device="cpu")

        def run() -> None:
            for j in range(0, f, cols):
                torch.mm(x[:rows], w[j : j + cols].T, out=tile)

        return run

    return max(
        2 * rows * d * f / fastest(product(rows, cols))
        for rows, cols in ((256, 2048), (1024, 1024), (1024, 4096), (2048, 1024))
    )


@cache
def bandwidth(size: int = 1 << 28) -> float:
    """Bytes per second, reads and writes counted, of sweeps far larger than the caches: the best of a copy (which may
    read what it is about to overwrite) and a scaling in place (which need not)."""
    a, b = (
        torch.empty(size // 4, dtype=torch.float32, device="cpu").normal_(),
        torch.empty(size // 4, dtype=torch.float32, device="cpu"),
    )
    return 2 * size / min(fastest(lambda: b.copy_(a)), fastest(lambda: b.mul_(1.0)))


def fastest(call: Callable[[], Any], repeats: int = 7) -> float:
    """Seconds of the fastest of some calls, after one to warm up: the machine's rate without disturbance."""
    call()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    pairs = (line.split(":", 1) for line in path.read_text().split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
