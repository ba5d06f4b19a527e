"""docs/howto/add_an_architecture.md: its code is run, trained, resumed, saved, loaded and evaluated."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.metrics import evaluate
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.token_rows import pack_rows
from monosem.data.tokenizer import train_tokenizer
from monosem.nn import KINDS, Matrix, Vector, registry
from monosem.train.step import FastStep

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "add_an_architecture.md"
ARCHITECTURE, USE, *_ = re.findall(r"```python\n(.*?)```", HOWTO.read_text(encoding="utf-8"), re.S)
D, F = 32, 128


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The document's module, importable; forgotten afterwards."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "lp_sae.py").write_text(ARCHITECTURE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield "lp_sae"
    sys.modules.pop("lp_sae", None)
    KINDS.pop("lp", None)


@pytest.fixture
def lp(module):
    registry.import_modules([module])
    return KINDS["lp"]


def batches(n=20):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(64, D, generator=g) for _ in range(n)]


def test_the_example_has_at_most_40_lines():
    assert len([line for line in ARCHITECTURE.splitlines() if line.strip()]) <= 40


def test_the_code_of_the_howto_runs(lp, tmp_path):
    names = {"ms": ms, "LpSAE": lp, "folder": tmp_path / "run", "activations": batches()}
    exec(USE, names)
    sae, same = names["sae"], names["same"]
    assert type(same) is lp and same.cfg == sae.cfg and torch.equal(same.W_enc, sae.W_enc)
    assert names["trainer"].last_metrics[0]["loss"] < float(lp(D, F, seed=0).gradients(batches()[0]).loss)


@pytest.mark.parametrize("options", [{}, {"clip": 0.1, "ema": 0.9, "adam_state": "int8", "lazy_rows": True}])
def test_a_resumed_run_ends_with_the_same_bits(lp, tmp_path, options):
    def trainer(folder, steps):
        config = ms.TrainConfig(steps=20, batch_size=64, checkpoint_every=10**6, **options)
        made = ms.Trainer(lp(D, F, seed=0), config, folder, progress=False)
        if steps < 20:
            with pytest.warns(RuntimeWarning, match="the stream ended after"):
                return made.fit(batches(steps))
        return made.fit(batches(steps))

    whole = trainer(tmp_path / "whole", 20)
    trainer(tmp_path / "parts", 9)
    parts = trainer(tmp_path / "parts", 20)
    for a, b in zip(whole.learners[0].sae.parameters(), parts.learners[0].sae.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_step_equals_autograd_and_adam(lp):
    sae, plain = lp(D, F, seed=0), lp(D, F, seed=0)
    step, adam = FastStep(sae), torch.optim.Adam(plain.parameters(), lr=1e-3)
    for x in batches(10):
        step(x, 1e-3)
        adam.zero_grad()
        plain.loss(x).loss.backward()
        plain.project_decoder_gradient()
        adam.step()
        plain.normalize_decoder()
    for a, b in zip(sae.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_registered_kind_is_evaluated(lp):
    model = tiny_model()
    rows = pack_rows(tiny_documents(20), model, 16)
    result = evaluate(lp(D, F, seed=0), model, HOOK, rows, progress=False)
    assert result.to_dict()["l0"] > 0


@pytest.mark.parametrize("kind", ["topk", "relu"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_factors_equal_the_default_gradients_by_autograd(kind, clip):
    """The fast paths of the package against the gradients that ``SAE`` gives every architecture."""

    def made():
        return ms.TopKSAE(D, F, 5, aux_k=8, seed=1) if kind == "topk" else ms.ReLUSAE(D, F, 1e-2, seed=1)

    fast, plain = made(), made()
    plain.gradients = lambda *a: ms.SAE.gradients(plain, *a)
    steps = FastStep(fast), FastStep(plain)
    dead = torch.arange(F) % 3 == 0
    for x in batches(10):
        for step in steps:
            step(x, 1e-3, clip=clip, dead=dead)
    for a, b in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


class Further(ms.TopKSAE):
    """Two parameters more, one with a learning rate of its own."""

    def __init__(self) -> None:
        super().__init__(D, F, 5, seed=0)
        self.skip = torch.nn.Parameter(torch.zeros(D, D))
        self.theta = torch.nn.Parameter(torch.zeros(F))

    def declared(self):
        return super().declared() | {"skip": Matrix(), "theta": Vector(per_feature=True, lr_factor=0.5)}

    gradients = ms.SAE.gradients

    def loss(self, x, sparsity_scale=1.0, dead=None):
        out = super().loss(x, sparsity_scale, dead)
        further = (x @ self.skip - x).square().mean() + (self.theta - 1).square().mean()
        return ms.LossOutput(out.loss + further, out.mse, out.sparsity, out.aux, out.reconstruction, out.code)


@pytest.mark.parametrize("adam_state", ["fp32", "int8"])
def test_declared_parameters_are_updated_reset_and_saved(adam_state):
    step, x = FastStep(Further(), adam_state=adam_state), batches(1)[0]
    step(x, 1e-2)
    torch.testing.assert_close(step.sae.theta, torch.full((F,), 0.5e-2))  # half of the learning rate
    assert step.sae.skip.diagonal().gt(0).all() and step.m["skip"].any() and step.m["theta"].all()
    step.reset_features(torch.tensor([3]))
    assert step.m["theta"][3] == 0 and step.m["theta"][4] != 0 and step.m["skip"].any()
    assert {"m.skip", "v.theta"} <= set(step.state_dict())


def test_an_undeclared_parameter_is_refused():
    sae = Further()
    sae.declared = lambda: ms.TopKSAE.declared(sae)
    with pytest.raises(ValueError, match=r"sae: Further.declared\(\) names .* \(skip, theta only in one\)"):
        FastStep(sae)


def test_classes_that_cannot_be_registered_are_refused(lp):
    with pytest.raises(TypeError, match=r"register: got .*; wanted a subclass of monosem.SAE"):
        ms.register(int)
    with pytest.raises(ValueError, match=r"register: kind 'topk' is .*TopKSAE already"):
        ms.register(type("Other", (ms.SAE,), {"Config": ms.TopKSAE.Config}))
    with pytest.raises(ValueError, match=r"kind: got 'magic'; wanted one of .*topk.*, lp"):
        registry.find("magic")


def test_a_registered_kind_trains_from_the_command_line(module, tmp_path, capsys):
    folder, run, text = tmp_path / "model", tmp_path / "run", tmp_path / "text.jsonl"
    save_folder(folder, tiny_model().module, train_tokenizer((d.text for d in tiny_documents()), 300))
    text.write_text("".join(json.dumps({"source": d.source, "text": d.text}) + "\n" for d in tiny_documents(30)))
    words = ["train", "--kind", "lp", "--set", "p=0.4", "--model", folder, "--hook", HOOK, "--text", text]
    words += ["--split", "all", "--d-sae", F, "--batch-size", 64, "--steps", 5, "--out", run, "--quiet"]

    def command(*words) -> int:
        """As in a process of its own."""
        KINDS.pop("lp", None)
        sys.modules.pop(module, None)
        return main([str(word) for word in words])

    assert command(*words) == 2
    assert "kind: got 'lp'; wanted one of topk" in capsys.readouterr().err
    assert command(*words, "--import", module) == 0
    assert command("evaluate", run, "--split", "all", "--quiet") == 2
    assert "A kind of your own has to be registered first" in capsys.readouterr().err
    assert command("evaluate", run, "--split", "all", "--quiet", "--import", module) == 0
    assert ms.load(run).cfg.p == 0.4
    for further, message in (
        (("--import", module, "--k", 4), "--k: got [4]; it has no effect on --kind lp"),
        (("--import", module, "--set", "q=1"), "--set: got q; wanted a setting of --kind lp: p, coefficient"),
        (("--import", module, "--set", "p"), "--set: got 'p'; wanted NAME=VALUE"),
        (("--import", "no_such_module"), "import: no module 'no_such_module'"),
    ):
        assert command(*words, *further) == 2
        assert message in capsys.readouterr().err
