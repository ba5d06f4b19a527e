"""The measured beginning of ReLU dictionaries: a stopped benchmark goes on, and shows what it found."""

import json

import relu_start
from tiny import HOOK, tiny_documents, tiny_model

from monosem.data.token_rows import pack_rows


def test_a_stopped_benchmark_goes_on(tmp_path, monkeypatch, capsys):
    model, out, trained, beginning = tiny_model(), tmp_path / "relu_start.json", [], relu_start.beginning
    rows = pack_rows(tiny_documents(12), model)
    monkeypatch.setattr(relu_start.ms, "load_model", lambda name: model)
    monkeypatch.setattr(relu_start, "load_rows", lambda *given: rows)
    monkeypatch.setattr(relu_start, "HOOK", HOOK)
    monkeypatch.setattr(
        relu_start, "beginning", lambda start, *given: trained.append(start) or beginning(start, *given)
    )
    small = relu_start.Scale(d_sae=256, activations=40 * 64, batch_size=64, held_out=0, dead_after=100)
    monkeypatch.setattr(relu_start, "QUICK", small)
    words = ["--quick", "--out", str(out)]
    monkeypatch.setattr(relu_start, "STARTS", (None,))
    relu_start.main(words)
    monkeypatch.setattr(relu_start, "STARTS", (None, 8.0))
    relu_start.main(words)
    assert trained == [None, 8.0]
    result = json.loads(out.read_text())
    dense, few = (row["points"] for row in result["runs"])
    assert [point["step"] for point in few] == [20, 40] and result["machine"]["commit"]
    assert dense[0]["l0"] > 3 * few[0]["l0"] and dense[0]["dense"] > 0 and few[0]["dense"] == 0
    assert f"| 8 | 40 | {few[1]['seconds']:.1f} | {few[1]['l0']:.1f} |" in capsys.readouterr().out
