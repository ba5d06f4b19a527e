"""Proxies and automata, as the browser takes them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monosem.analysis.dashboard.overlays import automaton_links, proxy_marks


def test_proxy_marks_cover_only_the_rows_that_were_read():
    tokens = np.arange(40).reshape(10, 4)
    index = SimpleNamespace(
        rows=SimpleNamespace(tokens=tokens, sources=["s"], source=tokens * 0), length=4, meta={"rows_read": 5}
    )
    proxies = SimpleNamespace(
        names=["even"], scores=lambda t: torch.where(torch.from_numpy(t) % 2 == 0, 1.0, -1.0)[None]
    )
    marks = proxy_marks(None, index, proxies, block=2)["even"]
    read = np.array([1, 3, 5, 7, 9])  # evenly spaced
    assert marks[read].tolist() == (tokens[read] % 2 == 0).tolist()
    assert marks.sum() == 10


def test_automaton_links_are_read_strongest_first(tmp_path):
    path = tmp_path / "automata.json"
    assert automaton_links(path) is None
    edge = lambda i, j, s: {"from": i, "to": j, "strength": s}
    automata = {
        "loops": [{"edges": [edge(1, 1, 0.5)]}],
        "cycles": [{"edges": [edge(1, 2, 0.9), edge(2, 1, 0.4)]}],
        "chains": [{"edges": [edge(1, 2, 0.9)]}],
    }
    path.write_text(json.dumps(automata))
    assert automaton_links(path) == {1: [(2, 0.9), (1, 0.5)], 2: [(1, 0.4)]}
    path.write_text("[]")
    with pytest.raises(ValueError, match="not what `monosem automata` writes"):
        automaton_links(path)
