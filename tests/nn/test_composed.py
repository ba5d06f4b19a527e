"""Every composition of the parts: its gradients in factors are those of autograd on its loss."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import monosem as ms
from monosem import nn
from monosem.nn import KINDS, DenseBlocks

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "add_an_architecture.md"
*_, COMPOSED, PART = re.findall(r"```python\n(.*?)```", HOWTO.read_text(encoding="utf-8"), re.S)
N, D, F = 64, 12, 40


@dataclass(frozen=True)
class Config(ms.SAEConfig):
    kind: ClassVar[str] = "composed for a test"


class Composed(nn.ComposedSAE):
    Config = Config

    def __init__(self, composition: nn.Composition) -> None:
        self._parts = composition
        super().__init__(Config(D, F))
        self.start_tied(1)
        with torch.no_grad():
            # Some tokens have fewer than k positive pre-activations: chosen entries of value 0 have no gradient.
            self.b_enc.normal_(-1.2, 0.1, generator=torch.Generator().manual_seed(2))
            self.W_dec.add_(0.1 * torch.randn(F, D, generator=torch.Generator().manual_seed(3)))

    @property
    def composition(self) -> nn.Composition:
        return self._parts


def batch() -> torch.Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(4))


COMPOSITIONS = {
    "topk": nn.Composition(nn.TopK(5)),
    "topk-l1": nn.Composition(nn.TopK(5), penalty=nn.L1(0.02)),
    "topk-auxk": nn.Composition(nn.TopK(5), revival=nn.AuxK(4, 0.5)),
    "topk-l1-auxk": nn.Composition(nn.TopK(5), penalty=nn.L1(0.02), revival=nn.AuxK(4, 0.5)),
    "relu": nn.Composition(nn.ReLU()),
    "relu-l1": nn.Composition(nn.ReLU(), penalty=nn.L1(0.02)),
}
FORMS = [(name, dense) for name in COMPOSITIONS for dense in (False, True) if not dense or name.startswith("relu")]


@pytest.mark.parametrize(("name", "dense"), FORMS)
def test_gradients_equal_autograd_of_the_loss(name, dense):
    parts = COMPOSITIONS[name]
    sae, x, dead = Composed(parts), batch(), torch.arange(F) % 3 == 0
    if isinstance(parts.activation, nn.ReLU):
        sae.capacity.density.fill_(float(dense))
    out = sae.loss(x, sparsity_scale=0.5, dead=dead)
    out.loss.backward()
    values = sae.encode(x).values
    assert (values > 0).any() and (dense or isinstance(parts.activation, nn.ReLU) or (values == 0).any())
    gradients = sae.gradients(x, sparsity_scale=0.5, dead=dead)
    assert isinstance(gradients.parameters, DenseBlocks) == dense
    arrays = gradients.parameters.multiplied()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(arrays[name], p.grad, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    for name in ("loss", "mse", "sparsity", "aux"):
        torch.testing.assert_close(getattr(gradients, name), getattr(out, name), rtol=1e-5, atol=1e-7)
    assert (out.aux > 0) == (parts.revival is not None)
    expected = (x - sae(x)).square().mean(1)
    if parts.penalty is not None:
        expected = expected + 0.01 * sae.encode(x).to_dense().sum(1)
    torch.testing.assert_close(sae.token_losses(x, 0.5), expected.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
def test_the_penalty_of_the_howto_has_the_gradients_of_autograd(dense):
    names: dict = {"__name__": "howto"}
    exec(PART, names)
    sae, x = Composed(nn.Composition(nn.ReLU(), penalty=names["LogPenalty"](1e-2))), batch()
    sae.capacity.density.fill_(float(dense))
    out = sae.loss(x, sparsity_scale=0.5)
    out.loss.backward()
    expected = (x - sae(x)).square().mean() + 0.5e-2 * torch.log1p(sae.encode(x).to_dense() / 0.1).sum(1).mean()
    torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-7)
    gradients = sae.gradients(x, sparsity_scale=0.5)
    torch.testing.assert_close(gradients.loss, out.loss, rtol=1e-5, atol=1e-7)
    arrays = gradients.parameters.multiplied()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(arrays[name], p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "activation", [nn.TopK(5), nn.AbsTopK(5), nn.GroupMax(5)], ids=["topk", "abs_topk", "group_max"]
)
@pytest.mark.parametrize(
    "penalty", [nn.Lp(0.02, 0.5), nn.NormL1(0.02), nn.Tanh(0.02), nn.L1(0.02)], ids=["lp", "norm_l1", "tanh", "l1"]
)
def test_entries_of_value_0_have_no_slope_whatever_the_penalty(activation, penalty):
    sae, x = Composed(nn.Composition(activation, penalty=penalty)), batch()
    out = sae.loss(x)
    out.loss.backward()
    assert isinstance(activation, nn.AbsTopK) or (out.code.values == 0).any()
    gradients = sae.gradients(x)
    torch.testing.assert_close(gradients.loss, out.loss, rtol=1e-5, atol=1e-7)
    arrays = gradients.parameters.multiplied()
    for name, p in sae.named_parameters():
        torch.testing.assert_close(arrays[name], p.grad, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_parts_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match=r"revival: got AuxK\(most=4, .* with ReLU\(\); wanted None, or an activation"):
        Composed(nn.Composition(nn.ReLU(), revival=nn.AuxK(4, 0.5)))


def test_the_composition_of_the_howto_trains_and_loads(tmp_path):
    names: dict = {"__name__": "howto"}
    try:
        exec(COMPOSED, names)
        sae = names["PenalizedTopKSAE"](D, F, k=5, l1_coefficient=1e-2, seed=0)
        before = float(sae.gradients(batch()).loss)
        trainer = ms.Trainer(sae, ms.TrainConfig(steps=20, batch_size=N, lr=1e-2), tmp_path / "run", progress=False)
        trainer.fit(batch() for _ in range(20))
        assert trainer.last_metrics[0]["loss"] < before
        again = ms.load(tmp_path / "run")
        assert type(again) is type(sae) and again.cfg == sae.cfg and torch.equal(again.W_dec, sae.W_dec)
    finally:
        KINDS.pop("topk_l1", None)
