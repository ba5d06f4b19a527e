"""Structs for arguments that operations pass to their kernels together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SortedCode(NamedTuple):
    """A code's entries sorted by (feature, token), as ``ops.csc`` gives them.

    Attributes:
        starts: int64 [F + 1]; the entries of feature f stand at ``starts[f]:starts[f + 1]``.
        entries: int64 [nnz], the place of each in the code.
        tokens: int32 [nnz], the token of each.
    """

    starts: Tensor
    entries: Tensor
    tokens: Tensor

    def contiguous(self) -> SortedCode:
        if _contiguous(*self):
            return self
        return SortedCode(*(t.contiguous() for t in self))


class EncoderCopy(NamedTuple):
    """Encoder rows as a device's product reads them, kept beside the weights so that they are not rounded in each step.

    Attributes:
        rows: bfloat16 [F, ≥ D], or int8 [F, ≥ D], rotated and dithered (``ops/selection/dithered.py``). On a CPU panels
            of int16 or int8, as int32.
        norms: float32 [2, F], ‖w‖ and ‖w − rows‖, a little more of each; for int8 [4, F]. On a CPU ``known`` of
            ``cpu_integers.QuantizedRows``: [4, ≥ F], or [5, ≥ F] with dither.
    """

    rows: Tensor
    norms: Tensor

    @classmethod
    def of(cls, rows: Tensor | None, norms: Tensor | None) -> EncoderCopy | None:
        return None if rows is None or norms is None else cls(rows, norms)


# dtypes of m and v, and whether they have scales → the word of ``adam.STATES``
_SMALL = {(torch.bfloat16, torch.bfloat16, False): "bf16", (torch.int8, torch.uint8, True): "int8"}


def _contiguous(*tensors: Tensor) -> bool:
    return all(t.is_contiguous() for t in tensors)


class Moments(NamedTuple):
    """Adam's two moments of rows [F, D], updated in place.

    Attributes:
        m, v: float32; bfloat16; or int8 and uint8.
        scales: float32 [2, F], of moments in 8 bits; else None.
    """

    m: Tensor
    v: Tensor
    scales: Tensor | None = None

    @property
    def state(self) -> str:
        """The word of ``adam.STATES`` for these dtypes; float64 counts as ``fp32``: neither is rounded."""
        return _SMALL.get((self.m.dtype, self.v.dtype, self.scales is not None), "fp32")

    def check(self, w: Tensor) -> None:
        """Raise unless w and these can be updated in place by a kernel.

        Raises:
            ValueError: they cannot, or their dtypes do not go together.
        """
        whole = torch.float32
        if self.scales is None and w.dtype == self.m.dtype == self.v.dtype == whole and _contiguous(w, self.m, self.v):
            return  # as a rule, and checked in each step
        in_place(w=w, **({} if self.state != "fp32" else {"m": self.m, "v": self.v}))
        if not (self.m.is_contiguous() and self.v.is_contiguous()):
            raise ValueError(f"m, v: got strided {self.m.dtype}; wanted contiguous, which is updated in place")
        scales = self.scales
        fits = scales is None or (self.state == "int8" and scales.shape == (2, len(w)) and scales.is_contiguous())
        if scales is not None and not fits:
            raise ValueError(
                f"scales: got {list(scales.shape)} with moments of {self.m.dtype} and {self.v.dtype}; wanted "
                f"contiguous [2, {len(w)}] with int8 and uint8, or None"
            )


class AdamStep(NamedTuple):
    """One step of Adam on rows.

    Attributes:
        lr, beta1, beta2, eps: as in ``torch.optim.Adam``.
        step: number of this step, from 1.
        unit: the part of a gradient parallel to its row is removed before, and the row is made unit after.
        lazy: rows whose gradient is 0 everywhere are left as they are, moments included.
        live: float32 [8] on the device, used instead of ``lr`` … ``step`` (``ops/adam.py``).
        own: [F, B], as ``checked_own`` gives it; gradient row f gets ``own[f, b] · w[f, block b]`` added first.
    """

    lr: float
    beta1: float
    beta2: float
    eps: float
    step: int
    unit: bool = False
    lazy: bool = False
    live: Tensor | None = None
    own: Tensor | None = None


def checked_own(own: Tensor | None, w: Tensor) -> Tensor | None:
    """``own`` in the layout that the kernels read: contiguous, of the dtype of rows w [F, D].

    Raises:
        ValueError: it is not [F, B] with B a divisor of D, or is on another device than w.
    """
    if own is None:
        return None
    f, d = w.shape
    if own.dim() != 2 or len(own) != f or not own.shape[1] or d % own.shape[1]:
        raise ValueError(
            f"own: got {list(own.shape)} for w of [{f}, {d}]; wanted [{f}, B], B a divisor of {d}. Give one number per "
            f"row and block of columns, all blocks of one width"
        )
    if own.device != w.device:
        raise ValueError(f"own: got a tensor on {own.device}; wanted one on {w.device}, where w is. Move it there")
    return own.to(w.dtype).contiguous()


def in_place(**tensors: Tensor) -> None:
    """Raise unless each is contiguous float32.

    Raises:
        ValueError: one is not; the message names it.
    """
    for name, t in tensors.items():
        if t.dtype != torch.float32 or not t.is_contiguous():
            layout = "contiguous" if t.is_contiguous() else "strided"
            raise ValueError(f"{name}: got {t.dtype}, {layout}; wanted contiguous float32, which is updated in place")
