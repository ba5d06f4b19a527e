"""Every kind of dictionary through the commands: trained by ``monosem train``, then read by all that read one."""

import itertools
import json
import re

import pytest
import torch
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.nn import KINDS

# The options of `monosem train` beside those that all share.
RUNS = {
    "topk": ["--kind", "topk", "--k", 4],
    "batch_topk": ["--kind", "batch_topk", "--k", 4],
    "abs_topk": ["--kind", "abs_topk", "--k", 4],
    "group_max": ["--kind", "group_max", "--k", 4],
    "hierarchical_topk": ["--kind", "hierarchical_topk", "--k", 4],
    "relu": ["--kind", "relu", "--l1", 0.01],
    "relu-free": ["--kind", "relu", "--l1", 0.01, "--decoder-norm", "free"],
    "jumprelu": ["--kind", "jumprelu", "--l0", 0.002],
    "jumprelu-target": ["--kind", "jumprelu", "--target-l0", 6, "--l0", 0.1],
    "jumprelu-tanh": ["--kind", "jumprelu", "--set", "form=tanh", "decoder_norm=free", "l0_coefficient=0.01"],
    "gated": ["--kind", "gated", "--l1", 0.01],
    "matryoshka": ["--kind", "matryoshka", "--k", 4, "--prefixes", 8, 24],
    "matryoshka-relu": ["--kind", "matryoshka", "--set", "activation=relu"],
}
COMMANDS = {
    "evaluation": ["evaluate", "A", "--report", "--split", "all"],
    "features/index": ["features", "A"],
    "proxies": ["proxies", "A"],
    "neurons": ["neurons", "A"],
    "automata": ["automata", "A", "--support", 3],
    "widths": ["widths", "A", "B"],
    "splitting": ["split", "A", "B", "--least", 3, "--no-map"],
    "universality": ["compare", "A", "B", "--least", 3],
    "steering": ["steer", "A", "--samples", 1, "--length", 3, "--trials", 1],
    "explain": ["explain", "A", "--features", 3],
    "rate": ["rate", "A", "--features", 3],
}
# Each kind goes through three of the commands, and each command through two or three of the kinds.
TURN = itertools.cycle(COMMANDS)
CASES = [(name, next(TURN)) for name in RUNS for _ in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("kinds"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(12)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """trained(name): the folder with two dictionaries A and B of these options, trained once."""

    def train(name):
        for run, seed in (("A", 0), ("B", 1)):
            if not (folder / name / run / "cfg.json").exists():
                words = ["train", "--model", folder / "model", "--hook", HOOK, "--text", folder / "text.jsonl"]
                words += ["--split", "all", "--d-sae", 24, "--batch-size", 128, "--steps", 12, "--seed", seed]
                assert main([str(w) for w in (*words, "--out", folder / name / run, "--quiet", *RUNS[name])]) == 0
        return folder / name

    return train


def test_every_kind_is_here():
    # The others are read by commands that take several activations.
    assert {words[words.index("--kind") + 1] for words in RUNS.values()} == KINDS.keys() - {"transcoder", "crosscoder"}


@pytest.mark.parametrize(("name", "page"), CASES, ids=lambda value: value)
def test_a_command_reads_a_trained_dictionary(trained, folder, capsys, name, page):
    runs = trained(name)
    words = [runs / w if w in ("A", "B") else w for w in COMMANDS[page]]
    out = runs / "out" / (page.split("/")[0] if "/" in page else "")
    status = main([str(w) for w in (*words, "--text", folder / "text.jsonl", "--quiet", "--out", out)])
    assert status == 0, capsys.readouterr().err
    html = {p.relative_to(runs / "out").as_posix(): p for p in (runs / "out").rglob("*.html")}
    page = "report" if page == "evaluation" else page
    seen = re.sub(r"<(script|style).*?</\1>", "", html[f"{page}.html"].read_text(encoding="utf-8"), flags=re.S)
    assert not re.search(r"\bnan\b|NaN", seen)


@pytest.mark.parametrize("name", ["relu-free", "jumprelu-tanh", "gated", "matryoshka"])
def test_profile_times_the_runs_own_step(trained, capsys, monkeypatch, name):
    from monosem.bench import floor

    monkeypatch.setattr(floor, "measure", lambda d: floor.Rates(1e10, 1e10, "fp32", {"fp32": 1e10}))
    assert main(["profile", str(trained(name) / "A"), "--steps", "3", "--quiet"]) == 0
    assert ms.load(trained(name) / "A").cfg.kind in capsys.readouterr().out


@pytest.mark.parametrize("name", RUNS)
def test_training_resumes_and_files_keep_everything(trained, name):
    sae = ms.load(trained(name) / "A")
    assert all(torch.isfinite(value).all() for value in sae.state_dict().values())
    assert (sae.W_dec.norm(dim=1) - 1).abs().max() < 1e-5 or not sae.has_unit_rows
    if hasattr(sae, "batches") and "relu" not in name:
        assert sae.threshold > 0  # kept in the file: with 0, every positive feature would be active


@pytest.mark.parametrize(
    "command", [["evaluate"], ["steer", "--samples", 1, "--length", 3, "--trials", 1]], ids=lambda words: words[0]
)
def test_the_output_of_a_transcoder_is_not_put_in_place_of_its_input(folder, capsys, command):
    meta = {"model": str(folder / "model"), "hook_name": HOOK}
    ms.save(ms.Transcoder(32, 32, 24, k=4, seed=0), folder / "pairs", meta)
    words = [command[0], folder / "pairs", *command[1:], "--text", folder / "text.jsonl", "--quiet"]
    assert main([str(w) for w in (*words, "--out", folder / "out")]) == 2
    assert "sae: got transcoder, which reconstructs another activation" in capsys.readouterr().err
