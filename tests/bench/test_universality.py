"""Universality over sparsity, small: what is there is not made again, and a sparser dictionary has a smaller L0."""

import json

import by_command
import pytest
import universality


def test_runs_that_are_there_are_not_made_again(tmp_path, monkeypatch, capsys):
    called, monosem = [], by_command.monosem
    monkeypatch.setattr(by_command, "monosem", lambda words: called.append(words[0]) or monosem([*words, "--quiet"]))
    sizes = {"d-sae": 64, "initial-l0": 6, "steps": 3, "compare-tokens": 4000, "evaluate-tokens": 2000}
    small = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "universality.json")]
    words = [*small, "--text", "sample?rows=60", *places, "--l1"]
    universality.main([*words, "0.001"])
    assert called == ["train", "train", "compare", "evaluate"]
    universality.main([*words, "0.001", "1.0"])
    assert called[4:] == called[:4]
    result = json.loads((tmp_path / "universality.json").read_text())
    assert result["training"]["steps"] == 3 and result["machine"]["commit"]
    weak, strong = result["rows"]
    assert strong["evaluation"]["l0"] < weak["evaluation"]["l0"]
    assert weak["matches"]["neurons"] == strong["matches"]["neurons"]  # the same text was read
    with pytest.raises(SystemExit, match=r"--runs: .*'steps': 3.*'steps': 4"):
        universality.main(["--steps", "4", *words[:4], *words[6:], "0.001"])
    shown = capsys.readouterr().out
    assert (
        f"| {weak['matches']['features']['quantiles'][2]:.3f} | {weak['matches']['neurons']['quantiles'][2]:.3f} |"
        in shown
    )
