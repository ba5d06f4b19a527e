"""The CUDA kernels over rows, given tensors: layout and dtype in order, addresses and the stream out.

Each function has the signature of its operation. Nothing here waits for the GPU; workspaces come from PyTorch's
allocator, so that a step can be captured in a graph. Codes on a GPU are not checked, for reading them would be a wait:
``MONOSEM_CHECK=1`` does, at that price.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monosem.ops import cpu_rows
from monosem.ops.cpu_rows import _in_place as in_place
from monosem.ops.cpu_rows import code_without_waiting as _code
from monosem.ops.cpu_rows import fp32

try:
    from monosem import _cuda as _built
except ImportError:  # ``ops.gpu.available`` says so, and nothing comes here
    _built = None
_cuda: Any = _built

CUT_BITS = 8  # a feature's entries beyond 2⁸ are summed by several blocks
MOST_PIECES = 4096
THREADS = (32, 64, 128, 256)  # of a block, that tuning may choose from
_WEIGHT_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def weights(w: Tensor) -> tuple[Tensor, int]:
    """Weights in a layout that the kernels read: contiguous rows, float32 or bfloat16, and the dtype's number."""
    return w.contiguous(), _WEIGHT_DTYPES[w.dtype]


def stream(t: Tensor) -> int:
    """Address of the current stream of the tensor's device."""
    return torch.cuda.current_stream(t.device).cuda_stream


def tuned(kernel: str, d: int, t: Tensor) -> int:
    """Threads of a block as measured on this GPU; 0, the launcher's own rule, where nothing was."""
    if t.device.type != "cuda":
        return 0
    from monosem.kernels import launch

    table = launch.table(torch.cuda.get_device_name(t.device))
    return table.get(f"cuda_{kernel}", {}).get(str(d), {}).get("threads", 0)


def _empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=like.device)


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    v, (i, o, n), (rows, dtype), bias = fp32(values), _code(indices, offsets, len(w)), weights(w), fp32(b)
    d = w.shape[1]
    out = _empty(w, n, d)
    _cuda.sparse_decode(
        v.data_ptr(), i.data_ptr(), o.data_ptr(), n, rows.data_ptr(), dtype, d, bias.data_ptr(), out.data_ptr(),
        tuned("sparse_decode", d, w), stream(w),
    )  # fmt: skip
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    g32, (i, o, n), (rows, dtype) = fp32(g), _code(indices, offsets, len(w)), weights(w)
    out = _empty(w, len(i))
    _cuda.gather_dot(
        i.data_ptr(), o.data_ptr(), n, rows.data_ptr(), dtype, w.shape[1], g32.data_ptr(), 1.0,
        out.data_ptr(), stream(w),
    )  # fmt: skip
    return out.to(g.dtype)


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    v, (i, o, n), (rows, dtype) = fp32(values), _code(indices, offsets, len(w)), weights(w)
    bias, target, d = fp32(b), fp32(x), w.shape[1]
    loss, residual, slopes = _empty(w, n), _empty(w, n, d), _empty(w, len(v))
    _cuda.decode_loss(
        v.data_ptr(), i.data_ptr(), o.data_ptr(), n, len(v), rows.data_ptr(), dtype, d, bias.data_ptr(),
        target.data_ptr(),
        loss.data_ptr(), residual.data_ptr(), slopes.data_ptr(), tuned("decode_loss", d, w), stream(w),
    )  # fmt: skip
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, n_tokens = _code(indices, offsets, d_sae)
    starts, entries = (_empty(i, n, dtype=torch.int64) for n in (d_sae + 1, len(i)))
    tokens = _empty(i, len(i), dtype=torch.int32)
    workspace = _empty(i, _cuda.csc_workspace(len(i), d_sae), dtype=torch.int32)
    _cuda.csc(
        i.data_ptr(), o.data_ptr(), n_tokens, len(i), d_sae, starts.data_ptr(), entries.data_ptr(),
        tokens.data_ptr(), workspace.data_ptr(), stream(i),
    )  # fmt: skip
    return starts, entries, tokens


def _pieces(nnz: int, u: Tensor) -> tuple[int, Tensor | None]:
    """Bits of the cut, and room for the sums of pieces; None when no feature can have a whole piece."""
    bits = CUT_BITS
    while nnz >> bits > MOST_PIECES:
        bits += 1
    return bits, _empty(u, nnz >> bits, u.shape[1]) if nnz >> bits else None


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    c, u32 = fp32(coef), fp32(u)
    f, d = len(starts) - 1, u.shape[1]
    out = _empty(u, f, d)
    bits, pieces = _pieces(len(entries), u32)
    _cuda.row_grad(
        starts.data_ptr(), entries.data_ptr(), tokens.data_ptr(), f, len(entries), c.data_ptr(), u32.data_ptr(), d,
        bits, _address(pieces), out.data_ptr(), tuned("row_grad", d, u), stream(u),
    )  # fmt: skip
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    c = fp32(coef)
    out = _empty(coef, len(starts) - 1)
    _cuda.feature_sum(
        starts.data_ptr(), entries.data_ptr(), len(out), c.data_ptr(), out.data_ptr(), stream(coef)
    )  # fmt: skip
    return out.to(coef.dtype)


