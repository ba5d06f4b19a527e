"""The training loop; the fast step equals autograd with torch.optim.Adam."""

import copy
import json
import os
import signal
import warnings

import pytest
import torch

import monosem as ms
from monosem import ops
from monosem.data.folder_lock import folder_lock
from monosem.data.synthetic import SyntheticDictionary
from monosem.train.batches import TensorBatches
from monosem.train.learner import Learner
from monosem.train.schedule import learning_rate, sparsity_scale

D, F = 16, 48


def autograd_run(sae, cfg, batches):
    """The definition of ``Trainer.step``: loss, backward, projection, clipping, torch.optim.Adam, unit rows."""
    adam = torch.optim.Adam(sae.parameters(), betas=cfg.betas, eps=cfg.eps)
    silent = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
    for step, x in enumerate(batches):
        adam.param_groups[0]["lr"] = learning_rate(cfg, step)
        out = sae.loss(x.to(sae.W_dec.dtype), sparsity_scale(cfg, step), silent >= cfg.dead_after)
        adam.zero_grad()
        out.loss.backward()
        sae.project_decoder_gradient()
        if cfg.clip is not None:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), cfg.clip)
        adam.step()
        sae.normalize_decoder()
        silent = (silent + len(x)).masked_fill(out.code.active_counts() > 0, 0)
        yield out


