"""Correlations with source labels, against NumPy on dense activations."""

import numpy as np
import pytest
import torch

from monosem.analysis.evaluation_sums import Sums
from monosem.analysis.index.activation_histograms import ActivationHistograms
from monosem.analysis.scan import blocks
from monosem.analysis.sources import SourceMoments, group_sources


def test_sources_are_grouped_by_label():
    sources = ["ar_ui", "code", "he_ui", "ar_quran", "dna", "dna_fasta", "base64"]
    assert group_sources(sources) == {"Arabic": [0, 3], "Hebrew": [2], "DNA": [4, 5], "base64": [6]}
    assert group_sources(["code", "base64"]) == {"base64": [1]}
    assert group_sources(sources, {"text": ("ar_", "he_")}) == {"text": [0, 2, 3]}


def test_correlations_and_precision_agree_with_numpy(model, lossy, rows, hook):
    moments = SourceMoments(20, rows.sources)
    for block in blocks(lossy, model, hook, rows, contexts=4):
        moments.update(block)
    x = model.activations(torch.from_numpy(rows.tokens.astype(np.int64)), hook)[:, 1:]
    f = lossy.encode(x).to_dense().detach().flatten(0, 1).double().numpy()
    source = rows.source[:, 1:].flatten()
    groups = {"Arabic": [0], "either": [0, 1]}
    got = moments.correlations(groups).numpy()
    for column, members in enumerate(groups.values()):
        y = np.isin(source, members).astype(float)
        for feature in range(20):
            wanted = np.corrcoef(f[:, feature], y)[0, 1] if f[:, feature].std() else 0.0
            assert got[feature, column] == pytest.approx(wanted, abs=1e-9)

    (best,) = moments.best({"Arabic": [0]})
    feature = int(got[:, 0].argmax())
    active, label = f[:, feature] > 0, source == 0
    assert (best.feature, best.correlation) == (feature, pytest.approx(got[feature, 0]))
    assert best.precision == pytest.approx((active & label).sum() / active.sum())
    assert best.recall == pytest.approx((active & label).sum() / label.sum())
    assert best.mass == pytest.approx(f[label, feature].sum() / f[:, feature].sum())
    assert best.base_rate == pytest.approx(label.mean())


def test_a_label_without_tokens_has_no_feature():
    moments = SourceMoments(3, ["ar_x", "code"])
    moments.tokens[1] = 5
    assert moments.best({"Arabic": [0]}) == ()


@pytest.mark.parametrize(
    "make",
    [
        lambda names: SourceMoments(4096, names),
        lambda names: ActivationHistograms(4096, len(names), 32, 8),
        lambda names: Sums(4096, len(names)),
    ],
)
def test_too_many_sources_for_the_memory_are_refused(monkeypatch, make):
    monkeypatch.setattr("monosem.analysis.sources.available_memory", lambda: 1_000_000_000)
    names = [f"https://example.com/{i}" for i in range(40_000)]
    message = r"source: got 40,000 different names, and .* need \d.* GB of memory; this machine has 1 GB left"
    with pytest.raises(ValueError, match=message):
        make(names)
    make(names[:100])
