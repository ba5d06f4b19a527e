"""Absorption: on the tokens of a child, its latents stand in for the latent of the parent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monosem.analysis.matching import Match, active_entries, cosine_blocks, unit
from monosem.ops import SparseCode
from monosem.ops.precision import as_given

MAIN = 0.75  # above √½, where a second orthogonal direction could have an equal part of the row
HOLDS = 0.3  # cosine from which on a row holds a direction: several standard deviations 1/√D of a chance cosine
CARRIES = 0.4  # share of the parent's value (SAEBench's ``absorption``, of the probe's projection)


class AbsorptionCounts:
    r"""Counts absorption by the children of planted features (Chanin et al. 2024, "A is for Absorption", 2409.14507).

    The *main latent* m(p) of a parent p is the latent whose decoder row is nearest to f_p, if f_p is also nearest to
    the row and their cosine is above 0.75 (``Match.mutual``). A latent l *holds* p and its child c if the cosines of
    its decoder row W_l with f_p and with f_c are both at least 0.3, and it is not m(p). With a_l(t) the activation of l
    and v_p(t) the true value of p on token t, p is absorbed by c on t if

        a_{m(p)}(t) = 0   and   Σ_{l holds p and c} a_l(t)·⟨W_l, f_p⟩ ≥ 0.4·v_p(t):

    the main latent is silent (or there is none), and latents that hold the child carry the parent along. The paper
    defines absorption by the same two conditions, with probes in place of planted directions; 0.4 is SAEBench's. Over
    the pairs (t, c) of each parent p where p and c are truly active,

        ``absorption`` = mean over parents of (pairs where p is absorbed by c) / (pairs).

    ``parents_found`` is the share of parents that have a main latent; ``parent_recall`` the share of the pairs where it
    is active, and ``parent_recall_alone`` the share of the tokens where p is active and no child of p is: means over
    parents, 0 for a parent without a main latent. Parents that are never active with a child are left out.

    No array has more entries than the codes have, and blocks of F × F_true cosines.
    """

    @as_given
    @torch.no_grad()
    def __init__(self, learned: Tensor, true: Tensor, parents: Tensor, matched: Match) -> None:
        self.f, self.f_true = len(learned), len(true)
        self.parents = parents.cpu()
        self.main = matched.mutual(MAIN).cpu()
        self.is_parent = torch.zeros(self.f_true, dtype=torch.bool, device="cpu")
        self.is_parent[self.parents[self.parents >= 0]] = True
        latents, children = self._holders(*unit(learned, true))
        of = self.parents[children]
        other = latents != self.main[of]
        latents, self.children = latents[other], children[other]  # sorted by latent
        self.carried = (learned.detach().cpu()[latents].float() * true.cpu()[of[other]].float()).sum(1)
        self.held = torch.bincount(latents, minlength=self.f)
        self.first = self.held.cumsum(0) - self.held
        counts = torch.zeros(5, self.f_true, dtype=torch.int64, device="cpu")
        self.pairs, self.absorbed, self.with_child, self.alone, self.active_alone = counts

    def _holders(self, learned: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """(latent, child) where the latent's row holds the child and its parent."""
        parents = self.parents.to(learned.device)
        latents, children = [], []
        for start, cosine in cosine_blocks(learned, true):
            row, child = ((cosine >= HOLDS) & (parents >= 0)).nonzero(as_tuple=True)
            both = cosine[row, parents[child]] >= HOLDS
            latents.append(start + row[both].cpu())
            children.append(child[both].cpu())
        return torch.cat(latents), torch.cat(children)

    def update(self, truth: SparseCode, found: SparseCode) -> None:
        """Add tokens: the code of the planted features, and the dictionary's."""
        tokens, features, values = active_entries(truth)
        order = torch.argsort(tokens * self.f_true + features)
        tokens, features, values = tokens[order], features[order], values[order]
        keys = tokens * self.f_true + features
        found_tokens, latents, activations = active_entries(found)
        active = found_tokens * self.f + latents

        child = (self.parents[features] >= 0).nonzero()[:, 0]
        parent_key = tokens[child] * self.f_true + self.parents[features[child]]
        place, is_active = _find(keys, parent_key)
        child, parent_key, place = child[is_active], parent_key[is_active], place[is_active]
        parent = features[place]
        has_main = self._main_is_active(tokens[child], parent, active)
        carried = self._carried(found_tokens, latents, activations, keys[child])
        absorbed = ~has_main & (carried >= CARRIES * values[place])

        is_alone = self.is_parent[features] & ~torch.isin(keys, parent_key)
        alone = features[is_alone]
        active_alone = self._main_is_active(tokens[is_alone], alone, active)
        for count, of in (
            (self.pairs, parent),
            (self.absorbed, parent[absorbed]),
            (self.with_child, parent[has_main]),
            (self.alone, alone),
            (self.active_alone, alone[active_alone]),
        ):
            count += torch.bincount(of, minlength=self.f_true)

    def _main_is_active(self, tokens: Tensor, parent: Tensor, active: Tensor) -> Tensor:
        main = self.main[parent]
        return (main >= 0) & torch.isin(tokens * self.f + main, active)

    def _carried(self, tokens: Tensor, latents: Tensor, activations: Tensor, keys: Tensor) -> Tensor:
        """Σ a_l·⟨W_l, f_p⟩ over the active latents that hold p and c, for each pair (token and child: ``keys``)."""
        total = torch.zeros(len(keys), dtype=torch.float32, device="cpu")
        held = self.held[latents]
        entry = torch.repeat_interleave(torch.arange(len(latents), device="cpu"), held)
        within = torch.arange(len(entry), device="cpu") - (held.cumsum(0) - held)[entry]
        holder = self.first[latents][entry] + within
        place, is_active = _find(keys, tokens[entry] * self.f_true + self.children[holder])
        parts = activations[entry].float() * self.carried[holder]
        return total.index_add_(0, place[is_active], parts[is_active])

    def figures(self) -> dict[str, Any]:
        """The figures of the class's docstring."""
        of = self.pairs > 0
        if not of.any():
            return dict.fromkeys(("absorption", "parents_found", "parent_recall", "parent_recall_alone"))
        often_alone = of & (self.alone > 0)
        return {
            "absorption": _mean(self.absorbed[of], self.pairs[of]),
            "parents_found": float((self.main[of] >= 0).double().mean()),
            "parent_recall": _mean(self.with_child[of], self.pairs[of]),
            "parent_recall_alone": _mean(self.active_alone[often_alone], self.alone[often_alone]),
        }


def _mean(part: Tensor, whole: Tensor) -> float:
    return float((part.double() / whole).mean())


def _find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each of ``wanted`` in the sorted ``keys``, and whether it is there."""
    if not len(keys):
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    return place, keys[place] == wanted
