"""``monosem export``: another library's files of a run, and its errors."""

import itertools

import pytest
import torch

import monosem as ms
from monosem.cli.export import FORMATS
from monosem.cli.main import main
from monosem.data.exports import WRITERS


@pytest.fixture
def run(tmp_path):
    return ms.save(ms.TopKSAE(6, 20, 3, seed=0), tmp_path / "run")


def test_a_run_is_written_and_the_reader_is_named(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "sae_lens", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "cfg.json, sae_weights.safetensors" in said and "sae_lens.SAE.load_from_disk(" in said
    x = torch.randn(5, 6, generator=torch.Generator("cpu").manual_seed(0))
    assert torch.equal(ms.load(tmp_path / "out")(x), ms.load(run)(x))


def test_another_librarys_dictionary_becomes_a_third_ones(run, tmp_path):
    steps = (run, *(tmp_path / form for form in ("sae_lens", "dictionary_learning", "sparsify")))
    for before, after in itertools.pairwise(steps):
        assert main(["export", str(before), "--format", after.name, "--out", str(after)]) == 0
    assert ms.load(steps[-1]).cfg.kind == "topk"


def test_errors_are_one_line(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "circuit_tracer", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].endswith("got TopK with k = 3")


def test_what_does_not_fit_together_is_refused(run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for more, wanted in (
        (out, "--format: got 'monosem' with --out; wanted one of sae_lens"),
        ([*out, "--format", "sae_lens", "--name", "a"], "--name, --private: got one of them with --out"),
    ):
        assert main(["export", str(run), *more]) == 2
        assert wanted in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(run), "--format", "sae_lens"])
    assert "one of the arguments --out --push is required" in capsys.readouterr().err


def test_the_choices_are_those_of_the_writers():
    assert set(FORMATS) == set(WRITERS)
