"""The step restricted to older instruction sets, as on processors without the newer ones, next to plain PyTorch.

PyTorch and the libraries under it are held down to the same level, so that each line compares like with like.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monosem.bench import step_comparison
from monosem.bench.rounds import DENSE, MONOSEM, Entrant
from monosem.bench.workloads import Workload
from monosem.ops import backend

# For each level of our kernels: its name in PyTorch, in oneDNN and in MKL, and the precision of the encoder's product.
_LEVELS = {
    "amx": ("avx512", "AVX512_CORE_AMX", "AVX512", "int8"),
    "avx512vnni": ("avx512", "AVX512_CORE_VNNI", "AVX512", "int8"),
    "avx512": ("avx512", "AVX512_CORE", "AVX512", "int16"),
    "avxvnni": ("avx2", "AVX2_VNNI", "AVX2", "int8"),
    "avx2": ("avx2", "AVX2", "AVX2", "int16"),
    "baseline": ("default", "SSE41", "SSE4_2", "fp32"),
}


def entrants() -> list[Entrant]:
    """As it is, then each level that this processor has, without bf16 products, ours and plain PyTorch's."""
    chosen = [MONOSEM, DENSE]
    for level in (name for name in _LEVELS if name in backend.native.isas()):
        torchs, onednn, mkl, product = _LEVELS[level]
        env = {
            "MONOSEM_ISA": level,
            "MONOSEM_PRODUCT": product,
            "ATEN_CPU_CAPABILITY": torchs,
            "ONEDNN_MAX_CPU_ISA": onednn,
            "MKL_ENABLE_INSTRUCTIONS": mkl,
        }
        chosen += [replace(e, name=f"{e.name} ({level})", env=env) for e in (MONOSEM, DENSE)]
    return chosen


def measure(w: Workload, **how: Any) -> dict[str, Any]:
    """``step.compare`` of all levels; ratios are to monosem as it is."""
    result = step_comparison.compare(w, entrants(), **how)
    return result | {"what": "instruction_sets"}
