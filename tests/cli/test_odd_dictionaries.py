"""Every command of the claims on edge cases of dictionaries and texts: a page, or an error of one line."""

import base64
import json
import random
import re

import pytest
import torch
from tiny import HOOK, TEXTS, tiny_documents, tiny_model

import monosem as ms
from monosem.cli.main import main
from monosem.data.native import save_folder

DRAW = random.Random(0)
WORDS = ["كتاب", "مدرسة", "السلام", "عليكم", "بيت", "كبير"]
TEXT = {
    "papers": [
        pair
        for i in range(8)
        for pair in (
            ("ar_books", " ".join(DRAW.choices(WORDS, k=40))),
            ("base64", base64.b64encode(DRAW.randbytes(90)).decode()),
            ("dna", "".join(DRAW.choices("acgt", k=100))),
            ("en", f"{TEXTS['en']} {i}"),
        )
    ],
    # Other people's: no label of the paper, though the characters of DNA and of base64 are everywhere in them.
    "own": [
        ({"code": "python", "en": "dnatools"}[d.source], d.text) for d in tiny_documents(12) if d.source in "encode"
    ],
    "one source": [("python", d.text) for d in tiny_documents(12) if d.source == "code"],
    "one row": [("python", TEXTS["en"])],
}
# kind, features, of these alive, k
DICTIONARIES = {
    "all dead": ("topk", 24, 0, 4),
    "all dead, ReLU": ("relu", 24, 0, 4),
    "most dead": ("topk", 24, 2, 4),
    "none dead": ("topk", 24, 24, 4),
    "one feature": ("topk", 1, 1, 1),
    "one dead feature": ("relu", 1, 0, 1),
    "k = 1": ("topk", 24, 24, 1),
}
CASES = [
    ("all dead", "papers"),
    ("all dead, ReLU", "own"),
    ("most dead", "own"),
    ("most dead", "papers"),
    ("none dead", "one source"),
    ("one feature", "own"),
    ("one dead feature", "one source"),
    ("k = 1", "one row"),
]
COMMANDS = {
    "proxies": ["proxies", "A"],
    "probing": ["probe", "A", "--texts", 40],
    "neurons": ["neurons", "A"],
    "automata": ["automata", "A", "--support", 3],
    "report": ["evaluate", "A", "--report", "--split", "all"],
    "widths": ["widths", "A", "wide"],
    "splitting": ["split", "A", "wide", "--least", 3, "--no-map"],
    "universality": ["compare", "A", "wide", "--least", 3],
    "steering": ["steer", "A", "--samples", 1, "--length", 3, "--trials", 1],
    "explain": ["explain", "A", "--features", 3],
    "rate": ["rate", "A", "--features", 3],
    "features/index": ["features", "A"],
}


def dictionary(kind, width, alive, k, seed):
    sae = ms.TopKSAE(32, width, k=k, seed=seed) if kind == "topk" else ms.ReLUSAE(32, width, 1e-3, seed=seed)
    with torch.no_grad():
        sae.b_enc[alive:] = -1e4
    return sae


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("odd"), tiny_model()
    save_folder(folder / "model", model.module, model.tokenizer)
    for name, documents in TEXT.items():
        lines = [json.dumps({"source": s, "text": t}) for s, t in documents]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def runs(workspace, case):
    """A folder with the case's dictionary A and one twice as wide, without an index."""
    kind, width, alive, k = DICTIONARIES[case]
    number = len(list(workspace.iterdir()))
    for name, times in (("A", 1), ("wide", 2)):
        meta = {"model": str(workspace / "model"), "hook_name": HOOK}
        ms.save(dictionary(kind, times * width, times * alive, k, times), workspace / str(number) / name, meta)
    return workspace / str(number)


def call(workspace, folder, text, words):
    words = [folder / w if w in ("A", "wide") else w for w in words]
    out = ["--out", folder / "out" / "features"] if words[0] == "features" else ["--out", folder / "out"]
    return main([*map(str, [*words, "--text", workspace / f"{text}.jsonl", "--quiet", *out])])


