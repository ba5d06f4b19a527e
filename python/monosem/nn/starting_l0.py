"""Encoder biases at the start with which few features are active from the first step on.

With biases of 0 half of the features are active for every token, until the penalty has pressed them down.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.nn.base import SAE
from monosem.ops.capacity import EncoderInputs
from monosem.ops.precision import as_given

PER_STEP = 1 << 22  # pre-activations that are held at a time
TOKENS, COMPARED = 1024, 4096  # tokens that are read, and features by which z is found, evenly spaced
MOST, FINENESS = 64, 128  # the largest |z|, and the parts into which 1 is divided
PARTS = 2 * MOST * FINENESS
# Share of the pre-activation for its own input that a resampled feature's input has to exceed. Of a wide dictionary
# thousands are resampled at once: with half of it many are active for each token, and the error rises.
OWN = 0.9


@as_given
@torch.no_grad()
def measure(sae: SAE, sample: Tensor) -> None:
    r"""Set ``b_enc`` so that L0 of a training batch is ``cfg.initial_l0``, if biases are 0 still.

    ``b_i = −(μ_i + z·σ_i)``: mean and standard deviation of ``W_enc_i·(x − b_dec)`` over 1,024 of its tokens, and one z
    for all features, so that each is active for about as many tokens as any other. z is a multiple of 1/128, rounded
    up, found with 4,096 of the features. The first step need not be dense then (``capacity``).

    Raises:
        ValueError: the batch tells nothing, because it is of fewer than two different tokens or not finite.
    """
    l0 = wanted(sae)
    if l0 is None or int(sae.shard.sum_features((sae.b_enc != 0).sum(dtype=torch.float64))):
        return
    source = sae.source(sample).reshape(-1, sae.cfg.d_in)
    source = source[:: -(-len(source) // TOKENS) or 1]
    centred = sae.centred(source)
    x = centred.float()
    if not ((x != x[:1]).any() and bool(x.isfinite().all())):
        raise ValueError(
            f"sample: got {len(x)} tokens, by which initial_l0={l0:g} cannot be set; wanted several different ones, "
            "all finite. Give another batch, or initial_l0=None."
        )
    # Every so many-th feature is compared, by its number in the whole dictionary.
    d_sae, first = sae.cfg.d_sae, sae.shard.rows(sae.cfg.d_sae).start
    every = -(-d_sae // COMPARED)
    moments, counts = [], x.new_zeros(PARTS, dtype=torch.float64)
    for rows in sae.W_enc_rows.split(max(1, PER_STEP // len(x))):
        h = rows.float() @ x.T  # [features, tokens]
        moments.append(torch.stack(torch.std_mean(h, 1, correction=0)))
        compared = slice(-first % every, None, every)
        counts += _counts(h[compared], *moments[-1][:, compared])
        first += len(rows)
    deviation, mean = torch.cat(moments, 1)
    above = sae.shard.sum_features(counts).flip(0).cumsum(0).flip(0)  # how many lie in a part or in a higher one
    wanted_above = l0 * len(x) * -(-d_sae // every) / d_sae
    z = float((above > wanted_above).sum()) / FINENESS - MOST
    sae.b_enc.copy_(-(mean + z * deviation))
    entries = EncoderInputs(centred, sae.W_enc_rows, sae.b_enc, shard=sae.shard).entries()
    active = sae.shard.sum_features(entries.csr()[2].diff().double())  # of each token
    sae.capacity.expect(int(active.max()), float(active.mean()))


def _counts(h: Tensor, deviation: Tensor, mean: Tensor) -> Tensor:
    """How many pre-activations [F, N], of features that are not constant, lie in each part of the range of z."""
    varies = deviation > 0
    z = ((h[varies] - mean[varies, None]) / deviation[varies, None]).clamp_(-MOST, MOST - 1 / FINENESS)
    # Not histc, which is refused on a GPU where only deterministic algorithms are allowed.
    return torch.bincount(((z + MOST) * FINENESS).long().flatten(), minlength=PARTS).double()


@torch.no_grad()
def restart(sae: SAE, features: Tensor, inputs: Tensor) -> None:
    """Biases of resampled ``features`` (int64 [R]), each with the direction of one of ``inputs``.

    A feature becomes active for inputs with more than nine tenths of the pre-activation that its own has.
    """
    if wanted(sae) is not None and len(features):
        own = (sae.W_enc_rows[features] * sae.centred(sae.source(inputs))).sum(-1)
        sae.b_enc[features] = -OWN * own.clamp(min=0)


def wanted(sae: SAE) -> float | None:
    """The number of active features per token at the start; None: biases of 0, as where the setting has no effect."""
    return None if "initial_l0" in sae.cfg.without_effect else getattr(sae.cfg, "initial_l0", None)
