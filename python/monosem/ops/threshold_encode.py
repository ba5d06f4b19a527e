"""ReLU features in CSR form: only what is above the threshold leaves the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks, cpu_encode, reference
from monosem.ops.code import SparseCode
from monosem.ops.library import register
from monosem.ops.topk_encode import encoder_gradients


def _fake(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    nnz = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty(x.shape[0] + 1, dtype=torch.int64)
    return x.new_empty(nnz), x.new_empty(nnz, dtype=torch.int32), offsets


def _setup(ctx, inputs, output) -> None:
    x, w, _ = inputs
    _, indices, offsets = output
    ctx.save_for_backward(x, w, indices, offsets)
    ctx.mark_non_differentiable(indices, offsets)


def _backward(ctx, g: Tensor, _, __):
    x, w, indices, offsets = ctx.saved_tensors
    return encoder_gradients(g.contiguous(), indices, offsets, x, w, *ctx.needs_input_grad)


_threshold_encode = register(
    "threshold_encode(Tensor x, Tensor w, Tensor b) -> (Tensor, Tensor, Tensor)",
    cpu=cpu_encode.threshold, reference=reference.threshold_encode, fake=_fake, backward=_backward, setup=_setup,
)  # fmt: skip


def threshold_encode(x: Tensor, w: Tensor, b: Tensor) -> SparseCode:
    r"""The sparse code of ReLU: the positive entries of ``x·wᵀ + b``, in CSR form.

    Args:
        x: [..., D], the centred input ``x − b_dec``.
        w: encoder rows [F, D].
        b: encoder bias [F].

    Returns:
        Code in CSR form over the flattened tokens, features ascending within a token. NaN counts as active, so that
        it shows.

    Memory grows with the number of active features, not with tokens × F. Differentiable in x, w and b. Under
    ``torch.compile(fullgraph=True)`` set ``torch._dynamo.config.capture_dynamic_output_shape_ops = True``: the number
    of active features depends on the data.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.

    Source: *Towards Monosemanticity* (2023), appendix "Autoencoder Architecture".
    """
    checks.shape("w", w, ("d_sae", "d_in"))
    checks.shape("b", b, (w.shape[0],))
    checks.shape("x", x.reshape(-1, x.shape[-1]) if x.ndim else x, ("tokens", w.shape[1]))
    checks.same("x", x, "w", w)
    checks.same("b", b, "w", w)
    values, indices, offsets = _threshold_encode(x.reshape(-1, x.shape[-1]), w, b)
    return SparseCode(values, indices, offsets, w.shape[0], x.shape[:-1])
