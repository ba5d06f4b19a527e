"""Tokens whose activations are far longer than others are left out of streams, stores, evaluations and indexes."""

import json

import numpy as np
import pytest
import torch
from fake_model import HOOK as FAKE_HOOK
from fake_model import FakeModel
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.evidence.ablation import ablation
from monosem.analysis.index import IndexSettings, build_index
from monosem.analysis.inputs import Subject, load_subject
from monosem.analysis.metrics import evaluate
from monosem.analysis.scan import blocks
from monosem.analysis.steering import Edit, Steering
from monosem.cli.main import main
from monosem.data.harvest import ActivationStream, harvest
from monosem.data.native import save_folder
from monosem.data.norm_limit import NormLimit
from monosem.data.store import ActivationStore
from monosem.data.token_rows import pack_rows
from monosem.train.reopened import reopen

ROWS = np.arange(1, 641).reshape(40, 16)
SINKS = [5, 21, 200, 201, 202, 333, 640]


class Sinking(FakeModel):
    """``FakeModel`` whose activations are a hundred times as long on some tokens."""

    def activations(self, tokens, hook_name):
        x = super().activations(tokens, hook_name)
        x[..., 2:] = x[..., 2:] / x[..., 2:].norm(dim=-1, keepdim=True) * 300  # the bytes of the token weigh little
        return torch.where(torch.isin(tokens, torch.tensor(SINKS))[..., None], x * 100, x)


def kept() -> list[int]:
    return [int(t) for t in ROWS[:, 1:].flatten() if t not in SINKS]


def tokens_of(batches) -> list[int]:
    rows = torch.cat(list(batches))
    return [int(x[0]) + 256 * int(x[1]) for x in rows.round()]


def stream(**options):
    options = {"batch_size": 50, "buffer_contexts": 7, "epochs": 1, "skip_norm": 10} | options
    return ActivationStream(Sinking(), FAKE_HOOK, ROWS, **options)


def test_a_stream_gives_every_other_token_once_per_epoch():
    source = stream(epochs=3)
    batches = list(source)
    assert all(len(b) == 50 for b in batches[:-1]) and len(batches[-1]) > 0
    tokens = tokens_of(batches)
    n = len(kept())
    assert len(tokens) == 3 * n and all(sorted(tokens[i * n : (i + 1) * n]) == kept() for i in range(3))
    assert source.n_tokens == n + len(SINKS)  # the limit is not known for those not read yet
    assert source.left_out == 3 * len(SINKS)
    assert source.norm_record() == {
        "multiple": 10.0,
        "medians": [source.norm_limit.medians[0]],
        "left_out": 3 * len(SINKS),
        "of": 3 * source.n_tokens,
    }
    assert source.norm_limit.medians[0] == pytest.approx(335, abs=40)


def test_without_a_limit_the_batches_are_those_of_before():
    plain, none = ActivationStream(FakeModel(), FAKE_HOOK, ROWS, 50, epochs=1), stream(skip_norm=None)
    assert "skip_norm" not in plain.state_dict()["settings"] and plain.norm_record() is None
    assert "left_out" not in none.state_dict()
    assert sorted(tokens_of(plain)) == sorted(ROWS[:, 1:].flatten().tolist())


