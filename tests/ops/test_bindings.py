"""The compiled module follows addresses blindly: it takes no tensor that is not what a kernel will read or write."""

import pytest
import torch

from monosem import ops
from monosem.ops.backend import native as _C
from monosem.ops.selection import cpu_integers

N, F, D, K = 4, 6, 5, 2


def code():
    indices = torch.tensor([[0, 3], [1, 5], [2, 3], [0, 4]], dtype=torch.int32).flatten()
    return torch.rand(N * K) + 0.1, indices, torch.arange(N + 1) * K


def by_feature():
    _, i, o = code()
    return list(ops.csc(i, o, F))


def fp32(*size):
    return torch.rand(*size)


def block(kind):
    made = _C.TopkBlock(N, K, 200) if kind == "topk" else _C.ThresholdBlock(N)
    made.begin(False)
    return made


def whole():
    x, w = cpu_integers.QuantizedRows(fp32(N, D), 16, True), cpu_integers.QuantizedRows(fp32(F, D), 16, False)
    margins = cpu_integers.ErrorBounds(x, w, D, 0.0)
    return x, w, margins


def tile():
    x, w, m = whole()
    bias = torch.full((w.padded,), -torch.inf)
    return [16, x.packed, w.packed, x.scale, w.scale, w.start, bias, m.native, N, w.padded, D], (x, w, m)


def answer():
    made, kept = tile()
    x, w, b = fp32(N, D), fp32(F, D), fp32(F)
    made[6][:F] = b
    return [_C.IntTile(*made), _C.Exact(x, w, b, D), K, 200, fp32(N, K), torch.zeros(N, K, dtype=torch.int32),
            torch.zeros(N, dtype=torch.uint8), 1], (kept, made, x, w, b)  # fmt: skip


ADAM = [1e-3, 0.9, 0.999, 1e-8, 1, False, False, 1]
CALLS = {
    "sparse_decode": lambda: (_C.sparse_decode, [*code(), N, fp32(F, D), F, D, fp32(D), fp32(N, D), 1]),
    "gather_dot": lambda: (_C.gather_dot, [*code()[1:], N, fp32(F, D), F, D, fp32(N, D), 1.0, fp32(N * K), 1]),
    "decode_loss": lambda: (_C.decode_loss, [*code(), N, fp32(F, D), F, D, fp32(D), fp32(N, D), fp32(N), fp32(N, D),
                                             fp32(N * K), 1]),
    "csc": lambda: (_C.csc, [*code()[1:], N, F, *by_feature(), 1]),
    "row_grad": lambda: (_C.row_grad, [*by_feature(), F, fp32(N * K), fp32(N, D), N, D, fp32(F, D), 1]),
    "feature_sum": lambda: (_C.feature_sum, [*by_feature()[:2], F, fp32(N * K), fp32(F), 1]),
    "row_adam": lambda: (_C.row_adam, [fp32(F, D), fp32(F, D), fp32(F, D), None, fp32(F, D), F, D, *ADAM]),
    "row_adam int8": lambda: (_C.row_adam, [fp32(F, D), torch.zeros(F, D, dtype=torch.int8),
                                            torch.zeros(F, D, dtype=torch.uint8), fp32(2, F), fp32(F, D), F, D, *ADAM]),
    "row_grad_adam": lambda: (_C.row_grad_adam, [fp32(F, D), fp32(F, D), fp32(F, D), None, *by_feature(), F,
                                                 fp32(N * K), fp32(N, D), N, D, 1.0, *ADAM]),
    "resample": lambda: (_C.resample, [fp32(F, D), fp32(F, D), fp32(F), F, D, torch.tensor([1, 5]), 2, fp32(2, D),
                                       torch.ones(F, dtype=torch.uint8), 0.2, 1]),
    "largest_norms": lambda: (_C.largest_norms, [fp32(F, D), F, D, 1]),
    "topk filter": lambda: (block("topk").filter, [fp32(N, F), N, F, 0, fp32(F), fp32(N), 1]),
    "topk finish": lambda: (block("topk").finish, [N, fp32(N, K), torch.zeros(N, K, dtype=torch.int32), 1]),
    "threshold filter": lambda: (block("relu").filter, [fp32(N, F), N, F, 0, fp32(F), fp32(N), 1]),
    "threshold counts": lambda: (block("relu").counts, [N, torch.zeros(N, dtype=torch.int64)]),
    "quantize": lambda: (_C.quantize, [16, fp32(F, D), F, D, False, *(getattr(whole()[1], name) for name in
                                           ("packed", "scale", "norm", "off", "start")), 1]),
    "IntTile": lambda: (_C.IntTile, tile()[0]),
    "int_topk": lambda: (_C.int_topk, answer()[0]),
}  # fmt: skip
OTHER = {torch.float32: torch.float64, torch.int32: torch.int64, torch.int64: torch.int32, torch.int8: torch.int16,
         torch.uint8: torch.int32}  # fmt: skip
