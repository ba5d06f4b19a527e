"""The strongest loops, cycles and chains among transitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from monosem.analysis.evidence.automata.transitions import Edges


@dataclass(frozen=True)
class Path:
    """Features in order; ``closed``: the last leads back to the first. ``edges``: numbers into the edges.

    ``strength``: the geometric mean of its transitions' strengths.
    """

    features: tuple[int, ...]
    edges: tuple[int, ...]
    strength: float
    closed: bool


def networkx() -> Any:
    """networkx, an optional dependency."""
    try:
        import networkx as nx
    except ImportError:
        raise ImportError("automata need networkx: pip install 'monosem[analysis]' (or pip install networkx)") from None
    return nx


def paths(
    edges: Edges, *, cycle_length: int = 4, chain_length: int = 5, apart: float = 0.2
) -> tuple[list[Path], list[Path], list[Path]]:
    """(self-loops, cycles of 2 to ``cycle_length`` features, chains of 3 to ``chain_length``), each strongest first.

    Between two different states that follow each other the second is active with the first at most on a share ``apart``
    of the steps, and any two states of a cycle likewise where an edge between them says so: otherwise they would be one
    state seen twice.
    """
    nx = networkx()
    graph = nx.DiGraph()
    loops = []
    for n in range(len(edges)):
        i, j, strength = int(edges.source[n]), int(edges.target[n]), float(edges.strength[n])
        if i == j:
            loops.append(Path((i,), (n,), strength, True))
        elif edges.together[n] <= apart:
            graph.add_edge(i, j, strength=strength, number=n)
    cycles = [_path(graph, cycle, True) for cycle in nx.simple_cycles(graph, length_bound=cycle_length)]
    return _ranked(loops), _ranked(cycles), _ranked(_chains(graph, chain_length))


def _path(graph: Any, features: Sequence[int], closed: bool) -> Path:
    first = features.index(min(features)) if closed else 0
    features = [*features[first:], *features[:first]]
    steps = list(zip(features, [*features[1:], *features[: 1 if closed else 0]], strict=False))
    data = [graph.edges[step] for step in steps]
    mean = math.exp(sum(math.log(d["strength"]) for d in data) / len(data))
    return Path(tuple(features), tuple(d["number"] for d in data), mean, closed)


def _chains(graph: Any, longest: int) -> list[Path]:
    """From every feature the path that follows the strongest edge to a new feature, cut where the mean is highest."""
    out = []
    for start in sorted(graph):
        walk = [start]
        while len(walk) < longest:
            onward = [(d["strength"], -j) for _, j, d in graph.out_edges(walk[-1], data=True) if j not in walk]
            if not onward:
                break
            walk.append(-max(onward)[1])
        ends = [_path(graph, walk[:n], False) for n in range(3, len(walk) + 1)]
        ends = [p for p in ends if not graph.has_edge(p.features[-1], p.features[0])]
        out += sorted(ends, key=lambda p: -p.strength)[:1]
    return out


def _ranked(unordered: list[Path]) -> list[Path]:
    return sorted(unordered, key=lambda p: (-p.strength, p.features))


def choose(ranked: Sequence[Path], count: int, kind: Callable[[Path], str], per_kind: int = 2) -> list[Path]:
    """The first ``count`` that share no feature with one before them, at most ``per_kind`` of one kind."""
    taken: set[int] = set()
    kinds: dict[str, int] = {}
    out: list[Path] = []
    for path in ranked:
        if len(out) == count:
            break
        name = kind(path)
        if taken.isdisjoint(path.features) and kinds.get(name, 0) < per_kind:
            out.append(path)
            taken.update(path.features)
            kinds[name] = kinds.get(name, 0) + 1
    return out
