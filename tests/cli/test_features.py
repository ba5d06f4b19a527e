"""``monosem index`` and ``monosem features`` from the command line, on a tiny real model."""

import gzip
import json

import numpy as np
import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.index import open_index
from monosem.analysis.scan import spread
from monosem.cli.main import main
from monosem.data.native import save_folder


@pytest.fixture
def workspace(tmp_path):
    """A folder with a model, a text, and a dictionary with its model and hook in the metadata."""
    model = tiny_model()
    save_folder(tmp_path / "model", model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    ms.save(ms.TopKSAE(32, 40, k=4, seed=0), tmp_path / "sae", {"model": str(tmp_path / "model"), "hook_name": HOOK})
    return tmp_path


def run(verb, workspace, *options):
    return main([verb, str(workspace / "sae"), "--quiet", *map(str, options)])


def test_index(workspace, capsys):
    text = ("--text", workspace / "text.jsonl", "--split", "all")
    assert run("index", workspace, *text, "--tokens", 640, "--each", 3, "--no-neurons") == 0
    output = capsys.readouterr().out
    index = open_index(workspace / "sae" / "index")
    assert index.meta["rows_read"] == 20
    read = np.asarray(index.rows.tokens)[spread(index.rows, 640)]
    assert index.tokens == int((read != 0).sum())  # 0 is BOS
    assert index.meta["notes"]["split"] == "all" and not index.meta["settings"]["neurons"]
    assert f"{index.tokens} tokens read" in output and "of 40 features fire" in output
    # The same again opens what is there; something else is refused.
    assert run("index", workspace, *text, "--tokens", 640, "--each", 3, "--no-neurons") == 0
    assert run("index", workspace, *text, "--tokens", 320, "--each", 3, "--no-neurons") == 2
    assert "is of something else: its rows_read is 20, and 10 is requested" in capsys.readouterr().err


def test_neurons_and_their_pages_need_a_folder(workspace, capsys):
    model = f"neurons:{workspace / 'model'}"
    text = ["--hook", HOOK, "--text", str(workspace / "text.jsonl"), "--quiet"]
    assert main(["index", model, *text]) == 2
    assert "is not a folder to write into; name one with --out" in capsys.readouterr().err
    assert main(["index", model, *text, "--out", str(workspace / "neurons")]) == 0
    assert open_index(workspace / "neurons").meta["kind"] == "neurons"
    assert main(["features", model, "--hook", HOOK, "--quiet", "--index", str(workspace / "neurons")]) == 2
    assert "is not a folder to write into; name one with --out" in capsys.readouterr().err
    pages = ["--out", str(workspace / "pages"), "--index", str(workspace / "neurons"), "--quiet"]
    assert main(["features", model, "--hook", HOOK, *pages]) == 0
    assert "32 neurons of" in (workspace / "pages" / "index.html").read_text(encoding="utf-8")


def test_pages_make_their_index_first(workspace, capsys):
    options = (
        "--text",
        workspace / "text.jsonl",
        "--split",
        "all",
        "--prompt",
        "the fox",
        "--prompt",
        "שלום",
        "--top",
        2,
    )
    (workspace / "automata.json").write_text(json.dumps({"loops": [], "cycles": [], "chains": []}))
    assert (
        run("features", workspace, *options, "--automata", workspace / "automata.json", "--title", "A <b>title</b>")
        == 0
    )
    assert "no index in" in capsys.readouterr().out
    page = (workspace / "sae" / "features" / "index.html").read_text(encoding="utf-8")
    assert "A &lt;b&gt;title&lt;/b&gt;" in page and "the fox" in page and "שלום" in page
    assert '"Hebrew"' in page  # the proxies by which histograms are coloured
    assert (workspace / "sae" / "features" / "data" / "features-0.js").is_file()
    assert open_index(workspace / "sae" / "index").d_sae == 40
    assert run("features", workspace, "--automata", workspace / "none.json") == 2
    assert "no file" in capsys.readouterr().err


def test_exports(workspace, capsys):
    assert (
        run("features", workspace, "--text", workspace / "text.jsonl", "--split", "all", "--export", "saedashboard")
        == 0
    )
    assert json.loads((workspace / "sae" / "saedashboard" / "batch-0.json").read_text())["features"]
    assert run("features", workspace, "--export", "neuronpedia", "--out", workspace / "np") == 0
    (features,) = (workspace / "np" / "v1").glob("*/*/features/batch-0.jsonl.gz")
    assert gzip.decompress(features.read_bytes()).count(b"\n") > 1
    assert "written: " in capsys.readouterr().out


def test_an_index_that_is_not_there(workspace, capsys):
    assert run("features", workspace, "--index", workspace / "nothing") == 2
    assert "no index in" in capsys.readouterr().err
