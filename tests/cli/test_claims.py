"""``monosem proxies``, ``automata``, ``neurons`` and ``widths`` from the command line, on a tiny real model."""

import json

import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with a model, a text, and two dictionaries with their model and hook in the metadata."""
    folder, model = tmp_path_factory.mktemp("claims"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(30)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    for name, width, hook in (("small", 40, HOOK), ("large", 90, HOOK), ("elsewhere", 40, "blocks.0.mlp.hook_pre")):
        meta = {"model": str(folder / "model"), "hook_name": hook}
        ms.save(ms.TopKSAE(32, width, k=4, seed=0), folder / name, meta)
    return folder


def monosem(workspace, verb, *words):
    return main([verb, *map(str, words), "--text", str(workspace / "text.jsonl"), "--quiet"])


def test_proxies(workspace, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_digits.py").write_text(
        "def digits(tokens):\n    return [sum(map(str.isdigit, t)) for t in tokens]\n"
    )
    monkeypatch.chdir(tmp_path)
    own = ("--proxy", r"word=\b[a-z]+\b", "--proxy", "digits=my_digits:digits")
    assert monosem(workspace, "proxies", workspace / "small", *own, "--out", tmp_path / "out") == 0
    got = json.loads((tmp_path / "out" / "proxies.json").read_text(encoding="utf-8"))
    assert {"Hebrew", "DNA", "word", "digits"} <= {p["name"] for p in got["proxies"]} and "Arabic" in got["absent"]
    assert got["proxies"][0]["neuron"]["index"] < 32 and "Hebrew" in capsys.readouterr().out
    assert "<html" in (tmp_path / "out" / "proxies.html").read_text(encoding="utf-8")
    assert (
        monosem(workspace, "proxies", f"neurons:{workspace / 'model'}", "--only-own", *own[:2], "--out", tmp_path / "n")
        == 0
    )
    (only,) = json.loads((tmp_path / "n" / "proxies.json").read_text(encoding="utf-8"))["proxies"]
    assert only["name"] == "word" and only["neuron"] is None


def test_automata_and_neurons_beside_the_dictionary(workspace, capsys):
    assert monosem(workspace, "automata", workspace / "large", "--support", 3) == 0
    assert monosem(workspace, "neurons", workspace / "large", "--memory", 1e-5) == 0
    assert "cycles" in capsys.readouterr().out
    got = json.loads((workspace / "large" / "automata.json").read_text(encoding="utf-8"))
    assert got["d_sae"] == 90 and "loops" in got
    assert len(json.loads((workspace / "large" / "neurons.json").read_text(encoding="utf-8"))["neuron"]) == 90
    for name in ("automata", "neurons"):
        assert "<html" in (workspace / "large" / f"{name}.html").read_text(encoding="utf-8")


def test_widths(workspace, tmp_path):
    words = (workspace / "large", workspace / "small", "--tokens", 200, "--density-tokens", 900, "--out", tmp_path)
    assert monosem(workspace, "widths", *words) == 0
    got = json.loads((tmp_path / "widths.json").read_text(encoding="utf-8"))
    assert [r["name"] for r in got["runs"]] == ["small", "large"] and got["tokens"] < got["density_tokens"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("proxies", "small", "--only-own"), "there is no proxy left"),
        (("proxies", "small", "--proxy", "nameless"), "NAME=REGEX"),
        (("automata", "neurons:A"), "name one with --out"),
        (("neurons", "small", "--memory", "0"), "memory: got 0"),
        (("widths", "small", "elsewhere"), "of one model and hook"),
        (("widths", "small", "small"), "given twice"),
    ],
)
def test_errors_are_one_line(workspace, capsys, words, message):
    words = [workspace / w if (workspace / w).is_dir() else w for w in words]
    assert monosem(workspace, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
