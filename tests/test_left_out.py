"""Tests that were not run are counted by reason, and CI accepts few reasons."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import left_out
import pytest

TESTS = Path(__file__).parent


def test_reasons_are_counted():
    reports = [SimpleNamespace(longrepr=("a.py", 3, "Skipped: no GPU on this machine"))] * 2
    reports.append(SimpleNamespace(longrepr=["b.py", 1, "Skipped: Triton is not installed; install it"]))
    reasons = left_out.by_reason(reports)
    assert reasons == {"no GPU on this machine": 2, "Triton is not installed; install it": 1}
    assert left_out.unaccepted(reasons) == ["Triton is not installed; install it"]


@pytest.mark.parametrize("reason", ["no GPU on this machine", "Triton is not installed"])
@pytest.mark.parametrize("ci", ["", "true"])
def test_ci_fails_where_something_is_missing(tmp_path, ci, reason):
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_some.py").write_text(f"import pytest\n@pytest.mark.skip(reason={reason!r})\ndef test(): pass\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {
        "CI": ci,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert f"not run:    1  {reason}" in done.stdout, done.stdout + done.stderr
    assert done.returncode == int(bool(ci) and reason not in left_out.ELSEWHERE), done.stdout
