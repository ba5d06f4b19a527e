"""The held-out figures of every library by one definition: ours, in dense PyTorch.

An entrant gives its code of the held-out batch (dense, [N, F]) and the parameters that decode it. ``objective`` is the
loss that monosem minimises with these settings. Where a library minimises another one, its notes say so.
"""

import torch


def figures(x, code, w_dec, b_dec, settings: dict, gate=None) -> dict:
    """``mse`` (mean over tokens and D), ``l0``, and ``objective``.

    Args:
        code: activations [N, F], such that ``code @ w_dec + b_dec`` is the reconstruction.
        w_dec: decoder rows [F, D].
        settings: of the kind, as its configuration names them.
        gate: ReLU of the gate's pre-activations [N, F], of a gated autoencoder.
    """
    code, w_dec, b_dec = code.float(), w_dec.float(), b_dec.float()
    mse = _mse(x, code @ w_dec + b_dec)
    l0 = (code > 0).float().sum(-1)
    objective = _nested(x, code, w_dec, b_dec, settings["prefixes"]) if settings.get("prefixes") else mse
    if gate is not None:
        gate = gate.float()
        objective = objective + _mse(x, gate @ w_dec + b_dec)
    # Matryoshka's λ is for one of its activations only.
    l1 = settings.get("l1_coefficient", 0.0) if settings.get("activation", "relu") == "relu" else 0.0
    if l1:
        objective = objective + l1 * ((code if gate is None else gate) * w_dec.norm(dim=-1)).sum(-1).mean()
    if coefficient := settings.get("l0_coefficient"):
        target = settings.get("target_l0")
        penalty = l0.mean() if target is None else (l0.mean() / target - 1).square()
        objective = objective + coefficient * penalty
    return {"mse": mse, "l0": l0.mean(), "objective": objective}


def _mse(x: torch.Tensor, x_hat: torch.Tensor) -> torch.Tensor:
    return (x_hat - x).square().mean()


def _nested(x, code, w_dec, b_dec, prefixes) -> torch.Tensor:
    """Mean over the prefixes of the error of the reconstruction by the features of each."""
    errors = [_mse(x, code[:, :m] @ w_dec[:m] + b_dec) for m in prefixes]
    return torch.stack(errors).mean()
