"""The operations' tests run once for each device there is; and, on request, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from monosem.ops import backend, gpu

INTERPRETED = gpu.interpreted()


def pytest_configure(config: pytest.Config) -> None:
    if INTERPRETED:
        _patch_the_language_once()


def _patch_the_language_once() -> None:
    """Triton's interpreter replaces its language anew at every call of a function within a kernel, which is most of
    its time, and leaves it replaced. Once is enough where nothing else is compiled."""
    from triton.runtime import interpreter

    patch, done = interpreter._patch_lang, set()

    def once(function):
        if id(function.__globals__) not in done:
            done.add(id(function.__globals__))
            patch(function)
        return interpreter._LangPatchScope()

    interpreter._patch_lang = once


@pytest.fixture(
    params=[
        "interpreter" if INTERPRETED else "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")),
    ],
)
def device(request):
    """New tensors are made there. A module asks for it with ``pytestmark = pytest.mark.usefixtures("device")``."""
    if request.param != "cuda":
        yield "cpu"
        return
    with torch.device("cuda"):
        yield "cuda"


@pytest.fixture(params=["fp32", "bf16", "int16", "int8", "sparse"])
def product(request, monkeypatch, device):
    """Every way to multiply, whatever this processor would choose."""
    if request.param in ("int16", "int8", "sparse") and (device != "cpu" or gpu.interpreted()):
        pytest.skip("a product of CPUs")
    monkeypatch.setattr(backend, "cpu_product", lambda: request.param)
    monkeypatch.setattr(backend, "gpu_product", lambda: request.param)
    return request.param


@pytest.fixture
def native_only(device):
    """For tests of the CPU's kernels and nothing else."""
    if device != "cpu" or INTERPRETED or os.environ.get("MONOSEM_BACKEND", "native") != "native":
        pytest.skip("a test of the CPU's own kernels")


@pytest.fixture
def triton_only(device):
    """For tests of what only the Triton kernels have."""
    if device == "cpu" and not INTERPRETED:
        pytest.skip("no GPU on this machine; tests/kernels/test_interpreter.py runs this in Triton's interpreter")
