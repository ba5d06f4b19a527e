"""The entrants of the other libraries, with stand-ins for the libraries."""

import importlib.util
import sys

import peers
import pytest
import stand_in_peers
import torch

from monosem.bench import rounds
from monosem.bench.entrants import engine
from monosem.bench.workloads import VARIANTS, WORKLOADS

LIBRARIES = {"sae_lens": stand_in_peers.sae_lens, "dictionary_learning": stand_in_peers.dictionary_learning}
CASES = ["topk", "relu", "batch_topk", "jumprelu", "gated", "matryoshka", *VARIANTS]


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    """The entrant's module of a library, whose stand-in it imports."""
    for name, module in LIBRARIES[request.param]().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "definition", raising=False)
    spec = importlib.util.spec_from_file_location(f"{request.param}_step", peers.FOLDER / f"{request.param}_step.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("definition", None)


def started(kind: str, tmp_path) -> tuple[dict, dict, torch.Tensor]:
    """The job, the weights that all begin from, and a batch."""
    w = WORKLOADS["tiny"].of(kind)
    rounds.write_data(w, tmp_path / "data.pt")
    data = torch.load(tmp_path / "data.pt")
    return w.job() | {"precision": "default", "variant": ""}, data, data.pop("held_out")


@pytest.mark.parametrize("kind", CASES)
def test_all_libraries_begin_as_the_same_function(kind, library, tmp_path):
    """Code, error and objective on the held-out batch agree with ours before the first step."""
    job, weights, x = started(kind, tmp_path)
    theirs = {name: float(value) for name, value in library.build(job, weights).evaluate(x).items()}
    ours = engine.build(job, weights).evaluate(x)
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert ours["l0"] == pytest.approx(job["k"], rel=0.1)


@pytest.mark.parametrize("kind", CASES)
def test_a_step_trains_and_returns_a_loss(kind, library, tmp_path):
    job, weights, x = started(kind, tmp_path)
    entrant = library.build(job | {"precision": "bf16"}, weights)
    assert entrant.step(x) > 0
    assert entrant.packages and entrant.notes and all(isinstance(note, str) for note in entrant.notes)


# λ·D, from what each library is given: its own form of the penalty.
WEIGHTS = {
    ("sae_lens", "l1"): lambda given, k: given["l1_coefficient"],
    ("sae_lens", "jumprelu"): lambda given, k: 2 * given["target_l0"] * given["l0_coefficient"],
    ("sae_lens", "jumprelu_free"): lambda given, k: given["l0_coefficient"],
    ("dictionary_learning", "l1"): lambda given, k: given["l1_penalty"],
    ("dictionary_learning", "jumprelu"): lambda given, k: given["sparsity_penalty"],
    ("dictionary_learning", "jumprelu_free"): lambda given, k: given["sparsity_penalty"] / k,
}


@pytest.mark.parametrize("kind", ["relu", "relu_free", "gated", "jumprelu", "jumprelu_free"])
def test_penalties_count_as_much_beside_an_error_that_is_a_sum_over_d(kind, library, tmp_path):
    job, weights, _ = started(kind, tmp_path)
    entrant = library.build(job, weights)
    given = vars(entrant.sae.cfg) if hasattr(entrant, "sae") else entrant.trainer.settings
    form, name = (kind, "l0_coefficient") if "jumprelu" in kind else ("l1", "l1_coefficient")
    weight = WEIGHTS[library.__name__.removesuffix("_step"), form](given, job["k"])
    assert weight == pytest.approx(job["settings"][name] * job["d"])
    assert given.get("target_l0", job["k"]) == job["k"]


def test_free_norms_are_trained_by_the_library_s_own_recipe(library, tmp_path):
    job, weights, _ = started("relu_free", tmp_path)
    entrant = library.build(job, weights)
    if hasattr(entrant, "sae"):
        assert entrant.sae.cfg.apply_b_dec_to_input is False
    else:
        assert type(entrant.trainer).__name__ == "StandardTrainerAprilUpdate"


def test_an_optimizer_of_other_betas_gets_ours(library, tmp_path):
    job, weights, _ = started("relu", tmp_path)
    (group,) = library.build(job, weights).trainer.optimizer.param_groups
    assert group["betas"] == (0.9, 0.999)
