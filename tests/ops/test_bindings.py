"""The compiled module follows addresses blindly: it takes no tensor that is not what a kernel will read or write."""

import pytest
import torch

from monosem import ops
from monosem.ops.backend import native as _C
from monosem.ops.selection import cpu_integers
from monosem.ops.structs import AdamStep, Moments, SortedCode

N, F, D, K = 4, 6, 5, 2


def code():
    indices = torch.tensor([[0, 3], [1, 5], [2, 3], [0, 4]], dtype=torch.int32).flatten()
    return torch.rand(N * K) + 0.1, indices, torch.arange(N + 1) * K


def by_feature():
    _, i, o = code()
    return SortedCode(*ops.csc(i, o, F))


def fp32(*size):
    return torch.rand(*size)


def block(kind):
    candidates = _C.TopkBlock(N, K, 200) if kind == "topk" else _C.ThresholdBlock(N)
    candidates.begin(False)
    return candidates


def quantized():
    x, w = cpu_integers.QuantizedRows(fp32(N, D), 16, True), cpu_integers.QuantizedRows(fp32(F, D), 16, False)
    return x, w, cpu_integers.ErrorBounds.of(x, w, 0.0)


def tile():
    x, w, bounds = quantized()
    bias = torch.full((w.padded,), -torch.inf)
    operands = {"x": x.packed, "w": w.packed, "token_scale": x.scale, "token_offset": x.offset, "scale": w.scale}
    operands |= {"count": None, "start": w.start, "bias": bias, "features": torch.arange(w.padded, dtype=torch.int32)}
    KEPT.append((x, w, bounds))
    return {"product": "int16", **operands, "bounds": bounds.native, "rows": N, "cols": w.padded, "d": D}


KEPT = []  # tensors whose addresses a tile holds


def answer():
    operands, x, w, b = tile(), fp32(N, D), fp32(F, D), fp32(F)
    operands["bias"][:F] = b
    KEPT.append((operands, x, w, b))
    out = {"values": fp32(N, K), "indices": torch.zeros(N, K, dtype=torch.int32)}
    flags = torch.zeros(N, dtype=torch.uint8)
    return {
        "tile": _C.IntTile(**operands),
        "exact": _C.Exact(x, w, b, None),
        "k": K,
        "capacity": 200,
        **out,
        "flags": flags,
    }


def of_tokens(*parts):
    return {name: t for name, t in zip(("values", "indices", "offsets"), code(), strict=True) if name in parts}


def tiles():
    return {"tile": fp32(N, F), "first": 0, "bias": fp32(F), "error": fp32(N), "threads": 1}


def rounded_rows(dithered=False):
    rows, bits = fp32(F, D), 8 if dithered else 16
    made = cpu_integers.QuantizedRows(rows, bits, False, dithered)
    parts = {name: getattr(made, name) for name in ("packed", "scale", "norm", "off", "start")}
    parts |= {"offset": made.offset if dithered else None, "order": torch.arange(F, dtype=torch.int32).flip(0)}
    parts |= dict.fromkeys(("usual", "count", "along"))
    return {"product": f"int{bits}", "rows": rows, "tokens": False, **parts}


def rows_with_usual(tokens):
    rows, usual = fp32(N if tokens else F, D), fp32(D)
    made = cpu_integers.QuantizedRows(rows, 16, tokens, usual=cpu_integers.Usual(usual, 1.0))
    parts = {name: getattr(made, name) for name in ("packed", "scale", "norm", "off", "start", "count", "along")}
    KEPT.append(made)
    return {"product": "int16", "rows": rows, "tokens": tokens, **parts, "offset": None, "order": None, "usual": usual}


def tile_of_lists():
    usual = cpu_integers.Usual(fp32(D), 1.0)
    x = cpu_integers.QuantizedRows(fp32(N, D), 16, True, usual=usual)
    KEPT.append(x)
    return tile() | {"x": x.packed, "count": x.count}


