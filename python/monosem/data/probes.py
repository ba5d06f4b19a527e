"""The computation of a wrapped language model between a hook and its logits, measured by running its own modules.

Families differ where no parameter shows it: logits are multiplied (Cohere) or divided (Granite) behind the unembedding,
gains are stored as 1 + weight (Gemma, Nemotron), layers end in a norm (Gemma 2, OLMo 2) or a multiplier (Granite). Each
function here fits a form to outputs of the real modules and raises when none fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_PROBES = 32


def tolerance(dtype: torch.dtype) -> float:
    """How far a form may be from what the model computes in this dtype, of the largest value.

    Sums in another order come to some hundred roundings in float32; what half precision rounds is rounded a few times.
    """
    return max(8 * torch.finfo(dtype).eps, 1e-4)


def logit_scale(unembedded: Tensor, logits: Tensor, caps: Iterable[float]) -> tuple[float, float | None]:
    """(scale s, cap c or None) with logits = s·u or c·tanh(s·u/c), u what the unembedding gives.

    Args:
        unembedded: u, [n, d_vocab].
        logits: what the model's forward pass returned for the same inputs.
        caps: values of c that the model's configuration names.

    Raises:
        ValueError: no such form fits.
    """
    if unembedded.shape != logits.shape:
        raise ValueError(f"logits of shape {list(logits.shape)}, and {list(unembedded.shape)} behind the unembedding")
    u, y, near = unembedded.double(), logits.double(), tolerance(logits.dtype)
    errors = []
    for cap in (None, *caps):
        if cap is not None and not float(y.abs().amax()) < cap:
            continue
        straight = y if cap is None else cap * torch.atanh(y / cap)
        scale = float((u * straight).sum() / (u * u).sum())
        scaled = scale * u if cap is None else cap * torch.tanh(scale * u / cap)
        errors.append(float((scaled - y).abs().amax() / y.abs().amax()))
        if errors[-1] <= near:  # indistinguishable from 1 in this precision: 1
            return (1.0 if abs(scale - 1) <= near else scale), cap
    smallest_error = min(errors, default=float("nan"))
    raise ValueError(
        f"no multiple of what the unembedding gives, soft cap or not, is nearer than {smallest_error:.2g} of them"
    )


@torch.no_grad()
def norm_gain(norm: Callable[[Tensor], Tensor], width: int, like: Tensor) -> tuple[Tensor, bool]:
    """(gain g float32 [width], whether the mean is removed) of norm(x) = g ⊙ x̂ + b.

    x̂ is x, x over its root mean square, or the same of x − mean(x).

    Args:
        like: a tensor of the norm's dtype and device.

    Raises:
        ValueError: the module is none of these.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _PROBES, width, generator=generator, dtype=torch.float32, device="cpu")
    x = (3 * x + 2).to(like)  # with a large mean
    y = norm(x)[0].double()
    x = x[0].double()
    away = x - x.mean(-1, keepdim=True)
    forms = {
        False: x / x.square().mean(-1, keepdim=True).sqrt(),
        True: away / away.square().mean(-1, keepdim=True).sqrt(),
    }
    best = float("inf")
    for centred, z in ((False, x), *forms.items()):
        moved, of = z - z.mean(0), y - y.mean(0)
        gain = (moved * of).sum(0) / moved.square().sum(0)
        best = min(best, float((gain * moved - of).abs().amax() / y.abs().amax()))
        if best <= tolerance(like.dtype):
            return gain.float(), centred
    raise ValueError(f"the final norm is no LayerNorm, RMS norm or identity: the nearest differs by {best:.2g}")


def multiple(change: Tensor, predicted: Tensor, dtype: torch.dtype) -> float:
    """m with change = m · predicted.

    Raises:
        ValueError: there is none.
    """
    c, p = change.double(), predicted.double()
    scale = float((c * p).sum() / (p * p).sum())
    if not bool(c.any()):
        raise ValueError("a change there has no effect")
    error = float((scale * p - c).abs().amax() / p.abs().amax())
    if not error <= tolerance(dtype) * max(abs(scale), 1e-3):
        raise ValueError(f"the change there differs from a multiple of the linear path by {error:.2g} of it")
    return scale
