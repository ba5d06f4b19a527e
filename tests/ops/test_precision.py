"""A caller's autocast and fp32 precision are for the caller's model: our products have that of their factors."""

import ast
import threading
from pathlib import Path

import pytest
import torch
from ops.cases import code, encoder

import monosem
from monosem import ReLUSAE, TopKSAE, ops
from monosem.nn.geometric_median import geometric_median
from monosem.ops import backend, reference
from monosem.ops.precision import as_given
from monosem.train.step import FastStep

ROOT = Path(monosem.__file__).parent
# Below the registered operations, which are guarded as a whole; models of the user's, whose autocast it is; numpy.
FREE = {
    "ops/selection/cpu.py",
    "ops/selection/triton.py",
    "data/language_model.py",
    "data/head_loss.py",
    "data/native.py",
    "analysis/evidence/ultralow.py",
    "analysis/evidence/proxies/intervals.py",  # NumPy's, in float64
}
PRODUCTS = {"mm", "matmul", "bmm", "addmm", "addmm_", "baddbmm", "addbmm", "addmv", "mv", "einsum", "tensordot"}


def unguarded(source: str) -> list[int]:
    """Lines of products of matrices in functions that are not ``as_given``."""
    found = []

    def visit(node, guarded):
        for child in ast.iter_child_nodes(node):
            inside = guarded
            if isinstance(child, ast.FunctionDef):
                inside |= any("as_given" in ast.unparse(d) for d in child.decorator_list)
                # A generator's body runs after its decorator has returned.
                inside &= not any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in ast.walk(child))
            product = isinstance(child, (ast.BinOp, ast.AugAssign)) and isinstance(child.op, ast.MatMult)
            product |= isinstance(child, ast.Call) and getattr(child.func, "attr", "") in PRODUCTS
            if product and not inside:
                found.append(child.lineno)
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_products_are_made_as_given(path):
    name = str(path.relative_to(ROOT))
    if name in FREE or name.startswith("bench/") or (name.startswith("ops/") and path.name == "reference.py"):
        pytest.skip("not a product of ours, or guarded where the operation is registered")
    assert not unguarded(path.read_text(encoding="utf-8"))


def test_an_unguarded_product_is_seen():
    assert unguarded("def f(a, b):\n    return a @ b\n@as_given\ndef g(a, b):\n    yield a @ b\n") == [2, 5]
    assert not unguarded("@as_given\ndef f(a, b):\n    return torch.mm(a, b)\n")


@pytest.mark.parametrize("backend_name", ["native", "reference"])
def test_operations(backend_name, monkeypatch):
    monkeypatch.setenv("MONOSEM_BACKEND", backend_name)
    x, w, b = encoder(20, 24, 90)
    values, indices, offsets = code(20, 24, 90)

    def run():
        chosen, active = ops.topk_encode(x, w, b, 5), ops.threshold_encode(x, w, b)
        return [chosen.values, chosen.indices, *active.csr(), *ops.threshold_encode_within(x, w, b, 4000, 128),
                ops.sparse_decode(values, indices, offsets, w, w[0]), geometric_median(x),
                *ops.decode_loss_rows(values, indices, offsets, w, w[0], x)]  # fmt: skip

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal((x @ w.T), (x.bfloat16() @ w.bfloat16().T))  # it is on
        cast = run()
    assert all(torch.equal(a, c) and a.dtype == c.dtype for a, c in zip(plain, cast, strict=True))


@pytest.mark.parametrize("product", ["fp32", "bf16", "int16"])
@pytest.mark.parametrize("kind", ["relu, dense", "relu, sparse", "topk", "topk, clipped"])
def test_steps(kind, product, monkeypatch):
    monkeypatch.setattr(backend, "cpu_product", lambda: product)

    def run():
        sae = TopKSAE(16, 64, 4, seed=0) if kind.startswith("topk") else ReLUSAE(16, 64, 1e-3, seed=0)
        if kind == "relu, sparse":
            sae.capacity.expect(3, 2.0)
        step, dead = FastStep(sae), torch.arange(64) > 50
        x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            out = step(x, 1e-2, clip=1.0 if kind.endswith("clipped") else None, dead=dead)
        gradients = sae.gradients(x).parameters.multiplied()
        return [*sae.state_dict().values(), out.loss, sae.loss(x).loss, *gradients.values()]

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run()
    assert all(torch.equal(a, c) and a.dtype == c.dtype for a, c in zip(plain, cast, strict=True))


def test_a_custom_backward_is_unaffected():
    x, w, b = encoder(20, 24, 90)

    def run():
        leaves = [t.clone().requires_grad_() for t in (x, w, b)]
        ops.topk_encode(*leaves, 5).values.square().sum().backward()
        return [t.grad for t in leaves]

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, c) for a, c in zip(plain, run(), strict=True))
    assert torch.equal(ops.topk_encode(x, w, b, 5).indices, reference.topk_encode(x, w, b, 5)[1])


SETTINGS = {
    "one setting for all": lambda: torch.set_float32_matmul_precision("medium"),
    "TF32": lambda: torch.set_float32_matmul_precision("high"),
    **(
        {"inherited": lambda: setattr(torch.backends, "fp32_precision", "tf32")}
        if hasattr(torch.backends, "fp32_precision")
        else {}
    ),
}


def fp32_products():
    """The precision that products of fp32 may have now, by device."""
    named = [getattr(torch.backends, name).matmul for name in ("cuda", "mkldnn") if hasattr(torch.backends, name)]
    if hasattr(torch.backends, "fp32_precision"):
        return [m.fp32_precision for m in named]
    return [torch.get_float32_matmul_precision()]


@pytest.fixture
def of_the_process():
    """Settings of the whole process as they were, afterwards."""
    yield
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "none"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    else:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("setting", SETTINGS)
def test_products_ignore_the_precision_of_the_process(setting, of_the_process, monkeypatch):
    SETTINGS[setting]()
    chosen = fp32_products()
    assert not {*chosen} & {"ieee", "none", "highest"}  # it is on
    seen, mm = [], torch.mm

    def watched(*args, **options):
        seen.extend(fp32_products())
        return mm(*args, **options)

    monkeypatch.setattr(torch, "mm", watched)
    monkeypatch.setattr(backend, "cpu_product", lambda: "fp32")
    monkeypatch.setenv("MONOSEM_BACKEND", "native")
    FastStep(ReLUSAE(16, 64, 1e-3, seed=0))(torch.randn(50, 16), 1e-2)
    ops.topk_encode(*encoder(20, 24, 90), 5)
    assert seen and {*seen} <= {"ieee", "none", "highest"}
    assert fp32_products() == chosen
    if setting == "inherited":
        torch.backends.fp32_precision = "ieee"
        assert {*fp32_products()} == {"ieee"}, "what was inherited was fixed"


def test_the_precision_is_restored_after_the_last_of_several_threads(of_the_process):
    torch.set_float32_matmul_precision("medium")
    chosen, both, first_done = fp32_products(), threading.Barrier(2), threading.Event()
    seen = []

    @as_given
    def first():
        both.wait()

    @as_given
    def second():
        both.wait()
        first_done.wait()
        seen.extend(fp32_products())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    threads[0].join()
    first_done.set()
    threads[1].join()
    assert {*seen} <= {"ieee", "none", "highest"} and fp32_products() == chosen


def test_the_precision_is_restored_after_an_error(of_the_process):
    torch.set_float32_matmul_precision("high")
    chosen = fp32_products()
    with pytest.raises(ZeroDivisionError):
        as_given(lambda: 1 / 0)()
    assert fp32_products() == chosen
