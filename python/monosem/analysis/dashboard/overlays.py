"""Results of other analyses in the browser: proxies that colour histograms, and automaton links."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monosem.analysis.evidence.proxies.builtin import ProxySet
from monosem.analysis.index import Index
from monosem.analysis.scan import spread
from monosem.data import sealed
from monosem.data.protocols import LanguageModel


def proxy_marks(
    model: LanguageModel, index: Index, proxies: ProxySet | None = None, block: int = 256
) -> dict[str, np.ndarray]:
    """For each proxy the tokens on which its score is above 0, of the rows that were read: {name: bool [rows, T]}.

    Args:
        proxies: a ``ProxySet``; default the built-in ones, fitted to the index's text.
    """
    if proxies is None:
        proxies = ProxySet(model, index.rows)
    tokens = index.rows.tokens
    marks = {name: np.zeros(tokens.shape, dtype=bool) for name in proxies.names}
    read = spread(index.rows, index.meta["rows_read"] * index.length)
    for start in range(0, len(read), block):
        rows = read[start : start + block]
        scores = proxies.scores(np.asarray(tokens[rows]).astype(np.int64)) > 0
        for name, score in zip(proxies.names, scores.numpy(), strict=True):
            marks[name][rows] = score
    return marks


def automaton_links(path: str | Path, limit: int = 8) -> dict[int, list[tuple[int, float]]] | None:
    """The steps of the automata that ``monosem automata`` wrote: {feature: [(next feature, strength), …]}; None where
    there is no such file. Those are the strongest loops, cycles and chains, not every transition.

    Raises:
        ValueError: a file that is no such result.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        result, _ = sealed.read(path, "automata", "what `monosem automata` writes")
        steps = {
            (int(e["from"]), int(e["to"])): float(e["strength"])
            for kind in ("loops", "cycles", "chains")
            for found in result[kind]
            for e in found["edges"]
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"automata: {str(path)!r} is not what `monosem automata` writes ({error!r}); run that again"
        ) from None
    links: dict[int, list[tuple[int, float]]] = {}
    for (i, j), strength in sorted(steps.items(), key=lambda step: -step[1]):
        links.setdefault(i, []).append((j, strength))
    return {i: found[:limit] for i, found in links.items()}
