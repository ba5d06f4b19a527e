"""Gradients by dense products, a block of features at a time, while many features are active."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.nn.activations import Activation, Vectors
from monosem.nn.gradients import RowOptimizer, by_blocks
from monosem.nn.nesting import Prefixes
from monosem.nn.penalties import Penalty, PreActivation
from monosem.nn.pointwise import Terms, detached
from monosem.ops import capacity
from monosem.ops.precision import as_given
from monosem.ops.shard import WHOLE, Shard
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.step_stats import phase


@dataclass(frozen=True)
class BlockGradients:
    """The gradients of a block of features; ``slopes``: of their pre-activations, summed over tokens [features]."""

    w_enc: Tensor
    w_dec: Tensor
    slopes: Tensor
    vectors: Vectors


@dataclass(frozen=True)
class DenseInputs:
    """What blocks are computed from.

    Attributes:
        x: [N, D_out], the target of the reconstruction. ``centred``: the encoder's input [N, D].
        w_enc, w_dec: rows [F, D] and [F, D_out]; ``b_enc``: [F]; ``b_dec``: [D_out].
        is_centred: whether the encoder's input is x − b_dec.
        shard: which features these are.
    """

    x: Tensor
    centred: Tensor
    w_enc: Tensor
    w_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    is_centred: bool = True
    shard: Shard = WHOLE

    def residual(self) -> Tensor:
        """What the features' parts of the reconstruction are added to: −x and the bias, in one shard."""
        return self.b_dec - self.x if self.shard.is_first else torch.zeros_like(self.x)


