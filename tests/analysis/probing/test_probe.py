"""Probes against their definition: dense arrays, one text at a time, and scikit-learn."""

import sys

import numpy as np
import pytest
import torch

import monosem as ms
from monosem.analysis.probing import pool
from monosem.analysis.probing.fit import differences, sparse_probes
from monosem.analysis.probing.texts import as_rows, sampled, tasks_of
from monosem.data.text import Document, TokenDocument

sklearn = pytest.importorskip("sklearn")
RED, GREEN, BLUE = 3, 5, 7  # tokens that the labels are about


def rows(count=40, seed=0):
    """Texts of different lengths behind a BOS, one of BOS alone."""
    draw = np.random.default_rng(seed)
    texts = [np.append(0, draw.integers(1, 14, draw.integers(1, 11))).astype(np.int32) for _ in range(count)]
    return [*texts[:-1], np.zeros(1, np.int32)]


@pytest.mark.parametrize("how", ["mean", "max", "last"])
def test_codes_and_activations_are_pooled_over_the_tokens_that_count(model, hook, lossy, exact, how):
    texts = [*rows(), np.array([0, 4, 0, 6], np.int32)]  # a BOS within a text does not count
    for sae in (lossy, exact):
        got = pool(sae, model, hook, texts, how=how)
        assert got.codes.format == "csr" and got.codes.dtype == np.float32 and got.codes.has_canonical_format
        for i, text in enumerate(texts):
            x = model.E[torch.from_numpy(text[text != 0]).long()]
            assert got.tokens[i] == len(x)
            for row, dense in ((got.codes[[i]].toarray()[0], sae.encode(x).to_dense()), (got.inputs[i], x)):
                if not len(x):
                    assert not row.any()
                    continue
                expected = {"mean": dense.mean(0), "max": dense.amax(0), "last": dense[-1]}[how]
                np.testing.assert_allclose(row, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_missing_scikit_learn_is_named_before_a_text_is_read(model, hook, exact, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"wanted the package sklearn, .*pip install 'monosem\[analysis\]'"):
        ms.probe(exact, model, hook, (pytest.fail("read") for _ in range(1)))


def test_tokens_beyond_the_limit_on_the_norm_do_not_count(model, hook, exact):
    model.E[9] *= 100
    texts = [*rows(20), np.array([0, 9], np.int32)]
    got = pool(exact, model, hook, texts, skip_norm=10.0)
    assert got.tokens.tolist() == [int(((t != 0) & (t != 9)).sum()) for t in texts]
    assert not got.codes[[-1]].nnz and not got.inputs[-1].any()


def by_definition(codes, y, test, k):
    """Ten lines on dense arrays."""
    from sklearn.linear_model import LogisticRegression

    difference = codes[y == 1].mean(0) - codes[y == 0].mean(0)
    chosen = sorted(range(len(difference)), key=lambda f: (-abs(difference[f]), f))[:k]
    mean, deviation = codes[:, chosen].mean(0), codes[:, chosen].std(0)
    deviation[deviation == 0] = 1
    scaled = [(part[:, chosen] - mean) / deviation for part in (codes, test)]
    regression = LogisticRegression(max_iter=1000).fit(scaled[0], y)
    return chosen, difference[chosen], regression.predict(scaled[1]), regression.decision_function(scaled[1])


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_sparse_probe_is_its_definition(k):
    from scipy import sparse
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(k)
    y = draw.integers(0, 2, 120)
    dense = draw.random((120, 50)) * (draw.random((120, 50)) < 0.1)
    dense[:, 11] = draw.random(120) * (draw.random(120) < 0.2 + 0.5 * y)
    codes = sparse.csr_matrix(dense)
    train, test, y_train, y_test = codes[:80], codes[80:], y[:80], y[80:]
    (got,) = sparse_probes("features", train, y_train, test, y_test, [k])
    chosen, difference, predicted, decision = by_definition(train.toarray(), y_train, test.toarray(), k)
    assert list(got.units) == chosen and got.units[0] == 11
    np.testing.assert_allclose(got.differences, difference, rtol=1e-12)
    assert got.accuracy == pytest.approx((predicted == y_test).mean())
    assert got.auc == pytest.approx(roc_auc_score(y_test, decision))
    assert got.low < got.accuracy <= got.high
    (array,) = sparse_probes("features", train.toarray(), y_train, test.toarray(), y_test, [k])
    assert (array.units, array.accuracy) == (got.units, got.accuracy)  # of an array as of a CSR matrix
    np.testing.assert_allclose(differences(train, y_train), differences(train.toarray(), y_train), atol=1e-15)


def coloured(count=60, seed=1):
    """Documents of three labels: each has its own token once, among others."""
    draw = np.random.default_rng(seed)
    for i in range(count):
        for label, token in (("red", RED), ("green", GREEN), ("blue", BLUE)):
            ids = draw.choice([1, 2, 4, 6, 8, 10, 11, 12], 7)
            ids[draw.integers(7)] = token
            yield TokenDocument(label, np.append(ids, 1 + i % 2))


def planted(model):
    """A dictionary whose features 4, 9 and 13 are the three tokens, and others that are none of them."""
    width = model.E.shape[1]
    sae = ms.ReLUSAE(width, 20, l1_coefficient=0.0, seed=0)
    with torch.no_grad():
        sae.W_enc_rows.mul_(0.2)
        sae.b_enc.fill_(-0.1)
        for feature, token in ((4, RED), (9, GREEN), (13, BLUE)):
            others = (model.E @ model.E[token])[[t for t in range(14) if t != token]].max()
            sae.W_enc_rows[feature] = model.E[token]
            sae.b_enc[feature] = -(others + 0.1)
        sae.b_dec.zero_()
    return sae


@pytest.fixture
def separate(model):
    """Directions of the tokens that a ReLU tells apart."""
    model.E = torch.nn.functional.normalize(model.E, dim=1)
    return model


@pytest.mark.parametrize("how", ["mean", "max"])
def test_planted_features_are_found(separate, hook, how):
    result = ms.probe(planted(separate), separate, hook, coloured(), pool_by=how, all_features=True, progress=False)
    assert [(t.label, t.against) for t in result.tasks] == [("blue", None), ("green", None), ("red", None)]
    for task, feature in zip(result.tasks, (13, 9, 4), strict=True):
        first = task.probe("features", 1)
        assert first.units == (feature,) and first.differences[0] > 0
        assert first.accuracy == first.auc == 1 and first.high == 1 and first.low > 0.8
        assert task.train == (task.train[0],) * 2 and task.test == (task.test[0],) * 2 and task.majority == 0.5
        assert task.probe("features", None).accuracy > 0.9
    means = {(m["on"], m["k"]): m["accuracy"] for m in result.means()}
    assert means["features", 1] == 1 and ("neurons", None) in means
    assert "#13 (" in result.table() and "majority class              50.0%" in result.table()
    again = ms.probe(planted(separate), separate, hook, coloured(), pool_by=how, all_features=True, progress=False)
    assert again == result


def test_two_labels_are_one_task_and_more_are_told_from_the_rest(separate, hook):
    two = [d for d in coloured() if d.source != "red"]
    result = ms.probe(planted(separate), separate, hook, {"colours": two}, ks=[2], progress=False)
    assert [t.name for t in result.tasks] == ["colours: green / blue"]
    options = {"labels": ["red"], "balanced": False, "test": 0.5, "progress": False}
    (task,) = ms.probe(planted(separate), separate, hook, coloured(), **options).tasks
    assert task.test[1] == pytest.approx(2 * task.test[0], abs=1) and task.majority == pytest.approx(2 / 3, abs=0.02)


def test_training_and_test_have_no_text_in_common_and_repeated_texts_count_once(model):
    documents = [TokenDocument("ab"[i % 2], [1 + i % 13, 2 + i // 13, 3]) for i in range(120)]
    held = as_rows([*documents, *documents[:30]], model, 12, end=False)
    assert held.repeated == 30 and len(held.rows) == 120
    tasks = tasks_of(held.labels, chosen=None, test=0.25, balanced=True, seed=0)
    (task,) = tasks
    assert not set(task.train) & set(task.test) and len(task.test) == 30 == 2 * task.y_test.sum()
    assert all((held.labels[i] == "b") == y for i, y in zip(task.train, task.y_train, strict=True))


def test_long_texts_keep_their_beginning_or_their_end(model):
    documents = [TokenDocument("a", np.arange(1, 10))]
    (start,) = as_rows(documents, model, 5, end=False).rows
    (end,) = as_rows(documents, model, 5, end=True).rows
    assert start.tolist() == [0, 1, 2, 3, 4] and end.tolist() == [0, 6, 7, 8, 9]
    (whole,) = as_rows(documents, model, 12, end=True).rows
    assert whole.tolist() == [0, *range(1, 10)]


def test_a_sample_is_uniform_in_order_and_the_same_again():
    documents = [Document("ab"[i % 10 == 0], str(i)) for i in range(1000)]
    found = sampled(documents, 50, seed=3)
    assert found == sampled(iter(documents), 50, seed=3) != sampled(documents, 50, seed=4)
    numbers = [int(d.text) for d in found]
    assert numbers == sorted(numbers) and sum(d.source == "b" for d in found) == 50 == len(found) / 2
    picked = [int(d.text) for seed in range(60) for d in sampled(documents, 50, seed)]
    assert abs(np.mean(picked) - 499.5) < 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": [0]}, r"k: got \[0\]; wanted numbers from 1 to 6"),
        ({"ks": []}, r"k: got \[\]"),
        ({"pool_by": "sum"}, "pool: got 'sum'; wanted one of 'mean', 'max', 'last'"),
        ({"test": 0.0}, "test: got 0.0; wanted the share"),
        ({"length": 13}, "length: got 13; wanted 2 to 12 tokens"),
        ({"per_label": 3}, r"per_label \(texts\): got 3; wanted at least 10"),
        ({"labels": ["violet"]}, "labels: got 'violet'; wanted some of blue, green, red"),
    ],
)
def test_bad_options_are_refused(model, hook, lossy, options, message):
    with pytest.raises(ValueError, match=message):
        ms.probe(lossy, model, hook, coloured(), progress=False, **options)


def test_texts_that_cannot_be_told_apart_are_refused(model, hook, lossy):
    with pytest.raises(ValueError, match=r"numbers of different texts: red 60; wanted at least two labels of 10"):
        ms.probe(lossy, model, hook, [d for d in coloured() if d.source == "red"], progress=False)
    with pytest.raises(ValueError, match="more than 64 labels"):
        ms.probe(lossy, model, hook, [Document(str(i), "x") for i in range(70)], progress=False)
    with pytest.raises(ValueError, match="texts: got none"):
        ms.probe(lossy, model, hook, {}, progress=False)
