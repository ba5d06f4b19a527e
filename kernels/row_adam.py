"""Gradient row → projection → Adam → unit norm, in registers."""

import triton
import triton.language as tl

from monosem.kernels.row_grad import feature_row


@triton.jit
def adam(w, m, v, g, add1, keep2, add2, root2, step_size, eps):
    """One step of torch.optim.Adam, with its roundings: (w, m, v)."""
    m = m + add1 * (g - m)
    v = keep2 * v + add2 * g * g
    return w - step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root2) + eps), m, v


@triton.jit
def step_row(
    w, m, v, g, at, inside, add1, keep2, add2, root2, step_size, eps,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Give the gradient row g [BD] to the weights at ``at``, and write weights and moments back."""
    row = tl.load(w + at, mask=inside, other=0.0)
    if UNIT:
        g = g - tl.sum(g * row) * row
    row, m_new, v_new = adam(
        row, tl.load(m + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0), g,
        add1, keep2, add2, root2, step_size, eps,
    )  # fmt: skip
    if UNIT:
        row = tl.where(inside, row, 0.0)
        row = tl.div_rn(row, tl.maximum(tl.sqrt_rn(tl.sum(row * row)), 2.0**-126))
    tl.store(m + at, m_new, mask=inside)
    tl.store(v + at, v_new, mask=inside)
    tl.store(w + at, row, mask=inside)


@triton.jit
def row_adam(
    w, m, v, g, D, add1, keep2, add2, root2, step_size, eps,
    UNIT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Adam on a row of D ≤ BD. One program: one row."""
    cols = tl.arange(0, BD)
    inside = cols < D
    at = tl.program_id(0).to(tl.int64) * D + cols
    grad = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    step_row(w, m, v, grad, at, inside, add1, keep2, add2, root2, step_size, eps, UNIT)


@triton.jit
def flat_adam(w, m, v, g, numel, add1, keep2, add2, root2, step_size, eps, B: tl.constexpr):
    """Adam on numbers without rows. One program: B of them."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < numel
    grad = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    step_row(w, m, v, grad, at, inside, add1, keep2, add2, root2, step_size, eps, False)


@triton.jit
def row_grad_adam(
    w, m, v, starts, entries, tokens, coef, u, sums, D, WINDOW, scale, add1, keep2, add2, root2, step_size, eps,
    UNIT: tl.constexpr, J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``row_adam`` with the gradient scale · Σ coef · u[token]: it never goes to memory. One program: one feature."""
    f = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BD)
    g = scale * feature_row(starts, entries, tokens, coef, u, sums, f, cols, D, WINDOW, J, BD)
    step_row(w, m, v, g, f * D + cols, cols < D, add1, keep2, add2, root2, step_size, eps, UNIT)
