"""Block sizes of every kernel from one function: a rule, then a table measured on that very GPU.

No search at run time: ``block(kernel, size, device)`` gives the same answer every time. Tables are JSON files in
``kernels/tuned/``, one a GPU, named after it; each entry was faster there than the rule's choice, and gives right
results (``monosem bench --tune`` writes them). Without a table for a GPU, the rule holds. ``MONOSEM_TUNED`` names
another folder of tables, where the package cannot be written, or a table is to be tried first.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

TUNED = Path(os.environ.get("MONOSEM_TUNED") or Path(__file__).parent / "tuned")


def power2(n: int) -> int:
    """The least power of two ≥ n."""
    return 1 << max(0, n - 1).bit_length()


def block(kernel: str, size: int, gpu: str, arch: str) -> dict[str, Any]:
    """Constants and launch options (``num_warps``, ``num_stages``) of a kernel; or what ``_CHOICES`` names.

    Args:
        kernel: name of the kernel.
        size: what its blocks depend on: D for kernels over rows, slots for those over candidates, bytes per number for
            the product.
        gpu: name of the device, for its table.
        arch: ``sm_90``, ``gfx942`` … or ``interpreter``.
    """
    special = _INTERPRETER.get(kernel, {}) if arch == "interpreter" else table(gpu).get(kernel, {}).get(str(size), {})
    return {**(_RULES.get(kernel) or _CHOICES[kernel])(size, arch), **special}


@cache
def table(gpu: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What was measured on this GPU: {kernel: {size: {constant: value}}}; empty when nothing was."""
    path = TUNED / f"{slug(gpu)}.json"
    return json.loads(path.read_text(encoding="utf-8"))["kernels"] if path.exists() else {}


def slug(gpu: str) -> str:
    """File name of a GPU's table."""
    return re.sub(r"[^a-z0-9]+", "_", gpu.lower()).strip("_") or "none"