@pytest.mark.parametrize("clip", [None, 0.02])
@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_sixty_steps_equal_autograd_with_adam_in_float64(make, config, source, kind, clip):
    """In float64 rounding is far below anything the algebra could get wrong: 1e-9 after 60 steps of lr 3e-3."""
    cfg = config(steps=60, lr=3e-3, lr_warmup=5, lr_decay=10, sparsity_warmup=20, clip=clip, dead_after=128)
    batches = [x.double() for x in source(batches=60)]
    fast = make(kind).double()
    fast.normalize_decoder()  # to float64's idea of a unit row
    with torch.no_grad():
        fast.b_enc[:8] = -1.0  # some for AuxK
    slow, trainer, aux = copy.deepcopy(fast), ms.Trainer(fast, cfg), 0
    for x, out in zip(batches, autograd_run(slow, cfg, batches), strict=True):
        metrics = trainer.step(x)
        torch.testing.assert_close(metrics["loss"], out.loss.detach(), rtol=1e-9, atol=0)
        torch.testing.assert_close(metrics["aux"], out.aux.detach(), rtol=1e-9, atol=1e-15)
        aux += metrics["aux"] > 0
    assert kind == "relu" or aux >= 5  # AuxK took part
    for (name, a), b in zip(fast.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_sixty_steps_equal_autograd_with_adam_in_float32(make, config, source, kind):
    """The fast step in fp32 differs from the float64 run at most twice as much as autograd in fp32, and it selects
    the same features.

    No fixed tolerance would be right: where a gradient is nothing but rounding, Adam still takes a step of up to
    ``lr`` in its direction. So both fp32 paths are measured against the exact run, by the root mean square over a
    parameter and with the resolution of fp32 as a floor. A selection may differ only where two candidates are closer
    than 2e-5, some hundred roundings of numbers around 1.
    """
    cfg = config(steps=60, lr=1e-3, lr_warmup=5, lr_decay=10, sparsity_warmup=20, dead_after=128)
    batches = list(source(batches=60))
    fast, slow, exact = make(kind), make(kind), make(kind).double()
    trainer = ms.Trainer(fast, cfg)
    steps = zip(batches, autograd_run(slow, cfg, batches), autograd_run(exact, cfg, batches), strict=True)
    clear = total = 0
    for x, _, _ in steps:
        trainer.step(x)
        fast_active, slow_active = fast.encode(x).to_dense() > 0, slow.encode(x).to_dense() > 0
        sure = _margin(slow, x) > 2e-5
        assert torch.equal(fast_active[sure], slow_active[sure])
        clear, total = clear + int(sure.sum()), total + len(x)
    assert clear > 0.99 * total
    for (name, a), b, c in zip(fast.named_parameters(), slow.parameters(), exact.parameters(), strict=True):
        error, allowed = ((p.detach().double() - c.detach()).square().mean().sqrt() for p in (a, b))
        assert error <= 2 * allowed + 1e-6, (name, error, allowed)


def _margin(sae, x):
    """The distance of each token from another selection: the gap at rank K, or the pre-activation nearest to 0."""
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.cfg.kind == "relu":
        return pre.abs().amin(1)
    top = pre.topk(sae.cfg.k + 1, dim=1).values
    return torch.minimum(top[:, -2] - top[:, -1], top[:, :-1].abs().amin(1))


LOW_MEMORY = [
    {"adam_state": "bf16"},
    {"adam_state": "int8"},
    {"lazy_rows": True},
    {"adam_state": "int8", "lazy_rows": True},
]


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_moments_in_fewer_bits_reach_the_same_loss(make, config, source, kind):
    """After 300 steps the loss is within 5 % of that of Adam with moments in fp32."""

    def loss(**options) -> float:
        sae = make(kind)
        trainer = ms.Trainer(sae, config(steps=300, checkpoint_every=1000, **options), progress=False)
        trainer.fit(source())
        kept = trainer.learners[0].fast.m["W_dec"].dtype
        assert kept == {"bf16": torch.bfloat16, "int8": torch.int8}.get(options.get("adam_state"), torch.float32)
        with torch.no_grad():
            return float(sum(sae.loss(source().batch(1000 + i)).loss for i in range(10)))

    plain = loss()
    for options in LOW_MEMORY:
        assert loss(**options) < 1.05 * plain, options


@pytest.mark.parametrize("options", LOW_MEMORY)
def test_a_run_in_low_memory_resumes_bitwise(make, config, source, weights, tmp_path, options):
    whole, cut = make("topk"), make("topk")
    ms.Trainer(whole, config(**options), progress=False).fit(source())
    with pytest.warns(RuntimeWarning, match="ended after 7"):
        ms.Trainer(make("topk"), config(**options), tmp_path, progress=False).fit(source(batches=7))
    ms.Trainer(cut, config(**options), tmp_path, progress=False).fit(source())
    assert torch.equal(weights(whole), weights(cut))


def test_moments_in_fewer_bits_are_for_float32(make, config):
    with pytest.raises(ValueError, match=r"adam_state: got 'bf16' for torch.float64 on cpu; wanted float32"):
        ms.Trainer(make("topk").double(), config(adam_state="bf16"))
    with pytest.raises(ValueError, match="adam_state: got 'half'; wanted 'fp32', 'bf16' or 'int8'"):
        config(adam_state="half")
    with pytest.raises(ValueError, match="lazy_rows: got 1; wanted True or False"):
        config(lazy_rows=1)


def test_a_step_knows_how_often_features_are_active(make, config, monkeypatch):
    """By Adam's second moments, which order the features of a dictionary in use nearly as their counts do."""
    sae, seen, choose = make("topk"), [], ops.topk_encode
    monkeypatch.setattr(ops, "topk_encode", lambda *args: seen.append(args[5:]) or choose(*args))
    learner = Learner(sae, config(steps=60))
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(F)
    directions, shares = torch.randn(32, D, generator=generator), 1 / torch.arange(1.0, 33)
    for step in range(60):
        x = directions[shares.multinomial(64, replacement=True, generator=generator)]
        x = x + 0.3 * torch.randn(64, D, generator=generator)
        learner.step(x, step)
        if step >= 40:
            counts += torch.bincount(sae.encode(x).indices.flatten().long(), minlength=F)
    known = [frequency for (frequency,) in filter(None, seen) if frequency is not None]
    assert len(known) == 60 and all(frequency is learner.fast.v["b_enc"] for frequency in known)
    ranks = torch.stack([counts, learner.fast.v["b_enc"]]).argsort(1).argsort(1).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.7
    with pytest.raises((RuntimeError, ValueError)):
        learner.step(x[:, :-1], 60)
    assert sae.frequency is None


def test_lazy_rows_move_only_when_they_fire(make, config, source):
    sae = make("topk")
    trainer = ms.Trainer(sae, config(lazy_rows=True, lr_warmup=0), progress=False)
    trainer.step(source().batch(0))
    x = source().batch(1)[:3]
    before = [w.detach().clone() for w in (sae.W_enc_rows, sae.W_dec)]
    fires = sae.encode(x).active_counts() > 0
    assert 0 < fires.sum() < len(fires)
    trainer.step(x)
    for w, old in zip((sae.W_enc_rows, sae.W_dec), before, strict=True):
        assert torch.equal((w != old).any(-1), fires)


def test_several_autoencoders_learn_as_each_alone(make, config, source, weights):
    plan = ms.ResampleConfig(at_steps=(6,), window=3, n_inputs=100)
    cfg = [config(resample=plan), config(lr=3e-3, resample=plan)]
    together = [make("topk"), make("relu")]
    ms.Trainer(together, cfg, progress=False).fit(source())
    for kind, one, c in zip(("topk", "relu"), together, cfg, strict=True):
        alone = make(kind)
        ms.Trainer(alone, c, progress=False).fit(source())
        assert torch.equal(weights(alone), weights(one))


def test_batch_sizes_may_vary(make, config):
    sizes = (1, 64, 7, 200)
    trainer = ms.Trainer(make("relu"), config(steps=4), progress=False).fit([torch.randn(n, D) for n in sizes])
    assert trainer.tokens_done == sum(sizes) and trainer.steps_done == 4


def test_the_bias_starts_at_the_geometric_median_of_the_first_batch(make, config, source):
    x = source().batch(0)
    for init in (True, False):
        sae = make("topk")
        ms.Trainer(sae, config(steps=1, lr=1e-9, init_bias=init), progress=False).fit(source())
        expected = ms.nn.geometric_median(x) if init else torch.zeros(D)
        torch.testing.assert_close(sae.b_dec.detach(), expected, rtol=0, atol=1e-6)


def test_a_tensor_is_shuffled_and_repeated(make, config, weights):
    x = torch.randn(100, D)
    whole = make("topk")
    ms.Trainer(whole, config(batch_size=30), progress=False).fit(x)
    assert torch.isfinite(weights(whole)).all()
    order = []
    batches = iter(TensorBatches(torch.arange(100.0)[:, None], 30, seed=1))
    for _ in range(2):
        epoch = torch.cat([next(batches) for _ in range(3)]).flatten().tolist()
        assert len(set(epoch)) == 90
        order.append(epoch)
    assert order[0] != order[1]


def test_ms_load_reads_the_result(make, config, source, weights, tmp_path):
    ms.Trainer(make("topk"), config(ema=0.9), tmp_path / "one", progress=False, metadata={"note": "x"}).fit(source())
    loaded = ms.load(tmp_path / "one")
    assert loaded.metadata["note"] == "x" and loaded.metadata["tokens"] == 768
    assert loaded.metadata["train"]["ema"] == 0.9
    assert not torch.equal(weights(loaded), weights(ms.load(tmp_path / "one" / "ema")))
    saes = [make("topk"), make("relu")]
    ms.Trainer(saes, config(), tmp_path / "two", progress=False).fit(source())
    assert torch.equal(weights(ms.load(tmp_path / "two" / "1")), weights(saes[1]))


def test_a_stream_that_ends_early_warns_and_is_saved(make, config, source, tmp_path):
    with pytest.warns(RuntimeWarning, match="the stream ended after 7 of 12 steps"):
        trainer = ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(source(batches=7))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()] == [5, 7]
    assert trainer.last_metrics[0]["l0"] == pytest.approx(4, abs=0.1)
    assert (tmp_path / "ckpt-7").is_dir() and ms.load(tmp_path)


