"""Decoder directions arranged as the paper does: on a plane, in clusters, and in one line.

*Towards Monosemanticity*, "Feature Splitting": UMAP (cosine, 15 neighbours) in two dimensions for the map; HDBSCAN with
at least 3 members on a UMAP in 10 dimensions for the clusters; a UMAP in one dimension for the order of the list.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monosem.analysis.nearest import nearest

NEIGHBOURS = 15
LEAST_MEMBERS = 3
_SPECTRAL = 50_000  # most directions whose layout begins from eigenvectors; of more these cost more than the layout


@dataclass(frozen=True)
class Arrangement:
    """Of n directions: ``places`` [n, 2] in the unit square, ``cluster`` int64 [n] (−1: in none), ``order`` int64 [n],
    the directions one after the other, a cluster's together. Clusters are numbered as they come in that order."""

    places: np.ndarray
    cluster: np.ndarray
    order: np.ndarray


def need_packages() -> None:
    """Raise ImportError with the remedy if umap-learn or scikit-learn is not installed."""
    missing = [name for name, module in (("umap-learn", "umap"), ("scikit-learn", "sklearn")) if not _there(module)]
    if missing:
        raise ImportError(
            f"{' and '.join(missing)} not installed; the map of features needs it. Install it with "
            f"`pip install {' '.join(missing)}`, or leave the map out (--no-map)."
        )


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def arrange(directions: np.ndarray, dictionaries: int, seed: int = 0) -> Arrangement:
    """Arrange directions [n, d], rows of ``dictionaries`` dictionaries one below the other.

    ``min_dist`` of the map is 0.05 for two dictionaries and 0.01 for more, as in the paper's two figures; that of the
    other two is 0.1. The neighbours are exact and found once for all three. The same seed gives the same arrangement.

    Raises:
        ImportError: umap-learn or scikit-learn is missing.
    """
    need_packages()
    known = neighbours(directions)
    places = embed(directions, known, 2, 0.05 if dictionaries <= 2 else 0.01, seed)
    low, high = places.min(0), places.max(0)
    cluster = clusters(embed(directions, known, 10, 0.1, seed))
    order = in_line(embed(directions, known, 1, 0.1, seed)[:, 0].astype(np.float64), cluster)
    return Arrangement((places - low) / np.maximum(high - low, 1e-9), _renumbered(cluster, order), order)


def neighbours(directions: np.ndarray, count: int = NEIGHBOURS) -> tuple[np.ndarray, np.ndarray]:
    """(indices, cosine distances), each [n, min(count, n)]: of each direction itself, then the nearest others."""
    count = min(count, len(directions))
    ids, cosines = nearest(torch.from_numpy(np.ascontiguousarray(directions)), count - 1)
    own = np.arange(len(directions))[:, None]
    distances = np.concatenate([np.zeros(own.shape), 1 - cosines.numpy()], 1).clip(min=0)
    return np.concatenate([own, ids.numpy()], 1), distances.astype(np.float32)


def embed(directions: np.ndarray, known: Any, dimensions: int, min_dist: float, seed: int) -> np.ndarray:
    """UMAP of directions whose neighbours are known: places [n, dimensions]."""
    from umap import UMAP

    n = len(directions)
    init = "random" if n <= 2 * NEIGHBOURS else "spectral" if n <= _SPECTRAL else "pca"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread, and that new points cannot be placed later
        return UMAP(
            n_neighbors=known[0].shape[1],
            n_components=dimensions,
            metric="cosine",
            min_dist=min_dist,
            init=init,
            random_state=seed,
            n_jobs=1,
            precomputed_knn=known,
        ).fit_transform(directions)


def clusters(places: np.ndarray, min_size: int = LEAST_MEMBERS) -> np.ndarray:
    """HDBSCAN of places [n, d]: the cluster of each, int64 [n], −1 for those in none."""
    from sklearn.cluster import HDBSCAN

    if len(places) <= min_size:
        return np.full(len(places), -1)
    clustering = HDBSCAN(min_cluster_size=min_size, copy=True)  # pyright: ignore[reportArgumentType]  stubs say str
    return clustering.fit_predict(places).astype(np.int64)


def in_line(places: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """The order of places [n] on a line, int64 [n], where the members of a cluster stand together, at their mean."""
    inside = cluster >= 0
    sums, sizes = (np.bincount(cluster[inside], weights=w) for w in (places[inside], None))
    at = places.copy()
    at[inside] = (sums / np.maximum(sizes, 1))[cluster[inside]]
    return np.lexsort((places, cluster, at))


def _renumbered(cluster: np.ndarray, order: np.ndarray) -> np.ndarray:
    names, first = np.unique(cluster[order], return_index=True)
    names, first = names[names >= 0], first[names >= 0]
    number = np.full(cluster.max(initial=-1) + 2, -1)  # the last entry stands for −1
    number[names[np.argsort(first)]] = np.arange(len(names))
    return number[cluster]
