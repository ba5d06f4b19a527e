"""The fronts: which runs there are, and that a stopped benchmark goes on."""

import json
import xml.etree.ElementTree as ET

import fronts
import pytest
from tiny import HOOK, tiny_documents, tiny_model

from monosem.data.token_rows import pack_rows
from monosem.nn import KINDS


def test_every_kind_that_reconstructs_its_input_has_a_front():
    runs = fronts.fronts(32, 256)
    assert set(KINDS) - set(runs) == {"transcoder", "crosscoder"} & set(KINDS)
    for name, front in runs.items():
        values = [value for run in front for value in run.values()]
        assert len(set(values)) == len(values) == 5, name
        assert not {run.swept for run in front} & set(front[0].cfg.without_effect), name
        assert fronts.in_turn(front)[0] is front[len(front) // 2] and set(fronts.in_turn(front)) == set(front), name
    assert {runs["jumprelu"][0].swept, runs["jumprelu, tanh"][0].swept} == {"target_l0", "l0_coefficient"}


def test_a_stopped_benchmark_goes_on(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    model, out, trained = tiny_model(), tmp_path / "fronts.json", []
    rows, train = pack_rows(tiny_documents(12), model), fronts.train
    monkeypatch.setattr(fronts.ms, "load_model", lambda name: model)
    monkeypatch.setattr(fronts, "load_rows", lambda *given: rows)
    monkeypatch.setattr(fronts, "HOOK", HOOK)
    small = fronts.Scale(d_sae=64, activations=4096, batch_size=64, held_out=500, dead_after=100)
    monkeypatch.setattr(fronts, "QUICK", small)
    monkeypatch.setattr(fronts, "train", lambda run, *given: trained.append(run.name) or train(run, *given))
    words = ["--quick", "--out", str(out), "--kinds"]
    fronts.main([*words, "topk", "--values", "8"])
    assert trained == ["topk"]
    fronts.main([*words, "topk"])
    fronts.main([*words, "hierarchical_topk", "topk", "relu"])
    assert sorted(trained) == ["hierarchical_topk"] + ["relu"] * 5 + ["topk"] * 3
    result = json.loads(out.read_text())
    points = ["topk"] * 3 + ["hierarchical_topk"] * 3 + ["relu"] * 5
    assert [row["name"] for row in result["runs"]] == points and result["machine"]["commit"]
    assert [row["at"] for row in result["runs"][:6]] == [8, 16, 32] * 2
    few = [row["l0"] for row in result["runs"][:6] if row["at"] < 32]  # of 64 features not all 32 chosen are positive
    assert few == pytest.approx([8, 16] * 2, abs=0.1)
    assert "| topk | k = 8 | 8.0 |" in capsys.readouterr().out
    drawn = "".join(ET.parse(out.with_suffix(".svg")).getroot().itertext())
    assert "relu" in drawn and "topk" in drawn


def test_values_that_no_front_has_are_refused(capsys):
    with pytest.raises(SystemExit):
        fronts.main(["--kinds", "topk", "gated", "--values", "7"])
    assert "--values: got [7.0]; wanted some of 0.0004, 0.001, 0.0025, 0.005, 0.01, 8, 16, 32, 64, 128" in (
        capsys.readouterr().err
    )
