"""The record of a reproduction as a result."""

import json

import pytest
import reproduction


def test_the_report_with_machine_and_minutes(tmp_path):
    report = {"settings": {"preset": {"name": "small"}}, "findings": [{"claim": "c"}], "seconds": {"a": 90, "b": 30.0}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    reproduction.main([str(tmp_path), "--out", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["machine"]["minutes"] == 2.0 and result["machine"]["commit"]
    assert result["machine"]["command"] == "monosem reproduce --preset small" and result["findings"] == [{"claim": "c"}]


def test_counterparts_by_how_often_a_feature_fires(tmp_path):
    (tmp_path / "evidence").mkdir()
    points = {"tokens": [20, 199, 1000, 5_000_000, 150], "r": [0.1, 0.4, 0.5, 0.9, 0.2]}
    assert reproduction.by_density(tmp_path) == []
    (tmp_path / "evidence" / "universality.json").write_text(json.dumps({"points": points}))
    assert reproduction.by_density(tmp_path) == [
        {"from": 20, "features": 3, "median": 0.2},
        {"from": 1000, "features": 1, "median": 0.5},
        {"from": 100_000, "features": 1, "median": 0.9},
    ]


def test_what_the_base64_features_fire_on(tmp_path):
    evidence = tmp_path / "evidence"
    evidence.mkdir()
    (tmp_path / "report.json").write_text(json.dumps({"settings": {"preset": {"name": "small"}}, "seconds": {}}))
    node = {"level": 0, "feature": 7, "tokens": 90, "precision": 0.96, "recall": 0.123456, "correlation": 0.3}
    node |= {"source": "base64", "words": [["Q", 3.0]] * 9, "examples": ["long"]}
    found = {"nodes": [node], "listed": [node, node | {"feature": 2, "level": 1}]}
    (evidence / "splitting.json").write_text(json.dumps(found))
    reproduction.main([str(tmp_path), "--out", str(tmp_path / "result.json")])
    text = (tmp_path / "result.json").read_text()
    first, second = json.loads(text)["features"]
    assert first["feature"] == 7 and first["in_family"] and first["listed"] and first["recall"] == 0.1235
    assert second["feature"] == 2 and not second["in_family"] and second["words"] == ["Q"] * 5
    assert sum('"feature"' in line for line in text.splitlines()) == 2, "one line each"


def test_an_unfinished_reproduction_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        reproduction.main([str(tmp_path), "--out", str(tmp_path / "result.json")])
    assert "has no report.json; wanted a folder in which" in capsys.readouterr().err
