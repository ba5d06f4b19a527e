"""Every figure against the same formula on dense float64 tensors."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.metrics import Evaluation, density_histogram, evaluate
from monosem.data import sealed
from monosem.data.token_rows import pack_rows


def dense(model, sae, rows, hook):
    tokens = torch.from_numpy(rows.tokens.astype(np.int64))
    x = model.activations(tokens, hook)
    code = sae.encode(x[:, 1:])
    y = x.clone()
    y[:, 1:] = sae.decode(code)
    return tokens, x, y.detach(), code.to_dense().detach().flatten(0, 1).double()


def run(sae, model, rows, hook, **options) -> Evaluation:
    return evaluate(sae, model, hook, rows, progress=False, contexts=3, **options)


def test_every_figure_agrees_with_its_formula(model, lossy, rows, hook):
    got = run(lossy, model, rows, hook)
    tokens, x, y, f = dense(model, lossy, rows, hook)
    a, b = x[:, 1:].flatten(0, 1).double(), y[:, 1:].flatten(0, 1).double()
    error = (a - b).square().sum()
    assert got.tokens == len(a) == 110 and got.contexts == 10
    assert got.l0 == pytest.approx(float((f > 0).sum() / len(f)))
    assert got.mse == pytest.approx(float((a - b).square().mean()))
    # The sums are in float64, but x̂ comes in fp32 from another order of summation: 6e-8 of |x̂| an entry, so 1e-6.
    assert got.explained_variance == pytest.approx(float(1 - error / (a - a.mean(0)).square().sum()), rel=1e-6)
    assert got.cosine == pytest.approx(float(torch.cosine_similarity(a, b).mean()))
    assert got.norm_ratio == pytest.approx(float((b.norm(dim=1) / a.norm(dim=1)).mean()))

    zeros = x.clone()
    zeros[:, 1:] = 0
    losses = {}
    for name, value in (("clean", x), ("sae", y), ("zero", zeros)):
        logp = (value[:, :-1].double() @ model.U.double()).log_softmax(-1)
        losses[name] = float(-logp.gather(-1, tokens[:, 1:, None]).mean())
    assert (got.ce_clean, got.ce_sae, got.ce_zero) == pytest.approx((losses["clean"], losses["sae"], losses["zero"]))
    recovered = (losses["zero"] - losses["sae"]) / (losses["zero"] - losses["clean"])
    assert got.ce_loss_recovered == pytest.approx(recovered)

    counts = (f > 0).sum(0)
    assert got.dead == int((counts == 0).sum())
    assert got.ultralow == int((counts == 1).sum()) and got.ultralow_bound == 2 / 110
    assert got.above_1_percent == int((counts / len(f) > 0.01).sum())
    assert sum(got.density_counts) == lossy.cfg.d_sae - got.dead


def test_the_mean_activation_and_the_divergences_agree_with_their_formulas():
    model, rows = tiny_model(), pack_rows(tiny_documents(), tiny_model())
    sae = ms.TopKSAE(32, 40, k=4, seed=0)
    got = evaluate(sae, model, HOOK, rows, progress=False)
    tokens = torch.from_numpy(np.asarray(rows.tokens)).long()
    counts = tokens != model.bos_id
    assert len(tokens) <= 64 and (counts[:, 1:].sum(1) < tokens.shape[1] - 1).any()
    x = model.activations(tokens, HOOK)
    mean = x[counts].double().mean(0).float()
    log_p = {}
    for name, value in (("clean", x), ("sae", sae(x)), ("zero", torch.zeros_like(x)), ("mean", mean.expand_as(x))):
        put = torch.where(counts[..., None], value, x)
        log_p[name] = model.module(tokens, {HOOK: lambda a, put=put: put})[:, :-1].double().log_softmax(-1).detach()
    scored, target = counts[:, 1:], tokens[:, 1:, None]
    for name in ("sae", "zero", "mean"):
        kl = (log_p["clean"].exp() * (log_p["clean"] - log_p[name])).sum(-1)[scored].mean()
        assert getattr(got, f"kl_{name}") == pytest.approx(float(kl), rel=1e-4) and kl > 1e-3
    ce = {name: float(-values.gather(-1, target)[..., 0][scored].mean()) for name, values in log_p.items()}
    assert got.ce_mean == pytest.approx(ce["mean"], rel=1e-5)
    recovered = (ce["mean"] - ce["sae"]) / (ce["mean"] - ce["clean"])
    assert got.ce_loss_recovered_of_mean == pytest.approx(recovered, rel=1e-3)
    assert f"{got.kl_sae:.4f}   SAE; zero {got.kl_zero:.4f}" in got.table()


def test_models_without_divergences_and_shared_baselines_have_none(model, lossy, rows, hook):
    got = run(lossy, model, rows, hook)
    assert got.kl_sae is got.ce_mean is None and "KL" not in got.table()
    own, packed, sae = tiny_model(), pack_rows(tiny_documents(), tiny_model()), ms.TopKSAE(32, 40, k=4, seed=0)
    plain, shared = (evaluate(sae, own, HOOK, packed, progress=False, baselines=b) for b in (None, {}))
    assert plain.kl_sae is not None and shared.kl_sae is None
    assert (plain.ce_clean, plain.ce_sae, plain.ce_zero) == (shared.ce_clean, shared.ce_sae, shared.ce_zero)


def test_a_feature_below_0_is_active(model, rows, hook):
    signed = ms.AbsTopKSAE(model.width(hook), 12, 4, seed=0)
    got = run(signed, model, rows, hook)
    f = dense(model, signed, rows, hook)[3]
    counts = (f != 0).sum(0)
    assert (f < 0).any() and got.l0 == pytest.approx(4.0) == float((f != 0).sum() / len(f))
    assert got.dead == int((counts == 0).sum()) and got.above_1_percent == int((counts / len(f) > 0.01).sum())


def test_a_source_scores_like_its_text_alone(model, lossy, rows, hook):
    got = run(lossy, model, rows, hook)
    for score in got.by_source:
        only = type(rows)(
            tokens=rows.tokens[rows.source[:, 0] == rows.sources.index(score.source)], sources=rows.sources
        )
        only.source = rows.source[rows.source[:, 0] == rows.sources.index(score.source)]
        alone = run(lossy, model, only, hook)
        for name in ("tokens", "l0", "explained_variance", "ce_clean", "ce_sae", "ce_zero", "ce_loss_recovered"):
            assert getattr(score, name) == pytest.approx(getattr(alone, name)), name


def test_identity_recovers_all_and_zero_recovers_nothing(model, exact, rows, hook):
    whole = run(exact, model, rows, hook)
    assert whole.ce_loss_recovered == pytest.approx(1, abs=1e-6) and whole.explained_variance == pytest.approx(
        1, abs=1e-9
    )
    assert whole.dead == 2
    with torch.no_grad():
        exact.b_enc.fill_(-1e9)
    nothing = run(exact, model, rows, hook)
    assert nothing.ce_loss_recovered == pytest.approx(0, abs=1e-6)
    assert nothing.dead == exact.cfg.d_sae and nothing.l0 == 0 and sum(nothing.density_counts) == 0


def test_skipped_positions_keep_their_activation(model, exact, rows, hook):
    with torch.no_grad():
        exact.b_enc.fill_(-1e9)
    first = run(exact, model, rows, hook, skip_positions=1)
    all_of_them = run(exact, model, rows, hook, skip_positions=0, skip_tokens=())
    assert all_of_them.tokens == 120 and first.tokens == 110
    assert all_of_them.ce_sae != pytest.approx(first.ce_sae)


def test_tokens_limits_the_rows_that_are_read(model, lossy, rows, hook):
    assert run(lossy, model, rows, hook, tokens=30).contexts == 3
    assert run(lossy, model, rows, hook, tokens=10**9).contexts == 10
    with pytest.raises(ValueError, match="tokens: got 0"):
        run(lossy, model, rows, hook, tokens=0)


def test_the_density_histogram_counts_features_per_bin():
    edges, counts = density_histogram(torch.tensor([0, 1, 10, 10, 1000]), 1000)
    assert (edges[0], edges[-1], len(edges)) == (-3, 0, 16)
    assert sum(counts) == 4 and counts[0] == 1 and counts[5] == 2 and counts[-1] == 1


def test_an_evaluation_is_saved_and_printed(model, lossy, rows, hook, tmp_path):
    got = run(lossy, model, rows, hook)
    got.write_json(tmp_path / "e.json")
    assert sealed.read(tmp_path / "e.json", "out", "an evaluation")[0] == got.to_dict()
    assert (got.config["d_sae"], got.config["k"]) == (20, 3)
    text = got.table()
    assert f"{got.ce_loss_recovered:.2%}" in text and "base64" in text and "all that this many tokens resolve" in text
    broken = dataclasses.replace(got, ce_loss_recovered=math.nan)
    assert broken.to_dict()["ce_loss_recovered"] is None


def test_a_dictionary_of_another_width_is_refused(model, rows, hook):
    import monosem as ms

    with pytest.raises(ValueError, match="6 wide and the SAE has d_in=5"):
        run(ms.TopKSAE(5, 20, k=3), model, rows, hook)


def test_an_unknown_hook_and_empty_rows_are_refused(model, lossy, rows):
    with pytest.raises(ValueError, match="the nearest are"):
        run(lossy, model, rows, "blocks.0.mlp.hook_pots")
    rows.tokens, rows.source = rows.tokens[:0], rows.source[:0]
    with pytest.raises(ValueError, match="at least one row"):
        run(lossy, model, rows, "blocks.0.mlp.hook_post")


def test_sources_of_another_shape_are_refused(model, lossy, rows, hook):
    rows.source = rows.source[:, 1:]
    with pytest.raises(ValueError, match="source: got shape"):
        run(lossy, model, rows, hook)


def test_a_failed_write_leaves_the_old_file(model, lossy, rows, hook, tmp_path, monkeypatch):
    got = run(lossy, model, rows, hook)
    got.write_json(tmp_path / "e.json")
    before = (tmp_path / "e.json").read_text()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="untouched"):
        got.write_json(tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == before and len(list(tmp_path.iterdir())) == 1
