"""The loss at the unembedding and its gradients against cross-entropy in float64, in both precisions of products."""

import pytest
import torch
from torch.nn import functional as F

from monosem.data.head_loss import ROWS, head_loss


def made(tokens=ROWS + 37, width=24, vocabulary=1009, spread=3.0):
    draw = torch.Generator().manual_seed(tokens)
    h = torch.randn(tokens, width, generator=draw)
    w = torch.randn(width, vocabulary, generator=draw) * spread / width**0.5
    b = torch.randn(vocabulary, generator=draw)
    return h, w, b, torch.randint(vocabulary, (tokens,), generator=draw)


def results(loss_of, h, w, b, target, dtype):
    leaves = [t.to(dtype).requires_grad_() for t in (h, w, b)]
    loss = loss_of(*leaves, target)
    return [loss.detach(), *torch.autograd.grad(3 * loss, leaves)]


def plain(h, w, b, target):
    return F.cross_entropy(h @ w + b, target)


def rounded(h, w, b, target):
    """PyTorch's own mixed precision: a product of rounded factors, and the softmax of its rounded result in fp32."""
    return F.cross_entropy((h.bfloat16() @ w.bfloat16()).float() + b, target)


def errors(got, exact):
    return [((a.double() - e).norm() / e.norm()).item() for a, e in zip(got, exact, strict=True)]


@pytest.mark.parametrize("tokens", [1, ROWS, 2 * ROWS + 37])
@pytest.mark.parametrize(("products", "peer"), [(torch.float32, plain), (torch.bfloat16, rounded)])
def test_value_and_gradients(products, peer, tokens):
    data = made(tokens)
    exact = results(plain, *data, torch.float64)
    ours = errors(results(lambda *a: head_loss(*a, products), *data, torch.float32), exact)
    theirs = errors(results(peer, *data, torch.float32), exact)
    for name, own, other in zip(("loss", "h", "w", "b"), ours, theirs, strict=True):
        assert own <= 2 * other + 1e-7, f"{name}: {own:.2g}, PyTorch in the same precision {other:.2g}"


def test_rounded_products_differ_from_those_in_fp32():
    data = made()
    fp32, bf16 = (
        results(lambda *a, p=p: head_loss(*a, p), *data, torch.float32) for p in (torch.float32, torch.bfloat16)
    )
    assert all(1e-5 < e < 1e-2 for e in errors(bf16[1:], [t.double() for t in fp32[1:]]))


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_token_of_probability_zero(products):
    h, w, b, target = made(40)
    b[7] = -300.0  # its probability is 0 in fp32, its loss is not infinite
    target[:] = 7
    exact = plain(h.double(), w.double(), b.double(), target)
    assert exact > 290
    assert head_loss(h, w, b, target, products).item() == pytest.approx(exact.item(), rel=1e-4)
