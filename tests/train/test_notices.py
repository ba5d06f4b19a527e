"""A step that explains itself: its counts and phases in the metrics, notices of what is unusual, PyTorch's profiler."""

import json
import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import monosem as ms
from monosem.ops import backend
from monosem.ops.step_stats import FALLBACKS, INT16
from monosem.train import learner as learner_module
from monosem.train.learner import Learner
from monosem.train.notices import GUIDE, unusual, words
from monosem.train.report import Meter, Report

SWEPT = {"encode", "decode_loss", "statistics", "sort", "encoder_sweep", "decoder_sweep", "adam", "dead"}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.skipif(backend.native is None, reason="counts of the CPU's own kernels")
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_metrics_have_the_counts_and_phases_only_where_asked(kind, make, config, source, weights, tmp_path):
    saes = []
    for time_phases in (False, True):
        sae = make(kind)
        ms.Trainer(sae, config(), tmp_path / str(time_phases), progress=False, time_phases=time_phases).fit(source())
        saes.append(sae)
    assert torch.equal(weights(saes[0]), weights(saes[1]))
    plain, timed = rows(tmp_path / "False"), rows(tmp_path / "True")
    for row, other in zip(plain, timed, strict=True):
        phases = {name for name in other if name.startswith("ms_")}
        assert phases >= {"ms_statistics", "ms_dead", "ms_adam"} and not phases & row.keys()
        assert all(other[name] > 0 for name in phases)
        assert {n: v for n, v in row.items() if "second" not in n} == {n: other[n] for n in row if "second" not in n}
    assert sum(v for name, v in plain[0].items() if name.startswith("product_")) == 1 - plain[0].get("dense", 0)
    if kind == "topk":
        assert {f"ms_{name}" for name in SWEPT} <= timed[0].keys() and "dense" not in plain[0]
    else:
        assert plain[0]["dense"] == 1 and {"ms_dense_products", "ms_dense_sweep"} <= timed[0].keys()


@pytest.mark.parametrize(("clip", "ema"), [(1.0, None), (None, 0.9)])
def test_a_step_has_the_same_weights_and_statistics_with_phases_timed(make, config, weights, clip, ema):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    learners = [Learner(make("topk"), config(clip=clip, ema=ema), t) for t in (False, True)]
    for learner in learners:
        for step in range(3):
            learner.step(x, step)
    assert torch.equal(*(weights(learner.sae) for learner in learners))
    assert learners[0].stats == learners[1].stats
    phases = learners[1].take_times()
    assert ("clip" in phases) == (clip is not None) and ("ema" in phases) == (ema is not None)
    assert learners[1].take_times() == learners[0].take_times() == {}


@pytest.mark.parametrize(("sparse_steps", "unusual"), [(3, True), (2, False)])
def test_relu_counts_dense_steps_and_the_return_to_them_after_many_sparse_ones(
    config, monkeypatch, sparse_steps, unusual
):
    monkeypatch.setattr(learner_module, "SETTLED", 3)
    sae = ms.ReLUSAE(16, 48, seed=0)
    learner, x = Learner(sae, config()), torch.randn(64, 16)
    assert learner.step(x, 0)["dense"] == 1  # as every run begins
    sae.b_enc.data.fill_(-100.0)
    assert learner.step(x, 1)["dense"] == 1  # the density of the batch before decides
    rows = [learner.step(x, 2) for _ in range(sparse_steps - 1)]
    sae.b_enc.data.fill_(1.0)
    rows += [learner.step(x, 3)]
    assert all(row["dense"] == 0 and "turned_dense" not in row for row in rows)
    assert [learner.step(x, 4).get("turned_dense") for _ in range(2)] == [1 if unusual else None, None]


@pytest.mark.parametrize(("n_dead", "how"), [(4, "dense"), (40, "gathered")])
def test_auxk_is_counted_by_its_way(config, n_dead, how):
    learner = Learner(ms.TopKSAE(16, 48, k=4, aux_k=2, seed=0), config(dead_after=10**6))
    learner.dead.tokens_since_fired[:n_dead] = 10**6
    row = learner.step(torch.randn(64, 16), 0)
    assert row[f"aux_{how}"] == 1
    assert (learner.stats.aux, learner.stats.aux_rows, learner.stats.aux_size) == (how, n_dead, 2)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_pytorchs_profiler_shows_the_phases(kind, config):
    learner = Learner(ms.TopKSAE(16, 48, k=4) if kind == "topk" else ms.ReLUSAE(16, 48), config(clip=None))
    x = torch.randn(64, 16)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        learner.step(x, 0)
    names = {event.name for event in trace.events()}
    dense = {"dense_products", "dense_sweep", "statistics", "adam", "dead"}
    assert {f"monosem::{name}" for name in (SWEPT if kind == "topk" else dense)} <= names


