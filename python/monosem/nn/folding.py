"""Affine maps of activations, and an autoencoder that was trained behind one, with the map folded into its weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.nn.activations import BatchThreshold
from monosem.nn.base import SAE
from monosem.nn.composed import ComposedSAE
from monosem.nn.config import TrainedOn
from monosem.ops.precision import as_given

_BLOCK = 1 << 14  # rows that are in float64 at a time
_WEIGHTS = ("W_enc_rows", "W_dec", "b_enc", "b_dec", "W_skip")


@dataclass(frozen=True, eq=False)
class Affine:
    """``x ↦ A·(x − m)`` of activations [..., d], A symmetric.

    Attributes:
        matrix: A, float64: 0-dim (a factor), or [d, d].
        inverse: of A, in the same form.
        mean: m, float64 [d].
    """

    matrix: Tensor
    inverse: Tensor
    mean: Tensor

    @classmethod
    def scaling(cls, factor: float, d: int, device: torch.device | str = "cpu") -> Affine:
        """A factor alone."""
        a = torch.tensor(factor, dtype=torch.float64, device=device)
        return cls(a, 1 / a, torch.zeros(d, dtype=torch.float64, device=device))

    @property
    def is_scaling(self) -> bool:
        return self.matrix.ndim == 0

    @as_given
    def __call__(self, x: Tensor) -> Tensor:
        """In the type of x."""
        if self.is_scaling:
            return x * self.matrix.to(x.dtype)
        return (x - self.mean.to(x.dtype)) @ self.matrix.to(x.dtype)

    def undone(self, y: Tensor) -> Tensor:
        """x of the y that a call gave."""
        return _times(y, self.inverse.to(y.dtype)) + self.mean.to(y.dtype)


@as_given
def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    return rows * matrix if matrix.ndim == 0 else rows @ matrix


class Joint:
    """Maps of activations that stand side by side."""

    def __init__(self, maps: Sequence[Affine]) -> None:
        self.maps, self.widths = list(maps), [len(each.mean) for each in maps]
        self.mean = torch.cat([each.mean for each in maps])

    def __call__(self, x: Tensor) -> Tensor:
        return self._each(x, [each.__call__ for each in self.maps])

    def undone(self, y: Tensor) -> Tensor:
        return self._each(y, [each.undone for each in self.maps])

    def read_by(self, rows: Tensor) -> Tensor:
        """Rows of weights [n, Σ d] that read mapped activations, as rows that read those before the map."""
        return self._each(rows, [lambda part, each=each: _times(part, each.matrix) for each in self.maps])

    def written_by(self, rows: Tensor) -> Tensor:
        """Rows of weights that write mapped activations, as rows that write those before the map."""
        return self._each(rows, [lambda part, each=each: _times(part, each.inverse) for each in self.maps])

    @property
    def factor(self) -> Tensor | None:
        """The factor that all of it is multiplied by; None where there is no such number."""
        factors = [each.matrix for each in self.maps]
        same = all(each.is_scaling for each in self.maps) and all(bool(f == factors[0]) for f in factors)
        return factors[0] if same else None

    def _each(self, x: Tensor, functions: Sequence) -> Tensor:
        parts = x.split(self.widths, dim=-1)
        done = [function(part) for function, part in zip(functions, parts, strict=True)]
        return done[0] if len(done) == 1 else torch.cat(done, -1)


def check_folds(sae: SAE, one_factor: bool, argument: str) -> None:
    """Raise ValueError unless such maps can be folded into the weights of this kind exactly.

    Args:
        one_factor: each part of a batch is multiplied by a factor of its own, and nothing else is done to it.
        argument: the setting that asks for them, for the message.
    """
    activation = sae.composition.activation if isinstance(sae, ComposedSAE) else None
    if activation is None or not activation.is_homogeneous:
        what = f"the activation {type(activation).__name__}" if activation is not None else "an encoder of its own"
        raise ValueError(
            f"{argument} on kind {sae.cfg.kind!r}, which has {what}; wanted 'none': it is not known how its weights "
            "change with the scale of activations, and a dictionary that is saved takes activations as they are."
        )
    unknown = sorted(set(sae.declared()) - {*_WEIGHTS, *activation.vectors})
    if unknown:
        raise ValueError(
            f"{argument} on kind {sae.cfg.kind!r}; wanted 'none': it is not known how its {', '.join(unknown)} changes "
            "with the scale of activations, and a dictionary that is saved takes activations as they are."
        )
    several = len(sae.batch_widths) > 1 and sae.cfg.trained_on != TrainedOn.PAIR
    if activation.compares_features and sae.has_unit_rows and (several or not one_factor):
        why = "several activations, each with a factor of its own," if one_factor else "whitening"
        raise ValueError(
            f"{argument} on {sae.cfg.describe()}: it compares features with each other and keeps decoder rows unit, "
            f"which {why} would not leave so; wanted 'none'"
            + (", 'mean_norm'" if not several else "")
            + ", or an activation of each feature by itself: relu, jumprelu or gated."
        )


@as_given
@torch.no_grad()
def folded(sae: SAE, maps: Sequence[Affine]) -> SAE:
    """A copy of an autoencoder of mapped activations that takes and gives them as they were before the map.

    Its code has the same active features, and its reconstruction is that of the original, mapped back. Where decoder
    rows are kept unit, values, biases and thresholds change by a factor per feature, so that the rows have the same
    norms as before; where norms are free, the values stay and the rows change. The weights are computed in float64.

    Args:
        maps: one per part of a training batch (``SAE.batch_widths``).
    """
    out = copy.deepcopy(sae)
    pair = sae.cfg.trained_on == TrainedOn.PAIR
    reads, writes = (Joint(maps[:1]), Joint(maps[1:])) if pair else (Joint(maps),) * 2
    weights = dict(out.named_parameters())
    factors = torch.ones(sae.n_held, dtype=torch.float64, device=sae.W_dec.device)
    shift = torch.zeros_like(factors)  # of b_enc, by the mean of what is read
    for first in range(0, sae.n_held, _BLOCK):
        here = slice(first, first + _BLOCK)
        encoder, decoder = sae.W_enc_rows[here].double(), sae.W_dec[here].double()
        if sae.has_unit_rows and writes.factor is not None:  # the rows stay as they are, without rounding
            factors[here] = 1 / writes.factor
            if reads.factor is not None:
                encoder = encoder * (reads.factor / writes.factor)
            else:
                encoder = reads.read_by(encoder) / writes.factor
        else:
            written = writes.written_by(decoder)
            if sae.has_unit_rows:
                factors[here] = _lengthened(decoder, written)
            encoder, decoder = reads.read_by(encoder) * factors[here, None], written / factors[here, None]
        if not sae.is_centred:
            shift[here] = -(encoder @ reads.mean)
        out.W_dec[here] = decoder.to(out.W_dec.dtype)
        out.W_enc_rows[here] = encoder.to(out.W_enc_rows.dtype)
    out.b_enc.copy_(sae.b_enc.double() * factors + shift)
    out.b_dec.copy_(writes.undone(sae.b_dec.double()))
    if "W_skip" in weights:
        skip = writes.written_by(reads.read_by(weights["W_skip"].double()).T.contiguous()).T
        out.b_dec.copy_(writes.undone(sae.b_dec.double()) - skip @ reads.mean)
        weights["W_skip"].copy_(skip)
    if isinstance(out, ComposedSAE):
        activation = out.composition.activation
        for name, vector in activation.rescaled(out.vectors(activation.vectors), factors, shift).items():
            weights[name].copy_(vector)
    for module in out.modules():
        if isinstance(module, BatchThreshold):
            for buffer in (module.threshold, module.guess):
                buffer.mul_(factors[0].to(buffer.dtype))
    out.changed()
    return out


def _lengthened(before: Tensor, after: Tensor) -> Tensor:
    """By how much decoder rows became longer, [n]; 1 for a row of zeros."""
    norms = before.norm(dim=1)
    return torch.where(norms > 0, after.norm(dim=1) / norms.clamp(min=torch.finfo(torch.float64).tiny), 1.0)
