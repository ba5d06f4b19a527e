"""A threshold per feature that is learnt by straight-through gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from monosem.nn.activations.base import Activation, Vectors
from monosem.ops import SparseCode
from monosem.ops.capacity import EncoderInputs


def positive(threshold: Tensor) -> Tensor:
    """θ as it is used, at least 0; the gradient passes unchanged, so that a θ below 0 can come back."""
    return threshold + (threshold.clamp(min=0) - threshold).detach()


class _Jump(torch.autograd.Function):
    """``h · H(h − θ)``, with −θ/ε · rect((h − θ)/ε) for its derivative in θ."""

    @staticmethod
    def forward(ctx, h: Tensor, threshold: Tensor, bandwidth: float, through_input: bool) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.bandwidth, ctx.through_input = bandwidth, through_input
        return torch.where(h > threshold, h, 0)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (g,) = grad_outputs
        h, threshold = ctx.saved_tensors
        at_edge = torch.where((h - threshold).abs() < ctx.bandwidth / 2, threshold / ctx.bandwidth, 0) * g
        gh = torch.where(h > threshold, g, 0)
        return gh + at_edge if ctx.through_input else gh, _to_shape(-at_edge, threshold), None, None


class _IsActive(torch.autograd.Function):
    """``H(h − θ)``, with −1/ε · rect((h − θ)/ε) for its derivative in θ."""

    @staticmethod
    def forward(ctx, h: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.bandwidth = bandwidth
        return (h > threshold).to(h.dtype)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor):
        (g,) = grad_outputs
        h, threshold = ctx.saved_tensors
        at_edge = torch.where((h - threshold).abs() < ctx.bandwidth / 2, g / ctx.bandwidth, 0)
        return None, _to_shape(-at_edge, threshold), None


def _to_shape(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient of something that was broadcast from the shape of ``like``."""
    return gradient if gradient.shape == like.shape else gradient.sum_to_size(like.shape)


def is_active(h: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """1 where h > θ, else 0, with the straight-through derivative in θ."""
    return _IsActive.apply(h, positive(threshold), bandwidth)


@dataclass(frozen=True)
class JumpReLU(Activation):
    r"""``f = h · H(h − θ)`` with a threshold θ ≥ 0 per feature (Rajamanoharan et al. 2024, arXiv 2407.14435).

    With the rectangle K(u) = 1 for |u| < ½, its straight-through derivative in θ is ``−θ/ε · K((h − θ)/ε)``: entries in
    the band θ ± ε/2 have a part in the gradient, those just below θ too, which ``choose`` gives for that reason.

    Attributes:
        bandwidth: ε.
        through_input: the derivative in h has ``+θ/ε · K((h − θ)/ε)`` as well (Anthropic, January 2025).
    """

    has_dense_form: ClassVar[bool] = True
    is_homogeneous: ClassVar[bool] = True
    compares_features: ClassVar[bool] = False
    vectors: ClassVar[tuple[str, ...]] = ("threshold",)
    bandwidth: float
    through_input: bool = False

    def encode(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        return replace(inputs, threshold=positive(vectors["threshold"]).detach()).entries()

    def above(self, inputs: EncoderInputs, vectors: Vectors) -> EncoderInputs:
        return replace(inputs, threshold=positive(vectors["threshold"]).detach() - self.bandwidth / 2)

    def choose(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        return self.above(inputs, vectors).entries()

    def rescaled(self, vectors: Vectors, factors: Tensor, shift: Tensor) -> Vectors:
        return {"threshold": vectors["threshold"].double() * factors}

    def value(self, h: Tensor, vectors: Vectors) -> Tensor:
        return _Jump.apply(h, positive(vectors["threshold"]), self.bandwidth, self.through_input)
