"""Choice of backend and instruction set, and what is said when a choice cannot be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monosem import ops
from monosem.ops import backend


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("isa", backend.native.isas())
def test_every_instruction_set_passes(isa):
    """The kernels' own tests once more in each instruction set of this processor that is not the default."""
    if isa == backend.native.isa():
        assert not os.environ.get("MONOSEM_ISA") or os.environ["MONOSEM_ISA"] == isa
        return
    here = Path(__file__).parent
    names = ("encode", "cpu_integers", "sparse_product", "rows", "adam_options")
    tests = [str(here / f"test_{name}.py") for name in names]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=importlib", "-x", *tests],
        capture_output=True, text=True, env={**os.environ, "MONOSEM_ISA": isa}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_unknown_instruction_set():
    done = run("from monosem.ops.backend import native; native.isa()", MONOSEM_ISA="mmx")
    assert "MONOSEM_ISA: got 'mmx'; this processor and build have baseline" in done.stderr


def test_import_never_fails_and_the_call_explains():
    hide = "import sys; sys.modules['monosem._C'] = None; import monosem as ms, torch; "
    assert run(hide + "print(ms.TopKSAE(4, 8, 2))").returncode == 0
    done = run(hide + "ms.TopKSAE(4, 8, 2)(torch.zeros(1, 4))")
    assert done.returncode == 0 and "its compiled CPU module was not built" in done.stderr and "doctor" in done.stderr
    done = run(hide + "print(ms.TopKSAE(4, 8, 2)(torch.zeros(1, 4)).shape)", MONOSEM_BACKEND="reference")
    assert done.stdout.strip() == "torch.Size([1, 4])"


def test_unknown_backend(monkeypatch):
    monkeypatch.setenv("MONOSEM_BACKEND", "magic")
    with pytest.raises(ValueError, match="MONOSEM_BACKEND: got 'magic'; wanted one of native, reference, triton, cuda"):
        ops.topk_encode(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(3), 1)


def test_a_bound_that_holds_for_certain_is_chosen_by_name():
    show = "from monosem.ops import backend; print(backend.certain(), backend.gpu_product())"
    for setting, product, wanted in [
        ("auto", "auto", "False auto"),
        ("auto", "int8", "False int8"),
        ("certain", "auto", "True bf16"),
        ("certain", "int8", "True bf16"),
        ("certain", "fp32", "True fp32"),
    ]:
        assert run(show, MONOSEM_BOUND=setting, MONOSEM_PRODUCT=product).stdout.strip() == wanted
    assert "MONOSEM_BOUND: got 'sure'; wanted auto or certain" in run(show, MONOSEM_BOUND="sure").stderr


def test_threads_follow_torch(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: seen.append(1) or 1)
    ops.topk_encode(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(3), 1)
    assert seen
