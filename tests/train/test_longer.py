"""Runs that differ from their plan: with more steps, from another run's weights, or on a stream that ends early."""

import json
import warnings

import pytest
import torch

import monosem as ms
from monosem.train.schedule import learning_rate

D = 16


def train(sae, cfg, folder, data, **options):
    return ms.Trainer(sae, cfg, folder, progress=False, **options).fit(data)


def test_steps_may_grow_and_the_rest_is_printed(make, config, source, tmp_path, capsys):
    train(make("topk"), config(), tmp_path, source())
    longer = config(steps=40, lr_decay=0.25)
    with pytest.raises(ValueError, match=r"train\.lr_decay is 0\.2 there"):
        train(make("topk"), longer, tmp_path, source())
    trainer = train(make("topk"), config(steps=40, log_every=1), tmp_path, source())
    assert trainer.steps_done == 40 and ms.load(tmp_path).metadata["steps"] == 40
    said = capsys.readouterr().err
    assert (
        "steps: 12 were planned and 12 are done, now 40: the learning rate is 0.001 at step 12, falls from step 32"
        in said
    )
    lrs = {r["step"]: r["lr"] for r in map(json.loads, (tmp_path / "metrics.jsonl").open())}
    assert lrs[40] == pytest.approx(learning_rate(config(steps=40), 39)) and lrs[20] == pytest.approx(1e-3)
    with pytest.raises(ValueError, match=r"train\.steps is 40 there and 12 here.*steps may grow"):
        train(make("topk"), config(), tmp_path, source())


def test_a_plan_of_resampling_may_grow_with_the_steps(make, config, source, tmp_path, capsys):
    plan = lambda *steps: ms.ResampleConfig(at_steps=steps, window=3, n_inputs=64)
    train(make("relu"), config(resample=plan(6)), tmp_path, source())
    train(make("relu"), config(steps=24, resample=plan(6, 16)), tmp_path, source())
    assert "resampled at 16" in capsys.readouterr().err


def test_a_run_begins_with_the_weights_of_another(make, config, source, weights, tmp_path):
    first = train(make("topk"), config(), tmp_path / "a", source())
    trained = weights(first.learners[0].sae)
    cold = ms.Trainer(make("topk"), config(), tmp_path / "b", progress=False, start=tmp_path / "a")
    warm = ms.Trainer(make("topk"), config(), tmp_path / "c", progress=False, start=tmp_path / "a", moments=True)
    for trainer in (cold, warm):
        assert torch.equal(weights(trainer.learners[0].sae), trained)
    moments = [t.learners[0].fast.m["W_dec"].clone() for t in (first, warm, cold)]
    assert torch.equal(moments[0], moments[1]) and not moments[2].any()
    warm.fit(source(seed=1))
    started = ms.load(tmp_path / "c").metadata["started"]
    assert started == {"folder": str(tmp_path / "a"), "steps": 12, "moments": True}
    # what monosem.save wrote, a run of several, and that a resume does not begin again
    ms.save(first.learners[0].sae, tmp_path / "saved")
    several = ms.Trainer([make("topk", seed=1), make("topk")], config(), progress=False, start=tmp_path / "saved")
    assert all(torch.equal(weights(learner.sae), trained) for learner in several.learners)
    again = train(make("topk"), config(), tmp_path / "c", source(seed=1), start=tmp_path / "a", moments=True)
    assert torch.equal(weights(again.learners[0].sae), weights(warm.learners[0].sae))
    with pytest.raises(ValueError, match="did not begin with"):
        train(make("topk"), config(), tmp_path / "c", source(seed=1), start=tmp_path / "saved")


