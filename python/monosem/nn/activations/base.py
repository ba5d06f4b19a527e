"""The interface of an activation: which features are active, with what value, and how a step encodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from monosem.ops import SparseCode
from monosem.ops.capacity import Capacity, Encoded, EncoderInputs, EntryCapacity, Result, Step
from monosem.ops.step_stats import phase

Vectors = dict[str, Tensor]  # parameters per feature, by name: [F], or an element per entry [nnz]


class Activation(ABC):
    """``f = act(h)`` of the pre-activations ``h = W_enc·(x − b_dec) + b_enc``.

    A loss is computed from *entries*: the pairs of a token and a feature that ``choose`` gives with their h. ``value``
    is their f, elementwise and differentiable, so that a straight-through gradient is written once and used on sparse
    entries and on dense blocks of features alike.

    Attributes:
        has_dense_form: whether a step may run by dense products, which its capacity decides.
        vectors: names of the autoencoder's parameters, one element per feature, that ``value`` reads.
        is_positive: whether no value is below 0.
        waits: whether ``choose`` reads numbers of a GPU on the host: its steps cannot be captured in a CUDA graph.
        has_frozen_fit: whether the loss has a second squared error, of ``h`` itself decoded by a frozen decoder.
        is_homogeneous: whether ``act(c·h) = c·act(h)`` for c > 0 once the vectors are ``rescaled``.
        descends: whether the entries of a token stand in descending order of their magnitude, not of their features.
        compares_features: whether a feature is active depends on the others: c must be the same for all.
    """

    has_dense_form: ClassVar[bool] = False
    has_frozen_fit: ClassVar[bool] = False
    is_positive: ClassVar[bool] = True
    waits: ClassVar[bool] = False
    is_homogeneous: ClassVar[bool] = False
    descends: ClassVar[bool] = False
    compares_features: ClassVar[bool] = True
    vectors: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def encode(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        """The active features of ``inputs.x`` [..., d_in], each token by itself; differentiable in x, w and b."""

    def choose(self, inputs: EncoderInputs, vectors: Vectors) -> SparseCode:
        """The entries that a loss is computed from, with h as values; differentiable in x, w and b.

        Here those that ``encode`` gives, whose values are their h.
        """
        return self.encode(self.above(inputs, vectors), vectors)

    def above(self, inputs: EncoderInputs, vectors: Vectors) -> EncoderInputs:
        """The inputs, with the threshold that the entries exceed where there is one."""
        return inputs

    def held(self, rows: slice, d_sae: int) -> Activation:
        """The activation of a shard, which has these of ``d_sae`` features."""
        return self

    def value(self, h: Tensor, vectors: Vectors) -> Tensor:
        """f of entries, from their h and their elements of ``vectors``; all of one shape, or broadcast to it."""
        return h

    def rescaled(self, vectors: Vectors, factors: Tensor, shift: Tensor) -> Vectors:
        """The vectors that have to change so that ``f`` becomes ``factors · f`` where h does; in float64.

        Args:
            factors: [F], above 0.
            shift: of b_enc, [F]: it becomes ``factors · b_enc + shift``, while h as a whole becomes ``factors · h``.
        """
        return {}

    def through(self, values: Tensor, slopes: Tensor) -> Tensor:
        """Gradient of each pre-activation from that of what ``choose`` gives for it, which may be 0 instead; [nnz]."""
        return slopes

    def capacity(self, d_sae: int, device: torch.device | str | None) -> Capacity | None:
        """What decides how a step runs where the number of entries depends on the data; None where it is fixed."""
        return EntryCapacity(d_sae, device) if self.has_dense_form else None

    def run(self, step: Step[Result], capacity: Capacity, vectors: Vectors) -> tuple[Result, int]:
        """The result of a step, and for how many tokens there was no capacity at first, so that it ran twice."""
        if self.has_dense_form:
            assert isinstance(capacity, EntryCapacity)  # made by the method above
            return capacity.run(step)
        phase("encode")
        return step.sparse(Encoded(self.choose(step.inputs, vectors))), 0
