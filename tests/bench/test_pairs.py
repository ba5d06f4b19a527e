"""The measured transcoders and crosscoders: a stopped benchmark goes on, and shows what it found."""

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict

import pairs
import pytest
from tiny import tiny_documents, tiny_model

from monosem.data.token_rows import pack_rows


@pytest.fixture
def small(monkeypatch):
    """The benchmark on tiny models; the names of the runs that were trained."""
    models, trained, train = {"first/A": tiny_model(), "first/B": tiny_model(seed=1)}, [], pairs.train
    for name, model in models.items():
        model.name = name
    rows = pack_rows(tiny_documents(12), models["first/A"])
    monkeypatch.setattr(pairs.ms, "load_model", models.__getitem__)
    monkeypatch.setattr(pairs, "load_rows", lambda *given: rows)
    scale = pairs.Scale(d_sae=48, activations=2048, batch_size=64, held_out=400, dead_after=100)
    monkeypatch.setattr(pairs, "QUICK", scale)
    monkeypatch.setattr(pairs, "train", lambda cfg, *given: trained.append(cfg.kind) or train(cfg, *given))
    return trained


def test_a_stopped_benchmark_goes_on(small, tmp_path, capsys):
    out = tmp_path / "pairs.json"
    words = ["--quick", "--out", str(out)]
    pairs.main([*words, "--runs", "crosscoder, batch_topk"])
    pairs.main(words)
    assert sorted(small) == ["crosscoder"] * 3 + ["transcoder"] * 2
    result = json.loads(out.read_text())
    assert [row["name"] for row in result["runs"]] == list(pairs.RUNS) and result["machine"]["commit"]
    plain, skip, crosscoder = result["runs"][:3]
    assert plain["hook_name"] == list(pairs.MLP) and plain["model"] == "first/A" and not plain["places"]
    assert skip["autoencoder"]["skip"]
    assert 20 < plain["l0"] <= 32 and 20 < skip["l0"] <= 32  # of 48 features not all 32 chosen are positive
    assert [p["model"] for p in crosscoder["places"]] == crosscoder["model"] == ["first/A", "first/B"]
    own = [p["exclusive"] for p in crosscoder["places"]]
    shared = 48 - crosscoder["dead"] - sum(own)
    assert f"| {crosscoder['dead']} | {shared} | {own[0]} / {own[1]} |" in capsys.readouterr().out
    for name in ("batch_topk", "relu_0.12", "relu_0.05"):
        drawn = "".join(ET.parse(tmp_path / f"pairs_crosscoder_{name}.svg").getroot().itertext())
        assert "features shared" in drawn and "exclusive to first/B" in drawn


def test_results_of_another_size_are_not_mixed(small, tmp_path):
    out = tmp_path / "pairs.json"
    out.write_text(json.dumps({"training": {"d_sae": 1}, "runs": []}))
    with pytest.raises(SystemExit, match="its runs have other sizes"):
        pairs.main(["--quick", "--out", str(out)])
    out.write_text(json.dumps({"training": asdict(pairs.QUICK), "text": "other", "runs": []}))
    with pytest.raises(SystemExit, match="its runs read another text than 'sample'; give that"):
        pairs.main(["--quick", "--out", str(out)])
    with pytest.raises(SystemExit):
        pairs.main(["--quick"])
    assert not small
