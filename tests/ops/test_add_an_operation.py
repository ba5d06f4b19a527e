"""docs/howto/add_an_operation.md: its code is run as a part of the package, on the CPU and in Triton's interpreter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.ops.gpu import available

ROOT = Path(__file__).parents[2]
HOWTO = (ROOT / "docs/howto/add_an_operation.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", HOWTO, re.S)
REFERENCE, FUNCTION, CPU, KERNEL, RULE, TRITON = PYTHON
CPP = re.findall(r"```cpp\n(.*?)```", HOWTO, re.S)

# The document's files beside those of the package; the native kernel, which is not built, is the definition.
RUN = """
import sys
from types import SimpleNamespace

import torch

import monosem.kernels, monosem.ops
from monosem import ops
from monosem.kernels import launch
from monosem.ops import backend

monosem.ops.__path__.append(sys.argv[1] + "/ops")
monosem.kernels.__path__.append(sys.argv[1] + "/kernels")
from monosem.kernels.launch import _fixed
launch._RULES.update({RULE})

torch.manual_seed(0)
indices, offsets = torch.randint(0, 7, (200,), dtype=torch.int32), torch.arange(0, 201, 10)
indices[indices == 3] = 2  # a feature without entries
starts, entries, _ = ops.csc(indices, offsets, 9)
coef = torch.randn(200)

from monosem.ops.feature_energy import cpu, feature_energy, reference

def native(starts, entries, coef, out, threads):
    out.copy_(reference.feature_energy(starts, entries, coef))
cpu._C = SimpleNamespace(feature_energy=native)

exact = reference.feature_energy(starts, entries, coef.double())
assert exact[3] == exact[8] == 0 < exact[2]
torch.testing.assert_close(feature_energy(starts, entries, coef).double(), exact, rtol=1e-5, atol=1e-6)
wide = coef.double().requires_grad_()
assert torch.autograd.gradcheck(lambda c: feature_energy(starts, entries, c), wide)
torch.library.opcheck(torch.ops.monosem.feature_energy.default, (starts, entries, coef.clone().requires_grad_()))
print("right")
"""


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "ops/feature_energy/reference.py": REFERENCE,
        "ops/feature_energy/__init__.py": FUNCTION,
        "ops/feature_energy/cpu.py": CPU,
        "ops/feature_energy/triton.py": TRITON,
        "kernels/feature_energy/triton.py": KERNEL,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "run.py").write_text(RUN.replace("{RULE}", "{" + RULE + "}"), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_the_document_runs(folder, backend):
    if backend == "triton" and (why := available("triton")):
        pytest.skip(why)
    environment = {**os.environ, "MONOSEM_BACKEND": backend, "TRITON_INTERPRET": str(int(backend == "triton"))}
    command = [sys.executable, str(folder / "run.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and done.stdout.strip() == "right", done.stderr[-3000:]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_its_header_parses_with_the_table_that_it_enters(tmp_path):
    header, lines, _ = CPP
    declaration, entry = (line.strip() for line in lines.strip().splitlines())
    kernels = (ROOT / "csrc/cpu/kernels.h").read_text(encoding="utf-8")
    assert kernels.count("struct Kernels {") == 1 and entry == ".feature_energy = MS_ISA::feature_energy,"
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    cpu = tmp_path / "csrc/cpu"
    (cpu / "feature_energy-inl.h").write_text(header, encoding="utf-8")
    (cpu / "kernels.h").write_text(
        kernels.replace("struct Kernels {", "struct Kernels {\n" + declaration), encoding="utf-8"
    )
    table = "ms::Kernels table{" + entry.rstrip(",").replace("MS_ISA", "ms::MS_ISA") + "};"
    (cpu / "one.cpp").write_text(f'#include "feature_energy-inl.h"\n{table}\n', encoding="utf-8")
    command = ["g++", "-std=c++20", "-fsyntax-only", str(cpu / "one.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
