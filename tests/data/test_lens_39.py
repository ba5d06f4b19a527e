"""The same tests on TransformerLens 3.9, from the folder that MONOSEM_TL39 names, in a process of its own.

Make the folder beside an installed TransformerLens 4.3 (their other dependencies are the same):
    pip install --no-deps --target FOLDER transformer-lens==3.9.0 better-abc
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_on_transformer_lens_39():
    folder = os.environ.get("MONOSEM_TL39")
    if not folder:
        reason = "MONOSEM_TL39 names no folder with TransformerLens 3.9 (see this file)"
        if os.environ.get("MONOSEM_REQUIRE_LENS"):
            pytest.fail(reason)
        pytest.skip(reason)
    assert (Path(folder) / "transformer_lens").is_dir(), f"MONOSEM_TL39: {folder!r} holds no transformer_lens"
    before = [folder, *(p for p in sys.path if p)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(before),
        "MONOSEM_REQUIRE_LENS": "1",
        "MONOSEM_EXPECT_LENS": "3.9",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"]
    here = Path(__file__).parent
    files = [here / "test_lens.py", here.parent / "analysis" / "test_steering_lens.py"]
    done = subprocess.run([*command, *map(str, files)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    assert counts["passed"] >= 20 and counts.get("skipped", 0) in (0, 2), done.stdout[-2000:]