def alternatives(kernel: str, size: int, arch: str) -> list[dict[str, Any]]:
    """Choices to measure against the rule. None spills on the chips that tests compile for."""
    if kernel in ("select", "select_active"):
        some = [form for form in forms(arch) if form != "slab" or kernel == "select"]
        return [{"form": form} for form in some if {"form": form} != _CHOICES[kernel](size, arch)]
    if kernel == "product":
        return [{"kind": "int8"}] if arch.startswith("sm_") else []
    if kernel in ("collect", "collect_hits", "sample"):
        if size == 4:
            return []
        # Tiles twice as large would halve what is read, but their sums, slots and addresses do not fit the registers.
        shapes = [(128, 128, 64, 8, 4), (128, 64, 64, 4, 4), (64, 128, 64, 8, 4)]
        if arch.startswith("gfx"):
            shapes = [(128, 128, 32, 8, 2), (128, 64, 64, 4, 2), (64, 128, 64, 4, 2)]
        return [{"BM": m, "BN": n, "BK": k * 2 // size, "num_warps": w, "num_stages": s} for m, n, k, w, s in shapes]
    if kernel == "decode_loss":
        choices = [{"HELD": held, "num_warps": w} for held, w in ((2048, 4), (4096, 4), (4096, 8), (8192, 8))]
        return [choice for choice in choices if {**_RULES[kernel](size, arch), **choice} != _RULES[kernel](size, arch)]
    if kernel in ("row_grad_adam", "encoder_grad_adam", "row_grad", "sparse_decode", "gather_dot", "score", "choose"):
        rule = _RULES[kernel](size, arch)
        key = "C" if kernel in ("score", "choose") else "J"
        # ``choose`` holds a row's candidates as well.
        rows, warps = ((1, 2, 4), (8, 16)) if kernel == "choose" else ((1, 2, 4, 8), (4, 8, 16))
        choices = [{key: j, "num_warps": w} for j in rows for w in warps]
        per_thread = [rule["BD"] / (32 * c["num_warps"]) for c in choices]
        pairs = zip(choices, per_thread, strict=True)
        choices = [c for c, n in pairs if n <= MOST_OF_A_ROW and n * c[key] <= MOST_IN_FLIGHT]
        return [choice for choice in choices if {**rule, **choice} != rule]
    return []


MOST_IN_FLIGHT = 32  # numbers that a thread holds of rows whose loads are in flight
MOST_OF_A_ROW = 16  # and of one row: beside it there may be two moments, a sum and a copy


def _product(element: int, arch: str) -> dict[str, int]:
    if element == 4:  # fp32 without tensor cores: as much as the registers hold
        return {"BM": 64, "BN": 64, "BK": 32, "num_warps": 4, "num_stages": 2}
    stages = 2 if arch.startswith("gfx") else 3
    return {"BM": 128, "BN": 128, "BK": 128 // element, "num_warps": 8, "num_stages": stages}


def _whole_row(d: int, arch: str) -> dict[str, int]:
    """All of a row in registers; J rows in flight."""
    bd = max(16, power2(d))
    warps = 1 if bd <= 128 else 2 if bd <= 256 else 4 if bd <= 1024 else 8 if bd <= 4096 else 16
    return {"BD": bd, "J": max(1, min(8, 32 * warps * 32 // bd)), "num_warps": warps, "num_stages": 1}


def _row(d: int, arch: str) -> dict[str, int]:
    """The same with one row."""
    return {name: choice for name, choice in _whole_row(d, arch).items() if name != "J"}


def _part_row(d: int, arch: str) -> dict[str, int]:
    """A row in parts of at most 1,024 columns: as wide as leaves the fewest lanes idle (of 2,304 columns 9 × 256)."""
    return _whole_row(min(d, max((1024, 512, 256), key=lambda part: -part * -(-d // part))), arch)


def _dots(name: str, rows: int, most: int):
    def rule(d: int, arch: str) -> dict[str, int]:
        return {name: rows, "BD": max(16, min(most, power2(d))), "num_warps": 4, "num_stages": 1}

    return rule


def _slots(cap: int, arch: str) -> dict[str, int]:
    """A row's candidates in registers."""
    return {"num_warps": slot_warps(cap), "num_stages": 1}


def slot_warps(cap: int) -> int:
    return 4 if cap <= 1024 else 8 if cap <= 4096 else 16


def _registers(most: int, arch: str) -> dict[str, int]:
    """Registers per thread on Ampere, Ada and Hopper, where the compiler by itself takes too many, or too few."""
    return {"maxnreg": most} if arch[:4] in ("sm_8", "sm_9") else {}


def _fixed(**constants: int):
    return lambda size, arch: {"num_stages": 1, **constants}


def together(f: int) -> int:
    """Features that one program of the encoder's sweep takes in turn, of f: their weighted sum of rows is a row to
    write and to read again, an eighth of the weights at most; and programs enough for any chip."""
    return max(8, min(32, f // 4096))


# How the candidates of ``topk_encode`` are found; all are exact. No GPU has measured yet which is fastest.
#   scan: a threshold from a sample; ``collect`` bounds and counts every product, in any layout.
#   hits: the same threshold; a product not above it costs a comparison and a branch (NVIDIA only, bf16 products).
#   slab: cuBLAS writes products of 2,048 features, which stay in cache; one program per row filters them.
FORMS = ("scan", "hits", "slab")


def forms(arch: str) -> list[str]:
    """The forms that exist on this architecture."""
    return [form for form in FORMS if form != "hits" or arch.startswith("sm_")]


def _form(d: int, arch: str) -> dict[str, str]:
    """A product costs 2·D operations, on an H100 some 2.6 ps · D / 1,000, and in a slab 4 bytes through the cache, some
    0.8 ps: two fifths of it at D 768, a twelfth at D 4,096. There cuBLAS' product should gain more than that; below,
    the products are looked at in the registers where they are."""
    if arch == "interpreter":
        return {"form": "scan"}
    return {"form": "slab" if d >= 1024 else "hits" if arch.startswith("sm_") else "scan"}


def _hits(element: int, arch: str) -> dict[str, int]:
    """Tiles of ``collect`` for hits: 128 registers per thread at most, so that a multiprocessor runs two programs."""
    smaller = {"sm_8": {"BN": 64}, "sm_9": {"BM": 64, "num_warps": 4} if element == 1 else {}} if element < 4 else {}
    return {**_RULES["collect"](element, arch), **smaller.get(arch[:4], {})}


# What is chosen by name and size like block sizes, and measured like them, but is no kernel.
_CHOICES = {
    "product": lambda d, arch: {"kind": "bf16"},  # or int8 with dither, where a GPU's table says that it is faster
    "select": _form,
    "select_active": lambda d, arch: {"form": "hits" if arch.startswith("sm_") else "scan"},  # where the threshold is 0
    "collect_hits": _hits,
}
_RULES = {
    "round_rows": _dots("R", 4, 512),
    "quantize_rows": lambda d, arch: {**_row(d, arch), "R": 1},
    "sample": _product,
    "collect": lambda element, arch: {**_product(element, arch), "GROUP": 8},
    "set_threshold": _slots,
    "sift": lambda cap, arch: {"num_warps": max(8, slot_warps(cap)), "num_stages": 1},
    "score": _dots("C", 8, 512),
    "choose": lambda d, arch: {**_dots("C", 4, 512)(d, arch), "B": 32, "num_warps": 8},
    # The rest are those of ``choose`` there and then, so that the order of additions is the same.
    "redo": lambda size, arch: {  # left alone, 8 bytes spill
        **{"R": 8, "BF": 512, "num_stages": 1},
        **_registers(96, arch),
    },
    "emit": _fixed(B=32, num_warps=2),
    "unpack_features": _fixed(B=256, num_warps=2),
    "count_kept": _fixed(B=256, num_warps=2),
    "place": _fixed(B=32, num_warps=2),
    "sparse_decode": _part_row,
    "gather_dot": _dots("J", 8, 512),
    "decode_loss": _fixed(HELD=4096, FEW=16, num_warps=4),
    "count": _fixed(B=64, num_warps=1),
    "scatter": _fixed(B=64, num_warps=1),
    "settle": _fixed(B=32, WALK=64, num_warps=8),
    "windows": _part_row,
    "row_grad": _part_row,
    "feature_sum": _fixed(B=64, num_warps=1),
    "row_adam": _row,
    "advance_live": _fixed(num_warps=1),
    "flat_adam": _fixed(B=1024, num_warps=4),
    "row_grad_adam": _whole_row,
    # With moments in 16 bits the compiler would take 164 registers of a thread; two programs of 8 warps have 128, which
    # do as well, but for Blackwell, where some would spill.
    "encoder_grad_adam": lambda d, arch: {
        **_whole_row(d, arch),
        **(_registers(128, arch) if power2(d) == 4096 else {}),
    },
    "row_norm": lambda d, arch: {"BD": max(64, min(1024, power2(d))), "num_warps": 4, "num_stages": 1},
    "resample": lambda d, arch: {"BD": max(64, min(1024, power2(d))), "num_warps": 4, "num_stages": 1},
}
# Triton's interpreter runs one program after the other and pays for each operation, however large its blocks are.
_INTERPRETER = {
    "sample": {"BM": 16, "BN": 256},
    "collect": {"BM": 16, "BN": 256},
    "collect_hits": {"BM": 16, "BN": 256},
    "round_rows": {"R": 512},
    "quantize_rows": {"R": 256},
    "score": {"C": 32},
    "choose": {"C": 512, "B": 128},
    "emit": {"B": 128},
    "place": {"B": 128},
    "count": {"B": 16},
    "scatter": {"B": 16},
}
