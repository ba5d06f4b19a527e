"""The arithmetic of an Adam step in plain PyTorch: its factors, and moments in fewer bits.

The kernels use the same numbers: the noise of a rounding depends on the step, the row and the column alone, so that a
CPU and a GPU round alike, and every run alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosem.ops.selection import dithered
from monosem.ops.structs import EncoderCopy, Moments

STATES = ("fp32", "bf16", "int8")
DTYPES = {  # of m and v
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "int8": (torch.int8, torch.uint8),
}
LIVE = 8  # float32: add1, keep2, add2, 1 / root2, step_size, eps, the bits of the step number, root2
_WORD = 0xFFFFFFFF


def factors(lr: float, beta1: float, beta2: float, eps: float, step: int) -> tuple[float, ...]:
    """``(add1, keep2, add2, root2, step_size, eps)`` as ``torch.optim.Adam`` forms them: in float64, rounded once."""
    return 1 - beta1, beta2, 1 - beta2, (1 - beta2**step) ** 0.5, lr / (1 - beta1**step), eps


def live_factors(beta1: float, beta2: float, eps: float, device: torch.device) -> Tensor:
    """A step's factors on the device; ``set_live_`` writes those that change from step to step."""
    return torch.tensor([1 - beta1, beta2, 1 - beta2, 1.0, 0.0, eps, 0.0, 1.0], dtype=torch.float32, device=device)


def set_live_(live: Tensor, lr: Tensor, step: Tensor, beta1: float, beta2: float) -> None:
    """Write the factors of step number ``step`` (int64, 0-dim) with learning rate ``lr`` (0-dim), on the device.

    No synchronisation, so that it can be part of a captured graph. In float64, as ``factors``.
    """
    t = step.double()
    root2 = (1 - beta2**t).sqrt_()
    live[3].copy_(1 / root2)
    live[4].copy_(lr.double() / (1 - beta1**t))
    live.view(torch.int32)[6].copy_(step)
    live[7].copy_(root2)


def write_live_(live: Tensor, lr: float, beta1: float, beta2: float, eps: float, step: int) -> None:
    """The same from the host, without synchronisation: the same numbers that a launch would pass."""
    _, _, _, root2, step_size, _ = factors(lr, beta1, beta2, eps, step)
    numbers = live_factors(beta1, beta2, eps, torch.device("cpu"))
    numbers[3], numbers[4], numbers[7] = 1 / root2, step_size, root2
    numbers.view(torch.int32)[6] = step
    live.copy_(numbers.pin_memory() if live.device.type == "cuda" else numbers, non_blocking=True)


def scaled_live(live: Tensor, factor: float) -> Tensor:
    """The same factors with the learning rate times ``factor``, computed on the device."""
    scaled = live.clone()
    scaled[4] *= factor
    return scaled


def read_live(live: Tensor) -> tuple:
    """``(add1, keep2, add2, root2, step_size, eps)`` and the step number, as 0-dim tensors."""
    return (live[0], live[1], live[2], live[7], live[4], live[5]), live.view(torch.int32)[6].long()


def _mixed(h: Tensor) -> Tensor:
    """A well-mixed 32-bit number for each; int64 in and out."""
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _WORD
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _WORD
    return h ^ (h >> 16)


def noise(step: int | Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """32 random bits for each entry of rows [F, D]: the low half rounds m, the high half v."""
    rows, columns = (torch.arange(n, dtype=torch.int64, device=device) for n in shape)
    seed = _mixed(((step * 0x9E3779B1) & _WORD) ^ _mixed((rows + 0x7F4A7C15) & _WORD))
    return _mixed((seed[:, None] + columns) & _WORD)


def read_moments(moments: Moments) -> tuple[Tensor, Tensor]:
    """The moments as numbers. In int8: ``m = ±(q/127)² · scales[0]``, ``√v = (q/255)² · scales[1]``, row by row."""
    m, v, scales = moments
    if scales is None:
        return (m, v) if m.dtype == torch.float64 else (m.float(), v.float())
    a, b = m.float(), v.float()
    return a * a.abs() / 16129 * scales[0, :, None], (b * b / 65025 * scales[1, :, None]).square()


def write_moments_(moments: Moments, new_m: Tensor, new_v: Tensor, touched: Tensor, step: int | Tensor) -> None:
    """Keep the numbers of the rows ``touched`` (bool [F, 1]); with fewer bits they are rounded stochastically, so
    that the mean is right. A non-zero √v never becomes 0: it is the denominator of an m that may be rounded up."""
    m, v, scales = moments
    if m.dtype in (torch.float32, torch.float64):
        kept = new_m, new_v
    elif m.dtype == torch.bfloat16:
        bits = noise(step, m.shape, m.device)
        kept = _to_bf16(new_m, bits), _to_bf16(new_v, bits >> 16)
    else:
        bits = noise(step, m.shape, m.device)
        most_m, most_v = new_m.abs().amax(-1, keepdim=True), new_v.amax(-1, keepdim=True).sqrt()
        q = _code(new_m.abs() / torch.where(most_m > 0, most_m, 1) * 16129, bits & 0xFFFF, 127)
        r = _code(new_v.sqrt() / torch.where(most_v > 0, most_v, 1) * 65025, bits >> 16, 255)
        kept = torch.where(new_m < 0, -q, q).to(torch.int8), torch.where(new_v > 0, r.clamp(min=1), 0).to(torch.uint8)
        assert scales is not None  # moments in 8 bits come with them
        scales.copy_(torch.where(touched.T, torch.stack([most_m[:, 0], most_v[:, 0]]), scales))
    m.copy_(torch.where(touched, kept[0], m))
    v.copy_(torch.where(touched, kept[1], v))


def _to_bf16(t: Tensor, bits: Tensor) -> Tensor:
    word = (t.contiguous().view(torch.int32).long() & _WORD) + (bits & 0xFFFF)
    return (word >> 16).to(torch.int16).view(torch.bfloat16)


def _code(square: Tensor, bits: Tensor, most: int) -> Tensor:
    low = square.sqrt().floor()
    up = (square - low * low) / (2 * low + 1) * 65536 > bits
    return (low + up).clamp(max=most)


def write_copy_(w: Tensor, copy: EncoderCopy | None) -> None:
    """Round rows w [F, D] to ``copy`` with, in its ``norms`` [2, F], ‖w‖ and ‖w − copy‖, a little more of each.
    In int8: ``dithered.quantize``, with ``norms`` [4, F].

    All rows: those that were left alone have the copy that they had.
    """
    if copy is None:
        return
    rows, norms = copy
    if rows.dtype == torch.int8:
        level, known = dithered.quantize(w, dithered.FEATURE)
        rows.copy_(level)
        norms.copy_(known)
    else:
        rows[:, : w.shape[1]] = w
        norms[0] = w.norm(dim=-1) * 1.001 + 1e-14
        norms[1] = (w - rows[:, : w.shape[1]].to(w.dtype)).norm(dim=-1) * 1.001 + 1e-14
