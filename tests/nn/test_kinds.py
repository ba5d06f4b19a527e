"""Every kind against its dense definition in float64: values, every gradient, and a hundred steps."""

import pytest
import torch
from nn.definitions import loss_and_gradients

import monosem as ms
from monosem.nn import DenseBlocks
from monosem.train.step import FastStep

D, F = 12, 40
KINDS = {
    "topk": lambda: ms.TopKSAE(D, F, 5, aux_k=4, seed=0),
    "topk-every": lambda: ms.TopKSAE(D, F, 5, aux_k=4, aux_every=3, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, 5, aux_k=4, seed=0),
    "abs_topk": lambda: ms.AbsTopKSAE(D, F, 5, aux_k=4, seed=0),
    "group_max": lambda: ms.GroupMaxSAE(D, F, 5, aux_k=4, seed=0),
    "hierarchical_topk": lambda: ms.HierarchicalTopKSAE(D, F, 5, aux_k=4, seed=0),
    "hierarchical_topk-some": lambda: ms.HierarchicalTopKSAE(D, F, 7, aux_k=4, budgets=(2, 5), seed=0),
    "relu": lambda: ms.ReLUSAE(D, F, 0.02, seed=0),
    "relu-p": lambda: ms.ReLUSAE(D, F, 0.02, p=0.5, seed=0),
    "relu-p-updates": lambda: ms.ReLUSAE(D, F, 0.02, p=0.5, p_updates=3, seed=0),
    "relu-free": lambda: ms.ReLUSAE(D, F, 0.02, decoder_norm="free", seed=0),
    "relu-free-centred": lambda: ms.ReLUSAE(D, F, 0.02, "free", apply_b_dec_to_input=True, seed=0),
    "relu-uncentred": lambda: ms.ReLUSAE(D, F, 0.02, apply_b_dec_to_input=False, seed=0),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, 0.02, bandwidth=0.5, initial_threshold=0.4, seed=0),
    "jumprelu-target": lambda: ms.JumpReLUSAE(D, F, 0.5, 4.0, bandwidth=0.5, initial_threshold=0.4, seed=0),
    "jumprelu-tanh": lambda: ms.JumpReLUSAE(
        D,
        F,
        0.02,
        bandwidth=0.5,
        initial_threshold=0.4,
        form="tanh",
        pre_activation_coefficient=0.1,
        decoder_norm="free",
        seed=0,
    ),
    "gated": lambda: ms.GatedSAE(D, F, 0.02, seed=0),
    "matryoshka": lambda: ms.MatryoshkaSAE(D, F, 5, aux_k=4, seed=0),
    "matryoshka-every": lambda: ms.MatryoshkaSAE(D, F, 5, aux_k=4, aux_every=2, seed=0),
    "matryoshka-topk": lambda: ms.MatryoshkaSAE(D, F, 5, aux_k=4, activation="topk", prefixes=(3, 17, F), seed=0),
    "matryoshka-sampled": lambda: ms.MatryoshkaSAE(D, F, 5, aux_k=4, n_prefixes=4, seed=0),
    "matryoshka-sampled-relu": lambda: ms.MatryoshkaSAE(D, F, activation="relu", n_prefixes=3, seed=0),
    **{
        f"matryoshka-{name}": lambda name=name: ms.MatryoshkaSAE(
            D,
            F,
            activation=name,
            prefixes=(3, 10, F),
            l0_coefficient=1e-3,
            bandwidth=0.5,
            initial_threshold=0.4,
            seed=0,
        )
        for name in ("relu", "jumprelu", "gated")
    },
    **{
        f"transcoder-{name}": lambda name=name: ms.Transcoder(
            D,
            7,
            F,
            5,
            name,
            skip=True,
            aux_k=4,
            l1_coefficient=0.02,
            l0_coefficient=1e-3,
            bandwidth=0.5,
            initial_threshold=0.4,
            seed=0,
        )
        for name in ("topk", "batch_topk", "abs_topk", "relu", "jumprelu", "gated")
    },
    "crosscoder-relu": lambda: ms.Crosscoder(D, F, 3, 0.02, seed=0),
    "crosscoder-batch_topk": lambda: ms.Crosscoder(D, F, 3, activation="batch_topk", k=5, aux_k=4, seed=0),
    "transcoder-plain": lambda: ms.Transcoder(D, 7, F, 5, aux_k=4, seed=0),
}
# Those without a fixed number of entries.
HAS_DENSE = [name for name in KINDS if name.split("-", 1)[-1].startswith(("relu", "jumprelu", "gated"))]
HAS_DENSE += [name for name in KINDS if name.split("-")[0] in ("relu", "jumprelu", "gated")]
FORMS = [(name, form) for name in KINDS for form in ("sparse", "dense") if form == "sparse" or name in HAS_DENSE]
DEAD = torch.arange(F) % 3 == 0


def made(name, bias=0.0):
    """The autoencoder, its parameters moved by random numbers so that none has a special value."""
    sae, g = KINDS[name](), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in sae.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
        sae.b_enc.add_(bias)
    return sae


def batch(sae, n=37, seed=2):
    return torch.randn(n, sum(sae.batch_widths), generator=torch.Generator().manual_seed(seed))


def force(sae, form):
    """Have the next step use dense or sparse products."""
    if hasattr(sae.capacity, "density"):
        sae.capacity.density.fill_(1.0 if form == "dense" else 0.0)


