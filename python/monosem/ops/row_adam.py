"""Adam on weight rows in one sweep: gradient row, projection, moments, update, unit norm."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cpu_rows, reference
from monosem.ops.library import register

_ADAM = "float lr, float beta1, float beta2, float eps, int step, bool unit"


def _nothing(*args) -> None:
    return None


row_adam_ = register(
    f"row_adam_(Tensor(a!) w, Tensor(b!) m, Tensor(c!) v, Tensor g, {_ADAM}) -> ()",
    cpu=cpu_rows.row_adam_,
    reference=reference.row_adam_,
    fake=_nothing,
)
r"""One step of ``torch.optim.Adam`` on rows w [F, D] with gradient g, in place.

    m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)

With ``unit``, the part of g parallel to its (unit) row is removed before, and the row is made unit after
(*Towards Monosemanticity*, appendix "Autoencoder Dataset and Basic Training").
"""


def _reference_sparse_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool,
) -> None:  # fmt: skip
    g = reference.row_grad(starts, entries, tokens, coef, u) * scale
    reference.row_adam_(w, m, v, g, lr, beta1, beta2, eps, step, unit)


row_grad_adam_ = register(
    "row_grad_adam_(Tensor(a!) w, Tensor(b!) m, Tensor(c!) v, Tensor starts, Tensor entries, Tensor tokens, "
    f"Tensor coef, Tensor u, float scale, {_ADAM}) -> ()",
    cpu=cpu_rows.row_grad_adam_,
    reference=_reference_sparse_,
    fake=_nothing,
)
"""``row_adam_`` with the gradient ``scale · row_grad(...)`` reduced row by row: it never goes to memory."""
