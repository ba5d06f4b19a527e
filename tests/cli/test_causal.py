"""``monosem steer``, ``compare`` and ``split`` from the command line, on a tiny real model."""

import json

import pytest
from tiny import HOOK, tiny_documents, tiny_model

import monosem as ms
from monosem.analysis.inputs import load_rows
from monosem.cli.main import main
from monosem.data.models import load_model
from monosem.data.native import save_folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with two models, a text, and dictionaries of both."""
    folder = tmp_path_factory.mktemp("causal")
    for seed, name in ((0, "A"), (1, "B")):
        model = tiny_model(seed=seed)
        save_folder(folder / name, model.module, model.tokenizer)
    lines = [json.dumps({"source": d.source, "text": d.text}) for d in tiny_documents(30)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    for name, width, model in (("small", 12, "A"), ("run", 40, "A"), ("other", 40, "B")):
        sae = ms.TopKSAE(32, width, k=4, seed=width)
        ms.save(sae, folder / name, {"model": str(folder / model), "hook_name": HOOK})
    return folder


def call(workspace, *words):
    return main([*map(str, words), "--text", str(workspace / "text.jsonl"), "--quiet"])


def test_steer_several_at_once(workspace, tmp_path, capsys):
    options = (
        "--pin",
        "3=2x",
        "--add",
        "5=-1.5",
        "--ablate",
        "7",
        "--samples",
        2,
        "--length",
        4,
        "--prompt",
        "the",
        "a b",
    )
    assert call(workspace, "steer", workspace / "run", *options, "--out", tmp_path) == 0
    output = capsys.readouterr().out
    assert "#5 -1.5, #7 ablated" in output and output.count("steered  ") == 4 and "after 'a b'" in output
    record = json.loads((tmp_path / "steered.json").read_text())
    model = load_model(workspace / "A")
    x = model.activations(load_rows(model, workspace / "text.jsonl", "all").tokens, HOOK)[:, 1:]
    maximum = float(ms.load(workspace / "run").encode(x).to_dense()[..., 3].detach().max())
    pinned, added, ablated = record["edits"]
    assert pinned["value"] == pytest.approx(2 * maximum, rel=1e-4) and added["value"] == -1.5
    assert (ablated["kind"], ablated["feature"]) == ("ablate", 7)
    ids = model.generate(model.encode("the"), 4, 1.0, 1)[-4:]
    assert record["samples"]["the"][1]["unsteered"] == ids


def test_steer_by_label_while_reading(workspace, tmp_path, capsys):
    assert (
        call(workspace, "steer", workspace / "run", "--ablate", "dna", "--read", "--error", "drop", "--out", tmp_path)
        == 0
    )
    output = capsys.readouterr().out
    assert "ablated; error term: drop" in output and "nats per token" in output
    record = json.loads((tmp_path / "steered_reading.json").read_text())
    assert set(record["sources"]) == {"en", "he", "dna", "code"} and record["change"] != 0


def test_compare(workspace, tmp_path, capsys):
    assert call(workspace, "compare", workspace / "run", workspace / "other", "--least", 5, "--out", tmp_path) == 0
    output = capsys.readouterr().out
    record = json.loads((tmp_path / "universality.json").read_text())
    assert [c["name"] for c in record["comparisons"]] == ["features", "neurons", "random directions"]
    assert "neurons" in output and "<html" in (tmp_path / "universality.html").read_text()
    assert not record["same_model"]


def test_split(workspace, tmp_path, capsys):
    words = (
        "split",
        workspace / "small",
        workspace / "run",
        "--label",
        "DNA",
        "--least",
        5,
        "--no-map",
        "--out",
        tmp_path,
    )
    assert call(workspace, *words) == 0
    record = json.loads((tmp_path / "splitting.json").read_text())
    assert [level["d_sae"] for level in record["levels"]] == [12, 40] and record["map"] is None
    assert "mostly DNA" in capsys.readouterr().out and "<html" in (tmp_path / "splitting.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("steer", "run", "--read"), "nothing to change"),
        (("steer", "run", "--pin", "40=1"), "feature: got 40; wanted 0 to 39"),
        (("steer", "run", "--pin", "3=much"), "wanted FEATURE=STRENGTH"),
        (("steer", "run", "--pin", "3=1", "--ablate", "3"), "feature 3 is edited twice"),
        (("steer", "run", "--labels", "Arabic"), "no text for 'Arabic'; this text has DNA, code, en, he"),
        (("compare", "run", "nowhere"), "no folder or file "),
        (("compare", "run", "other", "--least", "99999"), "no feature of A fires on 99999"),
        (("split", "run"), "got 1 dictionary; wanted two or more"),
        (("split", "run", "small", "--label", "DNA", "--no-map"), "wanted the smallest first"),
        (("split", "small", "other", "--label", "DNA", "--no-map"), "one hook of one model"),
    ],
)
def test_errors_are_one_line(workspace, tmp_path, capsys, words, message):
    names = {"run", "small", "other", "nowhere"}
    assert call(workspace, *[workspace / w if w in names else w for w in words], "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["steer", "--help"])
    assert "--pin 123=2x --ablate 77 --add 5=-0.5x" in capsys.readouterr().out
