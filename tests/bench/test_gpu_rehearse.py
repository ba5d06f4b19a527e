"""``bench/gpu.py`` rehearsed on a CPU: with a failing test and a kernel that ends its process, everything else gets a
figure, and every figure is marked as a rehearsal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from monosem.ops.gpu import available

ROOT = Path(__file__).parents[2]
SECTIONS = ("tests", "floor", "step", "kernels", "ops", "peers")


@pytest.mark.skipif(bool(available("triton")), reason=available("triton"))
def test_rehearsal(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "bench/gpu.py"), "--rehearse", "--out", str(out), "--minutes", "30"]
    done = subprocess.run([*command, "--shapes", "rehearsal_topk"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert sorted(p.name for p in out.iterdir()) == sorted([*(f"{s}.json" for s in SECTIONS), "table.txt"])
    stored = {section: json.loads((out / f"{section}.json").read_text()) for section in SECTIONS}

    # Broken on purpose: one test, one kernel of one backend.
    assert stored["tests"]["failed"] == 1 and stored["tests"]["passed"] > 3
    (lost,) = [row for row in stored["ops"]["rows"] if "error" in row]
    assert (lost["backend"], lost["name"]) == ("triton", "gather_dot") and "illegal memory access" in lost["error"]
    for section in ("floor", "step", "kernels"):
        assert stored[section]["rows"] and not any("error" in r or "lost" in r for r in stored[section]["rows"])
    backends = {row["backend"] for row in stored["step"]["rows"]}
    assert len(stored["ops"]["rows"]) == 11 + 10 * (len(backends) - 1)
    marks = {(row["backend"], row["tests"]) for s in ("step", "kernels", "ops") for row in stored[s]["rows"]}
    assert marks == ({("triton", "green"), ("cuda", "red")} if len(backends) == 2 else {("triton", "red")})
    kernels = {kernel["kernel"] for kernel in stored["kernels"]["rows"][0]["kernels"]}
    assert {"collect", "choose", "decode_loss", "row_grad_adam", "encoder_grad_adam"} <= kernels

    # Every figure is marked.
    for content in stored.values():
        assert content["about"]["rehearsal"] is True and content["about"]["gpu"].startswith("none")
        assert all(row["rehearsal"] is True for row in content.get("rows", ()))
    table = (out / "table.txt").read_text()
    assert table in done.stdout and table.startswith("REHEARSAL") and "REHEARSAL" in table.splitlines()[-1]
    assert "(graph)" not in table and "[tests: red]" in table
