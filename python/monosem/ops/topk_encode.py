"""The K largest pre-activations of each token, chosen while the product's tile is still in cache."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks, cpu_encode, reference
from monosem.ops.code import SparseCode, uniform_offsets
from monosem.ops.library import register
from monosem.ops.row_grad import csc, feature_sum, row_grad
from monosem.ops.sparse_decode import sparse_decode

Rounded = tuple[Tensor, Tensor]  # bfloat16 [F, ≥ D], and ‖w‖ and ‖w − rounded‖ [2, F], both not too small


def _fake(x: Tensor, w: Tensor, b: Tensor, k: int, *rounded) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], k), x.new_empty(x.shape[0], k, dtype=torch.int32)


def _setup(ctx, inputs, output) -> None:
    x, w = inputs[:2]
    values, indices = output
    ctx.save_for_backward(x, w, values, indices)
    ctx.mark_non_differentiable(indices)


def _backward(ctx, g: Tensor, _):
    x, w, values, indices = ctx.saved_tensors
    n, k = values.shape
    coef = torch.where(values > 0, g, 0).reshape(-1)
    indices = indices.reshape(-1)
    offsets = uniform_offsets(n, k, x.device)
    need_x, need_w, need_b = ctx.needs_input_grad[:3]
    return *encoder_gradients(coef, indices, offsets, x, w, need_x, need_w, need_b), None, None, None


def encoder_gradients(
    coef: Tensor, indices: Tensor, offsets: Tensor, x: Tensor, w: Tensor, need_x: bool, need_w: bool, need_b: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, w and b from the gradient ``coef`` of each chosen pre-activation. Shared by all encoders."""
    gx = sparse_decode(coef, indices, offsets, w, w.new_zeros(w.shape[1])) if need_x else None
    if not (need_w or need_b):
        return gx, None, None
    starts, entries, tokens = csc(indices, offsets, w.shape[0])
    gw = row_grad(starts, entries, tokens, coef, x) if need_w else None
    gb = feature_sum(starts, entries, coef) if need_b else None
    return gx, gw, gb


_topk_encode = register(
    "topk_encode(Tensor x, Tensor w, Tensor b, int k, Tensor? copy=None, Tensor? norms=None) -> (Tensor, Tensor)",
    cpu=lambda x, w, b, k, *rounded: cpu_encode.topk(x, w, b, k),
    reference=lambda x, w, b, k, *rounded: reference.topk_encode(x, w, b, k),
    fake=_fake, backward=_backward, setup=_setup,
)  # fmt: skip


def topk_encode(x: Tensor, w: Tensor, b: Tensor, k: int, rounded: Rounded | None = None) -> SparseCode:
    r"""The sparse code of TopK: ``ReLU(topk(x·wᵀ + b))``.

    Args:
        x: [..., D], the centred input ``x − b_dec``.
        w: encoder rows [F, D].
        b: encoder bias [F].
        k: entries a token, 1 ≤ k ≤ F.
        rounded: w in bfloat16 and its norms, as ``row_adam_`` keeps them, so that w is not read to make them; believed.
            Used where the product is in bfloat16 on a GPU. The answer is the same.

    Returns:
        Code with ``values``, ``indices`` [..., k], the largest first; among equal pre-activations the lowest index
        comes first and is the one chosen. A value ≤ 0 gives 0 and no gradient. A NaN in a row makes its values NaN.

    Nothing of size tokens × F is allocated. Differentiable in x, w and b.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or k outside 1…F.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3.
    """
    checks.shape("w", w, ("d_sae", "d_in"))
    checks.shape("b", b, (w.shape[0],))
    checks.shape("x", x.reshape(-1, x.shape[-1]) if x.ndim else x, ("tokens", w.shape[1]))
    checks.same("x", x, "w", w)
    checks.same("b", b, "w", w)
    checks.topk(k, w.shape[0])
    values, indices = _topk_encode(x.reshape(-1, x.shape[-1]), w, b, k, *(rounded or (None, None)))
    shape = x.shape[:-1]
    return SparseCode(values.view(*shape, k), indices.view(*shape, k), None, w.shape[0], shape)
