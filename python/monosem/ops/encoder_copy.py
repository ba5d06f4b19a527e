"""Encoder rows as the product of a device reads them, made once for many calls of an encoder."""

from __future__ import annotations

from torch import Tensor

from monosem.ops import backend, checks, gpu
from monosem.ops.selection import cpu
from monosem.ops.structs import EncoderCopy


def encoder_copy(w: Tensor) -> EncoderCopy | None:
    """Rows w [F, D] in the few bits of the encoder's product on this device, for ``encoder_copy=`` of the encoders.

    They make such a copy themselves in every call, which for a few tokens costs more than the product. The answer with
    it is the same; it is that of w as it is now, and nobody notices when w changes.

    Returns:
        None where the product reads w itself.

    Raises:
        ValueError: w is not a matrix.
    """
    checks.shape("w", w, ("d_sae", "d_in"))
    w = w.detach()
    if w.device.type == "cpu" and not gpu.interpreted():
        return cpu.encoder_copy(w) if backend.use_native() and w.is_floating_point() and w.dtype.itemsize <= 4 else None
    empty = gpu.empty_copy(w)
    if empty is None:
        return None
    gpu.round_into(*empty, w.contiguous())
    return EncoderCopy(*empty)
