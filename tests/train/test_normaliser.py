"""Training on activations of a common scale: estimated once, kept in checkpoints, folded into what is saved."""

import json
import math
import shutil

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.metrics import evaluate
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.token_rows import pack_rows
from monosem.train.batches import Batches
from monosem.train.normaliser import Normaliser
from monosem.train.same_run import check_same_run

D, F = 16, 48


def far_off(source):
    """A list of batches with another scale, mean and covariance."""
    batches = [x for _, x in zip(range(30), source(), strict=False)]
    stretch = torch.linspace(1, 3, D)
    return [40 * x * stretch + 7 for x in batches]


def saes(kind):
    """Pairs of equal autoencoders."""
    make = {
        "topk": lambda: ms.TopKSAE(D, F, k=4, seed=0),
        "batch_topk": lambda: ms.BatchTopKSAE(D, F, k=4, seed=0),
        "relu": lambda: ms.ReLUSAE(D, F, 3e-3, seed=0),
        "jumprelu": lambda: ms.JumpReLUSAE(D, F, seed=0),
        "gated": lambda: ms.GatedSAE(D, F, seed=0),
    }[kind]
    return make(), make()


CASES = [("mean_norm", kind) for kind in ("topk", "batch_topk", "relu", "jumprelu", "gated")]
CASES += [("whiten", kind) for kind in ("relu", "jumprelu", "gated")]


@pytest.mark.parametrize("how, kind", CASES)
def test_a_run_is_one_of_normalised_batches_and_saves_a_dictionary_of_raw_ones(config, source, tmp_path, how, kind):
    batches = far_off(source)
    ours, plain = saes(kind)
    trainer = ms.Trainer(ours, config(normalize=how, steps=20), tmp_path, progress=False).fit(batches)
    normaliser = Normaliser(how, [D], [plain])
    normaliser.estimate(batches)
    ms.Trainer(plain, config(steps=20), progress=False).fit([normaliser(x) for x in batches])
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    saved = ms.load(tmp_path)
    x, y = batches[25], normaliser(batches[25])
    plain.eval()
    expected = normaliser._maps.undone(plain(y))
    error = (saved(x) - expected).norm() / expected.norm()
    assert error < 1e-4  # a pre-activation within fp32's rounding of its threshold may differ
    assert saved.encode(x).l0() == pytest.approx(float(plain.encode(y).l0()), abs=0.1)
    assert saved.metadata["normalize"]["kind"] == how and saved.metadata["normalize"]["tokens"] == 30 * 64
    folded = trainer.dictionary()
    assert folded is not ours and torch.equal(folded.W_enc_rows, saved.W_enc_rows)


def test_the_maps_have_the_statistics_that_they_are_named_after(source):
    batches = far_off(source)
    x = torch.cat(batches)
    relu = ms.ReLUSAE(D, F)
    mean_norm = Normaliser("mean_norm", [D], [relu])
    mean_norm.estimate(batches)
    assert float(mean_norm(x).norm(dim=1).mean()) == pytest.approx(math.sqrt(D), rel=1e-5)
    whiten = Normaliser("whiten", [D], [relu])
    whiten.estimate(batches)
    white = whiten(x).double()
    assert white.mean(0).abs().max() < 1e-4
    covariance = white.T @ white / len(white)
    values = torch.linalg.eigvalsh(torch.cov(x.double().T))
    expected = values / (values + 1e-3 * values.mean())  # the ridge
    assert torch.allclose(torch.linalg.eigvalsh(covariance), expected.sort().values, atol=2e-3)
    transcoder = ms.Transcoder(D - 4, 4, F, k=4)
    pair = Normaliser("mean_norm", [D - 4, 4], [transcoder])
    pair.estimate(batches)
    norms = [part.norm(dim=1).mean() for part in pair(x).split([D - 4, 4], dim=1)]
    assert torch.allclose(torch.stack(norms), torch.tensor([D - 4.0, 4.0]).sqrt(), rtol=1e-5)


@pytest.mark.parametrize("how, kind", [("mean_norm", "topk"), ("whiten", "jumprelu")])
@pytest.mark.parametrize("listed", [False, True])
def test_a_resumed_run_is_the_same_bit_for_bit(config, source, tmp_path, how, kind, listed):
    """Checkpoints lie among the batches that were read ahead for the estimate: 256 of 64 tokens, or all of a list."""
    data = lambda: far_off(source) if listed else source()
    cfg = config(normalize=how, ema=0.9, steps=12)
    whole, parts = saes(kind)
    ms.Trainer(whole, cfg, tmp_path / "a", progress=False).fit(data())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "ckpt-12")  # as after a kill
    assert (tmp_path / "b" / "ckpt-8").is_dir()
    ms.Trainer(parts, cfg, tmp_path / "b", progress=False).fit(data())
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    for name in (".", "ema"):
        a, b = (ms.load(tmp_path / run / name).state_dict() for run in "ab")
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_the_averaged_weights_are_folded_too(config, source, tmp_path):
    sae, _ = saes("relu")
    trainer = ms.Trainer(sae, config(normalize="whiten", ema=0.5), tmp_path, progress=False).fit(far_off(source))
    average = ms.load(tmp_path / "ema")
    assert torch.equal(average.W_enc_rows, trainer.averaged().W_enc_rows)
    x = far_off(source)[20]
    assert (average(x) - ms.load(tmp_path)(x)).norm() < 0.2 * x.norm()


