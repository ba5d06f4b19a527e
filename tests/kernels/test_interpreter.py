"""The operations' tests once more with the Triton kernels, in Triton's interpreter: what a GPU would compute, no GPU.

In a process of its own, because Triton decides at its import whether it interprets.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.ops import gpu

OPS = Path(__file__).parents[1] / "ops"


@pytest.mark.skipif(bool(gpu.available("triton")), reason=gpu.available("triton"))
@pytest.mark.parametrize(
    "names",
    [
        "test_encode",
        "test_rows test_adam_options test_adam_own",
        "test_step_on_device",
        "test_kinds_on_device",
        "test_triton_paths",
        "test_selection_forms test_tensor_cores test_waits",
        "test_torch_contract",
    ],
)
def test_in_the_interpreter(names):
    """Each group in one process, of which the imports take a few seconds."""
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("this is the interpreter")
    files = [str(OPS / f"{name}.py") for name in names.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=importlib", "-x", "-k", "not cuda", *files],
        capture_output=True, text=True, check=False,
        env={**os.environ, "TRITON_INTERPRET": "1", "MONOSEM_BACKEND": "triton", "MONOSEM_PRODUCT": "auto"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
