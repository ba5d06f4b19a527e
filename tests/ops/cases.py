"""Inputs that the operations are tried on, and the error that they may make."""

from __future__ import annotations

import torch
from torch import Tensor

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


def within_twice(ours: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The error budget: at most twice what plain PyTorch loses in the same precision, against float64.

    Where PyTorch happens to lose nothing, half a unit in the last place of the largest value is granted.
    """
    exact = exact.double()
    budget = 2 * (plain.double() - exact).abs().amax() if exact.numel() else exact.new_zeros(())
    unit = torch.finfo(ours.dtype).eps * exact.abs().amax() if exact.numel() else exact.new_zeros(())
    error = (ours.double() - exact).abs().amax() if exact.numel() else exact.new_zeros(())
    assert error <= torch.maximum(budget, unit), f"error {error:.3g}, budget {budget:.3g}, one unit {unit:.3g}"
