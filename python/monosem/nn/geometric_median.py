"""The point with the least sum of distances: where the decoder bias begins."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.precision import as_given


@torch.no_grad()
@as_given
def geometric_median(x: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Geometric median of the rows of x [n, D] by Weiszfeld's algorithm, in float64; returns [D] in x's dtype.

    ``argmin_c Σ_n ‖x_n − c‖``; stops when the centre moves less than ``tolerance`` × its spread.

    Raises:
        ValueError: x has no row.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x: got shape {list(x.shape)}; wanted [n, D] with at least one row")
    points = x.double()
    centre = points.mean(0)
    for _ in range(iterations):
        distance = (points - centre).norm(dim=-1)
        # A point on the centre has no direction: the floor keeps its weight finite without moving the optimum.
        spread = distance.median()
        weight = 1 / distance.clamp(min=1e-12 + 1e-6 * spread)
        moved = (weight @ points) / weight.sum()
        done = (moved - centre).norm() <= tolerance * spread
        centre = moved
        if done:
            break
    return centre.to(x.dtype)
