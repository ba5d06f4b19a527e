"""Gradient row → projection → Adam → unit norm, in registers."""

import triton
import triton.language as tl
from monosem.kernels.row_adam.moments import read_row, write_row
from monosem.kernels.row_grad.triton import feature_row
from monosem.kernels.selection import dither


@triton.jit
def factors(live, add1, keep2, add2, root2, step_size, eps, step):
    """This step's factors: given with the launch, or read from memory where a graph is replayed and they change."""
    if live is not None:
        add1, keep2, add2, root2 = tl.load(live), tl.load(live + 1), tl.load(live + 2), tl.load(live + 7)
        step_size, eps = tl.load(live + 4), tl.load(live + 5)
        step = tl.load(live + 6).to(tl.int32, bitcast=True)
    return add1, keep2, add2, root2, step_size, eps, step


@triton.jit
def columns(BD: tl.constexpr):
    """The columns of a row, four neighbours per thread for every dtype. With as many as fill 16 bytes, bf16 and 8-bit
    numbers would pass through shared memory to reach the layout of fp32."""
    return tl.max_contiguous(tl.arange(0, BD), 4)


@triton.jit
def adam(w, m, v, g, add1, keep2, add2, root2, step_size, eps):
    """One step of torch.optim.Adam, with its roundings: (w, m, v)."""
    m = m + add1 * (g - m)
    v = keep2 * v + add2 * g * g
    return w - step_size * tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root2) + eps), m, v