STEP = AdamStep(1e-3, 0.9, 0.999, 1e-8, 1)
FP32 = Moments(fp32(F, D), fp32(F, D))
INT8 = Moments(torch.zeros(F, D, dtype=torch.int8), torch.zeros(F, D, dtype=torch.uint8), fp32(2, F))
ALL = "values", "indices", "offsets"
CALLS = {
    "sparse_decode": lambda: (
        _C.sparse_decode,
        {**of_tokens(*ALL), "w": fp32(F, D), "bias": fp32(D), "out": fp32(N, D)},
    ),
    "gather_dot": lambda: (
        _C.gather_dot,
        {**of_tokens(*ALL[1:]), "w": fp32(F, D), "g": fp32(N, D), "scale": 1.0, "out": fp32(N * K)},
    ),
    "decode_loss": lambda: (
        _C.decode_loss,
        {
            **of_tokens(*ALL),
            **{"w": fp32(F, D), "bias": fp32(D), "x": fp32(N, D)},
            **{"loss": fp32(N), "residual": fp32(N, D), "slopes": fp32(N * K)},
        },
    ),
    "code_range": lambda: (_C.code_range, {**of_tokens(*ALL[1:]), "entries": N * K}),
    "code_sums": lambda: (
        _C.code_sums,
        {**of_tokens(*ALL[:2]), "features": F, "fired": torch.zeros(F, dtype=torch.uint8)},
    ),
    "csc": lambda: (_C.csc, {**of_tokens(*ALL[1:]), "features": F, "out": by_feature()}),
    "row_grad": lambda: (
        _C.row_grad,
        {"code": by_feature(), "coef": fp32(N * K), "u": fp32(N, D), "out": fp32(F, D)},
    ),
    "feature_sum": lambda: (
        _C.feature_sum,
        {"starts": by_feature().starts, "entries": by_feature().entries, "coef": fp32(N * K), "out": fp32(F)},
    ),
    "row_adam": lambda: (_C.row_adam, {"w": fp32(F, D), "moments": FP32, "g": fp32(F, D), "step": STEP}),
    "row_adam int8": lambda: (_C.row_adam, {"w": fp32(F, D), "moments": INT8, "g": fp32(F, D), "step": STEP}),
    "row_adam own": lambda: (
        _C.row_adam,
        {"w": fp32(F, D), "moments": FP32, "g": fp32(F, D), "step": STEP._replace(own=fp32(F, 1))},
    ),
    "row_grad_adam own": lambda: (
        _C.row_grad_adam,
        {
            **{"w": fp32(F, D), "moments": INT8, "code": by_feature(), "coef": fp32(N * K)},
            **{"u": fp32(N, D), "scale": 1.0, "step": STEP._replace(own=fp32(F, D))},
            **dict.fromkeys(("bias", "sums", "weighted")),
        },
    ),
    "row_grad_adam": lambda: (
        _C.row_grad_adam,
        {
            **{"w": fp32(F, D), "moments": FP32, "code": by_feature(), "coef": fp32(N * K)},
            **{"u": fp32(N, D), "scale": 1.0, "step": STEP},
            **{"bias": fp32(N * K), "sums": fp32(F), "weighted": fp32(D)},
        },
    ),
    "resample": lambda: (
        _C.resample,
        {
            **{"w_enc": fp32(F, D), "w_dec": fp32(F, D), "b_enc": fp32(F), "features": torch.tensor([1, 5])},
            **{"inputs": fp32(2, D), "alive": torch.ones(F, dtype=torch.uint8), "factor": 0.2},
        },
    ),
    "largest_first": lambda: (
        _C.largest_first,
        {"scores": fp32(F), "order": torch.zeros(F, dtype=torch.int32)},
    ),
    "largest_norms": lambda: (_C.largest_norms, {"rows": fp32(F, D)}),
    "topk filter": lambda: (block("topk").filter, tiles()),
    "topk finish": lambda: (
        block("topk").finish,
        {"rows": N, "values": fp32(N, K), "indices": torch.zeros(N, K, dtype=torch.int32)},
    ),
    "threshold filter": lambda: (block("relu").filter, tiles()),
    "threshold counts": lambda: (block("relu").counts, {"rows": N, "out": torch.zeros(N, dtype=torch.int64)}),
    "quantize": lambda: (_C.quantize, rounded_rows()),
    "quantize dithered": lambda: (_C.quantize, rounded_rows(dithered=True)),
    "quantize lists": lambda: (_C.quantize, rows_with_usual(True)),
    "quantize along": lambda: (_C.quantize, rows_with_usual(False)),
    "usual_values": lambda: (_C.usual_values, {"x": fp32(N, D), "usual": fp32(D)}),
    "IntTile": lambda: (_C.IntTile, tile()),
    "IntTile of lists": lambda: (_C.IntTile, tile_of_lists()),
    "int_topk": lambda: (_C.int_topk, answer()),
}
WITHOUT_THREADS = {"threshold counts", "IntTile", "IntTile of lists", "usual_values", "largest_first"}
WITHOUT_THREADS |= {"code_range", "code_sums"}
# Exact values have no error bound, other steps no term, other rows no draws and no order.
OPTIONAL = {"error", "step.own", "offset", "order"}
OTHER = {
    torch.float32: torch.float64,
    torch.int32: torch.int64,
    torch.int64: torch.int32,
    torch.int8: torch.int16,
    torch.uint8: torch.int32,
}
BREAK = {
    "another dtype": lambda t: t.to(OTHER[t.dtype]),
    "half of the bytes": lambda t: t.flatten().view(torch.int16)[: t.numel()].view(torch.float16),
    "an element less": lambda t: t.flatten()[:-1],
    "another device": lambda t: t.to("meta"),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "None": lambda t: None,
    "no tensor": lambda t: t.data_ptr(),
}


