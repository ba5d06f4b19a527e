"""Planted automata are found exactly; the counts equal a plain count; chance makes no graph."""

import json
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from monosem.analysis.evidence import automata
from monosem.analysis.evidence.automata import graph
from monosem.analysis.evidence.automata.counts import KeySums
from monosem.analysis.evidence.automata.draw import draw
from monosem.analysis.evidence.automata.transitions import Raised, Transitions, edges, raised_tokens
from monosem.analysis.evidence.section import render_page
from monosem.analysis.inputs import Subject
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.scan import blocks

V, HOOK = 40, "blocks.0.mlp.hook_post"
# The machine of the text: a leads to itself or b; b, c, d in turn; e to f to g, which ends it. Tokens: 1 + 3 a state.
NEXT = {0: [0, 0, 1], 1: [2], 2: [3], 3: [1, 1, 4], 4: [5], 5: [6], 6: []}


class Machine:
    """Token t belongs to state (t − 1) // 3 (noise from 22 on); one-hot activations, logits raise what may follow."""

    name, bos_id, n_ctx, d_vocab = "machine", 0, 24, V
    hook_names = [HOOK]

    def width(self, hook_name):
        return V

    def activations(self, tokens, hook_name):
        return torch.nn.functional.one_hot(tokens, V).float()

    def logit_directions(self, hook_name):
        out = torch.randn(V, V, generator=torch.Generator().manual_seed(0)) * 0.05
        for state, onward in NEXT.items():
            for to in onward:
                out[1 + 3 * state : 4 + 3 * state, 1 + 3 * to : 4 + 3 * to] = 4.0
        return out

    def token_str(self, token):
        return f" t{token}" if token else "<bos>"

    def decode(self, ids):
        return "".join(self.token_str(t) for t in ids)

    text_within = decode


class States(NeuronBasis):
    """Feature s fires on the tokens of state s; feature 7 on everything; 8 to 13 on a noise token each; 14 never."""

    def __init__(self):
        super().__init__(15)
        read = torch.zeros(V, 15)
        for s in range(7):
            read[1 + 3 * s : 4 + 3 * s, s] = 1.0
        read[:, 7] = 0.1
        read[22:28, 8:14] = torch.eye(6)
        self.read, self.W_dec = read, read.T / read.T.norm(dim=1, keepdim=True).clamp_min(1e-9)
        self.cfg = SimpleNamespace(d_in=V, d_sae=15, kind="states")

    def encode(self, x):
        return NeuronBasis(15).encode(x @ self.read)


def text(rows: int = 60, seed: int = 0) -> SimpleNamespace:
    """Rows that run through the machine with noise between the runs."""
    random = np.random.default_rng(seed)
    out = np.zeros((rows, Machine.n_ctx), dtype=np.int32)
    for row in out:
        state = -1
        for p in range(1, len(row)):
            onward = NEXT.get(state, [])
            state = int(random.choice(onward)) if onward else int(random.choice([0, 1, 4, -1, -1, -1]))
            row[p] = 1 + 3 * state + random.integers(3) if state >= 0 else random.integers(22, V)
    return SimpleNamespace(
        tokens=torch.from_numpy(out), source=torch.zeros(out.shape, dtype=torch.uint8), sources=["m"]
    )


@pytest.fixture(scope="module")
def result():
    return automata.measure(Subject(States(), Machine(), HOOK), text(), support=10, progress=False)


def test_the_planted_automaton_is_found(result):
    assert [loop["features"] for loop in result.loops] == [[0]]
    assert [cycle["features"] for cycle in result.cycles] == [[1, 2, 3]]
    chains = [chain["features"] for chain in result.chains]
    assert [4, 5, 6] in chains or [3, 4, 5, 6] in chains, chains
    known = {(s, to) for s, onward in NEXT.items() for to in onward}
    shown = [*result.loops, *result.cycles, *result.chains]
    assert {(e["from"], e["to"]) for path in shown for e in path["edges"]} <= known
    (ring,) = result.cycles
    by = {e["from"]: e for e in ring["edges"]}
    assert by[1]["probability"] == by[2]["probability"] == 1.0 and by[1]["raise_share"] == 1.0
    assert by[3]["probability"] == pytest.approx(2 / 3, abs=0.12) and by[3]["raise_share"] == 1.0
    assert set(by[1]["tokens"]) == {"␣t7", "␣t8", "␣t9"} == set(result.nodes["2"]["tokens"])
    assert by[1]["base"] < 0.25 and by[1]["strength"] == pytest.approx(1 - by[1]["base"])
    assert result.raise_lift > 2 and result.raise_lift_above_1 == 1.0
    assert result.aligned == 1.0 and result.alignment > result.alignment_shuffled + 1


def test_a_feature_that_always_fires_is_no_state(result):
    assert "7" not in result.nodes and "14" not in result.nodes


def test_counts_agree_with_a_plain_loop():
    rows, sae, model = text(7, seed=1), States(), Machine()
    rows.tokens[2, 9] = 0  # a BOS within a row: no step into it nor out of it
    raised = raised_tokens(sae, model, HOOK, torch.ones(V, dtype=torch.bool))
    counts = Transitions(15, raised, 0)
    for block in blocks(sae, model, HOOK, rows, contexts=3):
        counts.update(block)
    wanted = {"pairs": {}, "together": {}, "hits": np.zeros(15), "active": np.zeros(15), "after": np.zeros(15)}
    up = {f: set(raised.of(f)[0].tolist()) for f in range(15)}
    steps = 0
    for row in rows.tokens.tolist():
        for a, b in pairwise(row[1:]):
            if a == 0 or b == 0:
                continue
            steps += 1
            on, then = (sae.read[t].nonzero().flatten().tolist() for t in (a, b))
            wanted["after"][then] += 1
            for i in on:
                wanted["active"][i] += 1
                if b in up[i]:
                    wanted["hits"][i] += 1
                    for name, others in (("pairs", then), ("together", on)):
                        for j in others:
                            wanted[name][i * 15 + j] = wanted[name].get(i * 15 + j, 0) + 1
    assert counts.steps == steps
    for name in ("hits", "active", "after"):
        assert getattr(counts, name).tolist() == wanted[name].tolist()
    for name in ("pairs", "together"):
        keys, sums = getattr(counts, name).items()
        assert dict(zip(keys.tolist(), sums.tolist(), strict=True)) == wanted[name]