@triton.jit
def own_factors(own, f, cols, D, BLOCK: tl.constexpr):
    """own[f] for each column: one number per BLOCK of them."""
    return tl.load(own + f * (D // BLOCK) + cols // BLOCK, mask=cols < D, other=0.0)


@triton.jit
def update_row(
    w, m, v, scales, copy, norms, WIDTH, own, f, F, g, cols, D, live, add1, keep2, add2, root2, step_size, eps, step,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, BITS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Apply the gradient row g [BD], and ``own`` times the row, to row f; write weights, moments and copy.

    BITS: of the rotation of int8.
    """
    inside = cols < D
    add1, keep2, add2, root2, step_size, eps, step = factors(live, add1, keep2, add2, root2, step_size, eps, step)
    row = tl.load(w + f * D + cols, mask=inside, other=0.0)
    if own is not None:
        g += own_factors(own, f, cols, D, BLOCK) * row
    if UNIT:
        g = g - tl.sum(g * row) * row
    m_old, v_old = read_row(m, v, scales, f, F, cols, D)
    row, m_new, v_new = adam(row, m_old, v_old, g, add1, keep2, add2, root2, step_size, eps)
    row = tl.where(inside, row, 0.0)
    if UNIT:
        row = tl.div_rn(row, tl.maximum(tl.sqrt_rn(tl.sum(row * row)), 2.0**-126))
    write_row(m, v, scales, f, F, cols, D, m_new, v_new, step)
    tl.store(w + f * D + cols, row, mask=inside)
    if copy is not None:  # as product.round_rows makes it, or dither.quantize_rows
        if copy.dtype.element_ty == tl.int8:
            at = f + tl.arange(0, 1)
            dither.write(copy, norms, at, F, WIDTH, cols, row[None, :], dither.FEATURE, BITS, 1, BD)
        else:
            low = row.to(copy.dtype.element_ty)
            left = row - low.to(tl.float32)
            tl.store(copy + f * WIDTH + cols, low, mask=inside)
            tl.store(norms + f, tl.sqrt(tl.sum(row * row)) * 1.001 + 1e-14)
            tl.store(norms + F + f, tl.sqrt(tl.sum(left * left)) * 1.001 + 1e-14)


@triton.jit
def step_row(
    w, m, v, scales, copy, norms, WIDTH, own, f, F, g, cols, D, live, add1, keep2, add2, root2, step_size, eps, step,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, LAZY: tl.constexpr, BITS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``update_row``; with LAZY, a row whose gradient and numbers of ``own`` are 0 everywhere is left alone."""
    if LAZY:
        moves = g != 0.0
        if own is not None:
            moves = moves | (own_factors(own, f, cols, D, BLOCK) != 0.0)
        if tl.max(moves.to(tl.int32)) != 0:
            update_row(
                w, m, v, scales, copy, norms, WIDTH, own, f, F, g, cols, D, live, add1, keep2, add2, root2, step_size,
                eps, step, BLOCK, UNIT, BITS, BD,
            )  # fmt: skip
    else:
        update_row(
            w, m, v, scales, copy, norms, WIDTH, own, f, F, g, cols, D, live, add1, keep2, add2, root2, step_size, eps,
            step, BLOCK, UNIT, BITS, BD,
        )  # fmt: skip


@triton.jit(do_not_specialize=["step"])
def row_adam(
    w, m, v, scales, copy, norms, WIDTH, own, g, D, live, add1, keep2, add2, root2, step_size, eps, step,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, LAZY: tl.constexpr, BITS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Adam on a row of D ≤ BD; BLOCK: columns per number of ``own``. One program: one row."""
    f = tl.program_id(0).to(tl.int64)
    cols = columns(BD)
    grad = tl.load(g + f * D + cols, mask=cols < D, other=0.0).to(tl.float32)
    step_row(
        w, m, v, scales, copy, norms, WIDTH, own, f, tl.num_programs(0), grad, cols, D, live, add1, keep2, add2, root2,
        step_size, eps, step, BLOCK, UNIT, LAZY, BITS, BD,
    )  # fmt: skip


@triton.jit
def flat_adam(w, m, v, g, numel, live, add1, keep2, add2, root2, step_size, eps, B: tl.constexpr):
    """Adam on numbers without rows, moments in fp32. One program: B of them."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < numel
    add1, keep2, add2, root2, step_size, eps, _ = factors(live, add1, keep2, add2, root2, step_size, eps, 0)
    grad = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
    numbers, m_new, v_new = adam(
        tl.load(w + at, mask=inside, other=0.0), tl.load(m + at, mask=inside, other=0.0),
        tl.load(v + at, mask=inside, other=0.0), grad, add1, keep2, add2, root2, step_size, eps,
    )  # fmt: skip
    tl.store(m + at, m_new, mask=inside)
    tl.store(v + at, v_new, mask=inside)
    tl.store(w + at, numbers, mask=inside)


@triton.jit(do_not_specialize=["step"])
def row_grad_adam(
    w, m, v, scales, copy, norms, WIDTH, own, starts, entries, tokens, coef, u, sums, D, WINDOW, scale, live, add1,
    keep2, add2, root2, step_size, eps, step,
    BLOCK: tl.constexpr, UNIT: tl.constexpr, LAZY: tl.constexpr, BITS: tl.constexpr, J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``row_adam`` with the gradient scale · Σ coef · u[token]: it never goes to memory. One program: one feature."""
    f = tl.program_id(0).to(tl.int64)
    cols = columns(BD)
    g, _ = feature_row(starts, entries, tokens, coef, None, u, sums, None, f, cols, D, WINDOW, J, BD)
    step_row(
        w, m, v, scales, copy, norms, WIDTH, own, f, tl.num_programs(0), scale * g, cols, D, live, add1, keep2, add2,
        root2, step_size, eps, step, BLOCK, UNIT, LAZY, BITS, BD,
    )  # fmt: skip


@triton.jit
def more_weighted(acc, at, total, row, inside, scales):
    """acc + total · row; where moments in 8 bits need the registers, the sum grows in memory instead."""
    part = total * tl.load(row, mask=inside, other=0.0)
    if scales is None:
        acc += part
    else:
        tl.debug_barrier()
        tl.store(at, tl.load(at, mask=inside, other=0.0) + part, mask=inside)
    return acc


@triton.jit(do_not_specialize=["step"])
def encoder_grad_adam(
    w, m, v, scales, copy, norms, WIDTH, starts, entries, tokens, coef, bias, u, sums, totals, bias_sums, weighted, F,
    D, WINDOW, TOGETHER, live, add1, keep2, add2, root2, step_size, eps, step,
    LAZY: tl.constexpr, BITS: tl.constexpr, J: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """``row_grad_adam`` for the encoder, with two sums of its operands: bias_sums[f] of the entries' bias gradients
    (``bias``; None: coef), and weighted = Σ bias_sums[f] · w[f] over the program's features, rows as they were before.

    One program: TOGETHER features, one after the other.
    """
    first = tl.program_id(0).to(tl.int64) * TOGETHER
    cols = columns(BD)
    at, inside = weighted + tl.program_id(0).to(tl.int64) * D + cols, cols < D
    acc = tl.zeros([BD], tl.float32)
    if scales is not None:
        tl.store(at, acc, mask=inside)
    for i in range(0, tl.minimum(F - first, TOGETHER)):
        f = first + i
        g, total = feature_row(starts, entries, tokens, coef, bias, u, sums, totals, f, cols, D, WINDOW, J, BD)
        if LAZY:
            if total != 0.0:  # a row that is left alone is not read either
                acc = more_weighted(acc, at, total, w + f * D + cols, inside, scales)
        else:
            acc = more_weighted(acc, at, total, w + f * D + cols, inside, scales)
        tl.store(bias_sums + f, total)
        step_row(
            w, m, v, scales, copy, norms, WIDTH, None, f, F, g, cols, D, live, add1, keep2, add2, root2, step_size, eps,
            step, 1, False, LAZY, BITS, BD,
        )  # fmt: skip
    if scales is None:
        tl.store(at, acc, mask=inside)
