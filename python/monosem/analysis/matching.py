"""Which learned direction stands for which planted one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from monosem.ops import SparseCode
from monosem.ops.precision import as_given

MOST_PAIRS = 1 << 27  # of an optimal assignment: its matrix of float32 then takes 512 MiB
_BLOCK = 1 << 22  # cosines in memory at a time


@dataclass(frozen=True)
class Match:
    """The nearest of the other side, by cosine.

    Attributes:
        feature, cosine: of each latent, the nearest true feature: int64 and float32 [F].
        latent, best: of each true feature, the nearest latent: int64 and float32 [F_true].
    """

    feature: Tensor
    cosine: Tensor
    latent: Tensor
    best: Tensor

    def mutual(self, least: float) -> Tensor:
        """The latent of each true feature where each is the nearest of the other, at a cosine above ``least``; else −1.

        int64 [F_true]. No latent stands for two features.
        """
        true = torch.arange(len(self.latent), device=self.latent.device)
        is_mutual = (self.feature[self.latent] == true) & (self.best > least)
        return torch.where(is_mutual, self.latent, -1)


@as_given
@torch.no_grad()
def match(learned: Tensor, true: Tensor) -> Match:
    """The nearest true feature of each decoder row [F, D], and the nearest row of each true feature [F_true, D].

    Ties go to the lowest number. The cosines are made in blocks of rows; F × F_true of them are never in memory.
    """
    learned, true = unit(learned, true)
    best = torch.full((len(true),), -torch.inf, dtype=torch.float32, device=true.device)
    latent = torch.zeros(len(true), dtype=torch.int64, device=true.device)
    features, cosines = [], []
    for start, cosine in cosine_blocks(learned, true):
        of_rows, of_features = cosine.max(1), cosine.max(0)
        cosines.append(of_rows.values)
        features.append(of_rows.indices)
        nearer = of_features.values > best
        best = torch.where(nearer, of_features.values, best)
        latent = torch.where(nearer, of_features.indices + start, latent)
    return Match(torch.cat(features), torch.cat(cosines), latent, best)


@as_given
@torch.no_grad()
def mean_correlation(learned: Tensor, true: Tensor) -> float:
    """MCC: mean absolute cosine of the one-to-one assignment of rows [F, D] to features [F_true, D] that maximises it.

    min(F, F_true) pairs. 1: every row is a feature, none twice. Source: O'Neill et al. 2024 (arXiv 2411.13117).

    Raises:
        ValueError: F·F_true above 2²⁷; ``match`` has no limit.
        ImportError: SciPy is not there.
    """
    learned, true = unit(learned, true)
    if len(learned) * len(true) > MOST_PAIRS:
        raise ValueError(
            f"learned, true: got {len(learned):,} and {len(true):,} rows; wanted at most {MOST_PAIRS:,} pairs for an "
            "optimal assignment. Use match(learned, true).best.mean()."
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError("an optimal assignment needs SciPy: pip install 'monosem[analysis]'") from None
    cosine = (learned @ true.T).abs().cpu().numpy()
    return float(cosine[linear_sum_assignment(cosine, maximize=True)].astype(float).mean())


def unit(learned: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    if learned.ndim != 2 or true.ndim != 2 or learned.shape[1] != true.shape[1] or not len(learned) or not len(true):
        raise ValueError(
            f"learned, true: got {list(learned.shape)} and {list(true.shape)}; wanted [F, D] and [F_true, D], not empty"
        )
    true = true.detach().to(learned.device, torch.float32)
    return F.normalize(learned.detach().to(torch.float32), dim=1), F.normalize(true, dim=1)


def cosine_blocks(learned: Tensor, true: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first row and the cosines of each block of rows with all true features; both sides have unit rows."""
    rows = max(1, _BLOCK // len(true))
    for start in range(0, len(learned), rows):
        yield start, _cosines(learned[start : start + rows], true)


@as_given
def _cosines(learned: Tensor, true: Tensor) -> Tensor:
    return learned @ true.T


def active_entries(code: SparseCode) -> tuple[Tensor, Tensor, Tensor]:
    """Token, feature and value of each entry above 0, on the CPU: int64, int64 and the code's dtype."""
    values, indices, _ = code.csr()
    active = values > 0
    return code.row_ids()[active].cpu(), indices[active].long().cpu(), values[active].detach().cpu()
