"""Activations that hold their entries only, against the dense tensor."""

import copy
import io
from dataclasses import replace

import pytest
import torch

from monosem import ops
from monosem.drop_in.activations import Activations
from monosem.ops import SparseCode

N, F = 7, 12


def codes():
    """The same numbers in both forms: three entries per token, one of them 0."""
    generator = torch.Generator("cpu").manual_seed(0)
    indices = torch.rand(N, F, generator=generator).argsort(1)[:, :3].sort(1).values.int()
    values = torch.randn(N, 3, generator=generator)
    values[:, 1] = 0
    uniform = SparseCode(values, indices, None, F, torch.Size([N]))
    csr = SparseCode(*uniform.csr(), F, torch.Size([N]))
    return {"uniform": uniform, "csr": csr}


def pair(form, shape=(N,)):
    """Lazy activations and the dense tensor, of values that each needs the gradient of."""
    code = codes()[form]
    values = [code.values.clone().requires_grad_() for _ in range(2)]
    made = [SparseCode(v, code.indices, code.offsets, F, torch.Size(shape)) for v in values]
    return Activations.of(made[0]), made[1].to_dense(), values


SPARSE = {  # functions that need no dense tensor
    "bool": lambda f: f.bool().float(),
    "abs": lambda f: f.abs(),
    "relu": torch.relu,
    "positive": lambda f: (f > 0).float(),
    "above 0.5": lambda f: f.gt(0.5).double(),
    "not 0": lambda f: (f != 0).float(),
    "square": lambda f: f**2,
    "negative": lambda f: -f,
    "half": lambda f: f / 2,
    "times a number": lambda f: 3 * f * torch.tensor(2.0),
    "times a value per feature": lambda f: f * torch.linspace(1, 2, F),
    "value per feature times": lambda f: torch.linspace(1, 2, F) * f,
    "times its mask": lambda f: f * (f > 0),
    "sum": lambda f: f.sum(),
    "sum over features": lambda f: f.sum(-1),
    "sum over features, kept": lambda f: f.sum(dim=-1, keepdim=True),
    "sum over tokens": lambda f: f.sum(0),
    "sum over tokens from behind": lambda f: torch.sum(f, -2),
    "mean": lambda f: f.mean(),
    "mean over tokens": lambda f: f.mean(dim=0),
    "how many": lambda f: (f > 0).sum(-1).float(),
    "whether any": lambda f: (f > 0).any().float(),
    "L1": lambda f: f.norm(p=1, dim=-1),
    "L2": lambda f: f.norm(dim=-1),
    "weighted L1": lambda f: (f.abs() * torch.linspace(1, 2, F)).sum(-1).mean(),
    "decoded": lambda f: f @ torch.linspace(-1, 1, F * 4).view(F, 4),
    "decoded by a linear map": lambda f: torch.nn.functional.linear(
        f, torch.linspace(-1, 1, F * 4).view(4, F), torch.ones(4)
    ),
    "some features": lambda f: f[:, 3:9] @ torch.linspace(-1, 1, 24).view(6, 4),
    "a split": lambda f: torch.cat([part.sum(-1) for part in torch.split(f, [2, 4, 6], dim=1)]),
    "detached": lambda f: f.detach() * 2,
    "L2 of all": lambda f: f.norm(),
    "L3 over tokens": lambda f: torch.norm(f, 3, 0, True),
    "L0.5": lambda f: f.norm(p=0.5, dim=-1),
    "mask of some features": lambda f: (f > 0)[:, 3:9].logical_not().float(),
    "decoded in float64": lambda f: f.double() @ torch.linspace(-1, 1, F * 4, dtype=torch.float64).view(F, 4),
    "numbers of 16 bits, added up": lambda f: (f.bool().bfloat16() * 300).sum(0) - (f.bfloat16() * 0 + 2).dim(),
    "integers, added up": lambda f: (f * 100).to(torch.int8).sum(0).float(),
    "to float64": lambda f: f.to(torch.float64),
    "as float": lambda f: f.float(),
}
DENSE = {  # functions that do
    "plus 1": lambda f: f + 1,
    "exponential": torch.exp,
    "at most 0": lambda f: (f <= 0).float(),
    "softmax": lambda f: f.softmax(-1),
    "transposed": lambda f: f.T @ torch.ones(N, 2),
    "one feature": lambda f: f[:, 4],
    "a token": lambda f: f[2],
    "largest": lambda f: f.max(-1).values,
    "from the right": lambda f: torch.ones(3, N) @ f,
    "concatenated": lambda f: torch.cat([f, f]),
    "power 0": lambda f: f**0,
    "clamped from below": lambda f: f.clamp(min=0.1),
    "sum of both dimensions apart": lambda f: f.sum((0,)) + f.sum((1,)).sum(),
    "rearranged": lambda f: f.view(-1),
    "an infinite norm": lambda f: f.norm(p=float("inf"), dim=-1),
    "by the names of arguments": lambda f: torch.sum(input=f, dim=0) + f.sum(axis=0) + torch.mul(f, other=2).sum(0),
    "decoded by the name of an argument": lambda f: f.matmul(other=torch.ones(F, 2)),
    "into a tensor": lambda f: torch.sum(f.detach(), 0, out=torch.empty(0)) + torch.mul(f, 2).sum(0),
    "a product with infinity": lambda f: (f.detach() * float("inf")).nan_to_num(7.0) + f,
    "a product with a number less": lambda f: 1 - f,
    "a power with a negative exponent": lambda f: (f.detach() ** -1).clamp(max=9),
    "a power of 2": lambda f: 2**f,
    "clamped from above": lambda f: f.clamp(max=-0.5),
    "compared from the left": lambda f: (torch.zeros(()) < f).float() + (torch.ones(N, F) >= f).float(),
    "per feature, divided": lambda f: f / torch.linspace(1, 2, F),
    "features of a mask": lambda f: f[..., torch.arange(F) % 2 == 0],
    "features of a list": lambda f: f[:, [1, 2]],
    "some features of some tokens": lambda f: f[torch.arange(N) > 2, 2:5],
    "no features": lambda f: f[:, 5:3],
    "in equal parts": lambda f: torch.stack([part.sum(-1) for part in torch.split(f, 4, dim=1)]),
    "a vector of weights": lambda f: torch.nn.functional.linear(f, torch.linspace(1, 2, F)),
    "two losses": lambda f: (
        f.norm(p=1, dim=-1).mean() + (f @ torch.ones(F, 2)).square().sum() + f.exp().sum() + f.sum()
    ),
}