def test_a_start_of_another_shape_is_refused(make, config, source, tmp_path):
    train(make("topk"), config(), tmp_path / "a", source())
    ms.save(make("topk"), tmp_path / "saved")
    train([make("topk"), make("relu")], config(), tmp_path / "two", source())
    for error, words, sae, options in (
        (FileNotFoundError, "holds neither a dictionary nor a checkpoint", make("topk"), {"start": tmp_path / "none"}),
        (FileNotFoundError, "has no checkpoint", make("topk"), {"start": tmp_path / "saved", "moments": True}),
        (ValueError, "moments: got True without start", make("topk"), {"moments": True}),
        (ValueError, r"holds topk with .*; wanted relu", make("relu"), {"start": tmp_path / "a"}),
        (ValueError, r"\[48, 16\]; wanted topk with \[50, 16\]", ms.TopKSAE(D, 50, 4), {"start": tmp_path / "a"}),
        (ValueError, "holds 2 autoencoders, this run has 1", make("topk"), {"start": tmp_path / "two"}),
    ):
        with pytest.raises(error, match=words):
            ms.Trainer(sae, config(), **options)
    with pytest.raises(ValueError, match="kept in fp32, this run keeps bf16"):
        ms.Trainer(make("topk"), config(adam_state="bf16"), start=tmp_path / "a", moments=True)


def test_an_unfinished_dictionary_warns_at_every_load(make, config, source, tmp_path):
    for folder in ("a", "b"):  # the same line of code twice: Python would show an ordinary warning once
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            train(make("topk"), config(), tmp_path / folder, iter(list(source(batches=7))))
        assert ["ended after 7 of 12 steps" in str(w.message) for w in caught] == [True]
    with pytest.warns(RuntimeWarning, match="an unfinished dictionary: 7 of 12 steps"):
        found = ms.load(tmp_path / "a").metadata
    assert (found["finished"], found["steps"], found["steps_planned"]) == (False, 7, 12)
    train(make("topk"), config(), tmp_path / "a", list(source(batches=12)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ms.load(tmp_path / "a").metadata["finished"] is True


class Breaks:
    """A logger that raises from step ``at`` on."""

    def __init__(self, at, error=RuntimeError):
        self.at, self.error, self.seen = at, error, []

    def start(self, step):
        if step >= self.at:
            raise self.error("no network")

    def log(self, step, metrics):
        self.seen.append(step)
        if step >= self.at:
            raise self.error("no network")

    def close(self):
        if self.at == 99:
            raise self.error("no network")


def test_a_logger_that_raises_loses_no_training(make, config, source, weights, tmp_path):
    whole, broken, good = make("topk"), Breaks(6), Breaks(1000)
    train(whole, config(log_every=2), None, source())
    with pytest.warns(RuntimeWarning, match=r"Breaks\.log raised RuntimeError: no network") as caught:
        train(make("topk"), config(log_every=2), tmp_path, source(), loggers=[broken, good])
    assert len(caught) == 1 and broken.seen == [2, 4, 6] and good.seen == [2, 4, 6, 8, 10, 12]
    assert torch.equal(weights(ms.load(tmp_path)), weights(whole))
    with pytest.warns(RuntimeWarning, match=r"Breaks\.close raised"):
        train(make("topk"), config(), None, source(), loggers=[Breaks(99)])
    with pytest.raises(RuntimeError, match="no network"):  # nothing has been trained: the user mends it first
        train(make("topk"), config(), None, source(), loggers=[Breaks(0)])
    with pytest.raises(KeyboardInterrupt):
        train(make("topk"), config(), None, source(), loggers=[Breaks(5, KeyboardInterrupt)])


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_stream_that_fails_leaves_a_checkpoint(make, config, source, weights, tmp_path, how):
    batches, whole, cut = list(source(batches=12)), make("topk"), make("topk")

    def failing():
        for i, x in enumerate(batches):
            if i == 7 and how == "raises":
                raise OSError("no network")
            yield x * float("nan") if i == 7 else x

    with pytest.raises((OSError, ValueError), match=r"no network|batch 7: got"):
        train(make("topk"), config(checkpoint_every=100), tmp_path, failing())
    assert (tmp_path / "ckpt-7").is_dir()
    train(cut, config(checkpoint_every=100), tmp_path, batches)
    train(whole, config(), None, batches)
    assert torch.equal(weights(cut), weights(whole))
