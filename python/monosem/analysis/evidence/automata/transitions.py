"""Which features fire on the token that a feature raised: counts over text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.evidence.automata.counts import KeySums
from monosem.analysis.logits import logit_weights
from monosem.analysis.scan import Block
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary


@dataclass(frozen=True)
class Raised:
    """The tokens that each feature raises: sorted keys feature · V + token, and their logit weights."""

    keys: np.ndarray
    weights: np.ndarray
    d_vocab: int

    def holds(self, features: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Whether each feature raises each token: bool."""
        keys = features * self.d_vocab + tokens
        if not len(self.keys):
            return np.zeros(len(keys), dtype=bool)
        return self.keys[np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)] == keys

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, weights) of one feature, largest weight first."""
        a, b = np.searchsorted(self.keys, [feature * self.d_vocab, (feature + 1) * self.d_vocab])
        order = np.argsort(-self.weights[a:b], kind="stable")
        return (self.keys[a:b] % self.d_vocab)[order], self.weights[a:b][order]


def raised_tokens(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    used: Tensor,
    sigmas: float = 3.0,
    per_feature: int = 256,
    block: int = 1024,
) -> Raised:
    """The tokens whose logit weight stands out: above ``sigmas`` standard deviations of the bulk around the median.

    The deviation of the bulk is 1.4826 · median |w|. At most ``per_feature`` tokens of a feature; ``used`` as in
    :func:`monosem.analysis.logits.logit_weights`.
    """
    keys, weights, first = [], [], 0
    for rows in sae.W_dec.detach().split(block):
        w = logit_weights(SimpleNamespace(W_dec=rows), model, hook_name, used, per_feature, block)
        on = w.top_values > sigmas * 1.4826 * w.spread[:, None]
        feature = torch.arange(first, first + len(rows), device="cpu")[:, None].expand_as(on)
        keys.append((feature * model.d_vocab + w.top_ids)[on].numpy())
        weights.append(w.top_values[on].numpy())
        first += len(rows)
    flat = np.concatenate(keys)
    order = np.argsort(flat)
    return Raised(flat[order], np.concatenate(weights)[order], model.d_vocab)


class Transitions:
    """Counts over blocks (``update``). A step is a scored token and the one after it, both of one document.

    Attributes (F numbers each, over steps at which the feature is active on the first token unless said otherwise):
        active: steps. hits: those whose next token the feature raises. after: steps at which it fires on the second.
    ``pairs`` (i · F + j): hits of i after which j is active. ``together``: hits of i at which j is active on the first
    token already. ``firing`` (j · V + token): summed activation of j on each token. ``steps``, ``follows`` [V]: all
    steps, and how often each token is the second.
    """

    def __init__(self, d_sae: int, raised: Raised, bos_id: int, capacity: int = 24_000_000) -> None:
        self.d_sae, self.raised, self.bos_id = d_sae, raised, bos_id
        self.active, self.hits, self.after = np.zeros((3, d_sae), dtype=np.int64)
        self.follows = np.zeros(raised.d_vocab, dtype=np.int64)
        self.pairs, self.together, self.firing = KeySums(capacity), KeySums(capacity), KeySums(capacity)

    @property
    def steps(self) -> int:
        return int(self.follows.sum())

    def update(self, block: Block) -> None:
        features, at = block.features.numpy(), block.at.numpy()
        order = np.argsort(at, kind="stable")
        features, at, values = features[order], at[order], block.values.numpy()[order]
        tokens, where = block.tokens.numpy(), block.where.numpy()
        current = tokens.reshape(-1)[where]
        following = np.full_like(current, -1)
        # the next scored token, if it stands right behind and in the same row
        next_to = (np.diff(where) == 1) & (where[1:] % tokens.shape[1] != 0)
        following[:-1][next_to] = current[1:][next_to]
        following[(following == self.bos_id) | (current == self.bos_id)] = -1
        count = np.bincount(at, minlength=len(current))
        start = count.cumsum() - count

        self.firing.add(features * self.raised.d_vocab + current[at], values)
        step = following >= 0
        self.follows += np.bincount(following[step], minlength=len(self.follows))
        second = np.zeros(len(current), dtype=bool)
        second[1:] = step[:-1]
        self.after += np.bincount(features[second[at]], minlength=self.d_sae)
        on = np.flatnonzero(step[at])
        self.active += np.bincount(features[on], minlength=self.d_sae)
        hit = on[self.raised.holds(features[on], following[at[on]])]
        self.hits += np.bincount(features[hit], minlength=self.d_sae)
        for total, where in ((self.pairs, at[hit] + 1), (self.together, at[hit])):
            partners = count[where]
            first = np.repeat(features[hit], partners)
            entry = (
                np.arange(partners.sum())
                - np.repeat(partners.cumsum() - partners, partners)
                + np.repeat(start[where], partners)
            )
            total.add(first * self.d_sae + features[entry])


@dataclass(frozen=True)
class Edges:
    """Transitions i → j, strongest first: arrays of one length.

    ``probability`` = P(j active at t + 1 | i active at t, the next token is one that i raises) = support / hits of i;
    ``base`` = P(j active); ``raise_share`` = P(the next token is one that i raises | i active);
    ``strength`` = raise_share · (probability − base): by how much likelier than chance i leads to j;
    ``together`` = P(j active at t already | the same).
    """

    source: np.ndarray
    target: np.ndarray
    support: np.ndarray
    probability: np.ndarray
    base: np.ndarray
    raise_share: np.ndarray
    strength: np.ndarray
    together: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def take(self, which: np.ndarray) -> "Edges":
        return Edges(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def edges(
    counts: Transitions,
    *,
    support: int = 20,
    lift: float = 2.0,
    strength: float = 0.02,
    per_feature: int = 6,
    limit: int = 20_000,
) -> Edges:
    """The transitions to draw: enough support, ``lift`` times chance, the best ``per_feature`` of each feature.

    Args:
        limit: at most so many in all.
    """
    keys, sums = counts.pairs.items()
    often = sums >= support
    keys, sums = keys[often], sums[often]
    i, j = keys // counts.d_sae, keys % counts.d_sae
    probability = sums / counts.hits[i]
    base = counts.after[j] / max(counts.steps, 1)
    share = counts.hits[i] / counts.active[i]
    strong = share * (probability - base)
    kept = Edges(
        source=i,
        target=j,
        support=sums.astype(np.int64),
        probability=probability,
        base=base,
        raise_share=share,
        strength=strong,
        together=np.zeros(len(i)),  # looked up below, for the edges that are kept
    )
    kept = kept.take(np.flatnonzero((probability >= lift * base) & (strong >= strength)))
    order = np.lexsort((kept.target, -kept.strength, kept.source))
    kept = kept.take(order)
    first = np.searchsorted(kept.source, kept.source)
    kept = kept.take(np.flatnonzero(np.arange(len(kept)) - first < per_feature))
    kept = kept.take(np.argsort(-kept.strength, kind="stable")[:limit])
    together = counts.together.get(kept.source * counts.d_sae + kept.target) / counts.hits[kept.source]
    return replace(kept, together=together)
