"""Features that are neurons under another name are found out; those that are not have their figures against NumPy."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from monosem.analysis.evidence import neurons, neurons_page
from monosem.analysis.evidence.section import render_page
from monosem.analysis.inputs import Subject
from monosem.analysis.neuron_basis import NeuronBasis

HOOK, D, V = "blocks.0.mlp.hook_post", 12, 30


class Random:
    """Activations that depend on the token only: half of the entries of a random matrix are 0."""

    name, bos_id, n_ctx, d_vocab = "random", 0, 9, V
    hook_names = [HOOK]

    def __init__(self):
        self.E = torch.randn(V, D, generator=torch.Generator().manual_seed(5)).clamp_min(0)

    def width(self, hook_name):
        return D

    def activations(self, tokens, hook_name):
        return self.E[tokens]

    def token_bytes(self, token):
        return b"%c" % (65 + token % 26)

    def token_str(self, token):
        return self.token_bytes(token).decode()

    def decode(self, ids):
        return "".join(map(self.token_str, ids))

    text_within = decode


class Mixed(NeuronBasis):
    """Features 0 … D − 1 are the neurons in another order, times 3; then sums of two neurons; the last never fires."""

    def __init__(self, order):
        super().__init__(D + 6)
        eye = torch.eye(D)
        rows = [eye[order], (eye[:5] + eye[5:10]) / 2**0.5, torch.zeros(1, D)]
        self.W_dec = torch.cat(rows)
        self.W_dec[0] *= -1
        self.read = torch.cat([eye[order] * 3, eye[:5] + eye[5:10], torch.zeros(1, D)])
        self.cfg = SimpleNamespace(d_in=D, d_sae=D + 6, kind="mixed")

    def encode(self, x):
        return NeuronBasis(D + 6).encode(x @ self.read.T)


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    order = random.permutation(D)
    tokens = random.integers(1, V, (30, 9)).astype(np.int32)
    tokens[:, 0] = 0
    rows = SimpleNamespace(tokens=torch.from_numpy(tokens), source=torch.zeros(tokens.shape), sources=["t"])
    return order, rows, Mixed(order), Random()


def test_a_permuted_neuron_basis_is_matched(case):
    order, rows, sae, model = case
    r = neurons.measure(Subject(sae, model, HOOK), rows, contexts=4, progress=False)
    assert r.neuron[:D] == order.tolist() == r.largest[:D]
    assert r.correlation[:D] == pytest.approx([1.0] * D)
    assert r.coefficient[:2] == [-1.0, 1.0] and r.wide[:D] == [1] * D and r.wide[D] == 2
    assert r.neuron[-1] is None and r.live == D + 5 and r.tokens == 30 * 8
    f = torch.relu(model.E[rows.tokens[:, 1:].long()].flatten(0, 1) @ sae.read.T).double().numpy()
    x = model.E[rows.tokens[:, 1:].long()].flatten(0, 1).double().numpy()
    for i in range(D, D + 5):
        all_r = [np.corrcoef(f[:, i], x[:, n])[0, 1] for n in range(D)]
        assert r.correlation[i] == pytest.approx(max(all_r), abs=1e-5) and r.neuron[i] == int(np.argmax(all_r))
    assert r.density == pytest.approx((f > 0).mean(0).tolist())
    assert r.above["0.8"] == pytest.approx(np.mean([c > 0.8 for c in r.correlation[:-1]]))
    assert sum(r.histogram) == r.live and r.same >= D / r.live


def test_top_examples_of_neurons_are_counted_per_feature(case):
    """A neuron's 20 strongest tokens, one of each row; those on which the feature has half its maximum are counted."""
    _, rows, sae, model = case
    r = neurons.measure(Subject(sae, model, HOOK), rows, contexts=7, progress=False)
    x = model.E[rows.tokens.long()]
    x[:, 0] = 0
    f = torch.relu(x @ sae.read.T)
    f[:, 0] = 0
    count, share = np.zeros(D + 6), np.zeros(D + 6)
    for n in range(D):
        best, where = x[..., n].max(1)
        order = best.argsort(descending=True, stable=True)
        mine = [int(i) for i in order[: neurons.TOP] if best[i] > 0]
        for i in range(D + 5):
            hits = sum(float(f[row, where[row], i]) >= float(f[..., i].max()) / 2 for row in mine)
            count[i] += hits > 0
            share[i] = max(share[i], hits / neurons.TOP)
    assert r.top_neurons[:-1] == count[:-1].tolist() and r.top_share[:-1] == pytest.approx(share[:-1].tolist())


def test_several_passes_in_little_memory_give_the_same_result(case):
    _, rows, sae, model = case
    one = neurons.measure(Subject(sae, model, HOOK), rows, progress=False).to_dict()
    several = neurons.measure(Subject(sae, model, HOOK), rows, memory=8 * D * 4, progress=False).to_dict()
    assert several == one


def test_the_section_is_drawn_and_neurons_are_refused(case):
    _, rows, sae, model = case
    r = neurons.measure(Subject(sae, model, HOOK), rows, progress=False)
    page = render_page("t", [neurons_page.section(json.loads(json.dumps(r.to_dict(), allow_nan=False)))])
    assert "nearest to a neuron" in page and f"{r.live:,} live features" in page and "neuron" in r.table()
    with pytest.raises(ValueError, match="the neurons themselves"):
        neurons.measure(Subject(NeuronBasis(D), model, HOOK), rows, progress=False)
    dead = Mixed(np.arange(D))
    dead.read = torch.zeros_like(dead.read)
    nothing = neurons.measure(Subject(dead, model, HOOK), rows, progress=False)
    assert nothing.live == 0 and "no feature fires" in nothing.table()
    assert render_page("t", [neurons_page.section(nothing.to_dict())])
