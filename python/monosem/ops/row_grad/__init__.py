"""Gradients of weight rows, from a code sorted by feature (``ops.csc``)."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.library import register
from monosem.ops.row_grad import cpu, reference

_row_grad = register(
    "row_grad(Tensor starts, Tensor entries, Tensor tokens, Tensor coef, Tensor u) -> Tensor",
    folder=__name__,
    cpu=cpu.row_grad,
    reference=reference.row_grad,
    fake=lambda starts, entries, tokens, coef, u: u.new_empty(starts.shape[0] - 1, u.shape[1]),
)

_feature_sum = register(
    "feature_sum(Tensor starts, Tensor entries, Tensor coef) -> Tensor",
    folder=__name__,
    cpu=cpu.feature_sum,
    reference=reference.feature_sum,
    fake=lambda starts, entries, coef: coef.new_empty(starts.shape[0] - 1),
)


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    r"""Row f of the result is Σ coef[entry] · u[token] over the entries of feature f.

    The gradient of the decoder with ``coef`` the values and ``u`` the residual, that of the encoder with ``coef`` the
    gradient of each chosen pre-activation and ``u`` the inputs. One worker reduces a row, in the order of its tokens:
    no atomics, the same bits every run and for any thread count.

    Args:
        starts, entries, tokens: the code sorted by feature, as ``csc`` gives it.
        coef: a factor of each entry, [nnz].
        u: a row per token, [N, D].

    Returns:
        [F, D], in the dtype of u.
    """
    return _row_grad(starts, entries, tokens, coef, u)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    """Σ coef[entry] over the entries of each feature: [F], the gradient of the encoder bias.

    Args:
        starts, entries: of the code sorted by feature, as ``csc`` gives them.
        coef: a number of each entry, [nnz].
    """
    return _feature_sum(starts, entries, coef)