def test_an_architecture_by_autograd_has_phases_too(make, config, monkeypatch):
    sae = make("topk")
    monkeypatch.setattr(type(sae), "gradients", ms.SAE.gradients)
    learner = Learner(sae, config(), time_phases=True)
    learner.step(torch.randn(64, 16), 0)
    assert {"forward", "backward", "adam"} <= learner.take_times().keys()


def test_a_meter_takes_numbers_that_only_some_steps_have():
    meter = Meter()
    for row in ({"a": 1.0}, {"b": 4.0, "a": 3.0}, {"b": 2.0}, {"a": 4.0}):
        meter.add({name: torch.tensor(value) for name, value in row.items()} | {"lr": 1.0})
    assert meter.take() == {"a": 2.0, "b": 1.5, "lr": 1.0}


USUAL = {"product_int8": 1.0, "rows_redone": 0.004, "candidates": 40.0, "rescored": 20.0, "dense": 0.5}


def test_usual_rows_have_no_notice():
    assert unusual(USUAL) == unusual({}) == unusual(USUAL | {"product_int16": 1.0, "fallback_wide_bound": 1.0}) == []


@pytest.mark.parametrize(
    ("row", "short"),
    [({"product_fp32": 0.3, f"fallback_{r}": 0.3}, "30% in fp32") for r in FALLBACKS if r not in INT16]
    + [({"rows_redone": 0.04}, "4% redone"), ({"dense": 0.2, "turned_dense": 0.1}, "20% dense")],
)
def test_an_unusual_row_says_what_to_do_and_where_to_read_on(row, short):
    (notice,) = unusual(USUAL | row)
    assert notice.short == short and GUIDE in notice.sentence


def test_words_tell_every_number():
    row = USUAL | {f"fallback_{reason}": 0.1 for reason in FALLBACKS} | {"tokens_redone": 3.0, "capacity_used": 0.5}
    text = "\n".join(words(row | {"aux_dense": 1.0, "aux_gathered": 0.25}))
    for part in ("int8 100.0%", "40.0, of which 20.0", "0.40%", "50% of the steps", "25% of the steps", "3 per step"):
        assert part in text
    assert all(why in text for why in FALLBACKS.values())
    assert "not counted" in words({"loss": 1.0})[0]


def test_the_bar_shows_what_is_unusual_and_a_warning_is_given_once_per_run(capsys):
    base = {"loss": 1.0, "l0": 4.0, "dead": 0.0}
    slow = base | {"product_fp32": 1.0, "fallback_short_tokens": 1.0}
    for _ in range(2):  # two runs
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            with Report([], step=0, tokens=0, total=100, seconds=0.0, bar=True) as report:
                for step, row in enumerate((base, slow, slow, slow | {"rows_redone": 0.5})):
                    report.row(step, step, [base, row])
                assert "slow=100% in fp32, 50% redone" in str(report._bar)
                report.row(5, 5, [base, base])
                assert "slow" not in str(report._bar)
        sentences = [str(w.message) for w in caught]
        assert (
            len(sentences) == 2
            and "100% of the tokens" in sentences[0]
            and "--skip-tokens" in sentences[0]
            and GUIDE in sentences[1]
        )


@pytest.mark.skipif(backend.native is None, reason="counts of the CPU's own kernels")
def test_a_run_on_activations_that_no_integer_product_suits_warns(make, config, source, monkeypatch, tmp_path):
    monkeypatch.setattr(backend, "cpu_product", lambda: "int8")
    batches = [next(iter(source(batch_size=128))) * 1e-16] * 12
    options = config(lr=1e-30, init_bias=False)  # the decoder's bias stays as small as they are
    with pytest.warns(RuntimeWarning, match=r"fp32 for 100% of the tokens.*nearly 0.*slow_step"):
        ms.Trainer(make("topk"), options, tmp_path, progress=False).fit(batches)
    assert rows(tmp_path)[0]["fallback_short_tokens"] == 1
