"""Without the compiled module: everything runs on the definitions in PyTorch, and one warning says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EVERYTHING = """
import sys
sys.modules["monosem._C"] = None
import torch
import monosem as ms
from monosem.analysis.metrics import evaluate

assert ms.ops.backend.native is None and ms.ops.backend.cpu_product() == "fp32"
model, hook = ms.load_model("A"), "blocks.0.mlp.hook_post"
rows = ms.pack_rows(ms.sample_documents("held_out")[:40], model)
x = model.activations(rows.tokens[:1], hook)
for sae in (ms.TopKSAE(d_in=512, d_sae=96, k=4), ms.ReLUSAE(d_in=512, d_sae=96)):
    out = f"{sys.argv[1]}/{type(sae).__name__}"
    ms.Trainer(sae, ms.TrainConfig(lr=1e-3, batch_size=64, steps=3), out).fit(x[0].split(64))
    sae = ms.load(out)
    assert torch.isfinite(sae.loss(x).loss) and sae(x).shape == x.shape
    found = evaluate(sae, model, hook, rows, tokens=300, contexts=2)
    assert found.l0 > 0, found
"""


def run(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MONOSEM_")}
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, env=inherited | environment
    )


def test_everything_runs_with_one_warning(tmp_path):
    done = run(EVERYTHING, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("runs the definitions in plain PyTorch") == 1, done.stderr
    assert "was not built" in done.stderr


ENCODE = """
import sys
sys.modules["monosem._C"] = None
import torch, monosem as ms
ms.TopKSAE(d_in=8, d_sae=16, k=2).encode(torch.zeros(1, 8))
"""


def test_requested_kernels_are_not_replaced_silently():
    done = run(ENCODE, MONOSEM_BACKEND="native")
    assert done.returncode != 0 and "pip install ." in done.stderr
    assert "plain PyTorch on" not in run(ENCODE, MONOSEM_BACKEND="reference").stderr


def test_a_module_that_fails_to_load_is_an_error():
    """Built for another Python or from older sources: that is a broken installation, not one without a compiler."""
    older = 'import sys, types; sys.modules["monosem._C"] = m = types.ModuleType("monosem._C"); m.__spec__ = object()\n'
    done = run(older + ENCODE.replace('sys.modules["monosem._C"] = None', ""))
    assert done.returncode != 0 and "older sources" in done.stderr


def test_an_older_module_for_gpus_is_named_and_not_called():
    code = """
import sys, types
sys.modules["monosem._cuda"] = m = types.ModuleType("monosem._cuda")
m.__spec__ = object()
from monosem.ops import cuda_launch, gpu
print(gpu.available("cuda"), cuda_launch.kernels)
"""
    done = run(code)
    why = "it was built from older sources: build it again, or copy the new one"
    assert done.stdout.strip() == f"the module monosem._cuda cannot be used ({why}) None", done.stderr


@pytest.mark.skipif(not (Path(__file__).parent.parent / "CMakeLists.txt").exists(), reason="not a source tree")
def test_the_build_goes_on_without_a_compiler(tmp_path):
    from shutil import which

    if not which("cmake"):
        pytest.skip("no cmake on PATH")
    root = Path(__file__).parent.parent
    done = subprocess.run(
        ["cmake", "-S", str(root), "-B", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CXX": "/no/such/compiler"},
    )
    assert done.returncode == 0, done.stderr
    output = (tmp_path / "native_build.txt").read_text()
    assert "no C++ compiler" in output and "install g++" in output and len(output.splitlines()) == 1
    assert "no C++ compiler" in done.stderr