@pytest.mark.parametrize(("case", "text"), CASES, ids=lambda value: value)
@pytest.mark.parametrize("page", COMMANDS)
def test_odd_dictionaries_give_a_page_or_a_one_line_error(workspace, capsys, page, case, text):
    folder = runs(workspace, case)
    code = call(workspace, folder, text, COMMANDS[page])
    output = capsys.readouterr().err
    if code:
        assert code == 2 and output.count("\n") == 1, output
        assert re.match(r"monosem \w+: [a-z_]+: .{30}", output), f"names no argument: {output}"
        assert not re.search(r"torch|concatenate|non-empty|array|index \d|Tensor|key", output), output
        assert not (folder / "out" / f"{page}.html").exists()
        return
    html = (folder / "out" / f"{page}.html").read_text(encoding="utf-8")
    assert "<tbody></tbody>" not in re.sub(r"\s", "", html), "a table of a header alone"
    seen = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    assert not re.search(r"\bnan\b|NaN", seen)
    axes = re.findall(r"<svg.*?</svg>", seen, flags=re.S)
    for drawn in (a for a in axes if 'class="axis"' in a):
        below = [t for t in re.findall(r'<text x="[\d.]+" y="([\d.]+)" text-anchor="middle">[\d.,e-]+</text>', drawn)]
        assert len(below) >= 2, "an axis without numbers"
    if text != "papers" and page not in ("rate", "features/index"):
        seen = re.sub(r"Not in this text: [^<]*|For a model of yours.*?</p>|<dl>.*?</dl>", "", seen, flags=re.S)
        leaked = (
            r"\b(Arabic|Hebrew|DNA|Claim of the paper|Its figure|[Tt]he paper[’']s)\b|base64 (feature|splits)|>base64<"
        )
        assert not re.search(leaked, seen), re.search(leaked, seen)


def test_every_source_is_a_label(workspace, capsys):
    folder = runs(workspace, "none dead")
    for words in (
        ["split", "A", "wide", "--least", 3, "--no-map", "--label", "python"],
        [*COMMANDS["steering"], "--labels", "python"],
        ["steer", "A", "--ablate", "python", "--read"],
        COMMANDS["report"],
    ):
        assert call(workspace, folder, "own", words) == 0, capsys.readouterr().err
    assert json.loads((folder / "out" / "splitting.json").read_text())["label"] == "python"
    assert [c["label"] for c in json.loads((folder / "out" / "steering.json").read_text())["cases"]] == ["python"]
    labels = json.loads((folder / "out" / "evaluation.json").read_text())["labels"]
    assert {label["label"] for label in labels} <= {"python", "dnatools"} and labels
    assert call(workspace, folder, "own", ["split", "A", "wide", "--no-map", "--label", "base64"]) == 2
    assert "no text for 'base64'; this text has" in capsys.readouterr().err


def test_the_papers_figures_are_shown_only_for_its_labels(workspace, capsys):
    folder = runs(workspace, "none dead")
    shown = {}
    for text in ("papers", "own"):
        assert call(workspace, folder, text, COMMANDS["proxies"]) == 0
        shown[text] = capsys.readouterr().out, json.loads((folder / "out" / "proxies.json").read_text())
        assert call(workspace, folder, text, COMMANDS["neurons"]) == 0
        shown[text] += (capsys.readouterr().out,)
    told, result, neurons = shown["papers"]
    assert "paper" in told and {"Arabic", "DNA", "base64"} <= {p["name"] for p in result["proxies"]}
    assert "base64" in neurons
    told, result, neurons = shown["own"]
    assert "paper" not in told and {"DNA", "base64"} <= set(result["absent"])
    assert all(p["paper"] is None for p in result["proxies"])
    assert not re.search("DNA|base64", neurons)
    asked = [*COMMANDS["proxies"], "--proxy", "base64", "--only-own"]
    assert call(workspace, folder, "own", asked) == 0
    (only,) = json.loads((folder / "out" / "proxies.json").read_text())["proxies"]
    assert only["name"] == "base64" and only["paper"] is None


def test_feature_numbers_link_to_the_browser(workspace, capsys):
    folder = runs(workspace, "none dead")
    assert call(workspace, folder, "own", COMMANDS["neurons"]) == 0
    page = folder / "out" / "neurons.html"
    assert 'class="feature"' in page.read_text() and "features/index.html#" not in page.read_text()
    words = [*map(str, ("features", folder / "A", "--text", workspace / "own.jsonl", "--quiet"))]
    assert main(words) == 0
    for command in ("neurons", "proxies", "splitting"):
        assert call(workspace, folder, "own", COMMANDS[command]) == 0, capsys.readouterr().err
        page = (folder / "out" / f"{command}.html").read_text()
        assert '<a class="feature" href="../A/features/index.html#' in page, command
