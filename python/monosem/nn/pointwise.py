"""The elementwise part of a loss: value and penalty of entries, and their gradients by autograd on the definition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.nn.activations import Activation, Vectors
from monosem.nn.penalties import Penalty, PreActivation


@dataclass(frozen=True)
class Slopes:
    """Gradients of entries: of their pre-activation, of their elements of each vector, of their decoder row's norm."""

    h: Tensor
    vectors: Vectors
    norms: Tensor | None

    def times(self, factor: Tensor) -> Slopes:
        norms = None if self.norms is None else self.norms * factor
        return Slopes(self.h * factor, {name: v * factor for name, v in self.vectors.items()}, norms)


@dataclass(frozen=True)
class Terms:
    """What each entry adds to a loss, differentiable in the ``leaves``.

    Entries are sparse, [nnz] with their elements of vectors and norms; or a dense block, h [N, features] with vectors
    [features].

    Attributes:
        f: values, which the decoder gets.
        penalty: p of the penalty; None without one.
        inactive: the entry's part in the penalty of pre-activations; None without one.
        gate: values that a frozen decoder gets; None without one.
    """

    f: Tensor
    penalty: Tensor | None
    inactive: Tensor | None
    gate: Tensor | None
    h: Tensor
    vectors: Vectors
    norms: Tensor | None

    def slopes(self, of_f: Tensor, of_penalty: Tensor | float, of_inactive: float, of_gate: Tensor | None) -> Slopes:
        """Gradients of the leaves, from those of f and of the gate, and the factors of p in the loss."""
        outputs, given = [self.f], [of_f]
        for term, factor in ((self.penalty, of_penalty), (self.inactive, of_inactive)):
            if term is not None:
                outputs.append(term)
                given.append(torch.zeros_like(term) + factor)
        if self.gate is not None and of_gate is not None:
            outputs.append(self.gate)
            given.append(of_gate)
        leaves = [self.h, *self.vectors.values(), *([] if self.norms is None else [self.norms])]
        used = [(o, g) for o, g in zip(outputs, given, strict=True) if o.requires_grad]
        made = torch.autograd.grad([o for o, _ in used], leaves, [g for _, g in used], allow_unused=True)
        made = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(made, leaves, strict=True)]
        of_vectors = dict(zip(self.vectors, made[1:], strict=False))
        return Slopes(made[0], of_vectors, None if self.norms is None else made[-1])


def terms(
    activation: Activation,
    penalty: Penalty | None,
    pre_activation: PreActivation | None,
    h: Tensor,
    vectors: Vectors,
    norms: Tensor | None,
    dense: bool = False,
) -> Terms:
    """The terms of entries. Their gradients flow on to the arguments where those have any.

    Args:
        dense: the entries are all pairs of their tokens and features.
    """
    f, p, inactive = activation.value(h, vectors), None, None
    if penalty is not None:
        p = penalty.of_entries(f, h, vectors, norms)
    if pre_activation is not None:
        inactive = pre_activation.of_entries(h, vectors, norms, dense)
    gate = h.relu() if activation.has_frozen_fit else None
    return Terms(f=f, penalty=p, inactive=inactive, gate=gate, h=h, vectors=vectors, norms=norms)


def detached(
    activation: Activation,
    penalty: Penalty | None,
    pre_activation: PreActivation | None,
    h: Tensor,
    vectors: Vectors,
    norms: Tensor | None,
    dense: bool = False,
) -> Terms:
    """The same with leaves of their own, for ``Terms.slopes``."""
    with torch.enable_grad():
        h = h.detach().requires_grad_()
        vectors = {name: v.detach().requires_grad_() for name, v in vectors.items()}
        norms = None if norms is None else norms.detach().requires_grad_()
        return terms(activation, penalty, pre_activation, h, vectors, norms, dense)