def test_a_folder_in_use_is_refused(make, config, source, tmp_path):
    with folder_lock(tmp_path), pytest.raises(RuntimeError, match="being written to by process"):
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(source())
    assert not list(tmp_path.glob("ckpt-*"))


@pytest.mark.parametrize(
    "saes, configs, words",
    [
        (2, 3, "got 3 for 2 autoencoders"),
        (0, 1, "for 0 autoencoders"),
        (2, "steps", r"config\.steps: got \[12, 13\]; wanted the same"),
        ("twice", 2, "the same autoencoder twice"),
        ("width", 2, r"sae\.cfg\.d_in: got \[16, 20\]"),
    ],
)
def test_lists_that_disagree_are_refused(make, config, saes, configs, words):
    topk = make("topk")
    lists = {2: [topk, make("relu")], 0: [], "twice": [topk, topk], "width": [topk, ms.TopKSAE(20, 40, k=2)]}
    built = lists[saes]
    if saes == "twice":
        built = [built[0], built[0]]
    given = [config(), config(steps=13)] if configs == "steps" else [config()] * configs
    with pytest.raises(ValueError, match=words):
        ms.Trainer(built, given)


def test_progress_is_in_tokens_with_loss_l0_and_dead_share(make, config, source, capsys):
    ms.Trainer(make("topk"), config()).fit(source())
    shown = capsys.readouterr().err
    assert "tok/s" in shown and "768/768" in shown
    assert "loss=" in shown and "l0=4.0" in shown and "dead=" in shown