def prepared(name):
    call, arguments = CALLS[name]()
    return call, arguments if name in WITHOUT_THREADS else {**arguments, "threads": 1}


def places(arguments):
    """Names of the tensors, those inside of structures as ``structure.field``."""
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor):
            yield name
        elif isinstance(value, (SortedCode, Moments, AdamStep)):
            yield from (f"{name}.{field}" for field, t in value._asdict().items() if isinstance(t, torch.Tensor))


def change(arguments, place, how):
    name, _, field = place.partition(".")
    if field:
        arguments[name] = arguments[name]._replace(**{field: how(getattr(arguments[name], field))})
    else:
        arguments[name] = how(arguments[name])


def tensor_at(arguments, place):
    name, _, field = place.partition(".")
    return getattr(arguments[name], field) if field else arguments[name]


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.parametrize("name", CALLS)
def test_every_tensor_given_to_the_bindings_is_checked(name, how):
    for place in places(prepared(name)[1]):
        if how == "None" and place in OPTIONAL:
            continue
        if how == "an element less" and place == "offsets" and name in ("csc", "code_range"):  # a code of fewer tokens
            continue
        call, arguments = prepared(name)
        if how == "half of the bytes" and tensor_at(arguments, place).element_size() < 4:
            continue
        change(arguments, place, BREAK[how])
        with pytest.raises((ValueError, IndexError, TypeError)):
            call(**arguments)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_fit_are_accepted(name):
    call, arguments = prepared(name)
    call(**arguments)


def test_the_error_names_the_argument_and_what_is_wrong():
    call, arguments = prepared("sparse_decode")
    arguments["out"] = arguments["out"].bfloat16()
    with pytest.raises(ValueError, match=r"out: got torch.bfloat16; wanted torch.float32"):
        call(**arguments)
    arguments["out"] = torch.empty(N, D - 1, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"out: got \[4, 4\]; wanted \[4, 5\]"):
        call(**arguments)
    call, arguments = prepared("quantize")
    with pytest.raises(ValueError, match="product: got 'int4'; wanted 'int8' or 'int16'"):
        call(**{**arguments, "product": "int4"})
    with pytest.raises(ValueError, match="offset: only rows in int8 are dithered"):
        call(**{**arguments, "offset": fp32(64)})
    call, arguments = prepared("row_adam own")
    with pytest.raises(ValueError, match="own: got 4 columns; wanted a divisor of 5"):
        call(**{**arguments, "step": STEP._replace(own=fp32(F, 4))})
    call, arguments = prepared("row_grad")
    with pytest.raises(TypeError, match="tokens: got int; wanted a tensor"):
        call(**{**arguments, "code": by_feature()._replace(tokens=3)})


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
    parts = list(by_feature())
    parts[at] = change(parts[at])
    w = fp32(F, D)
    with pytest.raises((ValueError, IndexError), match=message):
        ops.row_grad(*parts, fp32(N * K), fp32(N, D))
    with pytest.raises((ValueError, IndexError), match=message):
        ops.row_grad_adam_(w, w.clone(), w.clone(), *parts, fp32(N * K), fp32(N, D), 1.0, *STEP[:6])


def test_features_and_their_order_are_rows():
    lasts = {
        "IntTile": ("features", tile()["cols"] - 1),
        "quantize": ("order", F - 1),
        "IntTile of lists": ("count", 3),
    }
    for name, (field, last) in lasts.items():
        for wrong in (last + 1, -1):
            call, arguments = prepared(name)
            arguments[field] = arguments[field].clone()
            arguments[field][2] = wrong
            with pytest.raises(IndexError, match=f"{field}: wanted numbers from 0 to {last}"):
                call(**arguments)


def test_rows_to_resample_are_rows():
    w = fp32(F, D)
    for features in ([F], [-1]):
        with pytest.raises(IndexError, match="features: not all are rows"):
            ops.resample_(
                w, w.clone(), fp32(F), [], torch.tensor(features), fp32(1, D), torch.ones(F, dtype=torch.bool), 0.2
            )
