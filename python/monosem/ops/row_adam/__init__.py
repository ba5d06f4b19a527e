"""Adam on weight rows in one sweep: gradient row, projection, moments, update, unit norm."""

from __future__ import annotations

from torch import Tensor

from monosem.ops.library import register
from monosem.ops.row_adam import cpu, flat, reference

_FACTORS = "float lr, float beta1, float beta2, float eps, int step"
_OPTIONS = "bool lazy=False, Tensor? live=None, Tensor(d!)? scales=None, Tensor(e!)? copy=None, Tensor(f!)? norms=None"
_ADAM = f"{_FACTORS}, bool unit, {_OPTIONS}"
_OWN = "Tensor? own=None"
_SPARSE = (
    "Tensor(a!) w, Tensor(b!) m, Tensor(c!) v, Tensor starts, Tensor entries, Tensor tokens, Tensor coef, Tensor u"
)


def _nothing(*args) -> None:
    return None


_row_adam_ = register(
    f"row_adam_(Tensor(a!) w, Tensor(b!) m, Tensor(c!) v, Tensor g, {_ADAM}, {_OWN}) -> ()",
    folder=__name__,
    cpu=cpu.row_adam_,
    reference=reference.row_adam_,
    fake=_nothing,
    pack=flat.dense,
)

_row_grad_adam_ = register(
    f"row_grad_adam_({_SPARSE}, float scale, {_ADAM}, {_OWN}) -> ()",
    folder=__name__,
    cpu=cpu.row_grad_adam_,
    reference=reference.row_grad_adam_,
    fake=_nothing,
    pack=flat.sparse,
)

_encoder_grad_adam_ = register(
    f"encoder_grad_adam_({_SPARSE}, Tensor? bias, {_FACTORS}, {_OPTIONS}) -> (Tensor, Tensor)",
    folder=__name__,
    cpu=cpu.encoder_grad_adam_,
    reference=reference.encoder_grad_adam_,
    fake=lambda w, m, v, starts, entries, tokens, coef, u, *rest: (w.new_empty(w.shape[0]), w.new_empty(w.shape[1])),
    pack=flat.encoder,
)


def row_adam_(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    g: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    unit: bool,
    lazy: bool = False,
    live: Tensor | None = None,
    scales: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
    own: Tensor | None = None,
) -> None:
    r"""One step of ``torch.optim.Adam`` on rows w [F, D] with gradient g, in place.

        m ← β₁m + (1 − β₁)g;  v ← β₂v + (1 − β₂)g²;  w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)

    With ``unit``, the part of g parallel to its (unit) row is removed before, and the row is made unit after
    (*Towards Monosemanticity*, appendix "Autoencoder Dataset and Basic Training").

    Args:
        m, v: the moments [F, D]: float32; bfloat16; or int8 and uint8 with ``scales`` [2, F]. Moments of fewer bits are
            rounded up or down so that their mean is right, by step, row and column alone (``ops/adam.py``).
        lazy: a row whose gradient is 0 everywhere is left as it is, moments included, as ``torch.optim.SparseAdam``
            does; the bias corrections still count every step.
        live: float32 [8] on the device, used instead of lr … step (``ops/adam.py`` makes and sets it), so that a
            captured graph can be given another learning rate and another step.
        copy, norms: the encoder's copy of w (``EncoderCopy``), bfloat16 [F, ≥ D] with norms [2, F], or int8 with
            [4, F]. They get the new rows rounded, and their norms and those of the rounding errors, for
            ``topk_encode(…, encoder_copy=(copy, norms))``. They must be those of w before: rows that ``lazy`` leaves
            alone need not be written.
        own: [F, B], B ≥ 1 blocks of D/B columns each. ``own[f, b] · w[f, block b]``, with w as it was before, is added
            to the gradient before anything else is done with it: the gradient of a penalty ``Σ c[f, b] · ‖w[f, block
            b]‖``, with ``own = c / ‖w‖``. With ``lazy``, a row is left as it is where the numbers of ``own`` are 0 too.

    Raises:
        ValueError: w, m or v cannot be updated in place, or are of dtypes that do not go together; or ``own`` does not
            fit w.
    """
    _row_adam_(w, m, v, g, lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms, own)


def row_grad_adam_(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    starts: Tensor,
    entries: Tensor,
    tokens: Tensor,
    coef: Tensor,
    u: Tensor,
    scale: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    unit: bool,
    lazy: bool = False,
    live: Tensor | None = None,
    scales: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
    own: Tensor | None = None,
) -> None:
    """``row_adam_`` with the gradient ``scale · row_grad(...)`` reduced row by row: it never goes to memory.

    Args:
        starts, entries, tokens, coef, u: as in ``row_grad``.
        scale: of the gradient; ``own`` is not scaled. The rest: as in ``row_adam_``.

    Raises:
        ValueError: w, m or v cannot be updated in place, or shapes or dtypes do not go together; or ``own`` does not
            fit w.
    """
    code = starts, entries, tokens, coef, u, scale
    _row_grad_adam_(w, m, v, *code, lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms, own)


def encoder_grad_adam_(
    w: Tensor,
    m: Tensor,
    v: Tensor,
    starts: Tensor,
    entries: Tensor,
    tokens: Tensor,
    coef: Tensor,
    u: Tensor,
    bias: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    lazy: bool = False,
    live: Tensor | None = None,
    scales: Tensor | None = None,
    copy: Tensor | None = None,
    norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``row_grad_adam_`` of the encoder's rows, with two sums that its sweep has at hand.

    Args:
        bias: gradient of each entry's encoder bias [nnz]; None: ``coef``, which it is where an entry is one
            pre-activation. The rest: as in ``row_grad_adam_``.

    Returns:
        the gradient of the encoder bias, ``feature_sum(starts, entries, bias)`` [F]; and Σ_f of it times w[f], with the
        rows as they were before [D], by which the encoder's input x − b_dec enters the gradient of b_dec.

    Raises:
        ValueError: w, m or v cannot be updated in place, or shapes or dtypes do not go together.
    """
    code = starts, entries, tokens, coef, u, bias
    return _encoder_grad_adam_(w, m, v, *code, lr, beta1, beta2, eps, step, lazy, live, scales, copy, norms)
