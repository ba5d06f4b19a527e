"""Splitting over widths, small: what is there is not made again, and the table says what `monosem split` found."""

import json

import by_command
import pytest
import splitting


def test_runs_that_are_there_are_not_made_again(tmp_path, monkeypatch, capsys):
    called, monosem = [], by_command.monosem
    monkeypatch.setattr(by_command, "monosem", lambda words: called.append(words[0]) or monosem([*words, "--quiet"]))
    runs, out = tmp_path / "runs", tmp_path / "splitting.json"
    words = ["--text", "sample?rows=60", "--runs", str(runs), "--out", str(out)]
    words += [
        "--label",
        "en_docs",
        "--widths",
        "32",
        "64",
        "--steps",
        "20",
        "--split-tokens",
        "8000",
        "--evaluate-tokens",
        "2000",
    ]
    splitting.main(words)
    assert called == ["train", "evaluate", "train", "evaluate", "split"]
    splitting.main(words)
    assert len(called) == 5
    result, found = (json.loads(file.read_text()) for file in (out, runs / "split" / "splitting.json"))
    assert result["training"]["widths"] == [32, 64] and result["machine"]["commit"]
    assert result["family"][0] == 1 and sum(result["family"]) == len(found["nodes"])
    assert found["omitted"] == 0 and found["map"] is None
    assert sum(n["in_family"] for n in result["features"]) == len(found["nodes"])
    listed = [sum(n["level"] == level and n["listed"] for n in result["features"]) for level in (0, 1)]
    counts = zip(listed, result["unlisted"], strict=True)
    assert [shown + more for shown, more in counts] == [level["label_features"] for level in found["levels"]]
    shown = capsys.readouterr().out
    for level, l0 in zip(found["levels"], (e["l0"] for e in result["evaluations"]), strict=True):
        assert f"| {level['d_sae']} | {l0:.1f} |" in shown
    with pytest.raises(SystemExit, match=r"--runs: .*'l1': 0.0008.*'l1': 0.5"):
        splitting.main([*words, "--l1", "0.5"])
    with pytest.raises(SystemExit, match=r"--runs: .*'label': 'en_docs'.*'label': 'en_prose'"):
        splitting.main([*words, "--label", "en_prose"])
