"""The README is short, and its example runs as it stands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@pytest.fixture
def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    return code


def test_the_example_runs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["code"].values.shape == (4, 256, 16)
    assert (tmp_path / "runs" / "first" / "sae.safetensors").exists()
    # 50 steps are few, but the dictionary must already explain more than its bias does.
    sae, x = scope["sae"], scope["x"]
    assert scope["sae"].loss(x).mse < (x - sae.b_dec).square().mean()


def test_the_example_is_short(example):
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 100


def test_every_command_is_listed():
    from monosem.cli.main import COMMANDS

    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^    monosem (\w+)", text, flags=re.M)) == set(COMMANDS)
    assert f"the {len(COMMANDS)} commands" in README.read_text(encoding="utf-8")


def test_any_optimizer_with_the_two_calls_of_the_readme_keeps_the_decoder_unit():
    import torch

    import monosem as ms

    assert "sae.project_decoder_gradient()" in README.read_text() and "sae.normalize_decoder()" in README.read_text()
    sae = ms.TopKSAE(d_in=16, d_sae=32, k=4)
    optimizer = torch.optim.SGD(sae.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        sae.loss(torch.randn(64, 16)).loss.backward()
        sae.project_decoder_gradient()
        assert (sae.W_dec.grad * sae.W_dec).sum(-1).abs().max() < 1e-6
        optimizer.step()
        sae.normalize_decoder()
        assert (sae.W_dec.norm(dim=-1) - 1).abs().max() < 1e-6
