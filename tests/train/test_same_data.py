"""A run is continued only with its own data, whatever the configuration."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import monosem as ms
from monosem.data import fingerprint
from monosem.train import checkpoint

D = 16


def train(sae, cfg, folder, data, **options):
    return ms.Trainer(sae, cfg, folder, progress=False, **options).fit(data)


def state(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def x():
    return torch.randn(500, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("other", ["length", "values", "one value", "dtype"])
def test_another_tensor_is_refused_and_both_are_named(make, config, tmp_path, x, other):
    changed = {"length": x[:300], "values": x + 1, "dtype": x.half(), "one value": x.clone()}[other]
    changed[250 if other == "one value" else 0, 3] += 1
    train(make("topk"), config(), tmp_path, x.clone())
    before = state(tmp_path)
    with pytest.raises(ValueError, match=r"trained on other data \(.*There: tensor.*Here: tensor.*--from RUN"):
        train(make("topk"), config(), tmp_path, changed)
    with pytest.raises(ValueError, match="trained on other data"):
        ms.Trainer(make("topk"), config(), tmp_path, progress=False).fit(changed, resume=8)
    assert state(tmp_path) == before  # no later checkpoint was set aside for a resume that was refused
    assert train(make("topk"), config(), tmp_path, x.clone()).steps_done == 12


def test_another_iterable_is_refused(make, config, source, weights, tmp_path):
    good, whole = list(source(batches=12)), make("topk")
    train(whole, config(), None, good)
    with pytest.warns(RuntimeWarning, match="ended after 7"):
        train(make("topk"), config(), tmp_path, iter(good[:7]))
    for other in (list(source(batches=12, seed=1)), [*good[1:], good[0]], [good[0], good[0] * 2, *good[2:]]):
        with pytest.raises(ValueError, match=r"trained on other data: the first 7 batches"):
            train(make("topk"), config(), tmp_path, other)
    with pytest.raises(ValueError, match=r"saved with no source state.*batches"):
        train(make("topk"), config(), tmp_path, source())
    cut = make("topk")
    train(cut, config(), tmp_path, (b for b in good))
    assert torch.equal(weights(cut), weights(whole))


def test_a_shuffling_loader_resumes_with_the_order_of_the_first_time(make, config, weights, tmp_path, x):
    loader, whole, cut = lambda: DataLoader(TensorDataset(x), 40, shuffle=True), make("topk"), make("topk")
    torch.manual_seed(3)
    train(whole, config(), None, loader())
    torch.manual_seed(3)
    train(make("topk"), config(), tmp_path, loader())
    for name in ("ckpt-12",):
        (tmp_path / name).rename(tmp_path / "aside")
    torch.manual_seed(4)
    train(cut, config(), tmp_path, loader())
    assert torch.equal(weights(cut), weights(whole))


def test_a_checkpoint_without_a_fingerprint_resumes_with_a_warning(make, config, weights, tmp_path, x):
    whole, cut = make("topk"), make("topk")
    train(whole, config(), tmp_path, x)
    saved = checkpoint.load(tmp_path, 8)
    for name in ("data", "crc32"):
        del saved.state["batches"][name]
    del saved.state["started"]
    checkpoint.save(tmp_path, saved)
    with pytest.warns(RuntimeWarning, match="before runs knew their data"):
        ms.Trainer(cut, config(), tmp_path, progress=False).fit(x, resume=8)
    assert torch.equal(weights(cut), weights(whole))


def test_the_result_has_the_fingerprint_of_its_data(make, config, tmp_path, x):
    train(make("topk"), config(), tmp_path, x)
    assert ms.load(tmp_path).metadata["data"] == {"kind": "tensor", **fingerprint.of_array(x)}


def test_arrays_and_loaders_train_like_tensors(make, config, weights, x):
    made = [make("topk") for _ in range(3)]
    for sae, data in zip(made, (x, x.numpy(), x.numpy()[::-1][::-1]), strict=True):
        train(sae, config(), None, data)
    assert torch.equal(weights(made[0]), weights(made[1])) and torch.equal(weights(made[0]), weights(made[2]))
    parts = list(x.split(40))[:12]
    for sae, data in zip(made, (parts, DataLoader(TensorDataset(x), 40), [p.numpy() for p in parts]), strict=True):
        train(sae, config(), None, data)
    assert torch.equal(weights(made[0]), weights(made[1])) and torch.equal(weights(made[0]), weights(made[2]))
    trainer = ms.Trainer(make("topk"), config(), progress=False)
    for batch in (x[:8].numpy(), [x[:8]], x[:8].half()):
        assert torch.isfinite(trainer.step(batch)["loss"])
    with pytest.raises(TypeError, match=r"batch 3: got list of 2; wanted a tensor"):
        trainer.step([x[:8], x[:8]])
    with pytest.raises(TypeError, match=r"got torch.float64; wanted torch.float32.*x\.to\(torch\.float32\)"):
        trainer.step(np.zeros((8, D)))
