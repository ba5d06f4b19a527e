"""How much of a planted dictionary a trained one has found: directions, detection, absorption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from monosem.analysis.absorption import AbsorptionCounts
from monosem.analysis.evaluation_sums import ratio
from monosem.analysis.matching import MOST_PAIRS, Match, active_entries, match, mean_correlation
from monosem.analysis.metrics import plain
from monosem.nn.dictionary import Dictionary
from monosem.ops import SparseCode

RECOVERED = 0.9  # cosine from which on a direction counts as found


@dataclass(frozen=True)
class Recovery:
    """A trained dictionary of F latents against F_true planted features, on held-out tokens.

    * ``l0``, ``true_l0``: mean number of active latents, of active features; ``dead``: latents never active here. An
      entry below 0 counts too; in the figures of detection and absorption a latent detects by its entries above 0.
    * ``explained_variance``: 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖².
    * ``mean_max_cosine``: mean over the true features of the greatest cosine with a decoder row; ``mcc``: one-to-one
      (``mean_correlation``), None above 2²⁷ pairs.
    * ``recovered``: true features with a cosine of at least 0.9; ``recovered_by_depth``: their share among the features
      of each depth in the hierarchy.
    * ``uniqueness``: number of different nearest features of the active latents / number of active latents; 1: no
      feature is split over several latents.
    * ``precision``, ``recall``, ``f1``: each active latent as a classifier of its nearest feature: TP / (TP + FP),
      TP / (TP + FN), 2·TP / (2·TP + FP + FN) over tokens; means over the latents that are above 0 on some token.
    * ``absorption``, ``parents_found``, ``parent_recall``, ``parent_recall_alone``: see ``AbsorptionCounts``; None
      without a hierarchy.

    All but the last line as SynthSAEBench does (Chanin & Garriga-Alonso 2026, arXiv 2602.14687).
    """

    tokens: int
    l0: float
    true_l0: float
    dead: int
    explained_variance: float
    mean_max_cosine: float
    mcc: float | None
    recovered: int
    recovered_by_depth: tuple[float, ...]
    uniqueness: float
    precision: float
    recall: float
    f1: float
    absorption: float | None
    parents_found: float | None
    parent_recall: float | None
    parent_recall_alone: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON (a figure that is not finite becomes None)."""
        return plain(asdict(self))


@torch.no_grad()
def recovery(
    dictionary: Dictionary, true: Tensor, held_out: Iterable[tuple[Tensor, SparseCode]], parents: Tensor, depths: Tensor
) -> Recovery:
    """Measure ``dictionary`` against what was planted.

    Args:
        true: the planted directions [F_true, d_in].
        held_out: batches (x, code of the true features), for example ``PlantedDictionary.held_out(16)``.
        parents, depths: int64 [F_true], as ``PlantedDictionary`` has them.

    Raises:
        ValueError: shapes that do not fit, or no token.
    """
    for name, value in (("parents", parents), ("depths", depths)):
        if value.shape != (len(true),):
            raise ValueError(f"{name}: got shape {list(value.shape)}; wanted [{len(true)}], one per true feature")
    matched = match(dictionary.W_dec, true)
    counts = _Counts(dictionary, matched)
    absorbed = AbsorptionCounts(dictionary.W_dec, true, parents, matched)
    for x, truth in held_out:
        if truth.d_sae != len(true):
            raise ValueError(f"held_out: got codes of {truth.d_sae} features; wanted {len(true)}, one per true feature")
        found = dictionary.encode(x)
        counts.update(x, truth, found, dictionary.decode(found))
        absorbed.update(truth, found)
    if not counts.tokens:
        raise ValueError("held_out: got no token; wanted at least one batch")
    pairs = len(matched.feature) * len(true)
    reached = matched.best >= RECOVERED
    by_depth = [reached[depths == depth].float().mean() for depth in range(int(depths.max()) + 1)]
    return Recovery(
        mean_max_cosine=float(matched.best.double().mean()),
        mcc=mean_correlation(dictionary.W_dec, true) if pairs <= MOST_PAIRS else None,
        recovered=int(reached.sum()),
        recovered_by_depth=tuple(float(share) for share in by_depth),
        **counts.figures(),
        **absorbed.figures(),
    )


class _Counts:
    """Sums over tokens for detection and explained variance."""

    def __init__(self, dictionary: Dictionary, matched: Match) -> None:
        f, d = dictionary.W_dec.shape
        self.nearest, self.f_true = matched.feature.cpu(), len(matched.latent)
        self.tokens = self.true_entries = 0
        self.error = self.square = 0.0
        self.total = torch.zeros(d, dtype=torch.float64, device="cpu")
        self.hits, self.fired, self.counts = torch.zeros(3, f, dtype=torch.int64, device="cpu")  # counts: not 0
        self.present = torch.zeros(self.f_true, dtype=torch.int64, device="cpu")

    def update(self, x: Tensor, truth: SparseCode, found: SparseCode, reconstruction: Tensor) -> None:
        x, reconstruction = x.double().cpu(), reconstruction.double().cpu()
        self.tokens += len(x)
        self.error += float((x - reconstruction).square().sum())
        self.square += float(x.square().sum())
        self.total += x.sum(0)
        tokens, latents, _ = active_entries(found)
        true_tokens, features, _ = active_entries(truth)
        is_true = torch.isin(tokens * self.f_true + self.nearest[latents], true_tokens * self.f_true + features)
        self.hits += torch.bincount(latents[is_true], minlength=len(self.hits))
        self.fired += torch.bincount(latents, minlength=len(self.fired))
        self.counts += found.active_counts().cpu()
        self.present += torch.bincount(features, minlength=self.f_true)
        self.true_entries += len(features)

    def figures(self) -> dict[str, Any]:
        active = self.fired > 0
        hits, fired = self.hits[active].double(), self.fired[active].double()
        present = self.present[self.nearest[active]].double()
        variance = self.square - float(self.total.square().sum()) / self.tokens
        n = int(active.sum())
        return {
            "tokens": self.tokens,
            "l0": int(self.counts.sum()) / self.tokens,
            "true_l0": self.true_entries / self.tokens,
            "dead": int((self.counts == 0).sum()),
            "explained_variance": 1 - ratio(self.error, variance),
            "uniqueness": ratio(len(self.nearest[active].unique()), n),
            "precision": float((hits / fired).mean()),
            "recall": float((hits / present.clamp(min=1)).mean()),
            "f1": float((2 * hits / (fired + present)).mean()),
        }
