"""Separating the ultralow-density cluster: features that hardly ever fire and mean nothing.

*Towards Monosemanticity*, "Feature Density": on a logarithmic axis the density histogram has two modes; where they
overlap, the two stand apart in three dimensions: log density, encoder bias, and the dot product of the feature's
decoder and encoder directions.

The lower of two modes is not always that cluster. The features of a TopK dictionary that fire on a per cent of the
tokens or more have biases near 0 and stand apart from all others; those that AuxK has brought back have small encoders.
Both lower modes are of features that follow something. What means nothing does not read what it writes: its encoder
lies across its decoder (a dot product of 0.1 in a ReLU dictionary where that of the other features is 0.7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from monosem.analysis.metrics import ULTRALOW
from monosem.nn.dictionary import Dictionary

_SMOOTH, _APART = 0.2, 0.7  # decades: width of the smoothing, least distance between the middles of two modes
_DEEP = 0.5  # a valley between two modes lies below this share of the lower one
_DEEP_UNRESOLVED = 0.15  # the same where the lower mode stands at few counts: 1, 2, 3 make a mode of their own
_RESOLVED = 5  # counts from which on a mode is resolved
_FEWEST = 20  # points in which modes are looked for
_LEAST = 0.02  # share of the live features in a mode
_SELDOM = -4.0  # log10: the median density of the cluster, at most
_ACROSS = 0.5  # the median decoder · encoder of the cluster, at most, as a share of that of the other live features
_SPLITS = 3  # times that the lower mode is split again when it is not the cluster: other modes may hide it
_SIGMA_SMOOTH, _SIGMA_APART = 0.3, 2.0  # along the direction that separates two Gaussians, in their standard deviations


@dataclass(frozen=True)
class Separation:
    """Which features belong to the ultralow cluster.

    Attributes:
        low: bool [F], live features in the cluster (dead ones, never active, are in neither).
        how: ``"valley"`` (two modes of log density), ``"mixture"`` (two modes in three dimensions, of which the lower
            one's encoders lie across their decoders) or ``"bound"`` (no cluster was found: features below
            max(1e-6, 2 / tokens) count as ultralow). The median density of a cluster is 1e-4 at most.
        cut: density of the valley or the bound; None for a mixture, which no single density separates.
    """

    low: np.ndarray
    how: str
    cut: float | None

    @property
    def words(self) -> str:
        """How, for a table."""
        if self.how == "mixture":
            return "two modes in (log density, encoder bias, decoder · encoder)"
        what = "a valley between two modes at" if self.how == "valley" else "no ultralow cluster; bound"
        return f"{what} {self.cut:.1e}"


def separate(counts: Tensor, tokens: int, sae: Dictionary) -> Separation:
    """Separate the ultralow cluster of a dictionary.

    Args:
        counts: [F] tokens on which each feature was active, of ``tokens``.
        sae: its ``b_enc``, ``W_enc_rows`` and ``W_dec`` are read where density alone does not decide; a dictionary
            without an encoder bias (neurons) is judged by density alone.

    Raises:
        ImportError: scikit-learn is not there, and density alone does not decide.
    """
    seen = counts.double().numpy()
    live = seen > 0
    low = np.zeros(len(seen), dtype=bool)
    bound = max(ULTRALOW, 2 / max(tokens, 1))
    if live.sum() >= _FEWEST:
        x = np.log10(seen[live] / tokens)
        cut = valley(x, resolved=np.log10(_RESOLVED / tokens))
        if cut is not None and np.median(x[x < cut]) <= _SELDOM:
            low[live] = x < cut
            return Separation(low, "valley", 10.0**cut)
        if hasattr(sae, "b_enc"):
            mine = _mixture(x, sae, np.flatnonzero(live))
            if mine is not None:
                low[live] = mine
                return Separation(low, "mixture", None)
    low[live] = seen[live] / tokens < bound
    return Separation(low, "bound", bound)


def valley(x: np.ndarray, smooth: float = _SMOOTH, apart: float = _APART, resolved: float = -np.inf) -> float | None:
    """Where the smoothed histogram of x (log10 densities) falls into a valley left of its highest mode, or None.

    The mode on the left holds at least 2 % of the features, its middle lies at least ``apart`` away, and the lowest
    point between is below half of it (below 15 % for a mode left of ``resolved``). Of several the deepest counts.
    """
    grid = np.arange(x.min() - 5 * smooth, x.max() + 5 * smooth, smooth / 10)
    histogram = np.zeros(len(grid))
    for part in np.array_split(x, len(x) // 4096 + 1):
        histogram += np.exp(-0.5 * ((grid[:, None] - part) / smooth) ** 2).sum(1)
    peaks = np.flatnonzero((histogram[1:-1] > histogram[:-2]) & (histogram[1:-1] >= histogram[2:])) + 1
    main = peaks[histogram[peaks].argmax()]
    best: tuple[float, float] | None = None
    for peak in peaks[peaks < main]:
        low = peak + int(histogram[peak:main].argmin())
        depth = histogram[low] / histogram[peak]
        deep = depth < (_DEEP if grid[peak] >= resolved else _DEEP_UNRESOLVED)
        wide = grid[main] - grid[peak] >= apart and (x < grid[low]).mean() >= _LEAST
        if deep and wide and (best is None or depth < best[0]):
            best = float(depth), float(grid[low])
    return None if best is None else best[1]


def _mixture(x: np.ndarray, sae: Dictionary, live: np.ndarray) -> np.ndarray | None:
    """Members of the cluster in (log density, encoder bias, decoder · encoder), or None without one."""

    def rows(parameter: Tensor) -> np.ndarray:
        return parameter.detach().float().cpu().numpy()[live].astype(np.float64)

    encoder, decoder = rows(sae.W_enc_rows), rows(sae.W_dec)
    dot = (encoder * decoder).sum(1) / np.maximum(np.linalg.norm(decoder, axis=1), 1e-30)
    bias = rows(sae.b_enc)  # pyright: ignore[reportAttributeAccessIssue]  trained dictionaries have one
    points = np.stack([x, bias, dot], 1)
    inside = np.ones(len(x), dtype=bool)
    for _ in range(_SPLITS):
        lower = _lower_mode(points[inside])
        if lower is None:
            return None
        inside[inside] = lower
        seldom = np.median(x[inside]) <= _SELDOM
        across = np.median(dot[inside]) <= _ACROSS * np.median(dot[~inside])
        if seldom and across and inside.mean() >= _LEAST:
            return inside
    return None


def _lower_mode(points: np.ndarray) -> np.ndarray | None:
    """Of points [n, 3], log density first: those in the lower of two modes, or None without a second."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise ImportError(
            "separating the ultralow cluster needs scikit-learn: pip install 'monosem[analysis]' (or scikit-learn)"
        ) from None

    x, scale = points[:, 0], points.std(0)
    points = (points - points.mean(0))[:, scale > 0] / scale[scale > 0]
    if len(points) < _FEWEST or not points.shape[1]:
        return None
    two = GaussianMixture(2, n_init=3, random_state=0, reg_covar=1e-4).fit(points)
    one = GaussianMixture(1, random_state=0, reg_covar=1e-4).fit(points)
    if two.bic(points) >= one.bic(points):
        return None
    # Two Gaussians also fit one skewed mode better than one does: along the direction that separates them best
    # (Fisher's) there must be a valley between two modes.
    means, covariances = np.asarray(two.means_), np.asarray(two.covariances_)
    lower = int(means[:, 0].argmin())
    way = np.linalg.solve(covariances.sum(0), means[1 - lower] - means[lower])
    along = points @ way / np.sqrt(way @ covariances.mean(0) @ way)
    for sign in (1.0, -1.0):  # either mode may be the higher one
        cut = valley(sign * along, _SIGMA_SMOOTH, _SIGMA_APART)
        mine = None if cut is None else along < sign * cut
        if mine is not None and x[~mine].mean() - x[mine].mean() >= _APART and _LEAST <= mine.mean() <= 1 - _LEAST:
            return mine
    return None
