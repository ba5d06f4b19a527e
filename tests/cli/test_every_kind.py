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
# Trained on several activations; MODEL is the model, TWIN another one with its tokenizer.
OUT = "blocks.0.hook_mlp_out"
PAIRS = {
    "transcoder": ["--kind", "transcoder", "--k", 4, "--hook-out", OUT],
    "transcoder-skip": ["--kind", "transcoder", "--k", 4, "--set", "skip=true", "--hook-out", OUT],
    "crosscoder": ["--kind", "crosscoder", "--l1", 0.01, "--hook", HOOK, "blocks.0.mlp.hook_pre"],
    "crosscoder-models": ["--kind", "crosscoder", "--set", "activation=batch_topk", "k=4", "--model", "MODEL", "TWIN"],
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
# Of what has several activations, all of them, but for those that say what to do instead.
REFUSED = {(name, "neurons"): "is not in the space of the neurons" for name in PAIRS} | {
    (name, "steering"): "sae: got crosscoder, whose features are read from several activations at once"
    for name in PAIRS
    if "crosscoder" in name
}
FEWER = {"transcoder-skip": ("evaluation", "steering"), "crosscoder": ("evaluation", "features/index", "splitting")}
CASES += [(name, command) for name in PAIRS for command in FEWER.get(name, COMMANDS) if (name, command) not in REFUSED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("kinds"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    save_folder(folder / "twin", tiny_model(seed=1).module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(12)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """trained(name): the folder with two dictionaries A and B of these options, trained once."""
    places = {"MODEL": folder / "model", "TWIN": folder / "twin"}

    def train(name):
        for run, seed in (("A", 0), ("B", 1)):
            if not (folder / name / run / "cfg.json").exists():
                words = ["train", "--model", folder / "model", "--hook", HOOK, "--text", folder / "text.jsonl"]
                words += ["--split", "all", "--d-sae", 24, "--batch-size", 128, "--steps", 12, "--seed", seed]
                own = [places.get(w, w) for w in (RUNS | PAIRS)[name]]
                assert main([str(w) for w in (*words, "--out", folder / name / run, "--quiet", *own)]) == 0
        return folder / name

    return train


def test_every_kind_is_here():
    assert {words[words.index("--kind") + 1] for words in (RUNS | PAIRS).values()} == KINDS.keys()


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


@pytest.mark.parametrize("page", ["evaluation", "features/index", "explain", "steering", "universality"])
def test_a_command_reads_the_negative_side_of_a_dictionary(trained, folder, capsys, page):
    runs = trained("abs_topk")
    words = [f"negative:{runs / w}" if w == "A" else runs / w if w == "B" else w for w in COMMANDS[page]]
    words += ["--text", folder / "text.jsonl", "--quiet"]
    if page == "evaluation":
        assert main([str(w) for w in words]) == 2
        assert "is not a folder to write into; name one with --out" in capsys.readouterr().err
    out = runs / "negative" / (page.split("/")[0] if "/" in page else "")
    assert main([str(w) for w in (*words, "--out", out)]) == 0, capsys.readouterr().err
    name = {"evaluation": "report.html", "features/index": "index.html"}.get(page, f"{page}.html")
    seen = (out / name).read_text(encoding="utf-8")
    assert "negative side" in seen or page not in ("evaluation", "features/index")


def test_kinds_without_a_negative_side_say_so(trained, folder, capsys):
    for name, told in (("topk", "TopK with k = 4"), ("jumprelu-tanh", "JumpReLU (tanh) with"), ("matryoshka", "Matry")):
        words = ["index", f"negative:{trained(name) / 'A'}", "--text", folder / "text.jsonl", "--out", folder / "none"]
        assert main([str(w) for w in words]) == 2
        error = capsys.readouterr().err
        assert f"sae: got {told}" in error and "never below 0" in error and not (folder / "none").exists()


@pytest.mark.parametrize(("name", "page"), REFUSED, ids=lambda value: value)
def test_what_makes_no_sense_is_refused_by_name(trained, folder, capsys, name, page):
    runs = trained(name)
    words = [runs / w if w == "A" else w for w in COMMANDS[page]]
    assert main([str(w) for w in (*words, "--text", folder / "text.jsonl", "--quiet", "--out", runs / "out")]) == 2
    assert REFUSED[name, page] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["relu-free", "jumprelu-tanh", "gated", "matryoshka", *PAIRS])
def test_profile_times_the_runs_own_step(trained, capsys, monkeypatch, name):
    from monosem.bench import floor

    monkeypatch.setattr(floor, "measure", lambda d: floor.Rates(1e10, 1e10, "fp32", {"fp32": 1e10}))
    assert main(["profile", str(trained(name) / "A"), "--steps", "3", "--quiet"]) == 0
    assert ms.load(trained(name) / "A").cfg.kind in capsys.readouterr().out


@pytest.mark.parametrize("name", RUNS | PAIRS)
def test_training_resumes_and_files_keep_everything(trained, name):
    sae = ms.load(trained(name) / "A")
    assert all(torch.isfinite(value).all() for value in sae.state_dict().values())
    assert (sae.W_dec.norm(dim=1) - 1).abs().max() < 1e-5 or not sae.has_unit_rows
    if hasattr(sae, "batches") and "relu" not in name:
        assert sae.threshold > 0  # kept in the file: with 0, every positive feature would be active


def test_a_transcoder_whose_hooks_are_not_known_is_refused(folder, capsys):
    ms.save(ms.Transcoder(32, 16, 24, k=4, seed=0), folder / "pairs", {"model": str(folder / "model")})
    words = ["evaluate", folder / "pairs", "--text", folder / "text.jsonl", "--quiet", "--out", folder / "out"]
    words += ["--split", "all"]
    assert main([str(w) for w in (*words, "--hook", HOOK)]) == 2
    assert "hook_out: " in (said := capsys.readouterr().err) and "--hook-out blocks.0.hook_mlp_out" in said
    assert main([str(w) for w in (*words, "--hook", HOOK, "--hook-out", "blocks.0.mlp.hook_pre")]) == 2
    assert "is 32 wide and the transcoder's output 16" in capsys.readouterr().err
    assert main([str(w) for w in (*words, "--hook", HOOK, "--hook-out", OUT)]) == 0


def test_a_crosscoder_is_looked_at_from_each_source(trained, folder, capsys):
    run, text = trained("crosscoder-models") / "A", ["--text", folder / "text.jsonl", "--quiet"]
    pages = []
    for source in (0, 1):
        out = folder / f"source-{source}"
        words = ["features", run, *text, "--source", source, "--index", out / "index", "--out", out]
        assert main([str(w) for w in ("index", run, *text, "--source", source, "--out", out / "index")]) == 0
        assert main([str(w) for w in words]) == 0
        pages.append(json.loads((out / "index" / "index.json").read_text())["hook_name"])
    assert pages == [f"{HOOK}, source {i} ({folder / name})" for i, name in enumerate(("model", "twin"))]
    words = ["features", run, *text, "--source", 1, "--index", folder / "source-0" / "index", "--out", folder / "no"]
    assert main([str(w) for w in words]) == 2 and "another dictionary: hook_name is" in capsys.readouterr().err
    assert main([str(w) for w in ("evaluate", run, *text, "--split", "all", "--source", 2)]) == 2
    assert "source: got 2; wanted 0 to 1" in capsys.readouterr().err
    assert main([str(w) for w in ("explain", run, *text, "--features", 3, "--neurons", 3)]) == 2
    assert "--neurons: got 3; a crosscoder has no neurons" in capsys.readouterr().err