@pytest.mark.parametrize("batch_size", [1, 7, 50, 1000])
def test_a_position_resumes_bitwise(batch_size):
    source = stream(epochs=2, batch_size=batch_size)
    batches, states = [], []
    for batch in source:
        batches.append(batch)
        states.append(json.loads(json.dumps(source.state_dict())))
    for at in (0, len(batches) // 2, len(batches) - 1):
        resumed = stream(epochs=2, batch_size=batch_size)
        resumed.load_state_dict(states[at])
        assert resumed.left_out == states[at]["left_out"]
        rest = list(resumed)
        assert len(rest) == len(batches) - at - 1
        assert all(torch.equal(a, b) for a, b in zip(rest, batches[at + 1 :], strict=True))
        assert resumed.left_out == source.left_out


def test_a_position_keeps_its_medians_and_refuses_another_multiple():
    state = stream().state_dict()
    state["settings"]["skip_norm"]["medians"] = [stream().norm_limit.medians[0] * 1.0001]  # measured by other threads
    resumed = stream()
    resumed.load_state_dict(state)
    assert resumed.norm_limit.medians[0] == state["settings"]["skip_norm"]["medians"][0]
    for other in ({"skip_norm": 5}, {"skip_norm": None}):
        with pytest.raises(ValueError, match="skip_norm: "):
            stream(**other).load_state_dict(state)


def test_a_store_leaves_out_by_the_limit_of_its_harvest_or_by_its_own(tmp_path):
    harvest(Sinking(), FAKE_HOOK, ROWS, tmp_path / "with", "fp32", progress=False, skip_norm=10)
    harvest(Sinking(), FAKE_HOOK, ROWS, tmp_path / "without", "fp32", progress=False)
    assert json.loads((tmp_path / "with" / "index.json").read_text())["version"] == 3
    for source in (ActivationStore(tmp_path / "with", 50), ActivationStore(tmp_path / "without", 50, skip_norm=10)):
        assert source.n_stored == len(kept()) + len(SINKS)
        assert sorted(tokens_of(source)) == kept() and source.left_out == len(SINKS)
    plain = ActivationStore(tmp_path / "without", 50)
    without = ActivationStore(tmp_path / "with", 50, skip_norm=None)
    for source in (plain, without):
        assert len(tokens_of(source)) == len(kept()) + len(SINKS) and source.norm_limit is None
        assert "skip_norm" not in source.state_dict()["settings"]
    with pytest.raises(ValueError, match=r"skip_norm: .* there, None here"):
        without.load_state_dict(ActivationStore(tmp_path / "with", 50).state_dict())
    with pytest.raises(ValueError, match=r"skip_norm: got 'as trained'; wanted a multiple .*'as harvested', or None"):
        ActivationStore(tmp_path / "with", 50, skip_norm="as trained")
    again = harvest(Sinking(), FAKE_HOOK, ROWS, tmp_path / "with", "fp32", progress=False, skip_norm=10)
    assert again.norm_limit == ActivationStore(tmp_path / "with").norm_limit
    with pytest.raises(ValueError, match=r"skip_norm: .* there, None here"):
        harvest(Sinking(), FAKE_HOOK, ROWS, tmp_path / "with", "fp32", progress=False)


def test_either_of_two_activations_may_be_beyond(tmp_path):
    hooks = Sinking.hook_names
    both = ActivationStream(Sinking(), hooks, ROWS, 50, epochs=1, skip_norm=10)
    assert len(both.norm_limit.medians) == 2 and both.norm_limit.medians[0] == both.norm_limit.medians[1]
    assert sum(map(len, both)) == len(kept())


def test_limits_that_mean_nothing_are_refused():
    for wrong in (1, 0.5, -1, float("nan"), float("inf"), True, "10"):
        with pytest.raises(ValueError, match=r"skip_norm: got .*; wanted a multiple of the median norm above 1"):
            stream(skip_norm=wrong)
    with pytest.raises(ValueError, match=r"skip_norm: got medians \[0.0\]; wanted one positive number"):
        NormLimit.measured(10, [[torch.zeros(4, 3)]])
    with pytest.raises(ValueError, match="skip_norm: every one of 600 tokens has a norm above 2 times the median"):
        list(stream(skip_norm=NormLimit(2, (1e-3,))))
    with pytest.raises(ValueError, match="skip_norm: got medians of 2 activations for 1"):
        list(stream(skip_norm=NormLimit(2, (1.0, 1.0))))


def test_a_nan_is_not_left_out():
    limit = NormLimit(10, (1.0,))
    x = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [20.0, 0.0]])
    assert limit.within([x]).tolist() == [True, True, False]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_dictionary_is_read_as_it_was_trained(model, tmp_path):
    """Evaluation and index leave out the same tokens, which keep their activation when losses are measured."""
    rows = pack_rows(tiny_documents(), model)
    tokens = torch.from_numpy(np.asarray(rows.tokens)).long()
    norms = model.activations(tokens, HOOK).norm(dim=-1)
    counts = (tokens != model.bos_id) & (torch.arange(tokens.shape[1]) > 0)
    source = ActivationStream(model, HOOK, rows, 64, epochs=None, skip_norm=1.3)
    beyond = counts & (norms > 1.3 * source.norm_limit.medians[0])
    assert 10 < beyond.sum() < counts.sum() / 2
    trainer = ms.Trainer(
        ms.TopKSAE(32, 40, k=4, seed=0), ms.TrainConfig(batch_size=64, steps=30), tmp_path, progress=False
    )
    trainer.fit(source)
    sae = ms.load(tmp_path)
    record = sae.metadata["skip_norm"]
    assert record["multiple"] == 1.3 and record["left_out"] == source.left_out > 0

    result = evaluate(sae, model, HOOK, rows, progress=False)
    assert result.tokens == int(counts.sum() - beyond.sum())
    assert result.skip_norm == source.norm_limit.to_json() | {"left_out": int(beyond.sum())}
    assert f"{int(beyond.sum())} tokens with a norm above 1.3 times the median" in result.table()
    kept_as_they_are = (counts & ~beyond)[..., None]
    put = lambda x: torch.where(kept_as_they_are, sae(x), x)
    losses = model.token_losses(tokens, {HOOK: put})[tokens[:, 1:] != model.bos_id]
    assert result.ce_sae == pytest.approx(float(losses.double().mean()), rel=1e-5)

    subject = Subject(sae, model, HOOK)
    index = build_index(subject, rows, settings=IndexSettings(neurons=False), progress=False)
    assert index.tokens == result.tokens and index.meta["settings"]["skip_norm"] == source.norm_limit.to_json()
    shown = [e for f in range(40) for e in index.top(f)]
    assert shown and not any(beyond[e.row, e.position] for e in shown)
    everything = evaluate(sae, model, HOOK, rows, skip_norm=None, progress=False)
    assert everything.tokens == int(counts.sum()) and everything.skip_norm is None
    read = list(blocks(sae, model, HOOK, rows, limit=source.norm_limit))
    assert sum(block.left_out for block in read) == int(beyond.sum())


