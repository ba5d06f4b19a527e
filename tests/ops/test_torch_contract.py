"""What PyTorch asks of an operation: opcheck, torch.compile as one graph, bits that repeat, memory that is bounded."""

import subprocess
import sys

import pytest
import torch
from ops.cases import code, encoder

from monosem import ops
from monosem.ops import gpu

pytestmark = pytest.mark.usefixtures("device")
ADAM = (1e-3, 0.9, 0.999, 1e-8, 1, True)
grad = torch.Tensor.requires_grad_


def _ms(name):
    return getattr(torch.ops.monosem, name).default


def calls() -> dict[str, tuple]:
    """Arguments for each operation."""
    X, W, B = encoder(12, 10, 40)
    V, I, O = code(12, 10, 40)
    CSC = ops.csc(I, O, 40)
    return {
        "topk_encode": (grad(X.clone()), grad(W.clone()), grad(B.clone()), 5),
        "threshold_encode": (grad(X.clone()), grad(W.clone()), grad(B.clone())),
        "threshold_encode_within": (X, W, B, 300, 64),
        "sparse_decode": (grad(V.clone()), I, O, grad(W.clone()), grad(W.mean(0))),
        "decode_loss": (grad(V.clone()), I, O, grad(W.clone()), grad(W.mean(0)), grad(X.clone())),
        "gather_dot": (X, I, O, W),
        "csc": (I, O, 40),
        "row_grad": (*CSC, V, X),
        "feature_sum": (*CSC[:2], V),
        "row_adam_": (W.clone(), W * 0, W * 0, W.clone(), *ADAM),
        "row_grad_adam_": (W.clone(), W * 0, W * 0, *CSC, V, X, 1.0, *ADAM),
        "encoder_grad_adam_": (W.clone(), W * 0, W * 0, *CSC, V, X, None, *ADAM[:5]),
        "resample_": (
            W.clone(), W.clone(), B.clone(), [W * 0], torch.tensor([2, 3]), X[:2],
            torch.ones(40, dtype=torch.bool), 0.2,
        ),
    }  # fmt: skip


NAMES = (
    "topk_encode", "threshold_encode", "threshold_encode_within", "sparse_decode", "decode_loss", "gather_dot", "csc",
    "row_grad", "feature_sum",
    "row_adam_", "row_grad_adam_", "encoder_grad_adam_", "resample_",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    torch.library.opcheck(_ms(name), calls()[name])


@pytest.mark.parametrize("name", ["row_adam_", "row_grad_adam_"])
def test_opcheck_with_a_multiple_of_the_row(name):
    torch.library.opcheck(_ms(name), calls()[name], {"own": torch.randn(40, 2)})


def test_opcheck_with_frequencies():
    torch.library.opcheck(_ms("topk_encode"), calls()["topk_encode"], {"frequency": torch.rand(40)})


def test_opcheck_with_a_threshold():
    torch.library.opcheck(_ms("threshold_encode"), (*calls()["threshold_encode"], torch.linspace(-0.1, 0.5, 40)))
    torch.library.opcheck(
        _ms("threshold_encode_within"), calls()["threshold_encode_within"], {"threshold": torch.linspace(-0.1, 0.5, 40)}
    )


def test_every_operation_is_checked():
    registered = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("monosem::")}
    assert registered == set(NAMES) == set(calls())


def test_compiles_as_one_graph():
    X, W, B = encoder(12, 10, 40)

    def topk(x, w, b):
        code = ops.topk_encode(x, w, b, 5)
        loss, _ = ops.decode_loss(code, w, w.mean(0), x)
        return loss.mean()

    def relu(x, w, b):
        code = ops.threshold_encode(x, w, b)
        return ops.decode(code, w, w.mean(0)).square().sum() + code.values.sum()

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for function in (topk, relu):
            plain = [grad(t.clone()) for t in (X, W, B)]
            compiled = [grad(t.clone()) for t in (X, W, B)]
            function(*plain).backward()
            torch.compile(function, fullgraph=True, backend="aot_eager")(*compiled).backward()
            for a, b in zip(plain, compiled, strict=True):
                torch.testing.assert_close(a.grad, b.grad)


def test_the_same_bits_every_run():
    x, w, b = encoder(*((6, 64, 90) if gpu.interpreted() else (400, 64, 900)))

    def run():
        leaves = [grad(t.clone()) for t in (x, w, b)]
        code = ops.topk_encode(*leaves, 9)
        loss, _ = ops.decode_loss(code, leaves[1], leaves[1].mean(0), x)
        loss.mean().backward()
        return [loss, *(t.grad for t in leaves)]

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, c) for a, c in zip(first, run(), strict=True))


PEAK = """
import resource, torch
import monosem as ms
from monosem import ops
from monosem.train.step import FastStep
n, d, f, k = 8192, 32, 65536, 16
x, w, b = torch.randn(n, d), torch.randn(f, d), torch.zeros(f)
what = {what!r}
step = FastStep(ms.TopKSAE(d, f, k)) if what == "step" else None
warm = ops.topk_encode(x[:64], w, b, k)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
if what == "autograd":
    x.requires_grad_(), w.requires_grad_(), b.requires_grad_()
    code = ops.topk_encode(x, w, b, k)
    loss, _ = ops.decode_loss(code, w, w.new_zeros(d), x)
    loss.mean().backward()
elif what == "step":
    step(x, 1e-3)
else:
    code = ops.threshold_encode(x, w, b - 25.0)
    assert 0 < code.values.numel() < n * f / 1000
print(peak() - before)
"""


@pytest.mark.parametrize("what", ["autograd", "step", "threshold"])
def test_nothing_of_size_tokens_times_features(what, native_only):
    # 8,192 × 65,536 in fp32 is 2 GiB; the sparse path, gradients and the whole step included, may need a twentieth.
    run = subprocess.run(
        [sys.executable, "-c", PEAK.format(what=what)], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert int(run.stdout) < 8192 * 65536 * 4 / 20
