"""Each CUDA kernel once, on one set of data, against its definition in float64: in the emulator first, then on a GPU.

Data, definitions and what PyTorch loses are made on the processor. There they are the same every run: on a GPU
index_add adds in any order, a sum has another tree than on the next card, and random numbers are others.
"""

from __future__ import annotations

import torch
from by_backend import implementations
from ops.cases import code, used_of_budget
from torch import Tensor

from monosem.ops import reference

cuda = implementations("cuda")

# (tokens, D, F); small enough for compute-sanitizer, and of real widths.
SMALL = [(40, 33, 50), (24, 64, 40)]
TUNED = (50, 768, 80)  # tried with every block size
WIDE = [(300, 768, 400), (500, 512, 1500), (90, 4096, 120), (64, 2304, 300), (40, 12_300, 40)]
HYPER = (1e-2, 0.9, 0.99, 1e-8, 7)


def everything(n: int, d: int, f: int, dtype: torch.dtype, device: str) -> dict[str, float]:
    """{kernel: part of its error budget that it used}; above 1 is wrong. What has no budget is equal, or raises."""
    g = torch.Generator().manual_seed(n + d + f)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, device="cpu")

    def there(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.to(device) for t in tensors)

    shares: dict[str, float] = {}

    def compare(name: str, ours: Tensor, plain: Tensor, exact: Tensor) -> None:
        shares[name] = max(shares.get(name, 0.0), used_of_budget(ours.cpu(), plain.to(ours.dtype), exact))

    v, i, o = (t.cpu() for t in code(n, d, f))
    w = torch.nn.functional.normalize(normal(f, d), dim=-1).to(dtype)
    x, b, v = normal(n, d).to(dtype), normal(d).to(dtype), v.to(dtype)
    single, double = (v.float(), i, o, w.float(), b.float()), (v.double(), i, o, w.double(), b.double())
    its_v, its_i, its_o, its_w, its_b, its_x = there(v, i, o, w, b, x)
    ours = cuda.decode_loss(its_v, its_i, its_o, its_w, its_b, its_x)
    definitions = zip(
        reference.decode_loss(*single, x.float()), reference.decode_loss(*double, x.double()), strict=True
    )
    for part, mine, (plain, exact) in zip(("loss", "residual", "slopes"), ours, definitions, strict=True):
        compare(f"decode_loss: {part}", mine, plain, exact)
    mine = cuda.sparse_decode(its_v, its_i, its_o, its_w, its_b)
    compare("sparse_decode", mine, reference.sparse_decode(*single), reference.sparse_decode(*double))
    compare(
        "gather_dot", cuda.gather_dot(its_x, its_i, its_o, its_w),
        reference.gather_dot(x.float(), i, o, w.float()), reference.gather_dot(x.double(), i, o, w.double()),
    )  # fmt: skip
    csc, its_csc = reference.csc(i, o, f), cuda.csc(its_i, its_o, f)
    for mine, wanted in zip(its_csc, csc, strict=True):
        assert torch.equal(mine.cpu(), wanted)
    v, x, w = v.float(), x.float(), w.float()
    its_v, its_x = there(v, x)
    gradient = reference.row_grad(*csc, v.double(), x.double())
    compare("row_grad", cuda.row_grad(*its_csc, its_v, its_x), reference.row_grad(*csc, v, x), gradient)
    compare(
        "feature_sum", cuda.feature_sum(*its_csc[:2], its_v), reference.feature_sum(*csc[:2], v),
        reference.feature_sum(*csc[:2], v.double()),
    )  # fmt: skip
    start = w, normal(f, d) * 1e-2, torch.rand(f, d, generator=g, device="cpu") * 1e-3 + 1e-4
    for unit in (False, True):
        plain, exact = [t.clone() for t in start], [t.double() for t in start]
        reference.row_adam_(*plain, reference.row_grad(*csc, v, x) * 0.5, *HYPER, unit)
        reference.row_adam_(*exact, gradient * 0.5, *HYPER, unit)
        fused = [t.clone() for t in there(*start)]
        cuda.row_grad_adam_(*fused, *its_csc, its_v, its_x, 0.5, *HYPER, unit)
        dense = [t.clone() for t in there(*start)]
        cuda.row_adam_(*dense, *there(gradient.float() * 0.5), *HYPER, unit)
        for name, mine in (("row_grad_adam", fused), ("row_adam", dense)):
            for part, *three in zip("wmv", mine, plain, exact, strict=True):
                compare(f"{name}{', unit' * unit}: {part}", *three)
    encoder = [t.clone() for t in there(*start)]
    sums, weighted = cuda.encoder_grad_adam_(*encoder, *its_csc, its_v, its_x, None, *HYPER)
    plain, exact = (reference.feature_sum(*csc[:2], c) for c in (v, v.double()))
    compare("encoder_grad_adam: bias", sums, plain, exact)
    compare("encoder_grad_adam: weighted", weighted, plain @ w, exact @ w.double())
    plain, exact = [t.clone() for t in start], [t.double() for t in start]
    reference.row_adam_(*plain, reference.row_grad(*csc, v, x), *HYPER, False)
    reference.row_adam_(*exact, gradient, *HYPER, False)
    for part, *three in zip("wmv", encoder, plain, exact, strict=True):
        compare(f"encoder_grad_adam: {part}", *three)
    resample(w, x, g, there, compare)
    return shares


def resample(w_dec: Tensor, x: Tensor, g: torch.Generator, there, compare) -> None:
    f, d = w_dec.shape
    start = torch.randn(f, d, generator=g, device="cpu"), w_dec, torch.ones(f, device="cpu")
    alive, chosen = torch.ones(f, dtype=torch.bool, device="cpu"), torch.tensor([0, f - 1], device="cpu")
    alive[chosen] = False
    mine = [t.clone() for t in there(*start)]
    cuda.resample_(*mine, [], *there(chosen, x[:2], alive), 0.2)
    plain, exact = [t.clone() for t in start], [t.double() for t in start]
    reference.resample_(*plain, [], chosen, x[:2], alive, 0.2)
    reference.resample_(*exact, [], chosen, x[:2].double(), alive, 0.2)
    for part, *three in zip(("w_enc", "w_dec", "b_enc"), mine, plain, exact, strict=True):
        compare(f"resample: {part}", *three)
