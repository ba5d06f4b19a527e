"""Which autoencoders can be sharded, and the construction of one of which no process ever holds the whole."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from monosem.nn import SAE
from monosem.nn.activations import AbsTopK, BatchTopK, Gated, GroupMax, JumpReLU, ReLU, TopK
from monosem.nn.architectures.hierarchical_topk import HierarchicalTopKSAE
from monosem.nn.base import FREE_NORM
from monosem.nn.composed import ComposedSAE
from monosem.nn.config import SAEConfig
from monosem.nn.registry import build, find
from monosem.ops.shard import Shard, holding
from monosem.train.distributed.mesh import shard_of

ACTIVATIONS = (TopK, AbsTopK, BatchTopK, GroupMax, ReLU, JumpReLU, Gated)
GRADIENTS = (ComposedSAE.gradients, HierarchicalTopKSAE.gradients)
BLOCK = 64  # features that are drawn together


def check(sae: SAE, splits_tokens: bool, shards: int) -> None:
    """Raise ValueError for an autoencoder whose step is not known to be the same in so many shards of its features."""
    if not isinstance(sae, ComposedSAE) or type(sae).gradients not in GRADIENTS:
        reason = "its gradients are computed by its own method, or by autograd, for all features at once"
    elif type(sae.composition.activation) not in ACTIVATIONS:
        reason = f"its activation {type(sae.composition.activation).__name__} may compare features of several processes"
    elif isinstance(sae.composition.activation, GroupMax) and sae.composition.activation.groups % shards:
        groups = sae.composition.activation.groups
        raise ValueError(
            f"mesh: got {shards} shards of features for a {sae.cfg.kind} of {groups} groups; wanted a number that "
            "divides the groups, each of which is in one process. Change the mesh or k."
        )
    elif splits_tokens and sae.composition.pre_activation is not None:
        reason = "its penalty of pre-activations sums over all tokens; it can be sharded by features alone"
    else:
        return
    raise ValueError(
        f"sae: a {sae.cfg.kind} ({type(sae).__name__}) cannot be trained on this mesh: {reason}. Wanted a composed "
        "kind with one of the activations topk, abs_topk, batch_topk, group_max, relu, jumprelu, gated. Train it in "
        "one process: leave out mesh."
    )


def keep_shard(sae: SAE, shard: Shard) -> None:
    """Let an autoencoder of which every process holds all keep the parameters of its shard alone, in place."""
    rows = shard.rows(sae.cfg.d_sae)
    for name, declared in sae.declared().items():
        if declared.per_feature:
            getattr(sae, name).data = getattr(sae, name).data[rows].clone()
    sae.shard = shard
    sae.changed()


def new(
    config: SAEConfig,
    mesh: DeviceMesh,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SAE:
    """A new autoencoder of which this process has its shard alone; every process of the mesh calls it."""
    return build_shard(config, seed, shard_of(mesh), device, dtype)


def build_shard(
    config: SAEConfig,
    seed: int,
    shard: Shard,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> SAE:
    """The autoencoder of a configuration with the parameters of this shard alone, which are drawn here.

    The numbers of a feature depend on the seed and on its number: they are the same for any number of processes. They
    are not those of ``TopKSAE(…, seed=seed)``, which draws all features in one sequence.
    """
    find(config.kind)
    with holding(shard):
        sae = build(config, seed, device, dtype, drawn=False)
    draw(sae, seed)
    return sae


@torch.no_grad()
def draw(sae: SAE, seed: int) -> None:
    """Random weights as the kind starts with them, each feature's by the seed and its number.

    Decoder rows of a random direction, and the encoder equal to the decoder where both are of one space. The paper's
    autoencoder (relu with unit rows) has independent uniform numbers instead.
    """
    first = sae.shard.rows(sae.cfg.d_sae).start
    if sae.cfg.kind == "relu" and sae.has_unit_rows:
        for stream, w in enumerate((sae.W_enc_rows, sae.W_dec)):
            _fill(w, seed, stream, first, lambda g, shape: g.random(shape, np.float32) * 2 - 1)
        sae.W_enc_rows.mul_(sae.cfg.d_in**-0.5)
        sae.normalize_decoder()
        return
    tied = sae.target_is_input if isinstance(sae, ComposedSAE) else True
    for stream, w in enumerate((sae.W_dec,) if tied else (sae.W_dec, sae.W_enc_rows)):
        _fill(w, seed, stream, first, lambda g, shape: g.standard_normal(shape, np.float32))
        w.div_(w.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny))
    if not sae.has_unit_rows:
        sae.W_dec.mul_(FREE_NORM)
    if tied:
        sae.W_enc_rows.copy_(sae.W_dec)


def _fill(w: nn.Parameter | Tensor, seed: int, stream: int, first: int, numbers) -> None:
    """Write random numbers into rows; row i is feature ``first + i``. A generator by counter, one stretch per block."""
    at, end = first - first % BLOCK, first + len(w)
    while at < end:
        generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, at // BLOCK, stream]))
        block = torch.from_numpy(numbers(generator, (BLOCK, w.shape[1])))
        low, high = max(at, first), min(at + BLOCK, end)
        w[low - first : high - first] = block[low - at : high - at].to(w)
        at += BLOCK