@pytest.mark.parametrize("form", ["uniform", "csr"])
@pytest.mark.parametrize("name", [*SPARSE, *DENSE])
def test_functions_equal_those_of_the_dense_tensor_with_their_gradients(form, name):
    function = (SPARSE | DENSE)[name]
    lazy, dense, values = pair(form)
    found, wanted = function(lazy), function(dense)
    if name in SPARSE:
        assert lazy.is_lazy, "no dense tensor was made"
    found = found.dense() if isinstance(found, Activations) else found
    torch.testing.assert_close(found, wanted)
    assert found.requires_grad == wanted.requires_grad
    if wanted.requires_grad:
        weights = torch.linspace(1, 2, wanted.numel(), dtype=wanted.dtype).view(wanted.shape)
        (found * weights).sum().backward()
        (wanted * weights).sum().backward()
        torch.testing.assert_close(*(v.grad for v in values))


def test_attributes_need_no_numbers():
    lazy, dense, _ = pair("csr")
    for name in ("shape", "dtype", "device", "ndim", "requires_grad", "is_sparse", "layout"):
        assert getattr(lazy, name) == getattr(dense, name), name
    assert lazy.size(-1) == F and len(lazy) == N and lazy.dim() == 2 and lazy.numel() == N * F
    assert isinstance(lazy, torch.Tensor) and lazy.grad_fn is not None and lazy.is_lazy


