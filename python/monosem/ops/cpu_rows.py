"""The native kernels over rows, given tensors: layout and dtype in order. The bindings check what they are given."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from monosem.ops import reference
from monosem.ops.adam import write_copy_
from monosem.ops.backend import native as _C


def fp32(t: Tensor) -> Tensor:
    """Contiguous float32; no copy when it is so already."""
    return t.to(torch.float32).contiguous()


def threads() -> int:
    return torch.get_num_threads()


def _code(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """A code in the layout that the kernels read, and its tokens. They follow it blindly, so it is checked here.

    Behind the last entry there may be room that is not used, where the feature is ``d_sae``.

    Raises:
        IndexError: a feature outside 0…d_sae − 1, or offsets that do not divide the entries.
    """
    i, o = indices.contiguous(), offsets.contiguous()
    entries = len(i) if o[-1] == len(i) else len(i) - int((i == d_sae).sum())
    if entries:
        low, high = (int(t) for t in torch.aminmax(i[:entries]))
        if low < 0 or high >= d_sae:
            raise IndexError(f"indices: got features {low} to {high}; wanted 0 to {d_sae - 1}")
    if o[0] != 0 or o[-1] != entries or (o.diff() < 0).any():
        raise IndexError(f"offsets: got {int(o[0])} … {int(o[-1])}; wanted ascending from 0 to {entries}, the entries")
    return i, o, len(o) - 1


def code_without_waiting(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, int]:
    """``_code`` on a CPU. On a GPU a check would be a wait: there it is made with ``MONOSEM_CHECK=1`` only."""
    if indices.device.type == "cpu" or os.environ.get("MONOSEM_CHECK", "0") not in ("", "0"):
        return _code(indices, offsets, d_sae)
    return indices.contiguous(), offsets.contiguous(), len(offsets) - 1


def sparse_decode(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor) -> Tensor:
    i, o, n = _code(indices, offsets, len(w))
    out = torch.empty(n, w.shape[1], dtype=torch.float32, device="cpu")
    _C.sparse_decode(fp32(values), i, o, n, w.contiguous(), *w.shape, fp32(b), out, threads())
    return out.to(w.dtype)


def gather_dot(g: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    i, o, n = _code(indices, offsets, len(w))
    out = torch.empty(len(i), dtype=torch.float32, device="cpu")
    _C.gather_dot(i, o, n, w.contiguous(), *w.shape, fp32(g), 1.0, out, threads())
    return out.to(g.dtype)


def decode_loss(
    values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor, b: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    (i, o, n), d = _code(indices, offsets, len(w)), w.shape[1]
    loss, residual, slopes = (
        torch.empty(n, dtype=torch.float32, device="cpu"),
        torch.empty(n, d, dtype=torch.float32, device="cpu"),
        torch.empty(len(values), dtype=torch.float32, device="cpu"),
    )
    _C.decode_loss(
        fp32(values), i, o, n, w.contiguous(), *w.shape, fp32(b), fp32(x), loss, residual, slopes, threads()
    )  # fmt: skip
    return loss.to(x.dtype), residual.to(x.dtype), slopes.to(x.dtype)


def csc(indices: Tensor, offsets: Tensor, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    i, o, n = _code(indices, offsets, d_sae)
    starts = torch.empty(d_sae + 1, dtype=torch.int64, device="cpu")
    entries, tokens = (
        torch.empty(len(i), dtype=torch.int64, device="cpu"),
        torch.empty(len(i), dtype=torch.int32, device="cpu"),
    )
    _C.csc(i, o, n, d_sae, starts, entries, tokens, threads())
    return starts, entries, tokens


def _by_feature(*parts: Tensor) -> tuple[Tensor, ...]:
    """``starts, entries`` and ``tokens`` of a code sorted by feature; the bindings see whether they fit together."""
    return tuple(t.contiguous() for t in parts)


def row_grad(starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor) -> Tensor:
    f = len(starts) - 1
    out = torch.empty(f, u.shape[1], dtype=torch.float32, device="cpu")
    _C.row_grad(*_by_feature(starts, entries, tokens), f, fp32(coef), fp32(u), *u.shape, out, threads())
    return out.to(u.dtype)


def feature_sum(starts: Tensor, entries: Tensor, coef: Tensor) -> Tensor:
    out = torch.empty(len(starts) - 1, dtype=torch.float32, device="cpu")
    _C.feature_sum(*_by_feature(starts, entries), len(out), fp32(coef), out, threads())
    return out.to(coef.dtype)


def _in_place(**tensors: Tensor) -> None:
    for name, t in tensors.items():
        if t.dtype != torch.float32 or not t.is_contiguous():
            layout = "contiguous" if t.is_contiguous() else "strided"
            raise ValueError(f"{name}: got {t.dtype}, {layout}; wanted contiguous float32, which is updated in place")


def adam_state(w: Tensor, m: Tensor, v: Tensor, scales: Tensor | None) -> int:
    """The number of the moments' dtype, once all can be updated in place: 0 float32, 1 bfloat16, 2 int8.

    Raises:
        ValueError: they cannot, or their dtypes do not go together.
    """
    small = {(torch.bfloat16, torch.bfloat16, False): 1, (torch.int8, torch.uint8, True): 2}
    state = small.get((m.dtype, v.dtype, scales is not None), 0)
    _in_place(w=w, **({} if state else {"m": m, "v": v}))
    if not (m.is_contiguous() and v.is_contiguous()):
        raise ValueError(f"m, v: got strided {m.dtype}; wanted contiguous, which is updated in place")
    if scales is not None and (state != 2 or scales.shape != (2, len(w)) or not scales.is_contiguous()):
        raise ValueError(
            f"scales: got {list(scales.shape)} with moments of {m.dtype} and {v.dtype}; wanted contiguous "
            f"[2, {len(w)}] with int8 and uint8, or None"
        )
    return state


def row_adam_(
    w: Tensor, m: Tensor, v: Tensor, g: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int,
    unit: bool, lazy: bool = False, live: Tensor | None = None, scales: Tensor | None = None,
    copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    adam_state(w, m, v, scales)
    if live is not None:  # for graphs, of which a CPU has none
        return reference.row_adam_(w, m, v, fp32(g), lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms)
    _C.row_adam(
        w, m, v, scales, fp32(g), *w.shape, lr, beta1, beta2, eps, step, unit, lazy, threads()
    )  # fmt: skip
    write_copy_(w, copy, norms)


def row_grad_adam_(
    w: Tensor, m: Tensor, v: Tensor, starts: Tensor, entries: Tensor, tokens: Tensor, coef: Tensor, u: Tensor,
    scale: float, lr: float, beta1: float, beta2: float, eps: float, step: int, unit: bool, lazy: bool = False,
    live: Tensor | None = None, scales: Tensor | None = None, copy: Tensor | None = None, norms: Tensor | None = None,
) -> None:  # fmt: skip
    adam_state(w, m, v, scales)
    if live is not None:
        g = row_grad(starts, entries, tokens, coef, u).float() * scale
        return reference.row_adam_(w, m, v, g, lr, beta1, beta2, eps, step, unit, lazy, live, scales, copy, norms)
    if u.shape[1:] != w.shape[1:] or len(starts) != len(w) + 1:
        raise ValueError(
            f"u, starts: got {list(u.shape)} and {list(starts.shape)}; wanted [tokens, {w.shape[1]}] and "
            f"[{len(w) + 1}], which fit w"
        )
    _C.row_grad_adam(
        w, m, v, scales, *_by_feature(starts, entries, tokens), len(w), fp32(coef), fp32(u), *u.shape, scale, lr, beta1,
        beta2, eps, step, unit, lazy, threads(),
    )  # fmt: skip
    write_copy_(w, copy, norms)


def resample_(
    w_enc: Tensor, w_dec: Tensor, b_enc: Tensor, moments: list[Tensor], features: Tensor, inputs: Tensor,
    alive: Tensor, factor: float,
) -> None:  # fmt: skip
    _in_place(w_enc=w_enc, w_dec=w_dec, b_enc=b_enc)
    chosen, x, living = features.long().contiguous(), fp32(inputs), alive.to(torch.uint8).contiguous()
    _C.resample(w_enc, w_dec, b_enc, *w_dec.shape, chosen, len(chosen), x, living, factor, threads())
    for moment in moments:
        moment[chosen] = 0.0