def test_a_loop_of_single_steps_estimates_on_its_first_batch(config, source):
    batches = far_off(source)
    sae, plain = saes("topk")
    trainer, by_hand = ms.Trainer(sae, config(normalize="mean_norm")), ms.Trainer(plain, config())
    normaliser = Normaliser("mean_norm", [D], [plain])
    normaliser.estimate(batches[:1])
    for x in batches[:5]:
        trainer.step(x)
        by_hand.step(normaliser(x))
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), plain.parameters(), strict=True))
    assert trainer.dictionary() is not sae and by_hand.dictionary() is plain


def test_a_new_run_begins_with_the_weights_and_the_scale_of_another(config, source, tmp_path):
    data, (sae, other) = far_off(source), saes("relu")
    ms.Trainer(sae, config(normalize="whiten"), tmp_path / "a", progress=False).fit(data)
    begun = ms.Trainer(other, config(normalize="whiten"), start=tmp_path / "a")
    assert torch.equal(other.W_enc_rows, sae.W_enc_rows)
    assert torch.equal(begun.dictionary().W_enc_rows, ms.load(tmp_path / "a").W_enc_rows)
    with pytest.raises(
        ValueError, match=r"normalize: got 'none', and the weights of .* take activations normalised by"
    ):
        ms.Trainer(saes("relu")[0], config(), start=tmp_path / "a")
    ms.save(ms.load(tmp_path / "a"), tmp_path / "raw")
    ms.Trainer(saes("relu")[0], config(), start=tmp_path / "raw")
    with pytest.raises(
        ValueError, match=r"normalize: got 'whiten', and the weights of .*raw' take activations as they"
    ):
        ms.Trainer(saes("relu")[0], config(normalize="whiten"), start=tmp_path / "raw")


def test_runs_of_before_go_on_and_other_normalisations_are_other_runs(config, source, tmp_path):
    sae, again = saes("topk")
    trainer = ms.Trainer(sae, config(), tmp_path, progress=False).fit(source())
    own = [learner.describe() for learner in trainer.learners]
    older = json.loads(json.dumps(own))
    del older[0]["train"]["normalize"]
    assert not check_same_run(own, older, tmp_path)
    with pytest.raises(ValueError, match=r"train.normalize is 'none' there and 'mean_norm' here"):
        ms.Trainer(again, config(normalize="mean_norm", steps=20), tmp_path, progress=False).fit(source())


def test_reading_ahead_hands_out_the_same_batches(source):
    like = torch.zeros(1, D)
    for data in (source, lambda: far_off(source)):
        plain, ahead = (Batches(data(), like, [D], 64, 0) for _ in range(2))
        states, positions = [], []
        first = ahead.state_dict()
        assert len(ahead.look_ahead(300)) == 5 and ahead.state_dict() == first == plain.state_dict()
        for _ in range(8):
            assert torch.equal(next(plain), next(ahead))
            states.append(json.dumps(plain.state_dict()))
            positions.append(json.dumps(ahead.state_dict()))
        assert states == positions


@pytest.mark.parametrize(
    "how, kind, message",
    [
        ("layer_norm", "relu", "normalize: got 'layer_norm', by which each token has a factor of its own: no weights"),
        ("unit", "relu", "normalize: got 'unit'; wanted one of none, mean_norm, whiten"),
        (
            "whiten",
            "topk",
            r"normalize: got 'whiten' on TopK .* compares features .*; wanted 'none', 'mean_norm', or an",
        ),
        ("whiten", "batch_topk", "normalize: got 'whiten' on BatchTopK"),
    ],
)
def test_what_no_weights_can_hold_is_refused_before_training(config, how, kind, message):
    with pytest.raises(ValueError, match=message):
        ms.Trainer(saes(kind)[0], config(normalize=how))


def test_activations_without_a_scale_are_refused(config):
    for how, x in (("mean_norm", torch.zeros(64, D)), ("whiten", torch.ones(64, D))):
        with pytest.raises(ValueError, match="normalize: the scale of the first 64 activations is 0; wanted"):
            ms.Trainer(saes("relu")[0], config(normalize=how)).step(x)
    with pytest.raises(ValueError, match=r"config.normalize: got \['none', 'mean_norm'\]; wanted the same"):
        ms.Trainer(list(saes("relu")), [config(), config(normalize="mean_norm")])


def test_from_the_command_line(tmp_path, capsys):
    model = tiny_model()
    save_folder(tmp_path / "model", model.module, model.tokenizer)
    documents = tiny_documents(30)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in documents]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    train = ["train", "--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.jsonl"), "--quiet"]
    train += ["--batch-size", "64", "--d-sae", "64", "--steps", "200", "--lr", "3e-3", "--out", str(tmp_path / "run")]
    assert main([*train, "--kind", "jumprelu", "--normalize", "whiten"]) == 0
    assert "normalised (whiten) for training; the dictionary takes them as they are" in capsys.readouterr().out
    sae = ms.load(tmp_path / "run")
    result = evaluate(sae, model, HOOK, pack_rows(documents, model), progress=False)
    assert result.explained_variance > 0.5 and sae.metadata["normalize"]["kind"] == "whiten"
    assert main(["profile", str(tmp_path / "run"), "--steps", "2", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*train, "--normalize", "layer_norm"]) == 2
    assert "normalize: got 'layer_norm'" in capsys.readouterr().err
