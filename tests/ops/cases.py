"""Inputs that the operations are tried on, and the error that they may make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from monosem.ops import gpu

# (tokens, d_in, d_sae, k): odd, prime, one, K = F, no token, and sizes that cross the kernels' tiles.
SHAPES = [(5, 7, 13, 3), (1, 1, 1, 1), (0, 8, 16, 4), (3, 64, 257, 257), (33, 96, 2053, 32), (1031, 33, 1100, 8)]
if gpu.interpreted():  # its programs run one after the other, in Python
    SHAPES = [*SHAPES[:4], (3, 96, 2053, 32)]


def here(t: Tensor) -> Tensor:
    """The tensor on the device where new ones are made."""
    return t.to(torch.get_default_device())


def encoder(n: int, d: int, f: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random x [n, d], w [f, d], b [f]."""
    g = torch.Generator().manual_seed(seed)
    x, w, b = (torch.randn(*size, generator=g, device="cpu") for size in ((n, d), (f, d), (f,)))
    return tuple(here(t.to(dtype)) for t in (x, w / d**0.5, b * 0.1))


def poisoned(empty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.empty``, full of what no kernel may read."""

    def poison(*size: Any, **options: Any) -> Tensor:
        t = empty(*size, **options)
        return t.fill_(torch.nan) if t.is_floating_point() else t.fill_(torch.iinfo(t.dtype).max - 7)

    return poison


def code(n: int, d: int, f: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A random CSR code with empty rows, rows of one entry and long rows: values, indices, offsets."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, min(f, 40) + 1, (n,), generator=g, device="cpu")
    if n > 1:
        counts[0] = 0
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = [torch.randperm(f, generator=g, device="cpu")[: int(c)].sort().values for c in counts]
    indices = torch.cat([*rows, counts.new_zeros(0)]).int()
    return tuple(here(t) for t in (torch.rand(len(indices), generator=g, device="cpu"), indices, offsets))


def plainly(function: Callable, *args: Tensor | int) -> Any:
    """What PyTorch makes of it, on the processor: there it loses the same every run. On a GPU index_add adds in any
    order, and other sums have trees of their own on every card."""

    def moved(device: str | torch.device, tree: Any) -> Any:
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)

    with torch.device("cpu"):
        out = function(*moved("cpu", args))
    return moved(torch.get_default_device(), out)


def used_of_budget(ours: Tensor, plain: Tensor, exact: Tensor) -> float:
    """The error against float64, relative to the budget: at most twice what plain PyTorch loses in the same precision.

    Where PyTorch happens to lose nothing, half a unit in the last place of the largest value is granted.
    """
    if not exact.numel():
        return 0.0
    exact = exact.double()
    budget = 2 * (plain.double() - exact).abs().amax()
    unit = torch.finfo(ours.dtype).eps * exact.abs().amax()
    error = (ours.double() - exact).abs().amax()
    return float(error / torch.maximum(budget, unit)) if error != 0 else 0.0


def within_twice(ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The error budget is kept."""
    assert (used := used_of_budget(ours, plain, exact)) <= 1, f"{used:.3g} × the error budget"
