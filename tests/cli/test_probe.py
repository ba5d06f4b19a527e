"""``monosem probe`` from the command line: labels of every kind of text, the data of sae-probes, and errors."""

import csv
import json
import sys

import pytest
from tiny import HOOK, TEXTS, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder
from monosem.data.sae_probes import sae_probes


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A model, a dictionary, and the same texts as JSON lines with sources, with labels, and as a table."""
    folder, model = tmp_path_factory.mktemp("probe"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    ms.save(ms.TopKSAE(32, 40, k=4, seed=0), folder / "sae", {"model": str(folder / "model"), "hook_name": HOOK})
    documents = [d for d in tiny_documents(14) if d.source in ("dna", "code")]
    for name, label in (("sources", "source"), ("labels", "label"), ("class", "class")):
        lines = [json.dumps({label: d.source, "text": f"{i} {d.text}"}) for i, d in enumerate(documents)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    with (folder / "table.csv").open("w", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(["label", "text"])
        table.writerows([d.source, f"{i} {d.text}"] for i, d in enumerate(documents))
    return folder


def probe(workspace, *words):
    return main(["probe", str(workspace / "sae"), "--quiet", *map(str, words)])


def read(out):
    held = json.loads((out / "probing.json").read_text())
    return {k: v for k, v in held.items() if k not in ("made_from", "checksum", "sha256")}, held["made_from"]


def test_labels_are_sources_or_a_column(workspace, tmp_path, capsys):
    found = []
    for name in ("sources.jsonl", "labels.jsonl", "class.jsonl?source=class", "table.csv"):
        out = tmp_path / name[:5]
        assert probe(workspace, "--text", workspace / name, "--out", out) == 0, capsys.readouterr().err
        found.append(read(out)[0])
    assert found[0] == found[1] == found[2] == found[3]
    (task,) = found[0]["tasks"]
    assert (task["label"], task["against"], found[0]["texts"]) == ("dna", "code", 28)
    assert [(p["on"], p["k"]) for p in task["probes"]] == [
        *(("features", k) for k in (1, 2, 5)),
        *(("neurons", k) for k in (1, 2, 5)),
        ("neurons", None),
    ]
    assert "<html" in (tmp_path / "table" / "probing.html").read_text()
    assert "dna / code" in capsys.readouterr().out


def test_options_reach_the_result(workspace, tmp_path, capsys):
    words = ("--text", workspace / "sources.jsonl", "--pool", "last", "--k", 3, "--length", 30, "--test", 0.5)
    words += ("--labels", "code", "--unbalanced", "--all-features", "--seed", 4, "--texts", 12, "--out", tmp_path)
    assert probe(workspace, *words) == 0, capsys.readouterr().err
    result, origin = read(tmp_path)
    assert (result["pool"], result["length"], result["ks"], result["seed"]) == ("last", 30, [3], 4)
    (task,) = result["tasks"]
    assert task["label"] == "code" and result["texts"] + result["repeated"] == 24  # the ends of some are the same
    assert sum(task["test"]) == sum(task["train"]) == result["texts"] / 2
    assert {(p["on"], p["k"]) for p in task["probes"]} >= {("features", None), ("features", 3)}
    assert origin["text"].endswith("sources.jsonl") and origin["split"] == "all"


def test_neurons_and_the_runs_own_settings(workspace, tmp_path, capsys):
    words = ["probe", f"neurons:{workspace / 'model'}", "--text", workspace / "sources.jsonl", "--quiet"]
    assert main([*map(str, words), "--out", str(tmp_path)]) == 0, capsys.readouterr().err
    assert read(tmp_path)[0]["kind"] == "neurons"


OUT = "blocks.0.hook_mlp_out"
KINDS = {
    "topk": lambda: ms.TopKSAE(32, 24, k=4, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(32, 24, k=4, seed=0),
    "abs_topk": lambda: ms.AbsTopKSAE(32, 24, k=4, seed=0),
    "group_max": lambda: ms.GroupMaxSAE(32, 24, k=4, seed=0),
    "hierarchical_topk": lambda: ms.HierarchicalTopKSAE(32, 24, k=4, seed=0),
    "relu": lambda: ms.ReLUSAE(32, 24, 1e-3, decoder_norm="free", seed=0),
    "jumprelu": lambda: ms.JumpReLUSAE(32, 24, seed=0),
    "gated": lambda: ms.GatedSAE(32, 24, 1e-3, seed=0),
    "matryoshka": lambda: ms.MatryoshkaSAE(32, 24, 4, prefixes=(8, 24), seed=0),
    "transcoder": lambda: ms.Transcoder(32, 16, 24, k=4, seed=0),
    "crosscoder": lambda: ms.Crosscoder(64, 24, 2, seed=0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(workspace, tmp_path, capsys, kind):
    hook = {"transcoder": [HOOK, OUT], "crosscoder": [HOOK, "blocks.0.mlp.hook_pre"]}.get(kind, HOOK)
    ms.save(KINDS[kind](), tmp_path / "run", {"model": str(workspace / "model"), "hook_name": hook})
    words = ["probe", tmp_path / "run", "--text", workspace / "sources.jsonl", "--quiet"]
    assert main([*map(str, words)]) == 0, capsys.readouterr().err
    result, _ = read(tmp_path / "run")
    assert result["d_sae"] == 24 and result["d_in"] == (64 if kind == "crosscoder" else 32)


def test_every_kind_of_the_registry_is_here():
    assert KINDS.keys() == ms.nn.KINDS.keys()


def test_a_dictionary_without_a_live_feature_tells_nothing_apart(workspace, tmp_path):
    dead = ms.ReLUSAE(32, 1, 1e-3, seed=0)
    dead.b_enc.data.fill_(-1e4)
    ms.save(dead, tmp_path, {"model": str(workspace / "model"), "hook_name": HOOK})
    words = ["probe", tmp_path, "--text", workspace / "sources.jsonl", "--quiet"]
    assert main([*map(str, words)]) == 0
    (task,) = read(tmp_path)[0]["tasks"]
    (feature,) = (p for p in task["probes"] if p["on"] == "features")
    assert feature["k"] == 1 and feature["accuracy"] == feature["auc"] == 0.5


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with the files of sae-probes, of texts of our own; not to be imported."""
    arrow = pytest.importorskip("pyarrow")
    data = tmp_path / "sae_probes" / "data"
    (data / "cleaned_data").mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise RuntimeError('only the data are read')")

    def write(path, heads, rows):
        with arrow.CompressedOutputStream(str(path), "zstd") as out:
            quoted = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [heads, *rows])
            out.write(quoted.encode())

    tasks = [
        ("7_is_dna", "Binary Classification"),
        ("8_length", "Continuous Data"),
        ("9_is_en", "Binary Classification"),
    ]
    listed = [(f"cleaned_data/{name}.csv", kind) for name, kind in tasks]
    write(data / "probing_datasets_MASTER.csv.zst", ("Dataset save name", "Data type"), listed)
    for name, _ in tasks:
        texts = [(f"{i} {TEXTS['dna' if i % 2 else 'en']}", 60, i % 2) for i in range(24)]
        write(data / "cleaned_data" / f"{name}.csv.zst", ("prompt", "prompt_len", "target"), texts)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sae_probes", raising=False)
    return data