def assert_near(got, want, name):
    """Within fp32's rounding of sums of some tens of terms, beside the largest of them."""
    scale = want.abs().max()
    torch.testing.assert_close(
        got.double(), want, rtol=1e-4, atol=float(2e-6 * scale) + 1e-9, msg=lambda m: f"{name}: {m}"
    )


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("case", ["usual", "one token", "few positive", "all negative"])
def test_gradients_equal_those_of_the_definition(name, form, case):
    bias = {"few positive": -1.5, "all negative": -50.0}.get(case, 0.0)
    sae = made(name, bias)
    x = batch(sae, 1 if case == "one token" else 37)
    force(sae, form)
    gradients = sae.gradients(x, 0.5, DEAD)
    assert isinstance(gradients.parameters, DenseBlocks) == (form == "dense")
    loss, f, expected = loss_and_gradients(sae, x, DEAD, 0.5)
    torch.testing.assert_close(gradients.loss.double(), loss, rtol=1e-5, atol=1e-8)
    assert torch.equal(gradients.fired, (f != 0).any(0))
    torch.testing.assert_close(gradients.l0, (f != 0).sum(1).float().mean())
    arrays = gradients.parameters.multiplied()
    assert arrays.keys() == expected.keys()
    for parameter, want in expected.items():
        assert_near(arrays[parameter], want, parameter)


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_and_autograd_equal_the_definition(name):
    sae = made(name)
    x = batch(sae)
    out = sae.loss(x, 0.5, DEAD)
    out.loss.backward()
    loss, f, expected = loss_and_gradients(sae, x, DEAD, 0.5)
    torch.testing.assert_close(out.loss.double(), loss, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(out.code.to_dense().double(), f, rtol=1e-5, atol=1e-5)
    for parameter, p in sae.named_parameters():
        assert_near(torch.zeros_like(p) if p.grad is None else p.grad, expected[parameter], parameter)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_any_leading_shape_has_the_same_loss(name):
    sae = made(name)
    x = batch(sae, 24)
    flat, shaped = sae.loss(x, 0.5, DEAD), sae.loss(x.view(2, 3, 4, -1), 0.5, DEAD)
    assert torch.equal(flat.loss, shaped.loss) and shaped.reconstruction.shape == (2, 3, 4, sae.cfg.d_out)
    assert torch.equal(flat.reconstruction.view(2, 3, 4, -1), shaped.reconstruction)
    assert torch.equal(flat.code.to_dense().view(2, 3, 4, F), shaped.code.to_dense())


@pytest.mark.parametrize(("name", "clip"), [(n, c) for n in KINDS for c in (None, 0.05) if c is None or "-" not in n])
def test_a_hundred_steps_equal_autograd_and_adam(name, clip):
    fast, plain = made(name), made(name)
    for sae in (fast, plain):
        sae.normalize_decoder()
    step = FastStep(fast)
    groups = [{"params": [p], "lr": 1e-3 * plain.declared()[n].lr_factor} for n, p in plain.named_parameters()]
    adam = torch.optim.Adam(groups)
    g = torch.Generator().manual_seed(5)
    for i in range(100):
        x = torch.randn(64, sum(fast.batch_widths), generator=g)
        fast.seed_and_step = plain.seed_and_step = (3, i)
        force(fast, "sparse")
        step(x, 1e-3, clip=clip, dead=DEAD)
        adam.zero_grad()
        plain.loss(x, 1.0, DEAD).loss.backward()
        plain.project_decoder_gradient()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), clip)
        adam.step()
        plain.normalize_decoder()
    for (parameter, a), b in zip(fast.named_parameters(), plain.parameters(), strict=True):
        # Adam divides by √v: where a gradient is near 0, its rounding decides the sign of a step of 1e-3.
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, msg=lambda m, n=parameter: f"{n}: {m}")
    x = batch(fast, 200, seed=9)
    torch.testing.assert_close(fast.loss(x).loss, plain.loss(x).loss, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in KINDS if name in HAS_DENSE])
def test_no_array_of_dense_steps_is_larger_than_a_block(monkeypatch, name):
    from monosem.ops import capacity

    monkeypatch.setitem(capacity.BLOCK_BYTES, "cpu", 1)
    sae = made(name)
    x = batch(sae)
    force(sae, "dense")
    _, _, expected = loss_and_gradients(sae, x, DEAD)
    arrays = sae.gradients(x, 1.0, DEAD).parameters.multiplied()
    for parameter, want in expected.items():
        assert_near(arrays[parameter], want, parameter)


@pytest.mark.parametrize("name", KINDS)
def test_a_dictionary_is_saved_and_loaded_whole(name, tmp_path):
    sae = made(name)
    FastStep(sae)(batch(sae), 1e-3, dead=DEAD)
    again = ms.load(ms.save(sae, tmp_path / "d"))
    assert type(again) is type(sae) and again.cfg == sae.cfg
    for a, b in zip(sae.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    x = sae.source(batch(sae, 5, seed=7))
    assert torch.equal(sae(x), again(x))


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_encoded_by_themselves(name):
    sae = made(name)
    x = batch(sae)
    for seed in range(3):
        sae.gradients(batch(sae, seed=seed), 1.0, DEAD)  # BatchTopK learns its threshold
    x = sae.source(x)
    whole = sae.encode(x).to_dense()
    for n in (0, 5, 36):
        torch.testing.assert_close(sae.encode(x[n]).to_dense(), whole[n], rtol=1e-5, atol=1e-6)