def row_adam_(
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int,
    unit: bool, lazy: bool = False, live: Tensor | None = None, scales: Tensor | None = None,
    copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    if _in_8_bits(scales, copy):
        return _by_triton("row_adam_", w, m, v, g, lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms)
    state, g32 = cpu_rows.adam_state(w, m, v, scales), fp32(g)
    _cuda.row_adam(
        w.data_ptr(), m.data_ptr(), v.data_ptr(), state, *_copy(copy, norms), g32.data_ptr(), *w.shape, lr, beta1,
        beta2, eps, step, unit, lazy, _address(live), tuned("row_adam", w.shape[1], w), stream(w),
    )  # fmt: skip


def row_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool, lazy: bool = False,
    live: Tensor | None = None, scales: Tensor | None = None, copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    if _in_8_bits(scales, copy):
        return _by_triton(
            "row_grad_adam_", w, m, v, starts, entries, tokens, coef, u, scale, lr, beta1, beta2, eps, step, unit, lazy,
            live, scales, copy, norms,
        )  # fmt: skip
    state, c, u32, d = cpu_rows.adam_state(w, m, v, scales), fp32(coef), fp32(u), w.shape[1]
    bits, pieces = _pieces(len(entries), u32)
    _cuda.row_grad_adam(
        w.data_ptr(), m.data_ptr(), v.data_ptr(), state, *_copy(copy, norms), starts.data_ptr(), entries.data_ptr(),
        tokens.data_ptr(), w.shape[0], len(entries), c.data_ptr(), u32.data_ptr(), d, bits, _address(pieces), scale,
        lr, beta1, beta2, eps, step, unit, lazy, _address(live), tuned("row_grad_adam", d, w), stream(w),
    )  # fmt: skip


def encoder_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    bias: Tensor | None, lr: float, beta1: float, beta2: float, eps: float, step: int, lazy: bool = False,
    live: Tensor | None = None, scales: Tensor | None = None, copy: Tensor | None = None, norms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if _in_8_bits(scales, copy):
        return _by_triton(
            "encoder_grad_adam_", w, m, v, starts, entries, tokens, coef, u, bias, lr, beta1, beta2, eps, step, lazy,
            live, scales, copy, norms,
        )  # fmt: skip
    from monosem.kernels import launch

    state, c, u32, (f, d) = cpu_rows.adam_state(w, m, v, scales), fp32(coef), fp32(u), w.shape
    own = c if bias is None else fp32(bias)
    bits, pieces = _pieces(len(entries), u32)
    totals = None if pieces is None else _empty(u, len(pieces), dtype=torch.float64)
    together = launch.together(f)
    sums, weighted = _empty(w, f), _empty(w, -(-f // together), d)
    _cuda.encoder_grad_adam(
        w.data_ptr(), m.data_ptr(), v.data_ptr(), state, *_copy(copy, norms), starts.data_ptr(), entries.data_ptr(),
        tokens.data_ptr(), f, len(entries), c.data_ptr(), own.data_ptr(), u32.data_ptr(), d, bits, _address(pieces),
        _address(totals), sums.data_ptr(), weighted.data_ptr(), together, lr, beta1, beta2, eps, step, lazy,
        _address(live), tuned("encoder_grad_adam", d, w), stream(w),
    )  # fmt: skip
    return sums, weighted.sum(0)


def _copy(copy: Tensor | None, norms: Tensor | None) -> tuple[int, int, int]:
    return _address(copy), _address(norms), 0 if copy is None else copy.stride(0)


def _in_8_bits(scales: Tensor | None, copy: Tensor | None) -> bool:
    """Moments or the encoder's copy: their scale is known when all of a row is, and Triton holds a whole row."""
    return scales is not None or (copy is not None and copy.dtype == torch.int8)


def _by_triton(op: str, *args) -> Any:
    from monosem.ops import triton_rows

    return getattr(triton_rows, op)(*args)


def resample_(
    w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, moments: list[Tensor], features: Tensor, inputs: Tensor,
    alive: Tensor, factor: float,
) -> None:  # fmt: skip
    in_place(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc)
    chosen, x, living = features.long().contiguous(), fp32(inputs), alive.to(torch.uint8).contiguous()
    workspace = _empty(w_enc, _cuda.resample_workspace(), dtype=torch.float64)
    _cuda.resample(
        w_enc.data_ptr(), w_dec.data_ptr(), b_enc.data_ptr(), w_dec.shape[0], w_dec.shape[1], chosen.data_ptr(),
        len(chosen), x.data_ptr(), living.data_ptr(), factor, workspace.data_ptr(), stream(w_enc),
    )  # fmt: skip
    for moment in moments:
        moment.index_fill_(0, chosen, 0.0)
