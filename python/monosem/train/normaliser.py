"""Activations brought to a common scale for training: maps that are estimated once, on the first batches of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.nn.folding import Affine, Joint, check_folds, folded
from monosem.ops.precision import as_given

RIDGE = 1e-3  # added to the variances, as a share of their mean: directions without variance are not blown up


class Normaliser:
    """What stands between the activations of a run and its autoencoders.

    Each part of a batch (``SAE.batch_widths``) has a map of its own: a factor by which the mean norm is √d
    ("mean_norm"), or whitening, by which the mean is 0 and the covariance nearly the identity ("whiten").

    Args:
        kind: "mean_norm" or "whiten".
        widths: of the parts.

    Raises:
        ValueError: the map of this kind cannot be folded into the weights of an autoencoder.
    """

    def __init__(self, kind: str, widths: Sequence[int], saes: Sequence[SAE]) -> None:
        self.kind, self._widths = kind, list(widths)
        for sae in saes:
            check_folds(sae, kind == "mean_norm", f"normalize: got {kind!r}")
        self._maps: Joint | None = None
        self._tokens = 0

    @property
    def is_ready(self) -> bool:
        return self._maps is not None

    @property
    def tokens_wanted(self) -> int:
        """Tokens by which the maps are estimated."""
        return max(1 << 14, 8 * max(self._widths)) if self.kind == "whiten" else 1 << 14

    @torch.no_grad()
    def estimate(self, batches: Sequence[Tensor]) -> None:
        """The maps, by batches [N, Σ widths]: those for which there are tokens enough.

        Raises:
            ValueError: activations of a part are all 0.
        """
        columns = list(zip(*(batch.split(self._widths, dim=1) for batch in batches), strict=True))
        of_kind = _by_mean_norm if self.kind == "mean_norm" else _whitening
        self._maps = Joint([of_kind(parts) for parts in columns])
        self._tokens = sum(len(batch) for batch in batches)

    def __call__(self, x: Tensor) -> Tensor:
        """A batch [N, Σ widths], normalised."""
        assert self._maps is not None
        return self._maps(x)

    def folded(self, sae: SAE) -> SAE:
        """A copy of an autoencoder of normalised activations that takes them as they are (``nn.folding.folded``)."""
        assert self._maps is not None
        return folded(sae, self._maps.maps)

    def record(self) -> JsonDict:
        """The normalisation, for files."""
        assert self._maps is not None
        factors = [float(each.matrix) if each.is_scaling else None for each in self._maps.maps]
        known = {} if None in factors else {"factors": factors}
        return {"kind": self.kind, "tokens": self._tokens, "folded": True} | known

    def state_dict(self) -> dict[str, Tensor]:
        """Empty before the maps are estimated."""
        if self._maps is None:
            return {}
        state = {"tokens": torch.tensor(self._tokens, dtype=torch.int64, device="cpu")}
        for i, each in enumerate(self._maps.maps):
            state |= {f"{i}.{name}": getattr(each, name) for name in ("matrix", "inverse", "mean")}
        return state

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        if not state:
            return
        self._tokens = int(state["tokens"])
        names = ("matrix", "inverse", "mean")
        parts = range(len(self._widths))
        self._maps = Joint([Affine(*(state[f"{i}.{name}"].to(device) for name in names)) for i in parts])


def _by_mean_norm(parts: Sequence[Tensor]) -> Affine:
    d, count = parts[0].shape[1], sum(map(len, parts))
    total = sum(torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).sum() for part in parts)
    mean = float(total) / count
    if not 0 < mean < math.inf:
        raise ValueError(_NO_SCALE.format(count, mean))
    return Affine.scaling(math.sqrt(d) / mean, d, parts[0].device)


@as_given
def _whitening(parts: Sequence[Tensor]) -> Affine:
    d, count, device = parts[0].shape[1], sum(map(len, parts)), parts[0].device
    mean = torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0) / count
    covariance = torch.zeros(d, d, dtype=torch.float64, device=device)
    for part in parts:
        centred = part.double() - mean
        covariance.addmm_(centred.T, centred, alpha=1 / count)
    variance = float(covariance.diagonal().mean())
    if not 0 < variance < math.inf:
        raise ValueError(_NO_SCALE.format(count, variance))
    values, vectors = torch.linalg.eigh(covariance)
    roots = (values.clamp(min=0) + RIDGE * variance).sqrt()
    return Affine((vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T, mean)


_NO_SCALE = (
    "normalize: the scale of the first {:,} activations is {:g}; wanted activations that are finite and not all alike. "
    "Choose another hook, or normalize='none'."
)