class DenseBlocks(ABC):
    """Gradients multiplied out, used while so many features fire that dense products are cheaper than gathering rows.

    No array has the size of tokens × features or of a weight matrix. The reconstruction needs all features and comes
    first. Then the activations of each block are computed again for its gradients, which costs six products instead of
    five. A block's gradients depend on no weight of another block, so ``update`` can change one block after the other.

    Attributes:
        counts: int64 [F], tokens on which each feature fires; ``per_token``: int64 [N], entries of each token.
        b_dec: gradient of the decoder bias through the decoder, [D].
    """

    counts: Tensor
    per_token: Tensor
    b_dec: Tensor

    def __init__(self, inputs: DenseInputs, bounds: tuple[int, ...] = ()) -> None:
        x, features = inputs.x, len(inputs.w_enc)
        self._w_enc, self._w_dec, self._b_enc = inputs.w_enc.detach(), inputs.w_dec.detach(), inputs.b_enc.detach()
        self._centred, self._is_centred, self._used = inputs.centred, inputs.is_centred, False
        self._shard = inputs.shard
        self._ends = bounds or (features,)
        self._step = min(features, max(64, capacity.block_bytes(x.device) // (x.element_size() * max(1, len(x)))))

    def update(self, optimizer: RowOptimizer) -> dict[str, Tensor]:
        """Update both matrices block by block; returns the gradients of the others."""
        phase("dense_sweep")
        self._use()
        vectors, b_dec = self._vectors(), self._first_part()
        for part in self._parts():
            # All reads of this block's rows stand before the two updates, which change them.
            block = self._gradients(part)
            b_dec = self._add(block, part, vectors, b_dec)
            optimizer.update_rows("W_enc_rows", part, block.w_enc)
            optimizer.update_rows("W_dec", part, block.w_dec)
        return {**vectors, "b_dec": self._shard.sum_features(b_dec), **self._others()}

    def multiplied(self) -> dict[str, Tensor]:
        """The gradients of all features."""
        phase("dense_gradients")
        self._use()
        w_enc, w_dec = torch.empty_like(self._w_enc), torch.empty_like(self._w_dec)
        vectors, b_dec = self._vectors(), self._first_part()
        for part in self._parts():
            block = self._gradients(part)
            w_enc[part], w_dec[part] = block.w_enc, block.w_dec
            b_dec = self._add(block, part, vectors, b_dec)
        return {
            "W_enc_rows": w_enc,
            "W_dec": w_dec,
            **vectors,
            "b_dec": self._shard.sum_features(b_dec),
            **self._others(),
        }

    @abstractmethod
    def _gradients(self, part: slice) -> BlockGradients:
        """Gradients of a block, from its present weights."""

    def _first_part(self) -> Tensor:
        """The gradient of b_dec through the decoder, in one shard."""
        return self.b_dec if self._shard.is_first else torch.zeros_like(self.b_dec)

    def _names(self) -> tuple[str, ...]:
        """The vectors [F] that have a gradient."""
        return ("b_enc",)

    def _others(self) -> dict[str, Tensor]:
        """Gradients of parameters that are not per feature, beside b_dec."""
        return {}

    def _vectors(self) -> Vectors:
        return {name: torch.empty_like(self._b_enc) for name in self._names()}

    def _add(self, block: BlockGradients, part: slice, vectors: Vectors, b_dec: Tensor) -> Tensor:
        """Note the vectors of a block; returns the gradient of b_dec with its part through the block's encoder."""
        for name, v in vectors.items():
            v[part] = block.vectors[name]
        return b_dec - weighted_sum(block.slopes, self._w_enc[part]) if self._is_centred else b_dec

    def _use(self) -> None:
        if self._used:  # the weights may have changed since
            raise RuntimeError(
                "gradients: asked for a second time; wanted once per batch. Call sae.gradients(x) again."
            )
        self._used = True

    def _parts(self) -> Iterator[slice]:
        """The blocks; none crosses one of the bounds."""
        first = 0
        for end in self._ends:
            for start in range(first, end, self._step):
                yield slice(start, min(start + self._step, end))
            first = end


class ReLUBlocks(DenseBlocks):
    """Of ReLU with the paper's penalty, in few passes and in place.

    Args:
        penalty: gradient of the loss in each active feature's value, by sparsity.

    Attributes:
        squares: Σ (x̂ − x)²; ``total``: Σ f; both 0-dim float64.
    """

    @as_given
    def __init__(self, inputs: DenseInputs, penalty: float) -> None:
        super().__init__(inputs)
        x, features = inputs.x, len(inputs.w_enc)
        n, d = x.shape
        self._penalty = penalty
        # Reused by all blocks: allocating them anew costs more than the work done in them.
        self._f, self._other = x.new_empty(n * self._step), x.new_empty(n * self._step)
        self._on = torch.empty(n * self._step, dtype=torch.bool, device=x.device)
        number = torch.promote_types(x.dtype, torch.float32)  # integers below 2²⁴ are exact in it
        counts, per_token = x.new_empty(features, dtype=number), x.new_zeros(n, dtype=number)
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)
        residual = inputs.residual()
        for part in self._parts():
            f, on, ones = self._activations(part)
            residual.addmm_(f, self._w_dec[part])
            ones.copy_(on)
            counts[part] = ones.sum(0, dtype=number)
            per_token += ones.sum(1, dtype=number)
            self.total += f.sum()
        residual = inputs.shard.sum_features(residual)
        self.counts, self.per_token = counts.long(), per_token.long()
        self.squares = torch.linalg.vector_norm(residual, dim=1).double().square().sum()
        self._slope = residual.mul_(2 / (n * d))  # of the loss in x̂
        self.b_dec = residual.sum(0)

    @as_given
    def _gradients(self, part: slice) -> BlockGradients:
        f, on, slope = self._activations(part)
        torch.mm(self._slope, self._w_dec[part].T, out=slope).add_(self._penalty).mul_(on)
        w_enc, w_dec, sums = torch.mm(slope.T, self._centred), torch.mm(f.T, self._slope), slope.sum(0)
        return BlockGradients(w_enc, w_dec, sums, {"b_enc": sums})

    @as_given
    def _activations(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Activations of a block, a mask of those that are not 0, and a scratch array, all [N, its features]."""
        n, width = len(self._centred), part.stop - part.start
        f, on, other = (t[: n * width].view(n, width) for t in (self._f, self._on, self._other))
        torch.addmm(self._b_enc[part], self._centred, self._w_enc[part].T, out=f).relu_()
        return f, torch.ne(f, 0, out=on), other


class PointwiseBlocks(DenseBlocks):
    """Of any activation and penalty that are elementwise, by autograd on their definition within a block.

    Args:
        vectors: parameters [F], by name, that the activation and the penalty read.
        norms: of the blocks of each decoder row, [F, B]; None where nothing depends on them.
        weights: the factor of ``g(mean Σ p)`` in the loss, and that of the penalty of pre-activations.
        lower: [F], the threshold that an entry exceeds; None: 0.
        others: gradients of parameters that the target depends on, from that of x̂ [N, D_out] in the loss.

    Attributes:
        mse, losses: mean squared error of the whole code, and mean over the parts; both 0-dim.
        sparsity, inactive: mean over tokens of Σ p, and of the penalty of pre-activations; 0-dim.
        l0: 0-dim. gate_mse: mean squared error of the frozen decoder, 0-dim (0 without one).
    """

    @as_given
    def __init__(
        self,
        inputs: DenseInputs,
        *,
        activation: Activation,
        penalty: Penalty | None,
        pre_activation: PreActivation | None,
        nesting: Prefixes | None,
        vectors: Vectors,
        norms: Tensor | None,
        weights: tuple[float, float],
        lower: Tensor | None,
        others: Callable[[Tensor], dict[str, Tensor]],
    ) -> None:
        super().__init__(inputs, () if nesting is None else nesting.sizes)
        x, (n, d), features = inputs.x, inputs.x.shape, len(inputs.w_enc)
        self._activation, self._penalty, self._pre_activation = activation, penalty, pre_activation
        self._of_features = {name: v.detach() for name, v in vectors.items()}
        self._norms, self._lower, self._weights = norms, lower, weights
        wide = torch.promote_types(x.dtype, torch.float32)
        self.counts = torch.empty(features, dtype=torch.int64, device=x.device)
        self.per_token = torch.zeros(n, dtype=torch.int64, device=x.device)
        sums = {name: torch.zeros((), dtype=torch.float64, device=x.device) for name in ("p", "inactive", "squares")}
        active = torch.zeros((), dtype=torch.int64, device=x.device)
        residual = inputs.residual()
        gate = residual.clone() if activation.has_frozen_fit else None
        residuals = []
        for part in self._parts():
            terms = self._terms(part)
            residual.addmm_(terms.f.detach(), self._w_dec[part])
            if gate is not None and terms.gate is not None:
                gate.addmm_(terms.gate.detach(), self._w_dec[part])
            on = terms.f.detach() != 0
            self.counts[part] = on.sum(0)
            active += on.sum()
            h = terms.h.detach()
            self.per_token += (h > (0 if lower is None else lower[part])).sum(1)
            for name, term in (("p", terms.penalty), ("inactive", terms.inactive)):
                if term is not None:
                    sums[name] += term.detach().sum(dtype=torch.float64)
            if part.stop in self._ends and inputs.shard.is_whole:
                residuals.append(residual.clone() if part.stop < features else residual)
                sums["squares"] += torch.linalg.vector_norm(residual, dim=1).double().square().sum()
        if not inputs.shard.is_whole:  # the code is one part
            residual = inputs.shard.sum_features(residual)
            gate = None if gate is None else inputs.shard.sum_features(gate)
            residuals.append(residual)
            sums["squares"] += torch.linalg.vector_norm(residual, dim=1).double().square().sum()
            (sums["p"],) = inputs.shard.means(n, (sums["p"],))
        parts = len(self._ends)
        self.losses = (sums["squares"] / (parts * n * d)).to(wide)
        self.mse = (torch.linalg.vector_norm(residual, dim=1).double().square().sum() / (n * d)).to(wide)
        self.sparsity, self.inactive = ((sums[name] / n).to(wide) for name in ("p", "inactive"))
        self.l0 = (active.double() / n).float()
        self.gate_mse = self.mse.new_zeros(()) if gate is None else gate.square().mean()
        self._of_gate = None if gate is None else gate.mul_(2 / (n * d))
        # Gradients of the reconstructions: an entry of a part is in every later prefix.
        for earlier, later in zip(residuals[-2::-1], residuals[:0:-1], strict=True):
            earlier += later
        self._slopes = [r.mul_(2 / (n * d * parts)) for r in residuals]
        self._of_target = others(self._slopes[0])
        self.b_dec = self._slopes[0].sum(0)
        weight, self._of_inactive = weights
        self._of_penalty = weight / n * (penalty.slope(self.sparsity) if penalty is not None else 1.0)
        self._of_inactive /= n

    @as_given
    def _terms(self, part: slice) -> Terms:
        h = torch.addmm(self._b_enc[part], self._centred, self._w_enc[part].T)
        vectors = {name: v[part] for name, v in self._of_features.items()}
        norms = None if self._norms is None else self._norms[part].sum(1)
        return detached(self._activation, self._penalty, self._pre_activation, h, vectors, norms, dense=True)

    @as_given
    def _gradients(self, part: slice) -> BlockGradients:
        of_x = self._slopes[next(i for i, end in enumerate(self._ends) if part.start < end)]
        terms, rows = self._terms(part), self._w_dec[part]
        of_gate = None if self._of_gate is None else torch.mm(self._of_gate, rows.T)
        slopes = terms.slopes(torch.mm(of_x, rows.T), self._of_penalty, self._of_inactive, of_gate)
        w_dec, sums = torch.mm(terms.f.detach().T, of_x), slopes.h.sum(0)
        if slopes.norms is not None and self._norms is not None:
            norms = self._norms[part]
            w_dec += by_blocks(rows, torch.where(norms > 0, slopes.norms[:, None] / norms, 0))
        vectors = {"b_enc": sums} | slopes.vectors
        if "b_enc" in slopes.vectors:
            vectors["b_enc"] = sums + slopes.vectors["b_enc"]
        return BlockGradients(torch.mm(slopes.h.T, self._centred), w_dec, sums, vectors)

    def _others(self) -> dict[str, Tensor]:
        return self._of_target

    def _names(self) -> tuple[str, ...]:
        return tuple({"b_enc": None, **dict.fromkeys(self._of_features)})