@pytest.mark.parametrize("number, stop", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_ctrl_c_finishes_the_step_saves_and_prints_how_to_resume(
    make, config, source, weights, tmp_path, capsys, number, stop
):
    class Interrupted(SyntheticDictionary):
        def batch(self, batch):
            if batch == 7:
                os.kill(os.getpid(), number)  # while the batch of step 8 is made: that step is still finished
            return super().batch(batch)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(stop) as stopped:
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(
            Interrupted(D, 32, 3, batch_size=64, noise=0.02)
        )
    assert stop is KeyboardInterrupt or stopped.value.code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert "stopped after step 8 of 12; saved in" in capsys.readouterr().err
    assert (tmp_path / "ckpt-8").is_dir() and not (tmp_path / "sae.safetensors").exists()
    resumed, whole = make("topk"), make("topk")
    ms.Trainer(resumed, config(), tmp_path, progress=False).fit(source())
    ms.Trainer(whole, config(), progress=False).fit(source())
    assert torch.equal(weights(resumed), weights(whole))


def test_ctrl_c_without_a_folder_prints_that_nothing_is_saved(make, config, capsys):
    def batches():
        yield torch.randn(8, D)
        os.kill(os.getpid(), signal.SIGINT)
        yield torch.randn(8, D)

    trainer = ms.Trainer(make("topk"), config(), progress=False)
    with pytest.raises(KeyboardInterrupt, match="after step 2 of 12; nothing was saved"):
        trainer.fit(batches())
    assert trainer.steps_done == 2


def test_a_second_ctrl_c_stops_at_once(make, config, tmp_path):
    def batches():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield torch.randn(8, D)

    # Python's own handler, which is not there where a shell started these tests in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(batches())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.glob("ckpt-*"))


@pytest.mark.parametrize("name", ["W_enc_rows", "W_dec", "b_enc", "b_dec"])
def test_a_parameter_that_cannot_be_updated_in_place_is_named(name):
    sae, x = ms.TopKSAE(16, 32, 4, seed=0), torch.randn(8, 16)
    p = getattr(sae, name)
    p.data = p.data.T.contiguous().T if p.ndim == 2 else p.data.repeat_interleave(2)[::2]
    with pytest.raises(ValueError, match=rf"sae: parameter {name} of shape .* has strides .*; wanted it contiguous"):
        ms.Trainer(sae, ms.TrainConfig(batch_size=8, steps=2), progress=False).step(x)
    p.data = p.data.contiguous()
    if name != "W_dec":
        p.data = p.data.double()
        with pytest.raises(ValueError, match=f"sae: parameter {name} is torch.float64, W_dec torch.float32; wanted"):
            ms.Trainer(sae, ms.TrainConfig(batch_size=8, steps=2), progress=False).step(x)


def test_a_loaded_dictionary_whose_rows_training_would_change_is_told(tmp_path):
    def trained(sae, origin):
        sae.metadata = {"loaded_from": {"format": "SAELens"}} if origin else {}
        return ms.Trainer(sae, ms.TrainConfig(lr=1e-3, batch_size=8, steps=1), tmp_path)

    other = ms.TopKSAE(8, 16, k=2, seed=0)
    with torch.no_grad():
        other.W_dec.mul_(3)
    with pytest.warns(RuntimeWarning, match=r"norms from 3 to 3, as the files of SAELens have them; a topk is trained"):
        trained(other, origin=True)
    free = ms.ReLUSAE(8, 16, decoder_norm="free", seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(other, origin=False)
        trained(ms.TopKSAE(8, 16, k=2, seed=0), origin=True)
        trained(free, origin=True)
