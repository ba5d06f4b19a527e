"""Pre-activations that are computed as far as they are read, against all of them."""

import pytest
import torch

from monosem.drop_in.activations import Activations
from monosem.drop_in.pre_activations import Encoder, PreActivations

N, D, F = 6, 5, 16


def tensors(dtype=torch.float32):
    generator = torch.Generator("cpu").manual_seed(1)
    shapes = ((N, D), (F, D), (F,))
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def pair(relu=False):
    inputs = [tensors() for _ in range(2)]
    lazy = PreActivations.of(Encoder(*inputs[0], relu=relu))
    x, w, b = inputs[1]
    dense = x @ w.T + b
    return lazy, dense.relu() if relu else dense, inputs


MASK = torch.arange(F) % 3 == 0


def of_dead(h, k=3, mask=MASK[None]):
    values, indices = torch.where(mask, h, -torch.inf).topk(k, sorted=False)
    f = torch.zeros_like(h).scatter_(dim=-1, index=indices, src=values)
    return f @ torch.linspace(-1, 1, F * 4).view(F, 4)


LAZY = {
    "features of a mask": of_dead,
    "features of a mask without a dimension": lambda h: of_dead(h, mask=MASK),
    "a buffer of zeros": lambda h: (
        torch.zeros_like(h).sum() + 0 * h.detach().encoder.x.sum()
        if isinstance(h, PreActivations)
        else torch.zeros_like(h).sum() + 0 * h.detach().sum()
    ),
    "detached": lambda h: of_dead(h.detach()),
}
DENSE = {
    "all": lambda h: h * 1,
    "as many features as the mask has, and one more": lambda h: of_dead(h, k=int(MASK.sum()) + 1)[:, :0],
    "the largest": lambda h: h.topk(4).values,
    "the smallest": lambda h: torch.where(MASK, h, -torch.inf).topk(3, largest=False).values.clamp(min=-9),
    "softplus": torch.nn.functional.softplus,
    "masked by 0": lambda h: torch.where(MASK, h, 0.0),
    "a mask per token": lambda h: torch.where(torch.eye(N, F).bool(), h, -torch.inf).exp(),
}


@pytest.mark.parametrize("name", [*LAZY, *DENSE])
@pytest.mark.parametrize("relu", [False, True])
def test_functions_equal_those_of_all_pre_activations_with_their_gradients(name, relu):
    lazy, dense, inputs = pair(relu)
    function = (LAZY | DENSE)[name]
    found, wanted = function(lazy), function(dense)
    if name in LAZY:
        assert lazy.is_lazy
    torch.testing.assert_close(found, wanted)
    if wanted.requires_grad:
        for y in (found, wanted):
            y.square().sum().backward()
        for a, b in zip(*inputs, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


def test_the_largest_of_a_relu_stay_sparse():
    lazy, dense, inputs = pair()
    found, wanted = torch.relu(lazy).topk(4), dense.relu().topk(4)
    assert lazy.is_lazy
    torch.testing.assert_close(found.values, wanted.values)
    for y in (found, wanted):
        y.values.square().sum().backward()
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gradients_pass_through_functions_that_ask_for_no_overrides():
    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return grad

    lazy, dense, inputs = pair(relu=True)
    for h in (lazy, dense):
        Same.apply(h).square().sum().backward()
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_what_was_computed_without_gradients_has_none_later():
    with torch.no_grad():
        h = PreActivations.of(Encoder(*tensors()))
    assert not (h + 1).requires_grad and not torch.relu(h).topk(2).values.requires_grad


@pytest.mark.parametrize("read", [lambda h: h + 1, lambda h: h.relu().topk(2), of_dead, lambda h: h.detach() + 1])
def test_pre_activations_are_not_read_after_the_weights_changed(read):
    inputs = tensors()
    h, before = PreActivations.of(Encoder(*inputs)), PreActivations.of(Encoder(*inputs))
    before.mean()
    with torch.no_grad():
        inputs[1].mul_(2)
    with pytest.raises(RuntimeError, match="pre-activations: got weights or inputs that were changed in place"):
        read(h)
    read(before)  # its numbers are there


def test_entries_come_in_the_dtype_of_the_input():
    x, w, b = tensors(torch.bfloat16)
    e = Encoder(x, w, b)
    assert {e.topk(3).values.dtype, e.above().values.dtype, PreActivations.of(e).dtype} == {torch.bfloat16}
    wide = torch.nn.functional.linear(*(t.float() for t in (x, w, b)))
    torch.testing.assert_close(Activations.of(e.above()).dense().float(), wide.relu().bfloat16().float())
