"""A dictionary of normalised activations, folded: in float64 it computes the same on activations as they are."""

import inspect

import pytest
import torch

from monosem.nn import KINDS, SAE, SAEConfig, registry
from monosem.nn.config import TrainedOn, from_dict
from monosem.nn.folding import Affine, Joint, check_folds, folded


class Own(SAE):
    """An autoencoder that is no composition of parts."""

    Config = type("OwnConfig", (SAEConfig,), {"kind": "own_of_folding"})

    def encode(self, x):
        raise NotImplementedError

    def loss(self, x, sparsity_scale=1.0, dead=None):
        raise NotImplementedError


D, F = 12, 40
# Every registered kind, with settings by which it has each activation, norms and parameters that it may have.
CASES = [
    *((kind, {}) for kind in KINDS),
    ("relu", {"decoder_norm": "free"}),
    ("relu", {"apply_b_dec_to_input": False}),
    ("relu", {"p": 0.5, "p_updates": 3}),
    ("jumprelu", {"decoder_norm": "free"}),
    ("jumprelu", {"form": "tanh", "decoder_norm": "free"}),
    *(("matryoshka", {"activation": a}) for a in ("topk", "abs_topk", "relu", "jumprelu", "gated")),
    *(("transcoder", {"activation": a}) for a in ("batch_topk", "abs_topk", "relu", "jumprelu", "gated")),
    ("transcoder", {"skip": True}),
    ("transcoder", {"skip": True, "activation": "gated"}),
    *(("crosscoder", {"activation": a}) for a in ("topk", "batch_topk", "jumprelu")),
]
ids = ["-".join([kind, *(f"{n}={v}" for n, v in settings.items())]) for kind, settings in CASES]


def make(kind, settings):
    """An autoencoder with random weights, in float64."""
    cls = registry.find(kind).Config
    widths = {TrainedOn.PAIR: [D, D - 3], TrainedOn.SEVERAL: [D // 2] * 2}.get(cls.trained_on, [D])
    shape = cls.shape_of(widths) | {"d_sae": F} | settings
    if "k" in inspect.signature(cls).parameters:
        shape["k"] = 5
    sae = registry.build(from_dict(cls, shape), seed=0, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.add_(0.3 * (noise.abs() if name == "threshold" else noise))
        if hasattr(sae, "batches"):
            sae.batches.threshold.fill_(0.4)
        sae.normalize_decoder()
    return sae


def whitening(d, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d, generator=generator, dtype=torch.float64)
    matrix = a @ a.T / d + torch.eye(d, dtype=torch.float64)
    return Affine(matrix, matrix.inverse(), torch.randn(d, generator=generator, dtype=torch.float64))


def agree(sae, maps):
    """Assert that a folded dictionary computes on raw activations what the original does on mapped ones."""
    widths = sae.batch_widths
    generator = torch.Generator().manual_seed(2)
    x = 2 * torch.randn(50, sum(widths), generator=generator, dtype=torch.float64) + 1
    raw, all_maps = folded(sae, maps), Joint(maps)
    mapped = all_maps(x)
    pair = sae.cfg.trained_on == TrainedOn.PAIR
    expected = Joint(maps[1:] if pair else maps).undone(sae(sae.source(mapped)))
    got = raw(raw.source(x))
    assert got.isfinite().all() and (got - expected).abs().max() < 1e-9 * expected.abs().max()
    old, new = (s.encode(s.source(v)) for s, v in ((sae, mapped), (raw, x)))
    dense_old, dense_new = old.to_dense(), new.to_dense()
    assert ((dense_old != 0) == (dense_new != 0)).all() and old.l0() > 1
    assert torch.equal(dense_old.sign(), dense_new.sign())
    if sae.has_unit_rows:
        assert torch.allclose(raw.W_dec.norm(dim=1), sae.W_dec.norm(dim=1), rtol=1e-12)
    assert raw.cfg == sae.cfg and raw.state_dict().keys() == sae.state_dict().keys()
    return raw


@pytest.mark.parametrize("kind, settings", CASES, ids=ids)
def test_a_factor_folds_exactly(kind, settings):
    sae = make(kind, settings)
    maps = [Affine.scaling(f, d) for f, d in zip((2.7, 0.3), sae.batch_widths, strict=False)]
    several = kind == "crosscoder" and sae.has_unit_rows
    if several and settings.get("activation") != "jumprelu":
        with pytest.raises(ValueError, match=r"compares features with each other .* each with a factor of its own"):
            check_folds(sae, True, "normalize: got 'mean_norm'")
        return
    check_folds(sae, True, "normalize: got 'mean_norm'")
    raw = agree(sae, maps)
    if len(maps) == 1 and sae.has_unit_rows:
        assert torch.equal(raw.W_dec, sae.W_dec)


@pytest.mark.parametrize("kind, settings", CASES, ids=ids)
def test_whitening_folds_exactly_or_is_refused(kind, settings):
    sae = make(kind, settings)
    maps = [whitening(d, i) for i, d in enumerate(sae.batch_widths)]
    compares = sae.composition.activation.compares_features
    assert compares == (settings.get("activation", sae.cfg.kind) not in ("relu", "jumprelu", "gated", "crosscoder"))
    if compares and sae.has_unit_rows:
        with pytest.raises(ValueError, match=r"normalize: got 'whiten' on .*compares features .*whitening"):
            check_folds(sae, False, "normalize: got 'whiten'")
        return
    check_folds(sae, False, "normalize: got 'whiten'")
    agree(sae, maps)


def test_kinds_of_which_nothing_is_known_are_refused():
    sae = Own(Own.Config(D, F))
    with pytest.raises(
        ValueError, match="normalize: got 'mean_norm' on kind 'own_of_folding', which has an encoder of its"
    ):
        check_folds(sae, True, "normalize: got 'mean_norm'")


def test_a_feature_without_a_decoder_row_stays_one():
    sae = make("relu", {})
    with torch.no_grad():
        sae.W_dec[3] = 0
    raw = folded(sae, [whitening(D, 0)])
    assert not raw.W_dec[3].any() and all(p.isfinite().all() for p in raw.parameters())


def test_weights_in_fp32_are_folded_in_float64():
    sae = make("jumprelu", {})
    maps = [whitening(D, 0)]
    exact, rounded = folded(sae, maps), folded(sae.float(), maps)
    for name, weight in rounded.state_dict().items():
        assert torch.allclose(weight.double(), exact.state_dict()[name], rtol=1e-6, atol=1e-6)
