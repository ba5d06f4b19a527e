"""The operations on rows by Triton. No host synchronisation: every size is known from shapes.

A code with a feature outside 0…d_sae − 1 cannot be refused without one: ``MONOSEM_CHECK=1`` does, at that price.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.kernels import csc as csc_kernels
from monosem.kernels import decode_loss as loss_kernels
from monosem.kernels import launch
from monosem.kernels import live as live_kernels
from monosem.kernels import resample as resample_kernels
from monosem.kernels import row_adam as adam_kernels
from monosem.kernels import row_grad as grad_kernels
from monosem.kernels import sparse_decode as decode_kernels
from monosem.kernels.launch import power2
from monosem.ops import cpu_rows, dithered, reference
from monosem.ops.adam import factors
from monosem.ops.cpu_rows import code_without_waiting as _code
from monosem.ops.sparse_decode import weighted_sum
from monosem.ops.triton_launch import blocks, cdiv, run

WIDEST = 8192  # a row longer than this does not fit the registers of one program; it is worked on in parts
MOST_HELD = 128  # rows of a token in registers: slices of them are 128 bytes wide then, a line of the cache
WIDEST_SLICE = 128  # columns: one warp's load of 16 bytes a thread, so that products need no other warp


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    (i, o, n), d = _code(indices, offsets, len(w)), w.shape[1]
    out = torch.empty(n, d, dtype=w.dtype, device=w.device)
    kernel = decode_kernels.sparse_decode
    options = blocks(kernel, d, w)
    run(
        kernel, n * cdiv(d, options["BD"]), values.contiguous(), i, o, w.contiguous(), b.contiguous(), out, d, **options
    )  # fmt: skip
    return out


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, scale: float = 1.0) -> Tensor:
    (i, o, n), d = _code(indices, offsets, len(w)), w.shape[1]
    out = torch.empty(len(i), dtype=g.dtype, device=w.device)
    kernel = decode_kernels.gather_dot
    run(kernel, n, g.contiguous(), i, o, w.contiguous(), out, d, scale, **blocks(kernel, d, w))
    return out


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (i, o, n), d = _code(indices, offsets, len(w)), w.shape[1]
    loss = torch.empty(n, dtype=x.dtype, device=x.device)
    residual = torch.empty(n, d, dtype=x.dtype, device=x.device)
    slopes, lost = (torch.empty(len(i), dtype=torch.float32, device=x.device) for _ in range(2))
    kernel = loss_kernels.decode_loss
    options = blocks(kernel, d, w)
    # A program holds HELD numbers: as many rows as tokens have entries (TopK: all), in slices as wide as leaves room.
    rows = min(MOST_HELD, max(16, power2(cdiv(len(i), max(1, n)))))
    width = max(16, min(power2(d), WIDEST_SLICE, options.pop("HELD") // rows))
    run(
        kernel, n, values.contiguous(), i, o, w.contiguous(), b.contiguous(), x.contiguous(), loss, residual, slopes,
        lost, d, 1 / d, J=rows, BD=width, **options,
    )  # fmt: skip
    return loss, residual, slopes.to(x.dtype)


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, n = _code(indices, offsets, d_sae)
    nnz, device = len(i), i.device
    counts = torch.zeros(d_sae, dtype=torch.int32, device=device)
    run(csc_kernels.count, n, i, o, counts, **blocks(csc_kernels.count, 0, i))
    starts = torch.zeros(d_sae + 1, dtype=torch.int64, device=device)
    torch.cumsum(counts, 0, out=starts[1:])
    loose, settled = (
        (torch.empty(nnz, dtype=torch.int64, device=device), torch.empty(nnz, dtype=torch.int32, device=device))
        for _ in range(2)
    )
    run(csc_kernels.scatter, n, i, o, starts, counts.zero_(), *loose, **blocks(csc_kernels.scatter, 0, i))
    options = blocks(csc_kernels.settle, 0, i)
    run(csc_kernels.settle, cdiv(nnz, options["B"]), starts, i, *loose, *settled, nnz, d_sae, **options)
    return starts, *settled


def _factors(
    starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor, bias: Tensor | None = None,
    totals: bool = False,
) -> tuple[tuple, Tensor, Tensor | None, int]:  # fmt: skip
    """What kernels over features read: the sorted code with both factors, and the sums of whole windows of entries;
    with ``totals`` those of the entries' bias gradients too."""
    nnz, d = len(entries), u.shape[1]
    window = max(128, power2(nnz // 4096))  # so that the sums are at most 4,096 rows, or 128 × smaller than the code
    args = starts.contiguous(), entries.contiguous(), tokens.contiguous(), coef.contiguous()
    sums = torch.empty(max(1, nnz // window), d, dtype=torch.float32, device=u.device)
    of_bias = torch.empty(len(sums), dtype=torch.float32, device=u.device) if totals else None
    kernel = grad_kernels.windows
    options = blocks(kernel, d, u)
    u = u.contiguous()
    run(
        kernel, nnz // window * cdiv(d, options["BD"]), *args, bias, u, sums, of_bias, len(starts) - 1, d, window,
        **options,
    )  # fmt: skip
    return (*args, u), sums, of_bias, window


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    f, d = len(starts) - 1, u.shape[1]
    code, sums, _, window = _factors(starts, entries, tokens, coef, u)
    out = torch.empty(f, d, dtype=u.dtype, device=u.device)
    kernel = grad_kernels.row_grad
    options = blocks(kernel, d, u)
    run(kernel, f * cdiv(d, options["BD"]), *code, sums, out, d, window, **options)
    return out


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, dtype=coef.dtype, device=coef.device)
    kernel = grad_kernels.feature_sum
    run(kernel, len(out), starts.contiguous(), entries.contiguous(), coef.contiguous(), out, **blocks(kernel, 0, coef))
    return out


def row_adam_(
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int,
    unit: bool, lazy: bool = False, live: Tensor | None = None, scales: Tensor | None = None,
    copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    state = cpu_rows.adam_state(w, m, v, scales)
    rows, d = w.shape
    numbers = factors(lr, beta1, beta2, eps, step)
    if not (unit or lazy or state or copy is not None):
        kernel = adam_kernels.flat_adam
        options = blocks(kernel, 0, w)
        run(
            kernel, cdiv(w.numel(), options["B"]), w, m, v, g.contiguous(), w.numel(), live, *numbers, **options
        )  # fmt: skip
    elif d > WIDEST:
        reference.row_adam_(w, m, v, g.float(), lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms)
    else:
        kernel = adam_kernels.row_adam
        run(
            kernel, rows, w, m, v, scales, copy, norms, _width(copy), g.contiguous(), d, live, *numbers, step,
            UNIT=unit, LAZY=lazy, **_row_blocks(kernel, w, copy, scales),
        )  # fmt: skip


def row_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool, lazy: bool = False,
    live: Tensor | None = None, scales: Tensor | None = None, copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    cpu_rows.adam_state(w, m, v, scales)
    f, d = w.shape
    if d > WIDEST:
        g = row_grad(starts, entries, tokens, coef.float(), u.float()).mul_(scale)
        return row_adam_(w, m, v, g, lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms)
    code, sums, _, window = _factors(starts, entries, tokens, coef, u)
    kernel = adam_kernels.row_grad_adam
    run(
        kernel, f, w, m, v, scales, copy, norms, _width(copy), *code, sums, d, window, scale, live,
        *factors(lr, beta1, beta2, eps, step), step, UNIT=unit, LAZY=lazy, **_row_blocks(kernel, w, copy, scales),
    )  # fmt: skip


def encoder_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    bias: Tensor | None, lr: float, beta1: float, beta2: float, eps: float, step: int, lazy: bool = False,
    live: Tensor | None = None, scales: Tensor | None = None, copy: Tensor | None = None, norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    cpu_rows.adam_state(w, m, v, scales)
    f, d = w.shape
    if d > WIDEST:
        bias_sums = feature_sum(starts, entries, coef if bias is None else bias)
        weighted = weighted_sum(bias_sums, w)
        row_grad_adam_(
            w, m, v, starts, entries, tokens, coef, u, 1.0, lr, beta1, beta2, eps, step, False, lazy, live, scales,
            copy, norms,
        )  # fmt: skip
        return bias_sums, weighted
    bias = None if bias is None else bias.contiguous()
    (*code, u), sums, totals, window = _factors(starts, entries, tokens, coef, u, bias, True)
    bias_sums = torch.empty(f, dtype=torch.float32, device=w.device)
    together, kernel = launch.together(f), adam_kernels.encoder_grad_adam
    programs, options = cdiv(f, together), _row_blocks(kernel, w, copy, scales)
    if scales is not None:  # which takes more registers than a second program would leave
        options.pop("maxnreg", None)
    weighted = torch.empty(programs, d, dtype=torch.float32, device=w.device)
    run(
        kernel, programs, w, m, v, scales, copy, norms, _width(copy), *code, bias, u, sums, totals, bias_sums, weighted,
        f, d, window, together, live, *factors(lr, beta1, beta2, eps, step), step, LAZY=lazy, **options,
    )  # fmt: skip
    return bias_sums, weighted.sum(0)


def advance_live_(live: Tensor, lr: Tensor, steps: Tensor, beta1: float, beta2: float) -> None:
    kernel = live_kernels.advance_live
    run(kernel, 1, live, steps, lr, BETA1=beta1, BETA2=beta2, **blocks(kernel, 0, live))


def _row_blocks(kernel, w: Tensor, copy: Tensor | None, scales: Tensor | None) -> dict[str, int]:
    """Block sizes of rows of w; a copy in int8 has columns of its own beside them, all in one block. A thread holds 8
    numbers of a row while they are rotated, 16 where moments in 8 bits need more registers than half as many leave."""
    options = blocks(kernel, w.shape[1], w)
    if copy is None or copy.dtype != torch.int8:
        return {**options, "BITS": 0}
    bd = max(options["BD"], power2(copy.shape[1]))
    warps = max(options["num_warps"], min(16, bd // 32 // (8 if scales is None else 16)))
    return {**options, "BITS": dithered.rotation_bits(copy.shape[1]), "BD": bd, "num_warps": warps}


def _width(copy: Tensor | None) -> int:
    return 0 if copy is None else copy.stride(0)


def resample_(
    w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, moments: list[Tensor], features: Tensor, inputs: Tensor,
    alive: Tensor, factor: float,
) -> None:  # fmt: skip
    cpu_rows._in_place(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc)
    f, d = w_enc.shape
    norms = torch.empty(f, dtype=torch.float32, device=w_enc.device)
    run(resample_kernels.row_norm, f, w_enc, norms, d, **blocks(resample_kernels.row_norm, d, w_enc))
    living = alive.sum()
    mean = torch.where(alive, norms, 0).sum(dtype=torch.float64) / living
    norm = (torch.where(living > 0, mean, 1.0) * factor).float()
    chosen, kernel = features.long().contiguous(), resample_kernels.resample
    run(kernel, len(chosen), w_enc, w_dec, b_enc, chosen, inputs.contiguous(), norm, d, **blocks(kernel, d, w_enc))
    for moment in moments:
        moment[chosen] = 0.0
