"""The sums over tokens from which the figures of an evaluation are made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.scan import Block
from monosem.analysis.sources import check_sources
from monosem.data.counted import counted
from monosem.distributed.peers import Peers


def ratio(a: float, b: float) -> float:
    """a / b, NaN where b is 0 (nothing to explain or to recover)."""
    return a / b if b else math.nan


COMPARED = ("mean", "kl_sae", "kl_zero", "kl_mean")  # of ``Losses``, where predictions are compared


class Sums:
    """float64 sums by source: enough for every figure, over all tokens and for each source."""

    def __init__(self, d_out: int, sources: int) -> None:
        self.tokens, self.error, self.active, self.square, self.cosine, self.norms, self.nonzero = torch.zeros(
            7, sources, dtype=torch.float64, device="cpu"
        )
        check_sources(8 * sources * d_out, sources, f"the mean activations of each, {d_out:,} wide,")
        self.mean = torch.zeros(sources, d_out, dtype=torch.float64, device="cpu")
        self.predicted, self.clean, self.sae, self.zero = torch.zeros(4, sources, dtype=torch.float64, device="cpu")
        self.compared = {name: torch.zeros(sources, dtype=torch.float64, device="cpu") for name in COMPARED}

    def update(self, block: Block, target_source: Tensor, left_out: Sequence[int]) -> None:
        assert block.reconstruction is not None and block.target is not None
        source = block.source
        x, y = block.target.double().cpu(), block.reconstruction.double().cpu()
        xx, yy, xy = x.square().sum(1), y.square().sum(1), (x * y).sum(1)
        lengths = (xx * yy).sqrt()
        for total, part in (
            (self.tokens, torch.ones_like(xx)),
            (self.square, xx),
            (self.error, (x - y).square().sum(1)),
            (self.cosine, torch.where(lengths > 0, xy / lengths, 0.0)),
            (self.norms, torch.where(xx > 0, (yy / xx).sqrt(), 0.0)),
            (self.nonzero, (xx > 0).double()),
        ):
            total.index_add_(0, source, part)
        for at in (block.at, block.negative[1]):
            self.active += torch.bincount(source[at], minlength=len(self.active))
        self.mean.index_add_(0, source, x)
        if block.losses is None:  # of a model without next token
            return
        # A prediction is scored if its target counts; the first token of a row is nobody's target.
        scored = torch.from_numpy(counted(block.tokens.numpy(), 0, left_out)[:, 1:])
        flat = target_source[scored]
        self.predicted += torch.bincount(flat, minlength=len(self.predicted))
        for total, part in (
            (self.clean, block.losses.clean),
            (self.sae, block.losses.sae),
            (self.zero, block.losses.zero),
            *((total, getattr(block.losses, name)) for name, total in self.compared.items()),
        ):
            if part is not None:
                total.index_add_(0, flat, part.double().cpu()[scored])

    def add_over(self, peers: Peers) -> None:
        """Make these the sums over the tokens of all processes, of which each has read some."""
        for value in [*vars(self).values(), *self.compared.values()]:
            if isinstance(value, Tensor):
                peers.add_(value)

    def figures(self, which: list[int]) -> dict[str, Any]:
        """The figures over the tokens of these sources."""

        def of(total: Tensor) -> float:
            return float(total[which].sum())

        n, d = of(self.tokens), self.mean.shape[1]
        variance = of(self.square) - float((self.mean[which].sum(0) / max(n, 1)).square().sum()) * n
        clean, sae, zero = (ratio(of(t), of(self.predicted)) for t in (self.clean, self.sae, self.zero))
        return {
            "l0": ratio(of(self.active), n),
            "mse": ratio(of(self.error), n * d),
            "explained_variance": 1 - ratio(of(self.error), variance),
            "cosine": ratio(of(self.cosine), of(self.nonzero)),
            "norm_ratio": ratio(of(self.norms), of(self.nonzero)),
            "ce_clean": clean,
            "ce_sae": sae,
            "ce_zero": zero,
            "ce_loss_recovered": ratio(zero - sae, zero - clean),
        }

    def comparisons(self) -> dict[str, Any]:
        """The figures of the mean activation and of the divergences, over all tokens."""
        n = float(self.predicted.sum())
        mean, *divergences = (ratio(float(self.compared[name].sum()), n) for name in COMPARED)
        clean, sae = (ratio(float(total.sum()), n) for total in (self.clean, self.sae))
        named = dict(zip(COMPARED[1:], divergences, strict=True))
        return {"ce_mean": mean, "ce_loss_recovered_of_mean": ratio(mean - sae, mean - clean)} | named
