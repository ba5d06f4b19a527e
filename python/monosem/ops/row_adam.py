"""Adam on weight rows in one sweep: gradient row, projection, moments, update, unit norm."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import cpu_rows, reference
from monosem.ops.library import register

_ADAM = (
    "float lr, float beta1, float beta2, float eps, int step, bool unit, bool lazy=False, Tensor? live=None, "
    "Tensor(d!)? scales=None, Tensor(e!)? copy=None, Tensor(f!)? norms=None"
)


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

Args:
    m, v: the moments [F, D]: float32; bfloat16; or int8 and uint8 with ``scales`` [2, F]. What has fewer bits than
        float32 is rounded up or down so that its mean is right, by the step, row and column alone (``ops/adam.py``).
    lazy: a row whose gradient is 0 everywhere is left as it is, moments included, as ``torch.optim.SparseAdam`` does;
        the bias corrections still count every step.
    live: float32 [8] on the device, used instead of lr … step (``ops/adam.py`` makes and sets it), so that a captured
        graph can be given another learning rate and another step.
    copy, norms: bfloat16 [F, ≥ D] and float32 [2, F]; get the new rows rounded, and their norms and those of what the
        rounding left, for ``topk_encode(…, rounded=(copy, norms))``. They must be those of w before: rows that ``lazy``
        leaves alone need not be written.

Raises:
    ValueError: w, m or v cannot be updated in place, or are of dtypes that do not go together.
"""


def _reference_sparse_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, *adam,
) -> None:  # fmt: skip
    g = reference.row_grad(starts, entries, tokens, coef, u) * scale
    reference.row_adam_(w, m, v, g, *adam)


row_grad_adam_ = register(
    "row_grad_adam_(Tensor(a!) w, Tensor(b!) m, Tensor(c!) v, Tensor starts, Tensor entries, Tensor tokens, "
    f"Tensor coef, Tensor u, float scale, {_ADAM}) -> ()",
    cpu=cpu_rows.row_grad_adam_,
    reference=_reference_sparse_,
    fake=_nothing,
)
"""``row_adam_`` with the gradient ``scale · row_grad(...)`` reduced row by row: it never goes to memory."""
