"""The benchmark of inference: its prediction for a card is the arithmetic that the README shows."""

import subprocess
import sys
from pathlib import Path

import inference
import pytest

BENCH = Path(__file__).parents[2] / "bench"
D, F, L0 = 2304, 65_536, 70


def test_a_prediction_is_bytes_and_products_over_the_rates():
    weights = D * F
    few = inference.predicted(D, F, 32, L0)
    gathered = 2.3 * 32 * L0 * 4 * D
    assert few["int8_gb"] == pytest.approx((weights + gathered) / 1e9, abs=1e-3)
    assert few["int8_ms"] == pytest.approx(1e3 * (weights + gathered) / 3.35e12, abs=1e-3)  # the bytes decide
    assert (
        few["dense_tf32_ms"]
        == few["dense_fp32_ms"]
        == pytest.approx(1e3 * 2 * (4 * weights + 4 * 32 * F) / 3.35e12, abs=1e-3)
    )
    many = inference.predicted(D, F, 2048, L0)
    products = 2 * 2048 * weights
    assert many["dense_tf32_ms"] == pytest.approx(1e3 * 2 * products / 495e12, abs=1e-3)  # the products decide
    assert many["bf16_ms"] == pytest.approx(1e3 * (products / 989e12 + 64 * gathered / 3.35e12), abs=1e-3)


def test_the_readme_has_the_prediction_that_the_script_prints():
    command = [sys.executable, str(BENCH / "inference.py"), "--predict"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "not measured" in (readme := (BENCH / "README.md").read_text(encoding="utf-8"))
    assert printed.strip() in readme
