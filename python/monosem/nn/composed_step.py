"""The gradients of a composed autoencoder's loss: in sparse factors, or in dense blocks of features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from monosem.nn.activations import Vectors
from monosem.nn.auxk import AuxK, DeadFeatures, ExtraTokens
from monosem.nn.composition import Composition
from monosem.nn.config import SAEConfig
from monosem.nn.dense import DenseInputs, PointwiseBlocks, ReLUBlocks
from monosem.nn.gradients import Gradients, NormTerms, RowFactors
from monosem.nn.nesting import Fit, Prefixes, fit
from monosem.nn.pointwise import Slopes, Terms, detached
from monosem.ops import SparseCode, step_stats
from monosem.ops.capacity import Capacity, DeadFeatureCapacity, Encoded, EncoderInputs
from monosem.ops.code import uniform_offsets
from monosem.ops.shard import Shard
from monosem.ops.step_stats import phase


class Composed(Protocol):
    """What a step needs of an autoencoder: its parameters, its parts, and how they see a batch (``ComposedSAE``).

    Of a shard they are those of its features, and sums over all features or tokens are made by ``shard``.
    """

    cfg: SAEConfig
    shard: Shard
    capacity: Capacity
    W_enc_rows: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter

    @property
    def held(self) -> Composition: ...
    @property
    def is_centred(self) -> bool: ...
    @property
    def target_is_input(self) -> bool: ...
    def target_gradients(self, x: Tensor, of_reconstruction: Tensor, scale: float) -> dict[str, Tensor]: ...
    def norms(self) -> Tensor: ...
    def inputs(self, centred: Tensor) -> EncoderInputs: ...
    def vectors(self, names: tuple[str, ...]) -> Vectors: ...
    def rows(self, numbers: Tensor, bias: Tensor) -> DeadFeatures: ...


@dataclass(frozen=True)
class Batch:
    """A batch: its rows ``x``, the encoder's input ``centred`` [N, d_in], the decoder's ``target`` [N, d_out]."""

    x: Tensor
    centred: Tensor
    target: Tensor
    sparsity_scale: float


def sparse(sae: Composed, batch: Batch, encoded: Encoded, dead: Tensor | None) -> Gradients:
    """The loss and its gradients in factors, from the entries of the batch."""
    phase("decode_loss")
    parts = sae.held
    if parts.activation.has_dense_form:
        step_stats.ran(dense=False)
    ordered = replace(encoded, code=parts.ordered(encoded.code))
    found = (_linear if parts.is_linear else _pointwise)(sae, batch, ordered)
    if parts.revival is None or dead is None:
        return found.gradients()
    phase("aux")
    aux, factors = _revived(sae, parts.revival, dead, batch.centred, found.residual, found.factors)
    return replace(found, factors=factors, aux=aux, loss=found.loss + parts.revival.coefficient * aux).gradients()


@dataclass(frozen=True)
class _Sparse:
    """The measurements and factors of a sparse step; ``residual``: x̂ − x of the whole code [N, d_out]."""

    loss: Tensor
    mse: Tensor
    sparsity: Tensor
    aux: Tensor
    l0: Tensor
    fired: Tensor
    factors: RowFactors
    residual: Tensor
    left_out: Tensor | None
    entries: Tensor | None = None

    def gradients(self) -> Gradients:
        return Gradients(
            loss=self.loss,
            mse=self.mse,
            sparsity=self.sparsity,
            aux=self.aux,
            l0=self.l0,
            fired=self.fired,
            parameters=self.factors,
            left_out=self.left_out,
            per_token=self.entries,
        )


def _linear(sae: Composed, batch: Batch, encoded: Encoded) -> _Sparse:
    """Where the value of an entry is its pre-activation, and the penalty linear in it."""
    parts, shard, n = sae.held, sae.shard, len(batch.x)
    weight = 0.0 if parts.penalty is None else parts.penalty.weight(batch.sparsity_scale)
    code, kept, left_out = encoded.code, encoded.kept, None
    values, indices, offsets = code.csr()
    whole = fit(values, indices, offsets, sae.W_dec, sae.b_dec, batch.target, parts.nesting, shard)
    slopes = whole.slopes if parts.penalty is None else whole.slopes.add_(weight)
    slopes = parts.activation.through(values, slopes).div_(shard.tokens(n))
    phase("statistics")
    l0, sparsity, fired = code.statistics()
    if kept is not None:  # means over the tokens that are in the code
        left_out, share = _share(kept)
        whole = _of_kept(whole, kept, share)
        slopes, sparsity, l0 = slopes.mul_(share), sparsity * share, l0 * share
    mse = whole.mse.mean()
    losses = mse if whole.losses is whole.mse else whole.losses.mean()
    # It decides whether the next step is dense, everywhere alike.
    entries = shard.means(n, (l0,))[0] if parts.activation.has_dense_form else None
    sparsity, l0, mse, losses = shard.parts(n, (sparsity, l0), (mse, losses))
    return _Sparse(
        loss=losses if parts.penalty is None else losses + weight * sparsity,
        mse=mse,
        sparsity=sparsity,
        aux=mse.new_zeros(()),
        l0=l0,
        fired=fired,
        factors=_factors(sae, batch, whole, values, indices, Slopes(slopes, {}, None)),
        residual=whole.residual,
        left_out=left_out,
        entries=entries,
    )


def _pointwise(sae: Composed, batch: Batch, encoded: Encoded) -> _Sparse:
    """With any elementwise activation and penalty, by autograd on their definition."""
    parts, shard, n = sae.held, sae.shard, len(batch.x)
    of_all, code, kept, left_out = shard.tokens(n), encoded.code, encoded.kept, None
    h, indices, offsets = code.csr()
    entries, norms = _entries(sae, h, indices)
    f = entries.f.detach()
    whole = fit(f, indices, offsets, sae.W_dec, sae.b_dec, batch.target, parts.nesting, shard)
    gate = None
    if entries.gate is not None:
        gate = fit(entries.gate.detach(), indices, offsets, sae.W_dec, sae.b_dec, batch.target, None, shard)
    used = replace(code, values=f.view(code.values.shape))
    phase("statistics")
    if entries.penalty is None:
        l0, sparsity, fired = used.statistics()
    else:
        l0, sparsity, fired = used.l0(), entries.penalty.detach().sum() / n, used.fired()
    share = h.new_ones(())
    per_token = offsets[-1].float() / n
    if kept is not None:
        left_out, share = _share(kept)
        sparsity, l0 = sparsity * share, l0 * share
    sparsity, per_token = shard.means(n, (sparsity, per_token))
    weight, of_inactive, slope = 0.0, 0.0, 1.0
    if parts.penalty is not None:
        weight, slope = parts.penalty.weight(batch.sparsity_scale), parts.penalty.slope(sparsity)
    if parts.pre_activation is not None:
        of_inactive = batch.sparsity_scale * parts.pre_activation.coefficient
    slopes = entries.slopes(
        whole.slopes / of_all,
        weight / of_all * slope,
        of_inactive / of_all,
        None if gate is None else gate.slopes / of_all,
    )
    # A chosen entry that is not active has a slope in its value, and none in its pre-activation.
    slopes = replace(slopes, h=parts.activation.through(h, slopes.h))
    if kept is not None:
        whole = _of_kept(whole, kept, share)
        gate = None if gate is None else _of_kept(gate, kept, share)
        slopes = slopes.times(share)
    mse = whole.mse.mean()
    loss = mse if whole.losses is whole.mse else whole.losses.mean()
    if gate is not None:
        loss = loss + gate.mse.mean()
    l0, mse, loss = shard.parts(n, (l0,), (mse, loss))
    if parts.penalty is not None:
        loss = loss + shard.once(weight * parts.penalty.of_mean(sparsity))
    factors = _factors(sae, batch, whole, f, indices, slopes)
    if slopes.norms is not None and norms is not None:
        factors = replace(factors, norms=NormTerms(slopes.norms, None, norms, sae.W_dec.detach()))
    if entries.inactive is not None and norms is not None:
        below, factors = _over_all(sae, batch, kept, of_inactive, norms, factors)
        inactive = below + entries.inactive.detach().sum() / n * share
        loss = loss + of_inactive * shard.parts(n, (inactive,))[0]
    return _Sparse(
        loss=loss,
        mse=mse,
        sparsity=shard.once(sparsity),
        aux=mse.new_zeros(()),
        l0=l0,
        fired=fired,
        factors=factors,
        residual=whole.residual,
        left_out=left_out,
        entries=per_token,
    )


def _entries(sae: Composed, h: Tensor, indices: Tensor) -> tuple[Terms, Tensor | None]:
    """The terms of entries, and the norms [F, B] of decoder rows where they depend on them."""
    parts = sae.held
    i = indices.long().clamp_(max=len(sae.W_dec) - 1)  # of places behind the last entry: any
    norms = sae.norms().detach() if parts.by_norm else None
    vectors = {name: v.detach()[i] for name, v in sae.vectors(parts.vectors).items()}
    of_entries = None if norms is None else norms.sum(1)[i]
    return detached(parts.activation, parts.penalty, parts.pre_activation, h, vectors, of_entries), norms


def _factors(sae: Composed, batch: Batch, whole: Fit, values: Tensor, indices: Tensor, slopes: Slopes) -> RowFactors:
    n, d = batch.target.shape
    parts, scale = whole.parts, 2 / (sae.shard.tokens(n) * d)
    of_tokens = whole.gradients if parts == 1 else whole.gradients.view(n, parts, d)[:, 0]
    others = sae.target_gradients(batch.x, of_tokens, scale)
    return RowFactors(
        indices=indices,
        offsets=whole.offsets,
        values=values,
        residual=whole.gradients,
        decoder_scale=scale,
        slopes=slopes.h,
        inputs=batch.centred,
        w_enc=sae.W_enc_rows.detach(),
        b_dec=of_tokens.sum(0).mul_(scale),
        is_centred=sae.is_centred,
        input_of=None if parts == 1 else torch.arange(n, device=indices.device).repeat_interleave(parts),
        of_entries=slopes.vectors,
        others=others,
        shard=sae.shard,
    )


def _over_all(
    sae: Composed, batch: Batch, kept: Tensor | None, weight: float, norms: Tensor, factors: RowFactors
) -> tuple[Tensor, RowFactors]:
    """The penalty of pre-activations over all features, 0-dim, and the factors with its part: one token more, whose
    input is the sum of all inputs, with an entry of every feature. ``kept``: the tokens that count; None: all."""
    pre_activation = sae.held.pre_activation
    norm_terms = factors.norms
    assert pre_activation is not None and norm_terms is not None
    n, f, centred = len(batch.x), len(sae.W_dec), batch.centred
    if kept is not None:
        n, centred = kept.sum().clamp(min=1), centred * kept[:, None]
    total, rows, threshold = centred.sum(0), norms.sum(1), sae.vectors(("threshold",))["threshold"]
    below = pre_activation.over_all(total, n, sae.W_enc_rows, sae.b_enc, threshold, torch.ones_like(rows)).detach()
    slopes = rows * (-weight / n)
    extra = ExtraTokens(
        loss=below.new_zeros(()),
        values=torch.zeros_like(rows),
        indices=torch.arange(f, dtype=torch.int32, device=rows.device),
        offsets=uniform_offsets(1, f, rows.device),
        slopes=slopes,
        residual=factors.residual.new_zeros(1, factors.residual.shape[1]),
        inputs=total[None],
        bias=slopes * n,
    )
    factors = replace(factors, others=factors.others | {"threshold": rows * weight})
    factors = replace(factors, norms=replace(norm_terms, sums=below * weight))
    return (below * rows).sum(), extra.above(factors)


def _share(kept: Tensor) -> tuple[Tensor, Tensor]:
    """How many tokens are left out, and the factor that makes means over N tokens means over the others."""
    left_out = len(kept) - kept.sum()
    return left_out, len(kept) / (len(kept) - left_out).clamp(min=1)


def _of_kept(whole: Fit, kept: Tensor, share: Tensor) -> Fit:
    """The fit of the tokens that are in the code, as means over those."""
    of_tokens = kept * share
    mse = whole.mse * kept * share
    residual = whole.residual.mul_(of_tokens[:, None])
    if whole.parts == 1:
        return replace(whole, mse=mse, losses=mse, residual=residual, gradients=residual)
    gradients = whole.gradients.mul_(of_tokens.repeat_interleave(whole.parts)[:, None])
    return replace(whole, mse=mse, losses=whole.losses * of_tokens, residual=residual, gradients=gradients)


def _revived(
    sae: Composed, revival: AuxK, dead: Tensor, centred: Tensor, residual: Tensor, factors: RowFactors
) -> tuple[Tensor, RowFactors]:
    """The loss of the dead features (bool [F]), and the factors with their entries."""
    capacity = sae.capacity
    assert isinstance(capacity, DeadFeatureCapacity)  # made by Composition.capacity
    if not revival.is_on:
        return residual.new_zeros(()), factors
    if sae.shard.is_whole:
        extra = revival.entries(sae.rows(*capacity.rows(dead, sae.b_enc)), centred, residual, capacity)
    else:
        here = sae.rows(*capacity.rows(dead, sae.b_enc, waits=True))
        extra = revival.shared(here, sae.shard, centred, residual)
    if extra is None:
        return residual.new_zeros(()), factors
    return extra.loss if not sae.shard.is_whole else extra.loss * dead.any(), extra.below(factors)


def may_be_dense(sae: Composed) -> bool:
    """Whether a step may multiply with all features: not where blocks would end at other prefixes in each shard, nor
    where tokens are elsewhere, whose gradients are exchanged in factors."""
    return sae.shard.is_whole or not (sae.shard.splits_tokens or sae.held.nesting)


def dense(sae: Composed, batch: Batch) -> tuple[Gradients, Tensor]:
    """The loss and its gradients by dense products, and the number of entries of each token [N]."""
    phase("dense_products")
    step_stats.ran(dense=True)
    inputs = DenseInputs(
        batch.target,
        centred=batch.centred,
        w_enc=sae.W_enc_rows,
        w_dec=sae.W_dec,
        b_enc=sae.b_enc,
        b_dec=sae.b_dec,
        is_centred=sae.is_centred,
        shard=sae.shard,
    )
    parts, n = sae.held, len(batch.x)
    if parts.is_linear and parts.nesting is None and sae.is_centred and sae.target_is_input:
        return _relu_blocks(sae, batch, inputs)
    weight = 0.0 if parts.penalty is None else parts.penalty.weight(batch.sparsity_scale)
    of_inactive = 0.0 if parts.pre_activation is None else batch.sparsity_scale * parts.pre_activation.coefficient
    vectors = sae.vectors(parts.vectors)
    assert parts.nesting is None or isinstance(parts.nesting, Prefixes)  # ranks need a fixed number of entries
    blocks = PointwiseBlocks(
        inputs,
        activation=parts.activation,
        penalty=parts.penalty,
        pre_activation=parts.pre_activation,
        nesting=parts.nesting,
        vectors=vectors,
        norms=sae.norms().detach() if parts.by_norm else None,
        weights=(weight, of_inactive),
        lower=parts.activation.above(sae.inputs(batch.centred), vectors).threshold,
        others=lambda of_target: sae.target_gradients(batch.x, of_target, 1.0),
    )
    phase("statistics")
    loss = blocks.losses
    if parts.penalty is not None:
        loss = loss + weight * parts.penalty.of_mean(blocks.sparsity)
    dtype, shard = batch.x.dtype, sae.shard
    (per_token,) = shard.means(n, (blocks.per_token.double().mean(),))
    l0, inactive = shard.parts(n, (blocks.l0, blocks.inactive))
    gradients = Gradients(
        loss=(shard.once(loss + blocks.gate_mse) + of_inactive * inactive).to(dtype),
        mse=shard.once(blocks.mse).to(dtype),
        sparsity=shard.once(blocks.sparsity).to(dtype),
        aux=blocks.mse.new_zeros(()).to(dtype),
        l0=l0.float(),
        fired=blocks.counts > 0,
        parameters=blocks,
        per_token=per_token.float(),
    )
    return gradients, blocks.per_token


def _relu_blocks(sae: Composed, batch: Batch, inputs: DenseInputs) -> tuple[Gradients, Tensor]:
    n, d = batch.x.shape
    penalty = sae.held.penalty
    weight = 0.0 if penalty is None else penalty.weight(batch.sparsity_scale)
    blocks = ReLUBlocks(inputs, penalty=weight / n)
    phase("statistics")
    mse = (blocks.squares / (n * d)).to(batch.x.dtype)
    shard, of_features = sae.shard, (blocks.total / n, blocks.counts.sum().double() / n)
    (entries,) = shard.means(n, of_features[1:])
    total, l0 = shard.parts(n, of_features)
    mse, sparsity = shard.once(mse), total.to(batch.x.dtype)
    gradients = Gradients(
        loss=mse + weight * sparsity,
        mse=mse,
        sparsity=sparsity,
        aux=mse.new_zeros(()),
        l0=l0.float(),
        fired=blocks.counts > 0,
        parameters=blocks,
        per_token=entries.float(),
    )
    return gradients, blocks.per_token


def used_code(code: SparseCode, values: Tensor, shape: torch.Size) -> SparseCode:
    """A code of flattened tokens with other values, in the leading shape of the input."""
    if code.offsets is not None:
        return replace(code, values=values, shape=shape)
    k = code.values.shape[-1]
    return replace(code, values=values.view(*shape, k), indices=code.indices.view(*shape, k), shape=shape)
