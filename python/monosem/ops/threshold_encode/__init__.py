"""ReLU features in CSR form: only pre-activations above the threshold leave the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops import checks
from monosem.ops.code import SparseCode
from monosem.ops.library import register
from monosem.ops.selection.gradients import encoder_gradients
from monosem.ops.structs import EncoderCopy
from monosem.ops.threshold_encode import cpu, reference


def _fake(x: Tensor, w: Tensor, b: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    nnz = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty(x.shape[0] + 1, dtype=torch.int64)
    return x.new_empty(nnz), x.new_empty(nnz, dtype=torch.int32), offsets


def _setup(ctx, inputs, output) -> None:
    x, w = inputs[:2]
    _, indices, offsets = output
    ctx.save_for_backward(x, w, indices, offsets)
    ctx.mark_non_differentiable(indices, offsets)


def _backward(ctx, g: Tensor, _, __):
    x, w, indices, offsets = ctx.saved_tensors
    return *encoder_gradients(g.contiguous(), indices, offsets, x, w, *ctx.needs_input_grad[:3]), None, None, None


_threshold_encode = register(
    "threshold_encode(Tensor x, Tensor w, Tensor b, Tensor? threshold=None, Tensor? copy=None, Tensor? norms=None) "
    "-> (Tensor, Tensor, Tensor)",
    folder=__name__,
    cpu=cpu.threshold_encode,
    reference=lambda x, w, b, threshold=None, *copy: reference.threshold_encode(x, w, b, threshold),
    fake=_fake,
    backward=_backward,
    setup=_setup,
    on_gpu=("triton",),
)


def threshold_encode(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    threshold: Tensor | None = None,
    encoder_copy: EncoderCopy | tuple[Tensor, Tensor] | None = None,
) -> SparseCode:
    r"""The entries of ``h = x·wᵀ + b`` above a threshold, in CSR form; above 0, the sparse code of ReLU.

    Args:
        x: [..., D], the centred input ``x − b_dec``.
        w: encoder rows [F, D].
        b: encoder bias [F].
        threshold: of each feature, [F], which its entries exceed; None: 0. It has no gradient here.
        encoder_copy: as in ``topk_encode``.

    Returns:
        Code in CSR form over the flattened tokens, features ascending within a token, with h as values. NaN counts as
        active, so that it shows.

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
    if threshold is not None:
        checks.shape("threshold", threshold, (w.shape[0],))
        checks.same("threshold", threshold, "w", w)
    copy = encoder_copy or (None, None)
    values, indices, offsets = _threshold_encode(x.reshape(-1, x.shape[-1]), w, b, threshold, *copy)
    return SparseCode(values, indices, offsets, w.shape[0], x.shape[:-1])


def _within_fake(x: Tensor, w: Tensor, b: Tensor, capacity: int, per_token: int, *encoder_copy):
    n = x.shape[0]
    offsets = x.new_empty(n + 1, dtype=torch.int64)
    counts, kept = x.new_empty(n, dtype=torch.int32), x.new_empty(n, dtype=torch.bool)
    return x.new_empty(capacity), x.new_empty(capacity, dtype=torch.int32), offsets, counts, kept


def _within_reference(x: Tensor, w: Tensor, b: Tensor, capacity: int, per_token: int, *others):
    threshold = others[2] if len(others) > 2 else None
    return reference.threshold_encode_within(x, w, b, capacity, per_token, threshold)


_threshold_encode_within = register(
    "threshold_encode_within(Tensor x, Tensor w, Tensor b, int capacity, int per_token, Tensor? copy=None, "
    "Tensor? norms=None, Tensor? threshold=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    folder=__name__,
    cpu=_within_reference,
    reference=_within_reference,
    fake=_within_fake,
    on_gpu=("triton",),
)


def threshold_encode_within(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    capacity: int,
    per_token: int,
    encoder_copy: EncoderCopy | tuple[Tensor, Tensor] | None = None,
    threshold: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    r"""``threshold_encode`` into arrays of a given size, so that no host waits to learn how many entries there are.

    Args:
        x: [N, D], the centred input. w, b, threshold: as in ``threshold_encode``.
        capacity: entries of all tokens together.
        per_token: entries that a token may have, a power of two.
        encoder_copy: as in ``topk_encode``.

    Returns:
        ``values`` [capacity], ``indices`` [capacity] and ``offsets`` [N + 1] of the code. Behind the last entry values
        are 0 and indices F. ``counts`` int32 [N]: entries of each token, or more, never less. ``kept`` bool [N]: tokens
        whose entries are in the code. A token with more than ``per_token`` entries has none, and so have all tokens
        from the first on that exceeds the capacity: the caller must leave them out of its means. Not differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, or ``per_token`` not a power of two.
    """
    checks.shape("w", w, ("d_sae", "d_in"))
    checks.shape("b", b, (w.shape[0],))
    checks.shape("x", x, ("tokens", w.shape[1]))
    checks.same("x", x, "w", w)
    checks.same("b", b, "w", w)
    if per_token < 1 or per_token & (per_token - 1):
        raise ValueError(f"per_token: got {per_token}; wanted a power of two")
    if threshold is not None:
        checks.shape("threshold", threshold, (w.shape[0],))
        checks.same("threshold", threshold, "w", w)
    return _threshold_encode_within(x, w, b, capacity, per_token, *(encoder_copy or (None, None)), threshold)
