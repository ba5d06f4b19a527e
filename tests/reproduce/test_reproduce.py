"""A whole reproduction on tiny models: every claim gets its section, and a second start only writes the page again."""

import base64
import json
import random

import pytest
import torch

from monosem.cli.main import main
from monosem.data.language_model import LanguageModel, LMConfig
from monosem.data.models import save_folder
from monosem.data.tokenizer import train_tokenizer
from monosem.reproduce import presets
from monosem.reproduce.presets import Preset, Run

HOOK = "blocks.0.mlp.hook_post"
ARABIC = ["كتاب", "مدرسة", "السلام", "عليكم", "بيت", "كبير", "صغير", "جميل", "في", "من"]
ENGLISH = ["the", "fox", "runs", "over", "a", "lazy", "dog", "and", "looks", "at"]
CLAIMS = (
    "loss",
    "rubric",
    "proxies",
    "explain",
    "neurons",
    "steering",
    "universality",
    "splitting",
    "widths",
    "automata",
)


def documents(count=60):
    draw = random.Random(0)
    for _ in range(count):
        yield "ar_books", " ".join(draw.choices(ARABIC, k=60))
        yield "en_books", " ".join(draw.choices(ENGLISH, k=60))
        yield "base64", base64.b64encode(draw.randbytes(150)).decode()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rows = list(documents())
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps({"source": s, "text": t}) + "\n" for s, t in rows))
    tokenizer = train_tokenizer((t for _, t in rows), 400)
    cfg = LMConfig(d_vocab=400, n_ctx=32, d_model=16, n_heads=2, d_mlp=32)
    for name, seed in (("first", 0), ("second", 1)):
        save_folder(folder / name, LanguageModel(cfg).init_weights(seed), tokenizer)
    return folder, text


@pytest.fixture
def tiny_preset(monkeypatch):
    runs = [("A/0", 16), ("A/1", 64), ("A/2", 128), ("B/1", 64), ("shuffled/1", 64)]
    tiny = Preset(
        "small", tuple(Run(n, f, 12) for n, f in runs), k=4, batch_size=512, index_tokens=None, compare_tokens=None,
        explained=6,
    )  # fmt: skip
    monkeypatch.setitem(presets.PRESETS, "small", tiny)


def test_every_claim_on_one_page(inputs, tiny_preset, tmp_path, capsys):
    for package in ("networkx", "sklearn", "umap"):
        pytest.importorskip(package)
    folder, text = inputs
    out = tmp_path / "out"
    command = [
        "reproduce", "--model", str(folder / "first"), "--other", str(folder / "second"), "--hook", HOOK,
        "--text", str(text), "--out", str(out), "--quiet",
    ]  # fmt: skip
    torch.manual_seed(0)
    assert main(command) == 0, capsys.readouterr().err
    page = (out / "report.html").read_text()
    record = json.loads((out / "report.json").read_text())
    assert [r["name"] for r in record["dictionaries"]] == ["A/0", "A/1", "A/2", "B/1", "shuffled/1"]
    for anchor in CLAIMS:
        assert f'<section id="{anchor}' in page, anchor
    assert page.count("<h2>") >= len(CLAIMS) + 1
    for finding in record["findings"]:
        assert finding["ours"] and finding["how"] and finding["command"].startswith("monosem "), finding
    assert "Words on this page" in page and "The same for a model of yours" in page
    for place in ("dictionaries/A-1", "dictionaries/A-0 dictionaries/A-1 dictionaries/A-2", "dictionaries/shuffled-1"):
        assert f"Here: <code>{place}</code>" in page, "what RUN was here"
    for link in ("rate/rate.html", "features/index.html"):
        assert f'href="{link}"' in page and (out / link).is_file()

    stamps = {p: p.stat().st_mtime_ns for p in (out / "evidence").iterdir()}
    (out / "report.html").unlink()
    assert main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in (out / "evidence").iterdir()} == stamps
    assert (out / "report.html").read_text() == page
    assert "done before" in capsys.readouterr().out


def test_a_rating_by_hand_comes_into_the_report(inputs, tmp_path):
    from monosem.reproduce.context import Context
    from monosem.reproduce.page import _human

    context = Context(tmp_path, presets.SMALL)
    assert _human(context).findings[0].ours == "not rated yet"
