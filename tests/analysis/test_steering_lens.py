"""Steering a TransformerLens model does what it does to the same weights behind our own model.

tests/data/test_lens_39.py runs this file again on TransformerLens 3.9.
"""

import os

import pytest
import torch
from tiny import HOOK, tiny_model

import monosem as ms
from monosem.analysis.steering import Edit, Steering, log_likelihood_change, side_by_side
from monosem.data import models

if os.environ.get("MONOSEM_REQUIRE_LENS"):
    import transformer_lens  # noqa: F401
else:
    reason = "TransformerLens is not installed (pip install transformer-lens)"
    pytest.importorskip("transformer_lens", reason=reason, exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
EDITS = [Edit(3, "pin", 6.0), Edit(8, "add", 2.0), Edit(1, "ablate")]


@pytest.fixture(scope="module")
def ours():
    return tiny_model(n_layers=2)


@pytest.fixture(scope="module")
def lens(ours):
    return models.load_model(models.as_transformer_lens(ours))


@pytest.mark.parametrize("error", ["keep", "drop"])
@pytest.mark.parametrize("hook", [HOOK, "blocks.1.hook_resid_post"])
def test_transformer_lens_reads_and_writes_like_the_native_model(ours, lens, hook, error):
    steering = Steering(ms.TopKSAE(ours.width(hook), 40, k=4, seed=0), EDITS, error=error)
    tokens = torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    change = log_likelihood_change(lens, hook, tokens, steering)
    torch.testing.assert_close(change, log_likelihood_change(ours, hook, tokens, steering), atol=2e-4, rtol=1e-4)
    assert (change[:, 1:].abs() > 1e-4).all() and change[:, 0].abs().max() < 1e-6
    wrote = [side_by_side(m, hook, steering, "the quick", samples=2, length=5, temperature=0) for m in (lens, ours)]
    assert wrote[0] == wrote[1] and wrote[0][0].steered != wrote[0][0].unsteered


def test_steering_is_a_hook_of_transformer_lens(lens):
    """Given to ``run_with_hooks`` of the bare model it does the same."""
    steering = Steering(ms.TopKSAE(32, 40, k=4, seed=0), EDITS)
    tokens = torch.randint(1, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = lens.module.run_with_hooks(tokens, return_type="loss", fwd_hooks=[(HOOK, steering)])
    torch.testing.assert_close(loss, lens.token_losses(tokens, {HOOK: steering}).mean(), atol=2e-5, rtol=1e-5)


def test_no_edits_change_nothing(ours, lens):
    tokens = torch.randint(1, 300, (1, 16), generator=torch.Generator().manual_seed(0))
    steering = Steering(ms.TopKSAE(32, 40, k=4, seed=0))
    assert log_likelihood_change(lens, HOOK, tokens, steering).abs().max() == 0
    assert not [n for n, h in lens.module.hook_dict.items() if h.fwd_hooks]
