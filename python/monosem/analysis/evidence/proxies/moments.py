"""Streaming sums of activations and proxies: Pearson, specificity and sensitivity of every feature for every proxy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class ProxyMoments:
    """Sums over tokens in float64, 2 · P · F of them whatever N.

    With y the proxy's level (``ProxySet.levels``) and positive = (score > 0):
    Σf, Σf², Σf·y, Σ1[f > 0], Σ1[f > 0]·positive, Σf·positive, max f; Σy, Σy², Σpositive.
    """

    def __init__(self, d_sae: int, proxies: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device="cpu")

        self.tokens = 0
        self.f, self.square, self.active, self.maximum = (zeros(d_sae) for _ in range(4))
        self.y, self.y_square, self.positive = (zeros(proxies) for _ in range(3))
        self.cross, self.hits, self.mass = (zeros(proxies, d_sae) for _ in range(3))

    def update(self, values: Tensor, features: Tensor, at: Tensor, levels: Tensor, positive: Tensor) -> None:
        """Entries of a code, each [nnz], and ``levels``, ``positive`` [P, N] of its tokens."""
        values = values.double()
        self.tokens += levels.shape[1]
        self.f.index_add_(0, features, values)
        self.square.index_add_(0, features, values.square())
        self.active += torch.bincount(features, minlength=len(self.active))
        self.maximum.scatter_reduce_(0, features, values, "amax")
        self.y += levels.sum(1)
        self.y_square += levels.square().sum(1)
        self.positive += positive.sum(1)
        for p in range(len(levels)):
            y = levels[p, at]
            on = y.nonzero().flatten()  # a proxy is 0 on most tokens
            self.cross[p].index_add_(0, features[on], values[on] * y[on])
            hit = positive[p, at].nonzero().flatten()
            self.hits[p] += torch.bincount(features[hit], minlength=len(self.f))
            self.mass[p].index_add_(0, features[hit], values[hit])

    def correlations(self) -> Tensor:
        """Pearson's r of every feature with every proxy, float64 [P, F]; 0 where either never varies."""
        n = max(self.tokens, 1)
        covariance = self.cross / n - (self.y / n)[:, None] * (self.f / n)
        f_variance = (self.square / n - (self.f / n).square()).clamp_min(0)
        y_variance = (self.y_square / n - (self.y / n).square()).clamp_min(0)
        scale = (y_variance[:, None] * f_variance).sqrt()
        return torch.where(scale > 0, covariance / scale, torch.zeros_like(scale))

    def match(self, proxy: int, feature: int, correlation: float) -> "Match":
        """The figures of one feature for one proxy."""
        active, hits = float(self.active[feature]), float(self.hits[proxy, feature])
        return Match(
            index=feature,
            correlation=correlation,
            specificity=hits / max(active, 1),
            mass=float(self.mass[proxy, feature] / self.f[feature].clamp_min(1e-300)),
            sensitivity=hits / max(float(self.positive[proxy]), 1),
            density=active / max(self.tokens, 1),
            maximum=float(self.maximum[feature]),
        )


@dataclass(frozen=True)
class Match:
    """A feature (or neuron) against a proxy.

    ``correlation``: Pearson over all tokens of activation and proxy. ``specificity``: share of its active tokens on
    which the proxy is above 0; ``mass`` the same share of its summed activation. ``sensitivity``: share of the
    proxy's tokens on which it is active. ``density``: share of all tokens on which it is active.
    """

    index: int
    correlation: float
    specificity: float
    mass: float
    sensitivity: float
    density: float
    maximum: float
