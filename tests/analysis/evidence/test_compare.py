"""Matching features between dictionaries, against NumPy on dense activations, and on a permuted dictionary."""

import json

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.evidence import compare, compare_page
from monosem.analysis.evidence.section import render_page
from monosem.analysis.inputs import Subject
from monosem.analysis.logit_table import LogitTable
from monosem.analysis.logits import used_vocabulary
from monosem.data.token_rows import pack_rows


@pytest.fixture(scope="module")
def a():
    return Subject(ms.TopKSAE(32, 40, k=5, seed=0), tiny_model(seed=0), HOOK)


@pytest.fixture(scope="module")
def b():
    model = tiny_model(seed=1)
    model.name = "tiny B"
    return Subject(ms.ReLUSAE(32, 24, seed=3), model, HOOK)


@pytest.fixture(scope="module")
def rows(a):
    return pack_rows(tiny_documents(30), a.model)


def permuted(sae: ms.TopKSAE, order: torch.Tensor) -> ms.TopKSAE:
    out = ms.TopKSAE(sae.cfg.d_in, sae.cfg.d_sae, k=sae.cfg.k)
    with torch.no_grad():
        for name in ("W_enc_rows", "W_dec", "b_enc"):
            getattr(out, name).copy_(getattr(sae, name)[order])
        out.b_dec.copy_(sae.b_dec)
    return out


def test_a_permuted_dictionary_matches_with_correlation_one(a, rows):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    twin = Subject(permuted(a.sae, order), a.model, HOOK)
    result = compare.measure(a, twin, rows, min_tokens=5)
    assert result.same_model and [c.name for c in result.comparisons] == ["features", "random directions"]
    m = result["features"].matches
    assert len(m.r) >= 20 and torch.equal(order[m.match], m.feature)
    for figure in (m.r, m.attribution, m.logits):
        torch.testing.assert_close(figure, torch.ones_like(figure), atol=1e-6, rtol=0)
    assert result["features"].median == pytest.approx(1) and result["features"].backward[2] == pytest.approx(1)
    assert result["features"].histogram[-1] == len(m.r)
    assert result["random directions"].median < 0.95


def dense(subject, rows):
    """Activations, attributions and neurons of every scored token, float64."""
    tokens = rows.tokens.long()
    x = subject.model.activations(tokens, HOOK)[:, 1:]
    with torch.no_grad():
        f = subject.sae.encode(x).to_dense().double()
    w = subject.sae.W_dec.detach().double() @ subject.model.logit_directions(HOOK).double()
    used = used_vocabulary(tokens, 300)
    w = w - w[:, used].median(1, keepdim=True).values
    following = torch.cat([tokens[:, 2:], tokens[:, -1:]], 1)
    v = w.T[following]
    v[:, -1] = 0
    scored = tokens[:, 1:] != subject.model.bos_id
    return f[scored].numpy(), (f * v)[scored].numpy(), x.relu()[scored].double().numpy(), w[:, used]


@pytest.mark.parametrize("memory", [1 << 30, 40_000])  # in memory; block by block through the disk, no logit table
def test_matches_agree_with_numpy(a, b, rows, memory, tmp_path):
    min_tokens = 8
    result = compare.measure(a, b, rows, min_tokens=min_tokens, memory=memory, folder=tmp_path, contexts=7)
    (fa, ta, na, wa), (fb, tb, nb, wb) = dense(a, rows), dense(b, rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(fa.T, fb.T)[:40, 40:])
        t = np.nan_to_num(np.corrcoef(ta.T, tb.T)[:40, 40:])
        n = np.nan_to_num(np.corrcoef(na.T, nb.T)[:32, 32:])
    m = result["features"].matches
    kept = np.flatnonzero((fa > 0).sum(0) >= min_tokens)
    assert m.feature.tolist() == kept.tolist() and m.tokens.tolist() == (fa > 0).sum(0)[kept].tolist()
    np.testing.assert_allclose(m.r, r[kept].max(1), atol=1e-6)
    np.testing.assert_allclose(r[kept, m.match], r[kept].max(1), atol=1e-6)
    np.testing.assert_allclose(m.attribution, t[kept, m.match], atol=1e-5)
    logits = [np.corrcoef(wa[i], wb[j])[0, 1] for i, j in zip(kept, m.match, strict=True)]
    np.testing.assert_allclose(m.logits, logits, atol=1e-5)
    assert result["features"].quantiles[2] == pytest.approx(np.median(r[kept].max(1)), abs=1e-6)
    back = r[kept].max(0)[(fb > 0).sum(0) >= min_tokens]
    assert result["features"].backward[2] == pytest.approx(np.median(back), abs=1e-6)
    alive = (na > 0).sum(0) >= min_tokens
    assert result["neurons"].median == pytest.approx(np.median(n[alive].max(1)), abs=1e-5)
    assert result.tokens == len(fa) and list(tmp_path.iterdir()) == []


def test_a_logit_table_and_single_weights_agree(a):
    used = torch.arange(300) % 3 > 0
    table, single = (LogitTable(a.sae, a.model, HOOK, used, memory) for memory in (1 << 30, 0))
    assert single.table is None
    f, t = torch.tensor([0, 39, 7]), torch.tensor([3, 299, 0])
    torch.testing.assert_close(table.at(f, t), single.at(f, t, block=2), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(table.rows(f), single.rows(f), atol=1e-6, rtol=1e-5)
    assert table.rows(f).median(1).values.abs().max() < 1e-6
    assert [i for i, _ in table.top(7, 4)] == [i for i, _ in single.top(7, 4)]
    with pytest.raises(ValueError, match="used: got 0 entries"):
        LogitTable(a.sae, a.model, HOOK, torch.zeros(300, dtype=torch.bool))


def test_labels_are_compared_and_shown(a, b, rows):
    result = compare.measure(a, b, rows, min_tokens=5)
    assert {p.label for p in result.labels} <= {"DNA"}
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    section = compare_page.section(record)
    assert section.findings[0].paper == "median 0.72" and f"{result['features'].median:.2f}" in section.findings[0].ours
    page = render_page("Universality", [section])
    assert "random directions" in page and "neurons" in page and "matches" not in record["comparisons"][0]
    assert "median correlation of logit weights" in result.table()


def test_incomparable_dictionaries_are_refused(a, b, rows):
    with pytest.raises(ValueError, match=r"no feature of A fires on 100000 of the"):
        compare.measure(a, b, rows, min_tokens=100_000)
    other = tiny_model()
    other.encode_batch = lambda texts: [[5] for _ in texts]
    with pytest.raises(ValueError, match="do not share a tokenizer"):
        compare.measure(a, Subject(b.sae, other, HOOK), rows)