def test_from_the_command_line(tmp_path, capsys):
    folder, model = tmp_path / "run", tiny_model()
    save_folder(tmp_path / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    options = [
        "--model",
        str(tmp_path / "model"),
        "--text",
        str(tmp_path / "text.jsonl"),
        "--batch-size",
        "64",
        "--quiet",
    ]
    train = ["train", "--out", str(folder), "--d-sae", "64", "--k", "4", "--steps", "4", *options]
    assert main([*train, "--skip-norm", "1.2"]) == 0
    printed = capsys.readouterr().out
    assert (
        "left out: tokens with a norm above 1.2 times the median" in printed and "left out by their norm: " in printed
    )
    assert main(["evaluate", str(folder), "--tokens", "512", "--quiet"]) == 0
    assert "tokens with a norm above 1.2 times the median" in capsys.readouterr().out
    made = json.loads((folder / "evaluation.json").read_text())
    assert made["skip_norm"]["multiple"] == 1.2 and made["made_from"]["skip_norm"]["multiple"] == 1.2
    assert load_subject(folder).sae.metadata["skip_norm"]["left_out"] > 0
    assert main(["evaluate", str(folder), "--tokens", "512", "--quiet", "--skip-norm", "none", "--replace"]) == 0
    assert json.loads((folder / "evaluation.json").read_text())["skip_norm"] is None
    assert main(train) == 2
    assert "skip_norm" in capsys.readouterr().err
    for name in ("cfg.json", "sae.safetensors"):  # as of a run that is not finished
        (folder / name).unlink()
    assert reopen(folder).made_of["skip_norm"]["multiple"] == 1.2
    with pytest.raises(SystemExit):
        main([*train, "--skip-norm", "ten"])
    assert "--skip-norm: got 'ten'; wanted a multiple of the median norm, or none" in capsys.readouterr().err


def test_activations_on_disk_are_read_with_their_own_limit_unless_another_is_given(tmp_path, capsys):
    model = tiny_model()
    rows = pack_rows(tiny_documents(), model)
    harvest(model, HOOK, rows, tmp_path / "acts", progress=False, skip_norm=1.2)
    train = ["train", "--activations", str(tmp_path / "acts"), "--d-sae", "64", "--k", "4", "--steps", "2", "--quiet"]
    given = {"own": ([], 1.2), "none": (["--skip-norm", "none"], None), "other": (["--skip-norm", "1.4"], 1.4)}
    for name, (words, multiple) in given.items():
        assert main([*train, "--batch-size", "64", "--out", str(tmp_path / name), *words]) == 0
        known = ms.load(tmp_path / name).metadata.get("skip_norm", {})
        assert known.get("multiple") == multiple
    limits, was = [], ActivationStore.__init__

    def seen(self, *args, **options):
        was(self, *args, **options)
        limits.append(self.norm_limit and self.norm_limit.multiple)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActivationStore, "__init__", seen)
        for words in ([], ["--skip-norm", "none"], ["--skip-norm", "1.3"]):
            profile = ["profile", str(tmp_path / "other"), "--activations", str(tmp_path / "acts"), "--steps", "1"]
            assert main([*profile, "--quiet", *words]) == 0
    assert limits == [1.4, None, 1.3]


