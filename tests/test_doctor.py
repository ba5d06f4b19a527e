"""monosem doctor."""

import os
import subprocess
import sys

import pytest

from monosem import doctor
from monosem.cli.main import main
from monosem.ops import backend


def test_doctor_prints_the_backends_in_use(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert backend.native.isa() in out and "cpu product" in out and "gpu" in out and "triton" in out


def test_doctor_prints_missing_parts_and_remedies():
    code = "import sys; sys.modules['monosem._C'] = None; from monosem.cli.main import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "missing" in done.stdout and "pip install ." in done.stdout
    assert "on cpu tensors  reference" in done.stdout and "definitions in plain PyTorch" in done.stdout


def test_doctor_prints_settings_of_the_environment():
    code = "from monosem.cli.main import main; main(['doctor'])"
    environment = {**os.environ, "MONOSEM_ISA": "baseline", "MONOSEM_PRODUCT": "bf16", "MONOSEM_BACKEND": "reference"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    for setting in ("set by MONOSEM_ISA=baseline", "set by MONOSEM_PRODUCT", "set by MONOSEM_BACKEND"):
        assert setting in done.stdout


@pytest.mark.parametrize(("setting", "wanted"), [("auto", "by a bound with dither"), ("certain", "holds for certain")])
def test_doctor_prints_the_bound_of_the_product(setting, wanted, monkeypatch):
    monkeypatch.setenv("MONOSEM_PRODUCT", "int8")
    monkeypatch.setattr(backend, "cpu_product", lambda: "int8")
    monkeypatch.setattr(backend, "certain", lambda: setting == "certain")
    assert wanted in doctor._product().why


def test_doctor_gives_the_reason_for_a_missing_cuda_module(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "cuda_build.txt").write_text("nvcc is version 11.2; 12.0 or newer is needed\n")
    assert doctor._cuda_module() == doctor.Finding(
        "cuda kernels", "none", "nvcc is version 11.2; 12.0 or newer is needed"
    )
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "monosem._cuda", None)
    assert doctor._cuda_module().state == "broken"


def test_doctor_shows_the_last_output_of_the_probe(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "doctor.py"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "cuda_build.txt").write_text(
        'a probe with nvcc failed; the end of its output:\n"" lib.a\nNo such file\n'
    )
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("cuda kernels"))
    assert [line.strip() for line in lines[at + 1 : at + 3]] == ['"" lib.a', "No such file"]
    assert lines[at + 1].startswith("  ")  # below its finding, not a finding of its own