@pytest.mark.parametrize("form", ["uniform", "csr"])
def test_the_smallest_of_a_mask(form):
    lazy, dense, _ = pair(form)
    assert torch.equal(lazy[lazy > 0].min(), dense[dense > 0].min())
    torch.testing.assert_close(lazy[lazy > 0], dense[dense > 0])
    assert lazy.is_lazy == (form == "csr"), "entries in order of their values are not in the order of the tensor"


def test_tokens_of_several_dimensions():
    code = codes()["csr"]
    lazy = Activations.of(SparseCode(code.values, code.indices, code.offsets, F, torch.Size([1, N])))
    dense = code.to_dense()[None]
    for function in (lambda f: f.sum(-1), lambda f: f.sum((0, 1)), lambda f: f.mean((0, 1)), lambda f: f[..., 2:5]):
        found = function(lazy)
        torch.testing.assert_close(found.dense() if isinstance(found, Activations) else found, function(dense))


def test_what_is_written_is_seen_by_all_that_follows():
    lazy, dense, values = pair("uniform")
    w = torch.linspace(-1, 1, F * 4).view(F, 4)
    for f in (lazy, dense):
        f[:, 5] = 2.0
        f[0] *= 3
        f.relu_()
    torch.testing.assert_close(lazy @ w, dense @ w)
    (lazy @ w).square().sum().backward()
    (dense @ w).square().sum().backward()
    torch.testing.assert_close(*(v.grad for v in values))


def test_a_view_writes_into_the_activations():
    lazy, dense, _ = pair("csr")
    for f in (lazy, dense):
        with torch.no_grad():
            f.view(-1)[7:20].zero_()
    torch.testing.assert_close(lazy.sum(-1), dense.sum(-1))


@pytest.mark.parametrize("form", ["uniform", "csr"])
def test_slices_are_views(form):
    lazy, dense, values = pair(form)
    w = torch.linspace(-1, 1, 6 * 4).view(6, 4)
    parts = [(f[:, 3:9], f[:, 2:]) for f in (lazy, dense)]
    with torch.no_grad():
        for (part, rest), f in zip(parts, (lazy, dense), strict=True):
            part[:, 1].zero_()
            rest[2].mul_(3)
            f[:, 8] = 2.0
    for (part, rest), (its, their) in zip(*[[p] for p in parts], strict=True):
        torch.testing.assert_close(part @ w, its @ w)
        torch.testing.assert_close(rest.sum(-1), their.sum(-1))
    torch.testing.assert_close(lazy.sum(0), dense.sum(0))
    for f in (lazy, dense):
        f.square().sum().backward()
    torch.testing.assert_close(*(v.grad for v in values))


def test_sums_of_numbers_of_16_bits_are_rounded_once():
    n = 3000
    ones = torch.ones(n, 1, dtype=torch.bfloat16)
    f = Activations.of(SparseCode(ones, ones.int(), None, 3, torch.Size([n])))
    for function in (lambda f: f.sum(0), lambda f: f.mean(0), lambda f: f.norm(dim=0), lambda f: f.norm(p=1, dim=0)):
        found = function(f)
        assert f.is_lazy and found.dtype == torch.bfloat16
        torch.testing.assert_close(found, function(f.clone().dense()))


@pytest.mark.parametrize("wrong", ["sum", "mean", "norm"])
@pytest.mark.parametrize("dim", [2, -3, (0, 0)])
def test_dimensions_that_do_not_exist_are_errors(wrong, dim):
    lazy, dense, _ = pair("csr")
    for f in (dense, lazy):
        with pytest.raises((IndexError, RuntimeError), match=r"Dimension out of range|appears multiple times"):
            getattr(f, wrong)(dim=dim)


