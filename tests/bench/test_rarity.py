"""Rarity, small: thinning takes documents of the rare kinds alone, and what is there is not made again."""

import json
import random

import by_command
import pytest
import rarity

WORDS = ["the", "of", "and", "a", "to", "in", "is", "that", "was", "he", "for", "it", "with", "as"]
LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"


@pytest.fixture
def text(tmp_path):
    choose = random.Random(0)
    english = [" ".join(choose.choices(WORDS, k=300)) for _ in range(120)]
    arabic = [" ".join("".join(choose.choices(LETTERS, k=5)) for _ in range(60)) for _ in range(40)]
    documents = [("en_prose", t) for t in english] + [("ar_ui", t) for t in arabic]
    choose.shuffle(documents)
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"source": s, "text": t}) + "\n" for s, t in documents), encoding="utf-8")
    return file


def test_thinning_takes_documents_of_the_rare_kinds_alone(text):
    all_, half, few = (list(rarity.thinned(str(text), kept, 1e9)) for kept in (1.0, 0.5, 0.1))
    of = lambda documents, source: [d.text for d in documents if d.source == source]
    assert of(all_, "en_prose") == of(half, "en_prose") == of(few, "en_prose")
    counts = [len(of(documents, "ar_ui")) for documents in (all_, half, few)]
    assert counts[0] == 40 and 10 <= counts[1] <= 30 and counts[2] <= 10
    assert set(of(few, "ar_ui")) <= set(of(half, "ar_ui")) <= set(of(all_, "ar_ui"))
    # A text cut short ends at the same document, whatever is kept.
    shorter = [of(rarity.thinned(str(text), kept, 50_000), "en_prose") for kept in (1.0, 0.1)]
    assert shorter[0] == shorter[1] and 0 < len(shorter[0]) < 120


def test_runs_that_are_there_are_not_made_again(text, tmp_path, monkeypatch, capsys):
    called, monosem = [], by_command.monosem
    monkeypatch.setattr(by_command, "monosem", lambda words: called.append(words[0]) or monosem([*words, "--quiet"]))
    out = tmp_path / "rarity.json"
    words = ["--text", str(text), "--runs", str(tmp_path / "runs"), "--out", str(out), "--kept", "1", "0.5"]
    words += ["--megabytes", "1", "--d-sae", "32", "--k", "2", "--steps", "3", "--tokens", "4000"]
    rarity.main(words)
    first = ["lm", "train", "proxies"]  # the whole text is its own: read once
    assert called == [*first, *first, "proxies"]
    rarity.main(words)
    assert len(called) == 7
    every, half = json.loads(out.read_text())["rows"]
    assert half["shares"]["Arabic"] < every["shares"]["Arabic"] and half["shares"]["DNA"] == 0.0
    assert every["own"] == every["common"] != half["common"]
    (arabic,) = every["own"]["proxies"]
    shown = " / ".join(f"{arabic[unit]['correlation']:.2f}" for unit in ("feature", "neuron"))
    assert f"| {shown} | none | none | none |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"--runs: .*'k': 2.*'k': 4"):
        rarity.main([*words, "--k", "4"])
    tokenizer = str(tmp_path / "runs" / "1" / "lm" / "tokenizer.json")
    with pytest.raises(SystemExit, match=r"--runs: .*'tokenizer_sha256': None.*'tokenizer_sha256': '[0-9a-f]{16}'"):
        rarity.main([*words, "--tokenizer", tokenizer])