def test_the_data_of_sae_probes(workspace, package, tmp_path, capsys):
    assert list(sae_probes()) == ["7_is_dna", "9_is_en"] and list(sae_probes(["is_en"])) == ["9_is_en"]
    assert probe(workspace, "--sae-probes", "--out", tmp_path / "out") == 0, capsys.readouterr().err
    result, origin = read(tmp_path / "out")
    assert [(t["dataset"], t["label"], t["against"]) for t in result["tasks"]] == [
        ("7_is_dna", "1", "0"),
        ("9_is_en", "1", "0"),
    ]
    assert origin["sae_probes"] == ["7_is_dna", "9_is_en"] and "7_is_dna: 1 / 0" in capsys.readouterr().out
    assert probe(workspace, "--sae-probes", "7_is_dn", "--out", tmp_path / "out") == 2
    assert "sae_probes: got '7_is_dn'; wanted one of its 2 binary tasks" in capsys.readouterr().err
    assert probe(workspace, "--sae-probes", "--text", "sample", "--out", tmp_path / "out") == 2
    assert "--text: got 'sample'; it has no effect beside --sae-probes" in capsys.readouterr().err


def test_sae_probes_that_is_not_installed(workspace, monkeypatch, capsys):
    monkeypatch.setattr("monosem.data.sae_probes.find_spec", lambda name: None)
    assert probe(workspace, "--sae-probes") == 2
    assert "pip install --no-deps sae-probes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pool", "sum"), "pool: got 'sum'; wanted one of 'mean', 'max', 'last'"),
        (("--k", 50), "k: got [50]; wanted numbers from 1 to 32"),
        (("--labels", "rna"), "labels: got 'rna'; wanted some of code, dna"),
        (("--test", 1), "test: got 1.0; wanted the share"),
        (("--texts", 1), "per_label (texts): got 1; wanted at least 10"),
    ],
)
def test_errors_are_one_line(workspace, capsys, words, message):
    assert probe(workspace, "--text", workspace / "sources.jsonl", *words) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
