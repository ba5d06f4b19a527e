"""Pairs of features of two dictionaries that fire alike, and what they say of the step between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.analysis.cross_products import CrossProducts, Entries
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import Block
from monosem.analysis.sources import SourceMoments
from monosem.ops.precision import as_given

THRESHOLD = 0.4  # the paper's


@dataclass(frozen=True)
class Edges:
    """Pairs of features of two dictionaries that fire alike, masked cosine above the threshold.

    ``parent`` [n] in the smaller one, ``child`` [n] in the larger one, ``masked`` and ``decoder`` [n]: cosines of
    their activations (see :func:`masked_cosine`) and of their decoder directions.
    """

    parent: Tensor
    child: Tensor
    masked: Tensor
    decoder: Tensor


@dataclass(frozen=True)
class Step:
    """From one dictionary to the next.

    ``children``: counts of features that are the closest parent of 0, 1, 2, … (the last: that many or more).
    ``edges``: all joined pairs. ``orphans``: features of the larger one without a parent. ``several_parents``: those
    with more than one (the graph is no tree). ``agreed``: share of the children whose closest parent is also the
    feature of the smaller one with the nearest decoder direction.
    """

    edges: int
    children: tuple[int, ...]
    orphans: int
    several_parents: int
    agreed: float


def entries_of(block: Block, parent: bool) -> Entries:
    """What the three sums of :func:`masked_cosine` multiply: (f, 1, f²) of a parent, (g, g², 1) of a child."""
    v, one = block.values, torch.ones_like(block.values)
    return Entries(block.features, block.at, torch.stack([v, one, v.square()] if parent else [v, v.square(), one]))


def masked_cosine(sums: Tensor, square_f: Tensor, square_g: Tensor) -> Tensor:
    """The cosine of two features' activations over the tokens where one of them fires, the larger of both ways.

    max( Σ f·g / √(Σ f² · Σ_{f>0} g²), Σ f·g / √(Σ_{g>0} f² · Σ g²) ): 1 where one is the other restricted to some of
    its tokens, however few. *Towards Monosemanticity*, fn 32.

    Args:
        sums: [3, rows, columns]: Σ f·g, Σ 1[f > 0]·g², Σ f²·1[g > 0].
        square_f, square_g: [rows], [columns]: Σ f², Σ g².
    """
    both, g_where_f, f_where_g = sums
    where_f = both / (square_f[:, None] * g_where_f).sqrt().clamp_min(1e-300)
    where_g = both / (f_where_g * square_g).sqrt().clamp_min(1e-300)
    return torch.maximum(where_f, where_g)


def join(
    sums: CrossProducts,
    moments: Sequence[SourceMoments],
    subjects: Sequence[Subject],
    threshold: float,
    min_tokens: int,
    progress: str | None = None,
) -> Edges:
    """The pairs of features of two ``subjects`` whose masked cosine, from ``sums``, exceeds ``threshold``.

    ``progress`` as in ``CrossProducts.blocks``.
    """
    a, b = moments
    fires_a, fires_b = ((m.counts >= min_tokens).nonzero().flatten() for m in (a, b))
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    parts = [(none, none, none.double())]
    for numbers, block in sums.blocks(fires_a, fires_b, progress):
        cosine = masked_cosine(block, a.square[numbers], b.square[fires_b])
        parent, child = (cosine > threshold).nonzero().T
        parts.append((numbers[parent], fires_b[child], cosine[parent, child]))
    parent, child, masked = (torch.cat(column) for column in zip(*parts, strict=True))
    d_a, d_b = (torch.nn.functional.normalize(s.sae.W_dec.detach().double().cpu(), dim=1) for s in subjects)
    return Edges(parent=parent, child=child, masked=masked, decoder=(d_a[parent] * d_b[child]).sum(1))


def closest(edges: Edges) -> Tensor:
    """Numbers of the edges that lead each child to the parent with the largest masked cosine; of equals the first."""
    order = torch.argsort(edges.masked, descending=True, stable=True)
    order = order[torch.argsort(edges.child[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool, device="cpu")
    first[1:] = edges.child[order[1:]] != edges.child[order[:-1]]
    return order[first]


@as_given
def step_between(
    edges: Edges, moments: Sequence[SourceMoments], subjects: Sequence[Subject], min_tokens: int, top: int = 8
) -> Step:
    parents, children = ((m.counts >= min_tokens) for m in moments)
    best = closest(edges)
    n = torch.bincount(edges.parent[best], minlength=len(parents))[parents].clamp_max(top)
    above = torch.bincount(edges.child, minlength=len(children))[children]
    d_a, d_b = (torch.nn.functional.normalize(s.sae.W_dec.detach().float().cpu(), dim=1) for s in subjects)
    d_a = d_a.masked_fill(~parents[:, None], 0)
    nearest = torch.cat([(part @ d_a.T).argmax(1) for part in d_b.split(1024)])
    agreed = (nearest[edges.child[best]] == edges.parent[best]).double()
    return Step(
        edges=len(edges.parent),
        children=tuple(torch.bincount(n, minlength=top + 1).tolist()),
        orphans=int((above == 0).sum()),
        several_parents=int((above > 1).sum()),
        agreed=float(agreed.mean()) if len(agreed) else 0.0,
    )
