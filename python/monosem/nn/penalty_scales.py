"""Factors on the coefficient of a penalty whose power p falls in steps, so that the penalty stays as large."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monosem.nn.penalties import lp
from monosem.ops import SparseCode
from monosem.ops.seen import Seen
from monosem.ops.shard import WHOLE, Shard


class PenaltyScales(nn.Module):
    """The factor on λ at each value that p takes, measured when a run reaches it.

    ``scale[j] = scale[i] · Σ lp(f, p_i) / Σ lp(f, p_j)`` over a code of the first batch at p_j, p_i being the value
    measured before: so that λ·Σ lp is the same for that code as it would have been without the change.

    Attributes:
        powers: p_0 = 1 > p_1 > …
        scales: float64 [values of p], a buffer: 1 for p_0; 0 is not measured yet.
    """

    scales: Tensor

    def __init__(self, powers: list[float], device: torch.device | str | None = None) -> None:
        super().__init__()
        self.powers = powers
        scales = torch.zeros(len(powers), device=device, dtype=torch.float64)
        scales[0] = 1.0
        self.register_buffer("scales", scales)
        # The numbers of the buffer as it is, so that a step does not wait for a GPU.
        self._known = Seen(scales), [1.0, *(0.0 for _ in powers[1:])]

    def _numbers(self) -> list[float]:
        if not self._known[0].is_still(self.scales):
            self._known = Seen(self.scales), self.scales.tolist()
        return self._known[1]

    def measured(self, step: int) -> int:
        """The last measured value of p up to this one."""
        return max(j for j, scale in enumerate(self._numbers()[: step + 1]) if scale)

    def of(self, step: int) -> float:
        """The factor at value number ``step`` of p; that of the one before where it was not reached in training."""
        return self._numbers()[self.measured(step)]

    def is_reached(self, step: int) -> bool:
        """Whether this is the value of p that was reached last."""
        numbers = self._numbers()
        return numbers[step] > 0 and not any(numbers[step + 1 :])

    @torch.no_grad()
    def reach(self, step: int, code: SparseCode, shard: Shard = WHOLE) -> None:
        """Measure the factor of value number ``step``, if it is new; later values are those of an earlier run.

        ``shard``: whose features and tokens the code is of.
        """
        self.scales[step + 1 :] = 0.0
        before = self.measured(step)
        if before == step:
            return
        values = code.values.double()
        sums = [lp(values, self.powers[j])[values > 0].sum() for j in (before, step)]
        there, here = shard.sum_all(torch.stack(sums))
        # A batch without an active feature tells nothing.
        self.scales[step] = self.scales[before] * torch.where(here > 0, there / here, 1.0)
