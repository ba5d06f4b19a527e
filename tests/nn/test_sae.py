"""The autoencoders: their properties as nn.Modules, losses, gradients, and files."""

import json

import pytest
import torch
from nn.multiplied import multiplied
from torch import nn

import monosem as ms
from monosem.nn import DenseBlocks, RowFactors, geometric_median
from monosem.ops import capacity

D, F = 24, 96


def make(kind: str, **options) -> nn.Module:
    sae = ms.TopKSAE(D, F, k=5, seed=0, **options) if kind == "topk" else ms.ReLUSAE(D, F, 0.05, seed=0, **options)
    with torch.no_grad():
        sae.b_enc.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        sae.b_dec.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    return sae


def batch(n: int = 64) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(3))


def dense_loss(sae, x, dead=None):
    """The loss in plain PyTorch, dense, from the module's own parameters."""
    centred = x - sae.b_dec
    pre = centred @ sae.W_enc + sae.b_enc
    if sae.cfg.kind == "topk":
        f = torch.zeros_like(pre).scatter(-1, pre.topk(sae.cfg.k).indices, 1) * pre.relu()
    else:
        f = pre.relu()
    x_hat = f @ sae.W_dec + sae.b_dec
    loss = (x - x_hat).square().mean()
    if sae.cfg.kind == "relu":
        loss = loss + sae.cfg.l1_coefficient * f.sum(-1).mean()
    if dead is not None and sae.cfg.kind == "topk":
        some = pre[:, dead]
        size = min(sae.cfg.d_in // 2 if sae.cfg.aux_k is None else sae.cfg.aux_k, some.shape[1])
        z = torch.zeros_like(some).scatter(-1, some.topk(size).indices, 1) * some.relu()
        loss = loss + sae.cfg.aux_coefficient * ((x - x_hat).detach() - z @ sae.W_dec[dead]).square().mean()
    return loss


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("aux", [False, True])
def test_loss_and_gradients_equal_the_definition(kind, aux):
    sae, x = make(kind), batch()
    dead = torch.arange(F) % 3 == 0 if aux else None
    sae.loss(x, dead=dead).loss.backward()
    plain = make(kind).double()
    plain.load_state_dict(sae.state_dict())
    dense_loss(plain, x.double(), dead).backward()
    for (name, p), q in zip(sae.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("aux", [False, True])
def test_direct_gradients_equal_autograd(kind, aux):
    sae, x = make(kind), batch()
    dead = torch.arange(F) % 3 == 0 if aux else None
    out = sae.loss(x, sparsity_scale=0.5, dead=dead)
    out.loss.backward()
    for density in (1.0, 0.0):  # the dense and the sparse path of ReLU; TopK has one
        if kind == "relu":
            sae.capacity.density.fill_(density)
        gradients = sae.gradients(x, sparsity_scale=0.5, dead=dead)
        assert isinstance(gradients.parameters, DenseBlocks) == (kind == "relu" and density == 1.0)
        for got, p in zip(multiplied(gradients), sae.parameters(), strict=True):
            torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-7)
        for name in ("loss", "mse", "sparsity", "aux"):
            torch.testing.assert_close(getattr(gradients, name), getattr(out, name), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(gradients.l0, out.code.l0())
        assert torch.equal(gradients.fired, out.code.active_counts() > 0)


def test_auxk_has_gradients_for_the_encoder_of_dead_features():
    # A peer's AuxK sends exactly zero to the encoder: its dead features can never come back through it.
    sae, x = make("topk"), batch()
    with torch.no_grad():
        sae.b_enc[:10] = 0.0
        sae.W_enc_rows[:10] *= 1e-4  # positive now and then, but never among the five largest
    dead = torch.zeros(F, dtype=torch.bool)
    dead[:10] = True
    assert sae.encode(x).active_counts()[:10].sum() == 0
    sae.loss(x, dead=dead).loss.backward()
    assert (sae.W_enc_rows.grad[:10].norm(dim=-1) > 0).any() and (sae.b_enc.grad[:10] != 0).any()
    assert (sae.W_dec.grad[:10].norm(dim=-1) > 0).any()


def test_relu_becomes_sparse_when_few_features_fire():
    sae, x = make("relu"), batch()
    assert isinstance(sae.gradients(x).parameters, DenseBlocks) and sae.capacity.density > capacity.DENSE_ABOVE
    with torch.no_grad():
        sae.b_enc -= 2.5
    sae.gradients(x)
    assert sae.capacity.density < capacity.DENSE_ABOVE and isinstance(sae.gradients(x).parameters, RowFactors)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_any_leading_shape(kind):
    sae, x = make(kind), batch(24)
    flat = sae(x)
    for shape in ((24,), (2, 12), (2, 3, 4), (1, 24)):
        view = x.view(*shape, D)
        assert sae(view).shape == view.shape
        torch.testing.assert_close(sae(view).view(24, D), flat)
        code = sae.encode(view)
        assert code.to_dense().shape == (*shape, F)
        torch.testing.assert_close(sae.decode(code), sae(view))
        torch.testing.assert_close(sae.loss(view).reconstruction, sae(view))
    assert sae(x[0]).shape == (D,)
    assert sae(x[:0]).shape == (0, D)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_encode_gives_the_active_features(kind):
    sae, x = make(kind), batch()
    code = sae.encode(x)
    dense = code.to_dense()
    assert torch.equal(code.active_counts(), (dense > 0).sum(0))
    torch.testing.assert_close(code.l0(), (dense > 0).sum(1).float().mean())
    values, indices, _ = code.csr()
    assert torch.equal(dense[code.row_ids(), indices.long()], values)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_an_autoencoder_is_an_ordinary_module(kind):
    sae, x = make(kind), batch()
    assert sae.W_enc.shape == (D, F) and sae.W_enc.data_ptr() == sae.W_enc_rows.data_ptr()
    assert set(sae.state_dict()) == {"W_enc_rows", "W_dec", "b_enc", "b_dec"}
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(F))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    before = sae.loss(x).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        sae.loss(x).loss.backward()
        sae.project_decoder_gradient()
        assert (sae.W_dec.grad * sae.W_dec).sum(-1).abs().max() < 1e-6
        optimizer.step()
        sae.normalize_decoder()
    assert sae.loss(x).loss.item() < before
    half = make(kind).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert nn.Sequential(sae)(x).shape == x.shape


def test_initialisation():
    sae = ms.TopKSAE(D, F, 5, seed=4)
    assert torch.equal(sae.W_enc_rows, sae.W_dec) and not sae.b_enc.any()
    assert torch.equal(sae.W_dec, ms.TopKSAE(D, F, 5, seed=4).W_dec)
    assert not torch.equal(sae.W_dec, ms.TopKSAE(D, F, 5, seed=5).W_dec)
    x = batch(200) + 3
    sae.initialize(x)
    torch.testing.assert_close(sae.b_dec, geometric_median(x))


def test_geometric_median():
    # Not the mean: almost half of the points may move without limit. On a line it is the median.
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e6]])
    assert abs(geometric_median(x).item() - 2) < 0.05
    points = torch.randn(400, 6, dtype=torch.float64)
    c = geometric_median(points, tolerance=1e-10, iterations=500)
    pull = torch.nn.functional.normalize(points - c, dim=-1).sum(0)  # zero at the optimum
    assert pull.norm() < 1e-3
    with pytest.raises(ValueError, match="at least one row"):
        geometric_median(points[:0])


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_save_and_load(kind, tmp_path):
    sae, x = make(kind), batch()
    ms.save(sae, tmp_path / "sae", {"hook_name": "blocks.0.mlp.hook_post"})
    again = ms.load(tmp_path / "sae")
    assert again.cfg == sae.cfg and again.metadata == {"hook_name": "blocks.0.mlp.hook_post"}
    assert torch.equal(again(x), sae(x))


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dictionary in .*, which holds nothing; wanted a folder"):
        ms.load(tmp_path)
    folder = ms.save(make("topk"), tmp_path / "sae")
    weights = folder / "sae.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="cut short or altered"):
        ms.load(folder)
    weights.write_bytes(whole)
    record = json.loads((folder / "cfg.json").read_text())
    del record["digests"], record["sha256"]  # of an older version: nothing but the shapes tells
    for change, message in (({"kind": "magic"}, "kind 'magic'"), ({"cfg": {**record["cfg"], "d_sae": 97}}, "wanted")):
        (folder / "cfg.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=message):
            ms.load(folder)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ms.TopKSAE(D, F, k=0), "k: got 0; wanted an integer from 1 to d_sae=96"),
        (lambda: ms.TopKSAE(D, F, k=F + 1), "k: got 97"),
        (lambda: ms.TopKSAE(0, F, k=1), "d_in: got 0; wanted a positive integer"),
        (lambda: ms.ReLUSAE(D, -1), "d_sae: got -1"),
        (lambda: ms.ReLUSAE(D, F, -0.1), "l1_coefficient: got -0.1"),
        (lambda: make("topk").encode(torch.zeros(3, D + 1)), r"x: got shape \[3, 25\]; wanted \[..., d_in=24\]"),
        (lambda: make("relu")(torch.zeros(3, D).double()), "x: got torch.float64, but the autoencoder's weights is"),
        (lambda: make("relu")(torch.zeros(3, D, dtype=torch.int64)), "x: got torch.int64"),
        (lambda: make("relu").to("meta")(torch.zeros(3, D)), "x: on cpu, but the autoencoder's weights is on meta"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_that_do_not_fit_are_refused_before_they_are_written(monkeypatch):
    """A system that is asked for pages it does not have ends the process."""
    monkeypatch.setattr("monosem.ops.memory.available_memory", lambda: 900 << 20)
    with pytest.raises(
        ValueError, match=r"d_sae: weights of 65,536 features need 1\.07 GB of memory, .* smaller d_sae"
    ):
        ms.TopKSAE(2048, 65_536, 32)
    ms.TopKSAE(2048, 64, 32)
