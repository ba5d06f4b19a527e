"""The native kernels over rows, given tensors: layout and dtype in order, addresses out."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from monosem.ops.backend import native as _C

_WEIGHT_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def weights(w: Tensor) -> tuple[Tensor, int]:
    """Weights in a layout that the kernels read: contiguous rows, float32 or bfloat16, and the dtype's number."""
    return w.contiguous(), _WEIGHT_DTYPES[w.dtype]


def fp32(t: Tensor) -> Tensor:
    """Contiguous float32; no copy when it is so already."""
    return t.to(torch.float32).contiguous()


def threads() -> int:
    return torch.get_num_threads()


def _code(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """A code in the layout that the kernels read, and its tokens. They follow it blindly, so it is checked here.

    Raises:
        IndexError: a feature outside 0…d_sae − 1, or offsets that do not divide the entries.
    """
    i, o = indices.contiguous(), offsets.contiguous()
    if len(i):
        low, high = (int(t) for t in torch.aminmax(i))
        if low < 0 or high >= d_sae:
            raise IndexError(f"indices: got features {low} to {high}; wanted 0 to {d_sae - 1}")
    if o[0] != 0 or o[-1] != len(i) or (o.diff() < 0).any():
        raise IndexError(f"offsets: got {int(o[0])} … {int(o[-1])}; wanted ascending from 0 to {len(i)}, the entries")
    return i, o, len(o) - 1


def code_without_waiting(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """``_code`` on a CPU. On a GPU a check would be a wait: there it is made with ``MONOSEM_CHECK=1`` only."""
    if indices.device.type == "cpu" or os.environ.get("MONOSEM_CHECK", "0") not in ("", "0"):
        return _code(indices, offsets, d_sae)
    return indices.contiguous(), offsets.contiguous(), len(offsets) - 1


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    v, (i, o, n), (rows, dtype), bias = fp32(values), _code(indices, offsets, len(w)), weights(w), fp32(b)
    d = w.shape[1]
    out = torch.empty(n, d)
    _C.sparse_decode(
        v.data_ptr(), i.data_ptr(), o.data_ptr(), n, rows.data_ptr(), dtype, d, bias.data_ptr(), out.data_ptr(),
        threads(),
    )  # fmt: skip
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    g32, (i, o, n), (rows, dtype) = fp32(g), _code(indices, offsets, len(w)), weights(w)
    out = torch.empty(len(i))
    _C.gather_dot(
        i.data_ptr(), o.data_ptr(), n, rows.data_ptr(), dtype, w.shape[1], g32.data_ptr(), 1.0, out.data_ptr(),
        threads(),
    )  # fmt: skip
    return out.to(g.dtype)


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    v, (i, o, n), (rows, dtype) = fp32(values), _code(indices, offsets, len(w)), weights(w)
    bias, target, d = fp32(b), fp32(x), w.shape[1]
    loss, residual, slopes = torch.empty(n), torch.empty(n, d), torch.empty(len(v))
    _C.decode_loss(
        v.data_ptr(), i.data_ptr(), o.data_ptr(), n, rows.data_ptr(), dtype, d, bias.data_ptr(), target.data_ptr(),
        loss.data_ptr(), residual.data_ptr(), slopes.data_ptr(), threads(),
    )  # fmt: skip
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, n = _code(indices, offsets, d_sae)
    starts = torch.empty(d_sae + 1, dtype=torch.int64)
    entries, tokens = torch.empty(len(i), dtype=torch.int64), torch.empty(len(i), dtype=torch.int32)
    _C.csc(
        i.data_ptr(), o.data_ptr(), n, d_sae, starts.data_ptr(), entries.data_ptr(), tokens.data_ptr(), threads()
    )  # fmt: skip
    return starts, entries, tokens


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    c, u32 = fp32(coef), fp32(u)
    f, d = len(starts) - 1, u.shape[1]
    out = torch.empty(f, d)
    _C.row_grad(
        starts.data_ptr(), entries.data_ptr(), tokens.data_ptr(), f, c.data_ptr(), u32.data_ptr(), d, out.data_ptr(),
        threads(),
    )  # fmt: skip
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    c = fp32(coef)
    out = torch.empty(len(starts) - 1)
    _C.feature_sum(starts.data_ptr(), entries.data_ptr(), len(out), c.data_ptr(), out.data_ptr(), threads())
    return out.to(coef.dtype)


def _in_place(**tensors: Tensor) -> None:
    for name, t in tensors.items():
        if t.dtype != torch.float32 or not t.is_contiguous():
            layout = "contiguous" if t.is_contiguous() else "strided"
            raise ValueError(f"{name}: got {t.dtype}, {layout}; wanted contiguous float32, which is updated in place")


def _state(w: Tensor, m: Tensor, v: Tensor) -> int:
    """The number of the moments' dtype, float32 or bfloat16, once all three can be updated in place."""
    _in_place(w=w, **({} if m.dtype == v.dtype == torch.bfloat16 else {"m": m, "v": v}))
    if not (m.is_contiguous() and v.is_contiguous()):
        raise ValueError("m, v: got strided bfloat16; wanted contiguous, which is updated in place")
    return _WEIGHT_DTYPES[m.dtype]


def row_adam_(
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool
) -> None:
    state = _state(w, m, v)
    g32 = fp32(g)
    _C.row_adam(
        w.data_ptr(), m.data_ptr(), v.data_ptr(), state, g32.data_ptr(), *w.shape, lr, beta1, beta2, eps, step, unit,
        threads(),
    )  # fmt: skip


def row_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool,
) -> None:  # fmt: skip
    state = _state(w, m, v)
    c, u32 = fp32(coef), fp32(u)
    _C.row_grad_adam(
        w.data_ptr(), m.data_ptr(), v.data_ptr(), state, starts.data_ptr(), entries.data_ptr(), tokens.data_ptr(),
        w.shape[0], c.data_ptr(), u32.data_ptr(), w.shape[1], scale, lr, beta1, beta2, eps, step, unit, threads(),
    )  # fmt: skip


def resample_(
    w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, moments: list[Tensor], features: Tensor, inputs: Tensor,
    alive: Tensor, factor: float,
) -> None:  # fmt: skip
    _in_place(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc)
    chosen, x, living = features.long().contiguous(), fp32(inputs), alive.to(torch.uint8).contiguous()
    _C.resample(
        w_enc.data_ptr(), w_dec.data_ptr(), b_enc.data_ptr(), w_dec.shape[0], w_dec.shape[1], chosen.data_ptr(),
        len(chosen), x.data_ptr(), living.data_ptr(), factor, threads(),
    )  # fmt: skip
    for moment in moments:
        moment[chosen] = 0.0
