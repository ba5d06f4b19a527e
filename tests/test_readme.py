"""The README's example runs as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def example() -> str:
    (found,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    return found


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


def test_the_commands_exist():
    from monosem.cli.main import VERBS

    named = set(re.findall(r"^    monosem (\w+)", README.read_text(encoding="utf-8"), flags=re.M))
    assert named == set(VERBS)
