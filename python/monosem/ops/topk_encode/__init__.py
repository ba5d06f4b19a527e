"""The K largest pre-activations of each token, chosen while the product's tile is still in cache."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks
from monosem.ops.code import SparseCode, uniform_offsets
from monosem.ops.library import register
from monosem.ops.selection.gradients import encoder_gradients
from monosem.ops.structs import EncoderCopy
from monosem.ops.topk_encode import cpu, reference


def _fake(x: Tensor, w: Tensor, b: Tensor, k: int, *copy) -> tuple[Tensor, Tensor]:
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
    return *encoder_gradients(coef, indices, offsets, x, w, need_x, need_w, need_b), None, None, None, None


_topk_encode = register(
    "topk_encode(Tensor x, Tensor w, Tensor b, int k, Tensor? copy=None, Tensor? norms=None, Tensor? frequency=None)"
    " -> (Tensor, Tensor)",
    folder=__name__,
    cpu=cpu.topk_encode,
    reference=lambda x, w, b, k, *copy: reference.topk_encode(x, w, b, k),
    fake=_fake,
    backward=_backward,
    setup=_setup,
    on_gpu=("triton",),
)


def topk_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    k: int,
    encoder_copy: EncoderCopy | tuple[Tensor, Tensor] | None = None,
    frequency: Tensor | None = None,
) -> SparseCode:
    r"""The sparse code of TopK: ``ReLU(topk(x·wᵀ + b))``.

    Args:
        x: [..., D], the centred input ``x − b_dec``.
        w: encoder rows [F, D].
        b: encoder bias [F].
        k: entries per token, 1 ≤ k ≤ F.
        encoder_copy: w as the product reads it, made by ``ops.encoder_copy`` or kept by ``row_adam_``, so that w is not
            read to make it; not checked. Used where the product is in that precision. The answer is the same.
        frequency: [F], how often each feature is active, in any unit and as well as it is known. The integer products
            on a CPU compare the most frequent first, which takes less time. The answer is the same.

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
    if frequency is not None:
        checks.shape("frequency", frequency, (w.shape[0],))
        checks.same("frequency", frequency, "w", w)
    values, indices = _topk_encode(x.reshape(-1, x.shape[-1]), w, b, k, *(encoder_copy or (None, None)), frequency)
    shape = x.shape[:-1]
    return SparseCode(values.view(*shape, k), indices.view(*shape, k), None, w.shape[0], shape)