def test_raised_tokens_are_the_outliers():
    raised = raised_tokens(States(), Machine(), HOOK, torch.ones(V, dtype=torch.bool), block=4)
    assert sorted(raised.of(1)[0].tolist()) == [7, 8, 9] and sorted(raised.of(0)[0].tolist()) == [1, 2, 3, 4, 5, 6]
    assert raised.holds(np.array([1, 1, 14]), np.array([8, 10, 8])).tolist() == [True, False, False]
    assert Raised(np.zeros(0, np.int64), np.zeros(0), V).holds(np.array([1]), np.array([1])).tolist() == [False]


def test_key_sums_lose_little_when_memory_is_short():
    random = np.random.default_rng(0)
    keys = np.concatenate([np.repeat(np.arange(5), 2000), random.integers(10, 10_000, 8000)])
    random.shuffle(keys)
    whole, small = KeySums(), KeySums(capacity=400, buffer=100)
    for part in np.split(keys, 60):
        whole.add(part)
        small.add(part)
    names, sums = whole.items()
    assert (names.tolist(), sums.tolist()) == tuple(x.tolist() for x in np.unique(keys, return_counts=True))
    assert whole.lost == 0 < small.lost < 2000 and len(small.items()[0]) <= 500
    short = whole.get(np.arange(5)) - small.get(np.arange(5))
    assert (short >= 0).all() and (short <= small.lost).all()
    assert whole.row(3, 12)[0].tolist() == [k for k in names.tolist() if 3 <= k < 12]
    assert whole.get(np.array([7]))[0] == 0 and KeySums().get(np.array([7]))[0] == 0
    weighed = KeySums(buffer=1)
    weighed.add(np.array([3, 1, 3]), np.array([0.5, 2.0, 0.25]))
    assert weighed.get(np.array([3, 1])).tolist() == [0.75, 2.0]


def test_two_features_of_one_state_are_no_cycle():
    """Two features that always fire together lead to each other, but there is only one state."""
    counts = SimpleNamespace(d_sae=3, steps=1000, hits=np.array([100, 100, 0]), active=np.array([200, 200, 0]))
    counts.after = np.array([200, 200, 0])
    counts.pairs, counts.together = KeySums(), KeySums()
    for key in (1, 3):
        counts.pairs.add(np.full(90, key))
    transitions = edges(counts)
    assert [(int(i), int(j)) for i, j in zip(transitions.source, transitions.target, strict=True)] == [(0, 1), (1, 0)]
    assert transitions.strength[0] == pytest.approx(0.5 * (0.9 - 0.2))
    assert [p.features for p in graph.paths(transitions)[1]] == [(0, 1)]
    for key in (1, 3):
        counts.together.add(np.full(95, key))
    assert graph.paths(edges(counts)) == ([], [], [])
    assert len(edges(counts, lift=5.0)) == 0 and len(edges(counts, support=91)) == 0


def test_choose_shares_no_feature():
    some = [graph.Path((i, j), (0, 0), 1.0, True) for i, j in ((1, 2), (2, 3), (4, 5), (6, 7), (8, 9))]
    kinds = {1: "x", 4: "x", 6: "x", 8: "y"}
    chosen = graph.choose(some, 10, lambda p: kinds.get(p.features[0], "y"))
    assert [p.features for p in chosen] == [(1, 2), (4, 5), (8, 9)]
    assert len(graph.choose(some, 1, lambda p: "x")) == 1


def test_the_section_draws_every_automaton(result):
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    page = render_page("t", [automata.section(plain)])
    assert page.count('class="automaton"') == len(plain["loops"]) + len(plain["cycles"]) + len(plain["chains"])
    node = {"tokens": ["<b>", "مر", "x" * 40], "raises": ["&"], "source": "a&b", "source_share": 1.0, "density": 0.1}
    for count, closed in ((1, True), (2, True), (3, True), (4, True), (5, False)):
        features = list(range(count))
        steps = [(i, (i + 1) % count) for i in range(count if closed else count - 1)]
        edge = {"tokens": ["<i>"], "raise_share": 0.5, "probability": 0.5, "base": 0.1, "support": 7, "strength": 0.2}
        path = {"features": features, "closed": closed, "edges": [edge | {"from": a, "to": b} for a, b in steps]}
        svg = ElementTree.fromstring(draw(path, {str(f): node for f in features}, "n"))
        assert len(svg.findall(".//g")) == count + len(steps)
    assert "loops" in result.table() and "[m: " in result.table()


def test_random_text_has_no_automata():
    random = SimpleNamespace(**vars(text(4)))
    random.tokens = torch.full_like(random.tokens, 30)
    random.tokens[2:] = 31
    empty = automata.measure(Subject(States(), Machine(), HOOK), random, progress=False)
    assert (empty.loops, empty.cycles, empty.chains) == ((), (), ()) and "none" in empty.table()
    assert "None was found" in automata.section(empty.to_dict()).body