def test_a_token_beyond_the_limit_is_not_steered(model):
    tokens = torch.from_numpy(np.asarray(pack_rows(tiny_documents(), model).tokens)).long()
    x = model.activations(tokens, HOOK)
    limit = NormLimit(1.3, (float(x.norm(dim=-1).median()),))
    sae = ms.TopKSAE(32, 40, k=4, seed=0)
    plain = Steering(sae, [Edit(3, "pin", 5.0)], error="drop", skip_positions=0)(x)
    sae.metadata["skip_norm"] = limit.to_json()
    changed = Steering(sae, [Edit(3, "pin", 5.0)], error="drop", skip_positions=0)(x)
    within = limit.within([x])
    assert 10 < (~within).sum() < within.sum()
    assert torch.equal(changed[within], plain[within]) and torch.equal(changed[~within], x[~within])


def test_a_feature_is_not_ablated_where_a_token_is_beyond_the_limit(model):
    rows = pack_rows(tiny_documents(), model)
    tokens = torch.from_numpy(np.asarray(rows.tokens)).long()
    x = model.activations(tokens, HOOK)
    limit = NormLimit(1.3, (float(x.norm(dim=-1).median()),))
    subject = Subject(ms.TopKSAE(32, 40, k=4, seed=0), model, HOOK)
    index = build_index(subject, rows, settings=IndexSettings(neurons=False, skip_norm=limit), progress=False)
    feature = int(index.counts.argmax())
    every = [range(len(rows.sources)), len(rows.tokens)]
    active = lambda: ablation(subject, index, feature, *every)[0].tokens_active
    fires = subject.sae.encode(x).to_dense()[..., feature] > 0
    predicts = (tokens[:, 1:] != model.bos_id) & (torch.arange(tokens.shape[1] - 1) > 0)
    fires = fires[:, :-1] & (tokens[:, :-1] != model.bos_id) & predicts
    within = limit.within([x])[:, :-1]
    assert active() == int(fires.sum()) > int((fires & within).sum()) > 0
    subject.sae.metadata["skip_norm"] = limit.to_json()
    assert active() == int((fires & within).sum())
