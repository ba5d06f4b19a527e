"""A planted ultralow cluster is separated, by density or in three dimensions; where there is none, none is made up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.analysis.evidence import widths, widths_page
from monosem.analysis.evidence.section import render_page
from monosem.analysis.evidence.ultralow import separate, valley
from monosem.analysis.inputs import Subject
from monosem.analysis.metrics import evaluate
from monosem.analysis.neuron_basis import NeuronBasis

TOKENS = 10**8


def planted(low_at: float, high_at: float, low: int = 300, high: int = 3000, dead: int = 50, apart: bool = True):
    """Counts on 10⁸ tokens of two heaps of densities (log10, 0.35 decades wide), and weights that tell them apart."""
    random = np.random.default_rng(0)
    logs = np.concatenate([random.normal(low_at, 0.35, low), random.normal(high_at, 0.35, high)])
    counts = np.concatenate([np.maximum(1, 10**logs * TOKENS), np.zeros(dead)]).astype(int)
    truth = np.arange(len(counts)) < low
    n = len(counts)
    decoder = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(n, 8))), dim=1)
    shrink = torch.from_numpy(np.where(truth & apart, 0.0, 1.0) + random.normal(0, 0.05, n))
    bias = torch.from_numpy(np.where(truth & apart, -2.0, -0.5) + random.normal(0, 0.1, n))
    sae = SimpleNamespace(W_dec=decoder, W_enc_rows=decoder * shrink[:, None], b_enc=bias)
    return torch.from_numpy(counts), truth, sae


def test_a_valley_separates_two_modes_of_density():
    counts, truth, sae = planted(-7.0, -4.5)
    separation = separate(counts, TOKENS, sae)
    assert separation.how == "valley" and 10**-6.3 < separation.cut < 10**-5.2
    assert (separation.low == truth).mean() > 0.998 and not separation.low[-50:].any()
    assert "valley" in separation.words


def test_a_mixture_separates_overlapping_modes():
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    counts, truth, sae = planted(-5.5, -4.5, low=600)
    assert valley(np.log10(counts[counts > 0].numpy() / TOKENS)) is None
    separation = separate(counts, TOKENS, sae)
    assert separation.how == "mixture" and separation.cut is None and (separation.low == truth).mean() > 0.998
    assert "decoder" in separation.words


def heaps(*of: tuple[int, float, float, float]):
    """Counts on 10⁸ tokens and weights of heaps (features, log10 density, encoder bias, decoder · encoder)."""
    random = np.random.default_rng(3)
    sizes = [n for n, *_ in of]
    logs, bias, dot = (
        np.concatenate([random.normal(heap[i], spread, heap[0]) for heap in of])
        for i, spread in ((1, 0.5), (2, 0.08), (3, 0.08))
    )
    decoder = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(sum(sizes), 8))), dim=1)
    encoder = decoder * torch.from_numpy(dot)[:, None]
    sae = SimpleNamespace(W_dec=decoder, W_enc_rows=encoder, b_enc=torch.from_numpy(bias))
    return torch.from_numpy((10**logs * TOKENS).astype(int)), np.repeat(np.arange(len(of)), sizes), sae


# Like heaps of TopK dictionaries on model A, of 4,096 features after 200 million activations and of 16,384 after 50:
# densities and dot products as measured there, biases further apart.
DENSE, MOST, REVIVED = (500, -1.7, -0.02, 0.96), (3500, -3.5, -0.6, 0.92), (3000, -5.0, -0.05, 0.59)


@pytest.mark.parametrize("of", [(DENSE, MOST), (REVIVED, (4000, -3.7, -0.4, 0.9))], ids=["dense", "revived"])
def test_a_lower_mode_that_reads_what_it_writes_is_no_cluster(of):
    """The bulk below a heap of dense features was the cluster once, and so were features that AuxK had brought back."""
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    counts, _, sae = heaps(*of)
    separation = separate(counts, TOKENS, sae)
    assert separation.how == "bound" and (separation.low == (counts < 1e-6 * TOKENS).numpy()).all()


def test_a_cluster_below_two_other_modes():
    pytest.importorskip("sklearn", reason="pip install scikit-learn")
    counts, heap, sae = heaps((1500, *DENSE[1:]), MOST, (200, -4.6, -0.1, 0.1))
    separation = separate(counts, TOKENS, sae)
    assert separation.how == "mixture" and (separation.low == (heap == 2)).mean() > 0.99


def test_features_that_fire_often_are_no_cluster():
    counts, _, sae = heaps((300, -3.2, -0.1, 0.1), (3000, -1.2, -0.1, 0.9))
    assert separate(counts.clamp(max=TOKENS), TOKENS, sae).how == "bound"


@pytest.mark.parametrize("basis", [False, True])
def test_without_a_cluster_the_bound_decides(basis):
    counts, _, sae = planted(-4.5, -4.5, apart=False)
    counts[:3] = torch.tensor([20, 99, 101])
    separation = separate(counts, TOKENS, NeuronBasis(len(counts)) if basis else sae)
    assert (separation.how, separation.cut) == ("bound", 1e-6) and separation.low.nonzero()[0].tolist() == [0, 1]
    few = separate(torch.tensor([0, 1, 2, 500]), 1000, NeuronBasis(4))
    assert few.how == "bound" and few.cut == 2e-3 and few.low.tolist() == [False, True, False, False]


def test_a_valley_needs_two_modes():
    random = np.random.default_rng(1)
    main = random.normal(-4, 0.4, 3000)
    assert valley(main) is None
    assert valley(np.concatenate([main, np.full(20, -7.0)])) is None  # under 2 % of the features
    assert valley(np.concatenate([main, random.normal(-7, 0.3, 200)])) == pytest.approx(-5.8, abs=0.6)
    assert valley(np.concatenate([main, random.normal(-1.5, 0.2, 400)])) is None  # a heap of dense features is none


def test_a_skewed_mode_and_few_tokens_make_no_cluster():
    """Rates spread over four decades, counted on few tokens: counts of 1, 2, 3 are no cluster, nor is the tail."""
    random = np.random.default_rng(2)
    rates = 10 ** -(2 + random.gamma(3, 0.55, 4000))
    decoder = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(4000, 8))), dim=1)
    dot = torch.from_numpy(1.3 + 0.2 * np.log10(rates) + random.normal(0, 0.1, 4000))  # rare features are learned less
    bias = torch.from_numpy(0.3 * np.log10(rates) + random.normal(0, 0.2, 4000))
    sae = SimpleNamespace(W_dec=decoder, W_enc_rows=decoder * dot[:, None], b_enc=bias)
    for tokens in (50_000, 600_000, 10**8):
        counts = torch.from_numpy(random.poisson(rates * tokens))
        assert separate(counts, tokens, sae).how == "bound", tokens


def test_widths_agree_with_the_evaluation(model, rows, exact, hook, monkeypatch):
    wide = ms.TopKSAE(model.E.shape[1], 40, k=3, seed=2)
    computed, own = [], type(model).token_losses
    monkeypatch.setattr(type(model), "token_losses", lambda *a, **k: computed.append(1) or own(*a, **k))
    evaluate(exact, model, hook, rows, progress=False)
    once = len(computed)  # untouched, with the reconstruction, with zeros
    computed.clear()
    subjects = {name: Subject(sae, model, hook) for name, sae in (("wide", wide), ("exact", exact))}
    result = widths.measure(subjects, rows, progress=False)
    assert len(computed) == once + once // 3, "what does not depend on the dictionary is computed once"
    assert [r["name"] for r in result.runs] == ["exact", "wide"]
    for run, sae in zip(result.runs, (exact, wide), strict=True):
        figures = evaluate(sae, model, hook, rows, progress=False)
        assert (run["l0"], run["ce_loss_recovered"]) == (figures.l0, figures.ce_loss_recovered)
        assert run["dead"] == figures.dead and run["live"] + run["ultralow"] + run["dead"] == sae.cfg.d_sae
        assert sum(run["counts"]) == sae.cfg.d_sae - run["dead"] and sum(run["low_counts"]) == run["ultralow"]
    assert result.runs[0]["ce_loss_recovered"] == pytest.approx(1.0, abs=1e-5)
    fewer = widths.measure({"wide": subjects["wide"]}, rows, tokens=24, density_tokens=10**6, progress=False)
    assert fewer.tokens == 22 and fewer.density_tokens == result.density_tokens == 110
    assert fewer.runs[0]["counts"] == result.runs[1]["counts"]

    page = render_page("t", [widths_page.section(json.loads(json.dumps(result.to_dict(), allow_nan=False)))])
    assert "live features outside the ultralow cluster" in page and "wide" in result.table()
    with pytest.raises(ValueError, match="at least one"):
        widths.measure({}, rows)
    with pytest.raises(ValueError, match="one hook of one model"):
        widths.measure(subjects | {"elsewhere": Subject(exact, model, "blocks.7.mlp.hook_post")}, rows)