BREAK = {
    "another dtype": lambda t: t.to(OTHER[t.dtype]),
    "half of the bytes": lambda t: t.flatten().view(torch.int16)[: t.numel()].view(torch.float16),
    "an element less": lambda t: t.flatten()[:-1],
    "another device": lambda t: t.to("meta"),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "None": lambda t: None,
    "no tensor": lambda t: t.data_ptr(),
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("name", CALLS)
def test_no_tensor_is_taken_on_trust(name, how):
    call, arguments = CALLS[name]()
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor)]
    for at in tensors:
        if how == "None" and name.endswith("filter") and at == 5:  # exact values have no margin
            continue
        call, arguments = CALLS[name]()
        if how == "half of the bytes" and arguments[at].element_size() < 4:
            continue
        arguments[at] = BREAK[how](arguments[at])
        with pytest.raises((ValueError, IndexError, TypeError)):
            call(*arguments)


@pytest.mark.parametrize("name", ["sparse_decode", "csc", "row_grad", "row_adam", "row_adam int8", "resample"])
def test_what_is_in_order_is_taken(name):
    call, arguments = CALLS[name]()
    call(*arguments)


def test_the_error_says_which_and_what():
    call, arguments = CALLS["sparse_decode"]()
    arguments[-2] = arguments[-2].bfloat16()
    with pytest.raises(ValueError, match=r"out: got torch.bfloat16; wanted torch.float32"):
        call(*arguments)
    arguments[-2] = torch.empty(N, D - 1, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"out: got 16 elements; wanted at least 20"):
        call(*arguments)


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        (0, lambda s: s + 1, "entries: got 8 elements; wanted at least 9"),
        (0, lambda s: s.flip(0), "starts: not ascending"),
        (1, lambda e: e - 1, "entries: not all have a coefficient"),
        (1, lambda e: e + 1, "entries: not all have a coefficient"),
        (2, lambda t: t + 1, "tokens: not all are rows of u"),
        (2, lambda t: t - 1, "tokens: not all are rows of u"),
    ],
)
def test_a_broken_sorted_code_is_refused(at, change, message):
    parts = by_feature()
    parts[at] = change(parts[at])
    w = fp32(F, D)
    with pytest.raises((ValueError, IndexError), match=message):
        ops.row_grad(*parts, fp32(N * K), fp32(N, D))
    with pytest.raises((ValueError, IndexError), match=message):
        ops.row_grad_adam_(w, w.clone(), w.clone(), *parts, fp32(N * K), fp32(N, D), 1.0, *ADAM[:6])


def test_rows_to_resample_are_rows():
    w = fp32(F, D)
    for features in ([F], [-1]):
        with pytest.raises(IndexError, match="features: not all are rows"):
            ops.resample_(
                w, w.clone(), fp32(F), [], torch.tensor(features), fp32(1, D), torch.ones(F, dtype=torch.bool), 0.2
            )