def test_the_mean_of_a_mask_is_an_error():
    for f in pair("csr")[:2]:
        with pytest.raises(RuntimeError, match="could not infer output dtype"):
            (f > 0).mean()


def test_gradients_of_activations_are_those_of_all_uses_or_refused():
    lazy, dense, _ = pair("csr")
    for f in (lazy, dense):
        f.retain_grad()
        (f.square().sum() + f.exp().sum()).backward()
    torch.testing.assert_close(lazy.grad, dense.grad)
    lazy, _, _ = pair("csr")
    loss = lazy.square().sum() + lazy.exp().sum()
    with pytest.raises(RuntimeError, match=r"Activations: got a request for their gradient .* Call retain_grad\(\)"):
        torch.autograd.grad(loss, lazy)


def test_what_is_made_a_leaf_is_one():
    f = pair("csr")[0].detach()
    f.requires_grad_()
    assert f.requires_grad and f.is_leaf
    f.square().sum().backward()
    torch.testing.assert_close(f.grad, 2 * f.detach())


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2 + 0

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def test_gradients_pass_through_functions_that_ask_for_no_overrides():
    lazy, dense, values = pair("csr")
    for f in (lazy, dense):
        Doubled.apply(f).square().sum().backward()
    torch.testing.assert_close(*(v.grad for v in values))


def test_the_dense_tensor_has_its_gradient_though_it_was_made_without():
    lazy, dense, values = pair("csr")
    with torch.no_grad():
        assert not (lazy + 1).requires_grad
    (lazy + 1).square().sum().backward()
    (dense + 1).square().sum().backward()
    torch.testing.assert_close(*(v.grad for v in values))


def test_scatter_of_known_distinct_indices_stays_sparse_and_of_others_is_dense():
    code = codes()["uniform"]
    for distinct in (True, False):
        buffer = torch.zeros_like(Activations.of(code))
        index = code.indices.long()
        index.is_distinct = distinct
        found = buffer.scatter_(-1, index, code.values)
        assert isinstance(found, Activations) == distinct
        torch.testing.assert_close(found @ torch.eye(F), code.to_dense())
        torch.testing.assert_close(buffer @ torch.eye(F), code.to_dense())


def test_scatter_into_a_copy_leaves_the_buffer_as_it_is():
    code = codes()["uniform"]
    buffer, index = torch.zeros_like(Activations.of(code)), code.indices.long()
    index.is_distinct = True
    for _ in range(2):
        torch.testing.assert_close(buffer.scatter(-1, index, code.values) @ torch.eye(F), code.to_dense())
    assert not (buffer + 0).any()
    one = torch.zeros_like(Activations.of(code)).scatter_(-1, index, 1.0)
    torch.testing.assert_close(one, torch.zeros(N, F).scatter_(-1, code.indices.long(), 1.0))


def test_copies_and_files_are_dense():
    lazy, dense, _ = pair("csr")
    torch.testing.assert_close(copy.deepcopy(lazy.detach()), dense.detach())
    file = io.BytesIO()
    torch.save(lazy.detach(), file)
    file.seek(0)
    assert torch.equal(torch.load(file), dense)
    assert lazy.tolist() == dense.tolist() and "requires_grad" not in repr(lazy.detach())


def test_code_is_refused_once_the_activations_are_dense():
    lazy, _, _ = pair("csr")
    lazy.exp()
    with pytest.raises(RuntimeError, match="code: these activations were made dense"):
        _ = lazy.code


def test_a_feature_that_stays_zero_is_not_poisoned_by_others():
    """What is no entry is not read: NaN in a decoder row of a feature that is silent does not spread."""
    code = replace(codes()["csr"], d_sae=F + 3)
    silent = sorted(set(range(F + 3)) - set(code.indices.tolist()))
    w = torch.ones(F + 3, 4)
    w[silent] = torch.nan
    torch.testing.assert_close(Activations.of(code) @ w, ops.decode(code, torch.ones(F + 3, 4), torch.zeros(4)))
